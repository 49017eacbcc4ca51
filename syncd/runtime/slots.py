"""Slots: at most so many calls at once as a limit allows, and what is urgent before what is not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from syncd.core.concurrency import AdaptiveLimit


class Slots:
    """Hands out the slots of a limit, which may move meanwhile; among equals, who waits longest is next."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self._limit = limit
        self._taken = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append(granted)
        self._grant()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._taken -= 1
                self._grant()

    def _grant(self) -> None:
        while self._taken < self._limit.value and (waiting := self._urgent or self._others):
            granted = waiting.popleft()
            if not granted.done():
                granted.set_result(None)
                self._taken += 1
