"""Facts and a filled journal for the tests of the journal and of the commands that ask it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from syncd.core.changes import Section
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    Fact,
    MetricsLogged,
    ParamsLogged,
    Reading,
    RunSeen,
    SubjectKey,
    TagsSet,
)
from syncd.journal import committing, deliveries, subjects
from syncd.journal.journal import Journal

NOW_MS = 1_790_000_000_000
EXPERIMENT = SubjectKey("experiment", "7", "")


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def run_key(number: int) -> SubjectKey:
    return SubjectKey("run", f"{number:04x}{'0' * 27}{number % 10}")


def experiment(name: str = "churn") -> ExperimentSeen:
    return ExperimentSeen(EXPERIMENT, name, {})


def head(number: int, *, name: str | None = None, status: str = "RUNNING", parent: str = "") -> RunSeen:
    end_ms = None if status == "RUNNING" else NOW_MS
    run_name = f"run {number}" if name is None else name
    return RunSeen(run_key(number), EXPERIMENT, run_name, status, NOW_MS - 60_000, end_ms, parent_run_id=parent)  # type: ignore[arg-type]


def points(number: int, steps: Iterable[int]) -> MetricsLogged:
    lines = [
        json.dumps({"key": "loss", "value": 0.5, "timestamp": NOW_MS, "step": step}, separators=(",", ":")).encode()
        for step in steps
    ]
    return MetricsLogged(run_key(number), b"\n".join(lines), len(lines))


def params(number: int, **values: str) -> ParamsLogged:
    return ParamsLogged(run_key(number), values)


def tags(number: int, **values: str) -> TagsSet:
    return TagsSet(run_key(number), values)


def artifact(number: int, path: str, root: Path, size_bytes: int = 10, mtime_ns: int = 1) -> ArtifactSeen:
    return ArtifactSeen(run_key(number), path, str(root), size_bytes, mtime_ns)


def commit(
    journal: Journal, source_id: int, audience: int, *facts: Fact, **cursors: bytes | None
) -> dict[int, set[int]]:
    return committing.commit(journal, source_id, audience, [Reading(facts, cursors)])


def run_id(journal: Journal, source_id: int, number: int) -> int:
    found = subjects.find_subject(journal, source_id, "run", run_key(number).id)
    assert found is not None
    return found


def settle_all(journal: Journal, destination_id: int, subject_id: int) -> None:
    for section in Section:
        changes = deliveries.pending(journal, destination_id, subject_id, section)
        deliveries.settle(journal, destination_id, subject_id, [(section, change.seq) for change in changes])
