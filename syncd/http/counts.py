"""What the HTTP server counts, for ``/metrics``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class HttpCounts:
    """Answers by status since the start; connections now, and how many were cut off to be rid of them."""

    answers: Counter[int] = field(default_factory=Counter)
    connections: int = 0
    cut_off: int = 0
