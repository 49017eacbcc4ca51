"""What commands have paused, for good until another resumes it.

Of two commands about the same part the one counts that was given later, whichever comes first (``put_pause``).
"""

from __future__ import annotations

from dataclasses import dataclass

from syncd.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class Pause:
    """A source or destination that rests, and the source whose message said so."""

    kind: str
    name: str
    source: str
    at_ms: int


def pauses(journal: Journal) -> list[Pause]:
    """Return everything that is paused."""
    return [Pause(*row) for row in journal._fetch("pauses")]
