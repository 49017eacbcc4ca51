"""The wall clock."""

from __future__ import annotations

import time


def wall_ms_now() -> int:
    """Return the wall time, ms since the epoch."""
    return time.time_ns() // 1_000_000
