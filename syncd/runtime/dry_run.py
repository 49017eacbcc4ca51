"""What a sync would send: the sources are read, nothing is written anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from syncd.configuration.model import SourceSettings
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    Fact,
    MetricsLogged,
    ModelSeen,
    ProblemFound,
    RunSeen,
    SubjectKey,
)
from syncd.runtime.assembly import StoreOpening, store_openings
from syncd.sources.memory_cursors import MemoryCursors


@dataclass(slots=True)
class ExperimentCount:
    """How much one experiment holds."""

    name: str
    runs: int = 0
    points: int = 0
    models: int = 0
    artifacts: int = 0
    bytes: int = 0


@dataclass(slots=True)
class DryRun:
    """What was found, per experiment of each store, and what could not be read (where, why)."""

    experiments: dict[tuple[str, SubjectKey], ExperimentCount] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def as_mapping(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "experiments": [{"source": source, **asdict(count)} for (source, _), count in self.experiments.items()],
            "problems": [{"where": where, "what": what} for where, what in self.problems],
        }


def look_only(sources: Sequence[SourceSettings]) -> DryRun:
    """Read the sources and count.

    Raises:
        SourceError: a store cannot be read.
    """
    found = DryRun()
    with tempfile.TemporaryDirectory(prefix="syncd-") as temp_dir:
        for settings in sources:
            for opening in store_openings(settings, temp_dir=Path(temp_dir)):
                _count(opening, found)
    return found


def _count(opening: StoreOpening, found: DryRun) -> None:
    source, cursors = opening.open(), MemoryCursors()
    owners: dict[SubjectKey, SubjectKey] = {}
    try:
        for reading in source.poll(cursors, full=True):
            for fact in reading.facts:
                _add(fact, opening.journal_name, found, owners)
            cursors.commit(reading)
    finally:
        source.close()
    wanted = opening.source.experiments
    for key, count in list(found.experiments.items()):
        if key[0] == opening.journal_name and wanted and not any(fnmatchcase(count.name, glob) for glob in wanted):
            del found.experiments[key]


def _add(fact: Fact, source: str, found: DryRun, owners: dict[SubjectKey, SubjectKey]) -> None:
    match fact:
        case ProblemFound():
            found.problems.append((fact.where, fact.what))
            return
        case ExperimentSeen():
            found.experiments[(source, fact.subject)] = ExperimentCount(fact.name)
            return
        case RunSeen() | ModelSeen():
            owners[fact.subject] = fact.experiment
    count = found.experiments.setdefault((source, owners.get(fact.subject, fact.subject)), ExperimentCount("(unknown)"))
    match fact:
        case RunSeen():
            count.runs += 1
        case ModelSeen():
            count.models += 1
        case MetricsLogged():
            count.points += fact.count
        case ArtifactSeen():
            count.artifacts += 1
            count.bytes += fact.size_bytes
