"""Request bodies that are streamed from an ``Upload``: exact length, held-back last piece, a deadline per piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from syncd.errors import ArtifactChanged

CONNECT_S: Final = 10.0

Throttle = Callable[[int], Awaitable[None]]
"""Waits until that many bytes may be sent."""


class Upload(Protocol):
    """An artifact opened for sending: its bytes in pieces, and its identity before and after.

    ``pieces`` raises ArtifactChanged when the file is not the one that was opened, at the latest after the last
    piece and before the caller could finish its request, so that a body of changed bytes is never completed.
    """

    path: str
    size_bytes: int

    def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` in pieces of at most 1 MiB."""
        ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long to wait. ``stall_s`` bounds each silence, ``total_s`` a whole exchange (uploads: the answer only)."""

    connect_s: float = CONNECT_S
    stall_s: float = 60.0
    total_s: float = 180.0

    @classmethod
    def within(cls, timeout_s: float) -> Self:
        """Return those of a short exchange, which may take so long in all."""
        return cls(connect_s=min(timeout_s, CONNECT_S), stall_s=timeout_s, total_s=timeout_s)


class Source:
    """What is to be streamed, and why the stream broke when our side broke it."""

    def __init__(self, artifact: Upload, start: int, length: int, *, chunked: bool) -> None:
        self.artifact = artifact
        self.start = start
        self.length = length
        self.chunked = chunked
        self.failure: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield exactly ``length`` bytes; each piece only when the artifact has let go of the next one or its end.

        So a change that the artifact notices after its last piece breaks the request before the server has it whole.
        """
        held = b""
        left = self.length
        whole = self.start == 0 and self.length == self.artifact.size_bytes
        async for piece in self.artifact.pieces(self.start, None if whole else self.length):
            if held:
                yield held
            held = piece
            left -= len(piece)
            if left < 0:
                break
        if left != 0:
            raise ArtifactChanged("its length changed", doing="uploading", target=self.artifact.path)
        if held:
            yield held


class Pace:
    """Moves the deadline of one request while its body is streamed, until the answer begins."""

    def __init__(self, deadline: asyncio.Timeout, deadlines: Deadlines) -> None:
        self._deadline = deadline
        self._deadlines = deadlines
        self._released = False

    def release(self) -> None:
        """Leave the deadline to whoever reads the answer."""
        self._released = True

    def pause(self) -> None:
        """Stop the clock: it is our side that waits."""
        self._set(None)

    def expect_piece_taken(self) -> None:
        """Give the peer ``stall_s`` to take a piece."""
        self._set(self._deadlines.stall_s)

    def expect_answer(self) -> None:
        """Give the peer ``total_s`` to answer."""
        self._set(self._deadlines.total_s)

    def _set(self, seconds: float | None) -> None:
        if not self._released and not self._deadline.expired():
            self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


class Streamed(aiohttp.Payload):
    """A request body made of an artifact's pieces, with its length known."""

    def __init__(self, source: Source, throttle: Throttle | None, pace: Pace) -> None:
        super().__init__(source, content_type="application/octet-stream")
        self._source = source
        self._size = None if source.chunked else source.length
        self._throttle = throttle
        self._pace = pace

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not possible for a stream."""
        raise TypeError("a streamed body has no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all pieces, each as fast as throttle and peer allow."""
        self._pace.pause()
        pieces = self._source.pieces()
        while (piece := await self._next(pieces)) is not None:
            if self._throttle is not None:
                await self._throttle(len(piece))
            self._pace.expect_piece_taken()
            await writer.write(piece)
            self._pace.pause()
        self._pace.expect_answer()

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(pieces, None)
        except Exception as exc:
            self._source.failure = exc
            raise

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write all pieces; the length is the source's own."""
        await self.write(writer)
