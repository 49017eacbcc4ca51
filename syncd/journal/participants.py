"""Who takes part: the sources and what cannot be read of them, the destinations and how they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from syncd.journal.journal import Journal
from syncd.journal.subjects import Subject


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A destination as the journal knows it."""

    id: int
    uri: str
    name: str
    audience: int


def register_source(journal: Journal, name: str) -> int:
    """Return the id of the source of that name, adding it if it is new."""
    with journal._transaction("registering a source"):
        journal._run("add_source", {"name": name})
        return int(journal._run("source_id", {"name": name}).fetchone()[0])


def register_message_source(journal: Journal, name: str) -> int:
    """Return the id of the source of that name, adding it if it is new, and count its messages from now on."""
    source_id = register_source(journal, name)
    with journal._transaction("registering a source of messages"):
        journal._run("begin_message_count", {"source_id": source_id})
    return source_id


def message_sources(journal: Journal) -> set[int]:
    """Return the sources that have ever been read for messages."""
    return {row[0] for row in journal._fetch("message_sources")}


def source_names(journal: Journal) -> dict[int, str]:
    """Return the names of all sources by id, of those that are no longer configured too."""
    return dict(journal._fetch("sources"))


def register_destinations(journal: Journal, named: Mapping[str, str]) -> dict[str, DestinationRow]:
    """Record which destinations are configured now; ``named`` maps name to URI.

    One that is new, or was not configured for a while, gets a new audience: everything is read anew for it. One
    that is no longer configured keeps what waits for it, but gets nothing new.
    """
    with journal._transaction("registering destinations"):
        known = {row[1]: row for row in journal._run("destinations").fetchall()}
        audience = journal._run("next_audience").fetchone()[0]
        for name, uri in named.items():
            row = known.get(uri)
            if row is not None and row[4]:
                journal._run("rename_destination", {"name": name, "uri": uri})
                continue
            journal._run("put_destination", {"uri": uri, "name": name, "audience": audience})
            journal._run("doubt_remotes", {"uri": uri})
        for uri, row in known.items():
            if uri not in named.values():
                journal._run("deactivate_destination", {"id": row[0]})
        rows = [DestinationRow(*row[:4]) for row in journal._run("destinations").fetchall()]
    return {row.name: row for row in rows if named.get(row.name) == row.uri}


def destination_up(journal: Journal, destination_id: int) -> None:
    """Record that the destination answers."""
    with journal._releasing("recording a destination's state"):
        journal._run("destination_up", {"id": destination_id, "now_ms": journal._wall_ms()})
        journal._telling.destination(destination_id, "up")


def destination_trouble(journal: Journal, destination_id: int, state: str, error: str) -> None:
    """Record that the destination is ``down``, ``throttled`` or ``auth``, with the error's words."""
    with journal._releasing("recording a destination's state"):
        journal._run(
            "destination_trouble",
            {"id": destination_id, "state": state, "error": error, "now_ms": journal._wall_ms()},
        )
        journal._telling.destination(destination_id, state, error)


def add_problem(journal: Journal, subject: Subject, what: str) -> None:
    """Record what of a subject could not be brought as it is."""
    about = {"source_id": subject.source_id, "location": f"{subject.key.kind} {subject.key.id}", "what": what}
    with journal._releasing("recording a problem"):
        journal._run("put_problem", {**about, "subject_id": subject.id, "now_ms": journal._wall_ms()})


def problems(journal: Journal) -> list[tuple[str, str, str]]:
    """Return what could not be read: (source, where, what)."""
    return [(row[0], row[1], row[2]) for row in journal._fetch("problems")]
