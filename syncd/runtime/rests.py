"""What rests: sources and destinations that a command has paused. Read from the journal, held in memory.

A source that rests reads nothing new; a destination that rests is sent nothing new. What is under way is finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import structlog

from syncd.journal.journal import Journal
from syncd.journal.pauses import pauses

log = structlog.get_logger(__name__)

Kind = Literal["source", "destination"]


class Rests:
    """Which parts rest just now. Used in the event loop only."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._resting: frozenset[tuple[str, str]] = frozenset()
        self._changed = asyncio.Event()
        self._told: list[Callable[[], None]] = []
        self.look()

    def look(self) -> None:
        """Read anew what is paused; whoever asked for it is told of a change."""
        now = frozenset((pause.kind, pause.name) for pause in pauses(self._journal))
        for kind, name in now - self._resting:
            log.warning("paused by a command; it rests until another resumes it", kind=kind, name=name)
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
