"""What the journal knows of overflow: values kept, points that wait for a segment, documents and segments.

Rules
-----
1. A document or segment is fixed (``freeze_…``) in a transaction of its own, synced, before it is sent. Sent again
   after a crash it has the same number and the same bytes, so a destination that has it already has it once.
2. Points go over to ``overflow_points`` in the transaction that settles their change, and on to a segment in the one
   that fixes it: at each moment they are in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncd.core.overflow import POINTS
from syncd.journal.dead_letters import DeadLetter, bury
from syncd.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class OverPoints:
    """Points of one change that have no place: ``lines`` in wire form, joined by newlines, and their metric names."""

    lines: bytes
    items: int
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class PointsWaiting:
    """Sums over the points that wait for a segment; ``oldest_ms`` is 0 if there are none."""

    rows: int
    items: int
    size_bytes: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class PointsRow:
    """Some of the points that wait for a segment."""

    id: int
    lines: bytes
    items: int


@dataclass(frozen=True, slots=True)
class Unsent:
    """A document or segment that is fixed and may not be there yet."""

    section: str
    number: int
    items: int
    body: bytes


def keep(journal: Journal, destination_id: int, subject_id: int, section: str, entries: Mapping[str, str]) -> None:
    """Record values that the destination cannot hold itself."""
    with journal._releasing("recording overflow"):
        rows = [(destination_id, subject_id, section, key, value) for key, value in entries.items()]
        journal._many("keep_overflow", rows)


def release(journal: Journal, destination_id: int, subject_id: int, section: str, keys: Iterable[str]) -> None:
    """Record that the destination holds these values itself by now."""
    with journal._releasing("recording overflow"):
        journal._many("release_overflow", [(destination_id, subject_id, section, key) for key in keys])


def restate(
    journal: Journal, destination_id: int, subject_id: int, section: str, entries: Mapping[str, str | None]
) -> None:
    """Have what a refused document said (``entries``) said once more, as it is by now."""
    with journal._releasing("recording overflow"):
        rows = [(destination_id, subject_id, section, key, value) for key, value in entries.items()]
        journal._many("restate_overflow", rows)


def kept(journal: Journal, destination_id: int, subject_id: int, section: str) -> dict[str, str]:
    """Return what is kept in a section."""
    return dict(journal._fetch("overflow", _of(destination_id, subject_id, section=section)))


def counts(journal: Journal, destination_id: int, subject_id: int) -> dict[str, int]:
    """Return how many values are kept, by section; of metrics, how many names."""
    return dict(journal._fetch("overflow_counts", _of(destination_id, subject_id)))


def unwritten(journal: Journal, destination_id: int, subject_id: int) -> dict[str, dict[str, str | None]]:
    """Return, by section, what no document says yet; None of what is no longer kept."""
    found: dict[str, dict[str, str | None]] = {}
    for section, key, value in journal._fetch("unwritten_overflow", _of(destination_id, subject_id)):
        found.setdefault(section, {})[key] = value
    return found


def freeze_document(
    journal: Journal,
    destination_id: int,
    subject_id: int,
    *,
    section: str,
    document: str,
    number: int | None,
    body: bytes,
    entries: Mapping[str, str | None],
) -> None:
    """Fix a document that says these entries of a section; ``number`` None is the next of the documents so called."""
    with journal._releasing("fixing an overflow document", synced=True):
        if number is None:
            number = 1 + _last(journal, destination_id, subject_id, document)
        _put_artifact(journal, destination_id, subject_id, Unsent(document, number, len(entries), body))
        rows = [(number, destination_id, subject_id, section, key, value) for key, value in entries.items()]
        journal._many("mark_overflow_written", rows)
        journal._run("drop_overflow_tombstones", _of(destination_id, subject_id, section=section))


# -- points --------------------------------------------------------------------------------------------------------


def add_points(journal: Journal, destination_id: int, subject_id: int, over: OverPoints) -> None:
    """Add points to those that wait for a segment, inside the transaction that settles their change."""
    about = {**_of(destination_id, subject_id), "now_ms": journal._wall_ms()}
    journal._run("add_overflow_points", {**about, "lines": over.lines, "items": over.items})
    journal._many("add_overflow_name", [(destination_id, subject_id, name) for name in over.names])


def points_waiting(journal: Journal, destination_id: int, subject_id: int) -> PointsWaiting:
    """Return sums over the points that wait for a segment."""
    return PointsWaiting(*journal._fetch("overflow_points_sums", _of(destination_id, subject_id))[0])


def points_rows(
    journal: Journal, destination_id: int, subject_id: int, *, after: int = 0, limit: int = 16
) -> list[PointsRow]:
    """Return some of the points that wait for a segment, in order."""
    parameters = {**_of(destination_id, subject_id), "after": after, "limit": limit}
    return [PointsRow(*row) for row in journal._fetch("overflow_points", parameters)]


def freeze_segment(
    journal: Journal, destination_id: int, subject_id: int, rows: Sequence[PointsRow], body: bytes, items: int
) -> None:
    """Fix a segment of these points, which wait no longer; ``items`` 0 drops them (they are held there already)."""
    with journal._releasing("fixing an overflow segment", synced=True):
        if items:
            number = 1 + _last(journal, destination_id, subject_id, POINTS)
            _put_artifact(journal, destination_id, subject_id, Unsent(POINTS, number, items, body))
        journal._many("drop_overflow_points", [(row.id,) for row in rows])


# -- documents and segments under way ------------------------------------------------------------------------------


def next_unsent(journal: Journal, destination_id: int, subject_id: int) -> Unsent | None:
    """Return the first document or segment that may not be there yet."""
    rows = journal._fetch("unsent_overflow_artifact", _of(destination_id, subject_id))
    return Unsent(*rows[0]) if rows else None


def arrived(
    journal: Journal, destination_id: int, subject_id: int, sent: Unsent, *, metrics: Mapping[str, str] | None = None
) -> None:
    """Record that a document or segment is there; ``metrics`` is what the index now says of a segment's names."""
    with journal._releasing("recording overflow"):
        journal._run("overflow_artifact_arrived", _artifact(destination_id, subject_id, sent))
        if metrics:
            rows = [(destination_id, subject_id, "metrics", name, value) for name, value in metrics.items()]
            journal._many("keep_overflow", rows)
        points = sent.items if sent.section == POINTS else 0
        about = {**_of(destination_id, subject_id), "now_ms": journal._wall_ms()}
        journal._run("add_progress", {**about, "points": points, "artifacts": 0, "bytes": len(sent.body)})
        journal._telling.overflowed(
            destination_id, subject_id, section=sent.section, number=sent.number, items=sent.items
        )
        journal._telling.settled(destination_id, subject_id, uploaded=(), letters=(), whole=True)


