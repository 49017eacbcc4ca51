"""The outbox: what its readers do with it. Sinks each have a cursor; others (``syncd events``, HTTP) only look.

Rules
-----
1. A sink has got, refused or not wanted every event up to its cursor; the cursor moves after the sink has answered, so
   a crash in between sends the same events, with the same ids, once more.
2. The newest ``kept`` events stay in any case; older ones go when every configured sink is past them. A sink that is
   more than ``most`` events behind loses the oldest: that is counted (``dropped``), never silent.
3. What a sink refuses for good is a letter, whole, from the transaction in which the cursor passes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncd.core.events import Event
from syncd.journal.event_rows import event_of
from syncd.journal.journal import Journal

_DROPPED_TOGETHER = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A sink's words about an event that it refuses for good."""

    reason: str
    code: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class SinkLetter:
    """An event that a sink refused and that is to be sent once more."""

    id: int
    event: Event


def register_sinks(journal: Journal, from_beginning: Mapping[str, bool]) -> None:
    """Record which sinks are configured now, by name.

    One that is new begins behind the newest event, or (true) with the oldest that is kept. One that is no longer
    configured keeps its cursor, but events are no longer kept for it.
    """
    with journal._transaction("registering sinks"):
        newest = journal._run("newest_event").fetchone()[0]
        for row in journal._run("sinks").fetchall():
            if row[0] not in from_beginning:
                journal._run("deactivate_sink", {"name": row[0]})
        for name, beginning in from_beginning.items():
            journal._run("add_sink", {"name": name, "cursor": 0 if beginning else newest})


def sink_cursor(journal: Journal, sink: str) -> int:
    """Return the number of the last event that a sink is done with."""
    return int(journal._one("sink_cursor", {"name": sink}))


def events_after(journal: Journal, after: int, limit: int) -> list[Event]:
    """Return the events behind a number, in order."""
    return [event_of(*row) for row in journal._fetch("events_after", {"after": after, "limit": limit})]


def event_seq(journal: Journal, event_id: str) -> int | None:
    """Return the number of the event of that id, None if it is not kept (any more)."""
    found = journal._one("event_seq", {"id": event_id})
    return int(found) if found is not None else None


def move_sink(
    journal: Journal, sink: str, cursor: int, *, sent: int = 0, refused: Sequence[tuple[Event, Refusal]] = ()
) -> None:
    """Record that a sink is done with every event up to ``cursor``: it got ``sent`` of them and refused some."""
    with journal._releasing("moving a sink's cursor"):
        for event, refusal in refused:
            _add_letter(journal, sink, event, refusal)
        now_ms = journal._wall_ms()
        journal._run("move_sink", {"name": sink, "cursor": cursor, "sent": sent, "now_ms": now_ms})


def _add_letter(journal: Journal, sink: str, event: Event, refusal: Refusal) -> None:
    number = journal._run("next_letter").fetchone()[0]
    journal._run(
        "add_sink_letter",
        {
            "id": number,
            "sink": sink,
            "event_id": event.id,
            "type": event.type,
            "source": event.source,
            "subject": event.subject,
            "told_ms": event.time_ms,
            "data": json.dumps(event.data, ensure_ascii=False, separators=(",", ":")),
            **_words(journal, refusal),
        },
    )
    journal._run("begin_letter_numbers")
    journal._run("raise_letter_numbers", {"id": number})


def _words(journal: Journal, refusal: Refusal) -> dict[str, Any]:
    words = {"reason": refusal.reason, "code": refusal.code, "status": refusal.status}
    return {**words, "now_ms": journal._wall_ms()}


def sink_up(journal: Journal, sink: str) -> None:
    """Record that a sink takes events."""
    with journal._releasing("recording a sink's state"):
        journal._run("sink_up", {"name": sink, "now_ms": journal._wall_ms()})


def sink_trouble(journal: Journal, sink: str, state: str, error: str) -> None:
    """Record that a sink is ``down``, ``throttled``, ``auth`` or ``gone``, with the error's words."""
    with journal._releasing("recording a sink's state"):
        told = {"name": sink, "state": state, "error": error, "now_ms": journal._wall_ms()}
        journal._run("sink_trouble", told)


def letters_to_retry(journal: Journal, sink: str, limit: int) -> list[SinkLetter]:
    """Return what is to be sent to a sink once more (``syncd dlq retry``)."""
    rows = journal._fetch("sink_letters_to_retry", {"sink": sink, "limit": limit})
    return [SinkLetter(row[0], event_of(0, *row[1:])) for row in rows]


def settle_letter(journal: Journal, sink: str, letter_id: int, refusal: Refusal | None) -> None:
    """Record that a sink took a letter's event, or that it refused it again."""
    with journal._releasing("settling a letter of a sink"):
        if refusal is None:
            journal._run("drop_sink_letter", {"id": letter_id})
            journal._run("move_sink", {"name": sink, "cursor": 0, "sent": 1, "now_ms": journal._wall_ms()})
        else:
            journal._run("refuse_sink_letter", {"id": letter_id, **_words(journal, refusal)})


def prune(journal: Journal, *, kept: int, most: int) -> dict[str, int]:
    """Delete events by rule 2; return, by name, how many each sink lost that it had not got."""
    newest = int(journal._one("newest_event"))
    cursor = journal._one("least_cursor")
    last = max(newest - most, min(newest - kept, newest if cursor is None else int(cursor)))
    lost: dict[str, int] = {}
    first = int(journal._fetch("event_range")[0][0])
    while first and first <= last:
        piece = min(last, first + _DROPPED_TOGETHER - 1)
        for sink, count in _drop(journal, piece).items():
            lost[sink] = lost.get(sink, 0) + count
        first = int(journal._fetch("event_range")[0][0])
    return lost


def _drop(journal: Journal, last: int) -> dict[str, int]:
    with journal._releasing("dropping old events"):
        behind = {name: count for name, count in journal._run("sinks_behind", {"last": last}).fetchall() if count}
        for name, count in behind.items():
            dropped = {"name": name, "dropped": count, "cursor": last, "now_ms": journal._wall_ms()}
            journal._run("drop_for_sink", dropped)
        journal._run("drop_events", {"last": last})
    return behind


READS = frozenset({sink_cursor, events_after, letters_to_retry})
