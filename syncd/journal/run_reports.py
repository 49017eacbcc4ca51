"""What a snapshot of a journal (``report``) says of runs, for ``syncd runs`` and ``explain``."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from syncd.core.changes import decode_head
from syncd.core.facts import ExperimentSeen, RunSeen
from syncd.core.messages.runs import decode_state, device_of
from syncd.journal.report import JournalReport

_ALL = {"first": 0, "last": 2**62}


@dataclass(frozen=True, slots=True)
class RunOnDestination:
    """Where a run stands on one destination: what is there, what waits, what was refused. Times are 0 for never."""

    destination_id: int
    destination: str
    active: bool
    remote_id: str
    points: int
    artifacts: int
    bytes: int
    sent_ms: int
    note: str
    changes_waiting: int
    points_waiting: int
    artifacts_waiting: int
    bytes_waiting: int
    oldest_ms: int | None
    dead_letters: int
    overflow: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run of a source. ``head`` is None until its source has said what it is.

    ``device`` is whose run it is, where messages say that, else "". What ``came_in_messages`` cannot be read again.
    """

    subject_id: int
    source: str
    run_id: str
    head: RunSeen | None
    device: str
    experiment: str
    deleted: bool
    changed_ms: int
    came_in_messages: bool
    destinations: tuple[RunOnDestination, ...]

    @property
    def name(self) -> str:
        """The run's name, or ""."""
        return self.head.name if self.head else ""

    @property
    def shown_name(self) -> str | None:
        """The run's name for people, with its device; None if it has neither."""
        return " ".join(part for part in (self.name, f"({self.device})" if self.device else "") if part) or None


@dataclass(frozen=True, slots=True)
class WaitingKind:
    """What waits of one kind of change; ``attempted`` of the changes may have reached the server already."""

    kind: str
    changes: int
    items: int
    bytes: int
    oldest_ms: int
    attempted: int


def runs(report: JournalReport, subject_id: int | None = None) -> Iterator[RunReport]:
    """Yield all runs, or one, in the order in which they were found."""
    wanted = _ALL if subject_id is None else {"first": subject_id, "last": subject_id}
    destinations = {row["id"]: row for row in report._rows("destinations")}
    experiments = dict(_experiments(report))
    stands: dict[int, list[RunOnDestination]] = defaultdict(list)
    for row in report._rows("runs", wanted):
        stands[row["id"]].append(_stand(row, destinations[row["destination_id"]]))
    for row in report._rows("run_heads", wanted):
        head = decode_head(row["head"]) if row["head"] is not None else None
        assert head is None or isinstance(head, RunSeen)
        yield RunReport(
            subject_id=row["id"],
            source=row["source"],
            run_id=row["key"],
            head=head,
            device=device_of(decode_state(row["heard"])) if row["heard"] is not None else "",
            experiment=experiments.get(row["experiment_id"], ""),
            deleted=bool(row["deleted"]),
            changed_ms=row["changed_ms"],
            came_in_messages=bool(row["came_in_messages"]),
            destinations=tuple(stands[row["id"]]),
        )


def _experiments(report: JournalReport) -> Iterator[tuple[int, str]]:
    for row in report._rows("experiments"):
        head = decode_head(row["head"]) if row["head"] is not None else None
        yield row["id"], head.name if isinstance(head, ExperimentSeen) else ""


def find_runs(report: JournalReport, text: str) -> list[int]:
    """Return the subject ids of the runs that ``text`` names.

    A whole id (of the source or of a destination) or a whole name comes before the beginning of an id.
    """
    whole: dict[int, None] = {}
    begun: dict[int, None] = {}
    for row in report._rows("run_heads", _ALL):
        if row["key"] == text or (row["head"] is not None and decode_head(row["head"]).name == text):
            whole[row["id"]] = None
        elif row["key"].startswith(text):
            begun[row["id"]] = None
    for row in report._rows("runs_by_remote_id", {"id": text}):
        (whole if row["remote_id"] == text else begun)[row["subject_id"]] = None
    return sorted(whole or begun)


def waiting_kinds(report: JournalReport, destination_id: int, subject_id: int) -> list[WaitingKind]:
    """Return what waits of one subject for one destination."""
    key = {"destination_id": destination_id, "subject_id": subject_id}
    return [WaitingKind(**dict(row)) for row in report._rows("waiting_kinds", key)]


def waiting_bodies(report: JournalReport, destination_id: int, subject_id: int, section: int, most: int) -> list[bytes]:
    """Return the bodies of what waits of one section, at most ``most`` of them."""
    key = {"destination_id": destination_id, "subject_id": subject_id, "section": section}
    return [row["body"] for row in report._rows("pending", {**key, "after": 0, "limit": most})]


def remote_experiment(report: JournalReport, destination_id: int, subject_id: int) -> str:
    """Return the id on a destination of a run's experiment, or ""."""
    rows = report._rows("remote_experiment", {"destination_id": destination_id, "subject_id": subject_id})
    return str(rows[0][0]) if rows else ""


def overflow_entries(report: JournalReport, destination_id: int, subject_id: int) -> list[tuple[str, str]]:
    """Return what is kept in overflow of one subject: (section, key)."""
    key = {"destination_id": destination_id, "subject_id": subject_id}
    return [(row["section"], row["key"]) for row in report._rows("overflow_entries", key)]


def _stand(row: sqlite3.Row, destination: sqlite3.Row) -> RunOnDestination:
    values = dict(row)
    del values["id"]
    values["remote_id"] = values["remote_id"] or ""
    return RunOnDestination(**values, destination=destination["name"], active=bool(destination["active"]))