def renumber(journal: Journal, destination_id: int, subject_id: int, sent: Unsent, number: int) -> None:
    """Give a document or segment another number: what is there under its own is somebody else's."""
    with journal._releasing("recording overflow", synced=True):
        journal._run("renumber_overflow_artifact", {**_artifact(destination_id, subject_id, sent), "to": number})


def refused(
    journal: Journal,
    destination_id: int,
    subject_id: int,
    sent: Unsent,
    *,
    keys: Iterable[str],
    letter: DeadLetter | None,
) -> None:
    """Give up a document or segment that the destination refuses: its values (``keys``) become a dead letter."""
    with journal._releasing("recording overflow"):
        journal._run("drop_overflow_artifact", _artifact(destination_id, subject_id, sent))
        journal._many("drop_overflow", [(destination_id, subject_id, sent.section, key) for key in keys])
        if letter is not None:
            bury(journal, destination_id, subject_id, letter)


def artifacts(journal: Journal, destination_id: int, subject_id: int) -> list[tuple[str, int]]:
    """Return section and number of each document and segment that was fixed."""
    return [(row[0], row[1]) for row in journal._fetch("overflow_artifacts", _of(destination_id, subject_id))]


def take_over(
    journal: Journal,
    destination_id: int,
    subject_id: int,
    *,
    documents: Iterable[tuple[str, int]],
    entries: Iterable[tuple[str, str, str, int]],
) -> None:
    """Record what was found there of a run that another journal sent.

    Args:
        journal: the journal.
        destination_id: the destination.
        subject_id: the run or model.
        documents: (section, number) of each document and segment.
        entries: (section, key, value, number of the document) of each value that holds.
    """
    with journal._releasing("taking over overflow"):
        for section, number in documents:
            there = Unsent(section, number, 0, b"")
            _put_artifact(journal, destination_id, subject_id, there)
            journal._run("overflow_artifact_arrived", _artifact(destination_id, subject_id, there))
        journal._many("take_over_overflow", [(destination_id, subject_id, *entry) for entry in entries])


def forget(journal: Journal, destination_id: int, subject_id: int) -> None:
    """Forget what another run or model there holds, which this subject no longer is; what waits goes on waiting."""
    with journal._releasing("forgetting overflow"):
        journal._run("forget_overflow", _of(destination_id, subject_id))
        journal._run("forget_overflow_artifacts", _of(destination_id, subject_id))


def _of(destination_id: int, subject_id: int, **more: Any) -> dict[str, Any]:
    return {"destination_id": destination_id, "subject_id": subject_id, **more}


def _artifact(destination_id: int, subject_id: int, sent: Unsent) -> dict[str, Any]:
    return _of(destination_id, subject_id, section=sent.section, number=sent.number)


def _last(journal: Journal, destination_id: int, subject_id: int, section: str) -> int:
    """Return the highest number of a section, inside a transaction."""
    row = journal._run("last_overflow_artifact", _of(destination_id, subject_id, section=section)).fetchone()
    return int(row[0])


def _put_artifact(journal: Journal, destination_id: int, subject_id: int, one: Unsent) -> None:
    about = {**_artifact(destination_id, subject_id, one), "items": one.items, "body": one.body}
    journal._run("put_overflow_artifact", {**about, "now_ms": journal._wall_ms()})


READS = frozenset({artifacts, counts, kept, next_unsent, points_rows, points_waiting, unwritten})
