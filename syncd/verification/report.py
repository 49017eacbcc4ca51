"""What ``verify`` found, whole and of one subject."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncd.core.compare.findings import Comparison, Difference, Note, Place


@dataclass(slots=True)
class Compared:
    """How much of the sources was compared; ``bytes`` are those of artifacts that were read on both sides."""

    experiments: int = 0
    runs: int = 0
    models: int = 0
    points: int = 0
    params: int = 0
    tags: int = 0
    datasets: int = 0
    artifacts: int = 0
    bytes: int = 0


@dataclass(slots=True)
class InOverflow:
    """How many values and files only the overflow holds."""

    params: int = 0
    tags: int = 0
    artifacts: int = 0
    points: int = 0
    datasets: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read in a source, and so was not compared."""

    source: str
    where: str
    what: str


@dataclass(slots=True)
class Report:
    """What ``verify`` found."""

    differences: list[tuple[Place, Difference]] = field(default_factory=list)
    notes: list[tuple[Place, Note]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    compared: Compared = field(default_factory=Compared)
    overflow: InOverflow = field(default_factory=InOverflow)

    def take(self, findings: Findings) -> None:
        """Add what was found of one subject."""
        self.differences += [(findings.place, difference) for difference in findings.differences]
        self.notes += [(findings.place, note) for note in findings.notes]


class Findings:
    """What was found of one subject."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.differences: list[Difference] = []
        self.notes: list[Note] = []

    def found(self, destination_id: str) -> None:
        """Take note of what the subject is called there."""
        at = self.place
        self.place = Place(at.source, at.subject, at.id, at.name, destination_id)

    def take(self, comparison: Comparison) -> None:
        """Add what a comparison came to."""
        self.differences += comparison.differences
        self.notes += comparison.notes
