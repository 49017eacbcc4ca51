"""Deliveries: which changes each destination still has to get, and the settlement that ends a delivery.

Rules
-----
1. A delivery exists from the commit of its fact (``fact_intake``) until the destination has the change (``settle``) or
   has refused it, which moves the change, whole, to a dead letter in the same transaction. Nothing is ever deleted
   otherwise.
2. A crash loses at most the record of a delivery that took place: it is then delivered again, which every
   destination must bear (``attempted`` and ``again`` say where care is needed).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncd.core.changes import Again, Change, Section
from syncd.journal.dead_letters import DeadLetter, add_dead_letter
from syncd.journal.journal import Journal
from syncd.journal.overflow import OverPoints, add_points


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one settlement adds to a subject's progress."""

    points: int = 0
    artifacts: int = 0
    bytes: int = 0


def waiting_subjects(journal: Journal, destination_id: int) -> list[int]:
    """Return the subjects that wait for a destination."""
    return [row[0] for row in journal._fetch("waiting_subjects", {"destination_id": destination_id})]


def has_waiting(journal: Journal, destination_id: int) -> bool:
    """Return whether anything waits for a destination."""
    return bool(journal._one("has_waiting", {"destination_id": destination_id}))


def pending(
    journal: Journal, destination_id: int, subject_id: int, section: Section, *, after: int = 0, limit: int = 256
) -> list[Change]:
    """Return the next changes of one section that the destination still has to get, in order."""
    parameters = {
        "destination_id": destination_id,
        "subject_id": subject_id,
        "section": int(section),
        "after": after,
        "limit": limit,
    }
    rows = journal._fetch("pending", parameters)
    return [
        Change(seq, kind, body, items, Again(again), bool(attempted), at_ms)
        for seq, kind, body, items, again, attempted, at_ms in rows
    ]


def newest_change(journal: Journal) -> int:
    """Return the number of the newest change that waits for anybody; every later one has a higher number."""
    return int(journal._one("newest_change"))


def waits_before_head(journal: Journal, destination_id: int, subject_id: int) -> bool:
    """Return whether anything but the head still waits."""
    parameters = {"destination_id": destination_id, "subject_id": subject_id, "section": int(Section.HEAD)}
    return bool(journal._one("has_pending", parameters))


def mark_attempted(
    journal: Journal, destination_id: int, subject_id: int, section: Section, seqs: Iterable[int]
) -> None:
    """Record, before they are sent, that these changes may reach the server."""
    with journal._releasing("recording an attempt", synced=True):
        rows = [(destination_id, subject_id, int(section), seq) for seq in seqs]
        journal._many("mark_attempted", rows)


def settle(
    journal: Journal,
    destination_id: int,
    subject_id: int,
    done: Iterable[tuple[Section, int]],
    *,
    dead: Iterable[DeadLetter] = (),
    over: Iterable[OverPoints] = (),
    delivered: Delivered | None = None,
    uploaded: Iterable[int] = (),
    whole: bool = True,
) -> None:
    """Record that the destination has these changes, or has refused what the dead letters hold.

    Of ``done``, ``uploaded`` are the artifacts that were sent; ``whole`` is false where some of it was let go.
    ``over`` are points of these changes that have no place there and go to a segment.
    """
    parameters = {"destination_id": destination_id, "subject_id": subject_id, "now_ms": journal._wall_ms()}
    with journal._releasing("settling deliveries"):
        pairs = list(done)
        files = journal._telling.bodies(uploaded)
        journal._many("drop_delivery", [(destination_id, subject_id, int(section), seq) for section, seq in pairs])
        journal._many("drop_change", [(seq,) for _, seq in pairs])
        letters = [add_dead_letter(journal, parameters, letter) for letter in dead]
        for points in over:
            add_points(journal, destination_id, subject_id, points)
        if delivered is not None:
            sent = {"points": delivered.points, "artifacts": delivered.artifacts, "bytes": delivered.bytes}
            journal._run("add_progress", {**parameters, **sent})
            if delivered.points or delivered.bytes:
                journal._run("add_pace", {**parameters, **sent})
        whole = whole and bool(pairs)
        journal._telling.settled(destination_id, subject_id, uploaded=files, letters=letters, whole=whole)
    journal.settlements += 1


def note(journal: Journal, destination_id: int, subject_id: int, text: str) -> None:
    """Record in plain words why a subject does not move on just now; "" when it does."""
    with journal._releasing("noting a subject's state"):
        journal._run("put_note", {"destination_id": destination_id, "subject_id": subject_id, "note": text})


def note_of(journal: Journal, destination_id: int, subject_id: int) -> str:
    """Return what ``note`` recorded last, or ""."""
    found = journal._one("note_of", {"destination_id": destination_id, "subject_id": subject_id})
    return str(found or "")


def sums(journal: Journal, destination_id: int) -> dict[str, int]:
    """Return, by name, what one destination has got, what waits for it, and what it refused."""
    return journal._named("sums", {"destination_id": destination_id})


def doubt_points(journal: Journal, source_ids: Iterable[int]) -> None:
    """Take note that somebody else may have been handed the points of these sources that wait here."""
    with journal._transaction("doubting what waits"):
        journal._many("doubt_points", ([source_id] for source_id in source_ids))


READS = frozenset({note_of, pending, waiting_subjects, waits_before_head})
