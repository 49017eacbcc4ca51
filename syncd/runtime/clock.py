"""The wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

JUMP_MS: Final = 2000


def wall_ms_now() -> int:
    """Return the wall time, ms since the epoch."""
    return time.time_ns() // 1_000_000


class Jumps:
    """Tells whether the wall clock was set, or the machine slept, since it was asked before."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._ahead_ms = self._ahead()

    def seen(self) -> bool:
        """Return whether the wall clock has gone otherwise than the monotonic one by more than ``JUMP_MS``."""
        before, self._ahead_ms = self._ahead_ms, self._ahead()
        return abs(self._ahead_ms - before) > JUMP_MS

    def _ahead(self) -> float:
        return self._wall_ms() - 1000 * time.monotonic()
