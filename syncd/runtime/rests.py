"""What rests: sources and destinations that a command has paused. Read from the journal, held in memory.

A source that rests reads nothing new; a destination that rests is sent nothing new. What is under way is finished, but
for waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import structlog

from syncd.journal.journal import Journal
from syncd.journal.pauses import pauses

log = structlog.get_logger(__name__)

Kind = Literal["source", "destination"]
T = TypeVar("T")


class Rests:
    """Which parts rest just now. Used in the event loop only."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._resting: frozenset[tuple[str, str]] = frozenset()
        self._changed = asyncio.Event()
        self._told: list[Callable[[], None]] = []
        self._waiting: dict[tuple[str, str], asyncio.Timeout] = {}
        self.look()

    def look(self) -> None:
        """Read anew what is paused; whoever asked for it is told of a change."""
        now = frozenset((pause.kind, pause.name) for pause in pauses(self._journal))
        for kind, name in now - self._resting:
            log.warning("paused by a command; it rests until another resumes it", kind=kind, name=name)
            if (kind, name) in self._waiting:
                self._waiting[kind, name].reschedule(asyncio.get_running_loop().time())
        for kind, name in self._resting - now:
            log.info("resumed", kind=kind, name=name)
        if now == self._resting:
            return
        self._resting = now
        self._changed.set()
        self._changed = asyncio.Event()
        for tell in self._told:
            tell()

    def tell(self, changed: Callable[[], None]) -> None:
        """Have a function called after each change."""
        self._told.append(changed)

    def is_resting(self, kind: Kind, name: str) -> bool:
        """Return whether that part rests."""
        return (kind, name) in self._resting

    async def over(self, kind: Kind, name: str) -> None:
        """Wait until that part does not rest."""
        while self.is_resting(kind, name):
            await self._changed.wait()

    async def awake(self, kind: Kind, name: str, wait: Callable[[], Awaitable[T]]) -> T | None:
        """Return what is waited for; None once that part rests: the waiting is cancelled then.

        For one at a time of each part.
        """
        if self.is_resting(kind, name):
            return None
        try:
            async with asyncio.timeout(None) as until_it_rests:
                self._waiting[kind, name] = until_it_rests
                return await wait()
        except TimeoutError:
            if not until_it_rests.expired():
                raise
            return None
        finally:
            self._waiting.pop((kind, name), None)
