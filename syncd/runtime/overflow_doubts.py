"""Which points the overflow of a run holds already: asked only for changes that may have been sent before.

The segments there are read back once for a pass, into a temporary database on disk, so that memory does not grow with
them. The same point has the same text, since the same source wrote it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from syncd.core.overflow import POINTS, overflow_path
from syncd.destinations.base import RemoteSubject
from syncd.journal import overflow
from syncd.journal.bindings import Binding
from syncd.runtime.channel import Channel
from syncd.runtime.overflow_found import content_of


class OverflowDoubts:
    """The points in one run's overflow, in one pass; frees its file at the end of the ``async with``."""

    def __init__(self, channel: Channel, subject_id: int, binding: Binding) -> None:
        self._channel = channel
        self._subject_id = subject_id
        self._remote = RemoteSubject(binding.remote_id, binding.artifact_root)
        self._seen: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seen is not None:
            self._seen.close()

    async def missing(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return the points that are in no segment and wait for none, each once; they count as held from now on."""
        if not lines:
            return []
        if self._seen is None:
            self._seen = await self._read()
        return _new(self._seen, lines)

    async def _read(self) -> sqlite3.Connection:
        seen = sqlite3.connect("", isolation_level=None)  # a temporary file, removed when it is closed
        try:
            seen.execute("CREATE TABLE seen (line BLOB PRIMARY KEY) WITHOUT ROWID")
            seen.execute("BEGIN")
            async for lines in self._held():
                _new(seen, lines)
        except BaseException:
            seen.close()
            raise
        return seen

    async def _held(self) -> AsyncIterator[list[bytes]]:
        journal, where = self._channel.journal, (self._channel.id, self._subject_id)
        after = 0
        while rows := await journal.do(overflow.points_rows, *where, after=after):
            after = rows[-1].id
            for row in rows:
                yield row.lines.split(b"\n")
        unsent = await journal.do(overflow.next_unsent, *where)
        if unsent is not None and unsent.section == POINTS:
            yield unsent.body.splitlines()
        for section, number in await journal.do(overflow.artifacts, *where):
            if section == POINTS and (unsent is None or (section, number) != (unsent.section, unsent.number)):
                content = await content_of(self._channel, self._remote, overflow_path(POINTS, number))
                yield content.splitlines()


def _new(seen: sqlite3.Connection, lines: Sequence[bytes]) -> list[bytes]:
    """Add lines to those seen; return those that were not."""
    add = "INSERT OR IGNORE INTO seen VALUES (?)"
    return [line for line in lines if seen.execute(add, (line,)).rowcount == 1]
