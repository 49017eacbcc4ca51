"""Totals: what a journal has delivered and what waits, as one value that can be subtracted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all subjects of one destination; ``runs`` are those that have an identity there.

    ``trouble`` is its present error, or "".
    """

    runs: int = 0
    points: int = 0
    artifacts: int = 0
    bytes: int = 0
    points_waiting: int = 0
    artifacts_waiting: int = 0
    bytes_waiting: int = 0
    dead_letters: int = 0
    overflow: int = 0
    trouble: str = ""

    def since(self, before: Totals) -> Totals:
        """Return what was delivered since ``before``; what waits stays as it is."""
        return replace(
            self,
            runs=self.runs - before.runs,
            points=self.points - before.points,
            artifacts=self.artifacts - before.artifacts,
            bytes=self.bytes - before.bytes,
        )

    def as_mapping(self) -> dict[str, int | str]:
        """Return the fields by name."""
        return asdict(self)
