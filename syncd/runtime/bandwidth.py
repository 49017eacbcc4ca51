"""The bandwidth of one destination (``bwlimit``), shared by all that is sent to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from syncd.rest.streaming import Throttle


def throttle_of(bytes_per_s: int | None) -> Throttle | None:
    """Return what holds to that bandwidth; None where there is no such limit."""
    return Bandwidth(bytes_per_s).take if bytes_per_s else None


class Bandwidth:
    """Hands out bytes at a steady rate (``bwlimit``), at most one second's worth in advance."""

    def __init__(self, bytes_per_s: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._free_at_s = monotonic()

    async def take(self, size_bytes: int) -> None:
        """Wait until this many bytes may be sent."""
        now_s = self._monotonic()
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + size_bytes / self._bytes_per_s
        await asyncio.sleep(max(0.0, self._free_at_s - now_s))
