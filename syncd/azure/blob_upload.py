"""One artifact on its way to one blob: whole in one request, or block by block.

Rules
-----
1. Nothing is committed of bytes that changed under way: each block's bytes are read twice, once for its MD5 and once to
   be sent with it, and the file is looked at once more before the blocks become a blob.
2. A block's id is its number and its MD5. What storage holds of an earlier attempt, of this process or of one that was
   killed, is thereby known to be these very bytes, and is not sent again: storage itself is the record.
3. An attempt that fails leaves what it has found out for the next one: ``run`` goes on where it was.
4. Memory is flat: bytes are streamed in pieces, whatever the size of the artifact and of its blocks.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from syncd.azure.blob import MOST_BLOCKS, BlobAddress, Blobs, Span
from syncd.azure.storage_errors import is_other_bytes
from syncd.errors import ArtifactChanged, ArtifactMissing, AuthFailed, DestinationError, Rejected, Transient
from syncd.rest.streaming import Upload
from syncd.rest.uploads import BytesUpload

T = TypeVar("T")

HELD_BYTES: Final = 1 << 20  # of a small artifact, which is then read once
ON_A_THREAD_BYTES: Final = 64 << 10
_Failure = DestinationError | ArtifactChanged | ArtifactMissing


class BlobDoor:
    """A blob's address, asked for when it is needed and once more whenever storage refuses it.

    ``ask`` is told whether the last address was refused.
    """

    def __init__(self, ask: Callable[[bool], Awaitable[BlobAddress]], *, address: BlobAddress | None = None) -> None:
        self._ask = ask
        self._address = address
        self._asking = asyncio.Lock()

    async def through(self, send: Callable[[BlobAddress], Awaitable[T]]) -> T:
        """Send a request; one that storage's 401 or 403 refuses is sent again on a new address.

        Raises:
            AuthFailed: the new address is refused as well.
        """
        address = await self._current()
        try:
            return await send(address)
        except AuthFailed:
            renewed = await self._current(refused=address)
        return await send(renewed)

    async def _current(self, refused: BlobAddress | None = None) -> BlobAddress:
        async with self._asking:
            if self._address is None or self._address is refused:
                self._address = await self._ask(refused is not None)
            return self._address


@dataclass(frozen=True, slots=True)
class Blocks:
    """How artifacts are cut: those above ``whole_bytes`` into blocks of at least ``block_bytes``, sent ``at_once``."""

    whole_bytes: int = 8 << 20
    block_bytes: int = 8 << 20
    at_once: int = 4


class BlobUpload:
    """An artifact and the door to its blob. ``room`` is what all artifacts' blocks share.

    ``already`` opens the blob for reading where blocks of an earlier process may wait; None where there can be none.
    """

    def __init__(
        self,
        blobs: Blobs,
        artifact: Upload,
        door: BlobDoor,
        *,
        cut: Blocks,
        room: asyncio.Semaphore,
        already: BlobDoor | None = None,
    ) -> None:
        self._blobs = blobs
        self._artifact = artifact
        self._door = door
        self._already = already
        self._cut = cut
        self._room = room
        self._reading = asyncio.Lock()
        self._held: BytesUpload | None = None  # a small artifact's bytes
        self.size_bytes = size_bytes = artifact.size_bytes
        is_whole = size_bytes <= cut.whole_bytes
        self._span_bytes = size_bytes if is_whole else max(cut.block_bytes, -(-size_bytes // MOST_BLOCKS))
        self._count = 1 if is_whole else -(-size_bytes // self._span_bytes)
        self._sent: set[str] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._spans: list[Span] = []
        self._whole = hashlib.md5(usedforsecurity=False)
        self._held = None

    async def digest(self) -> bytes:
        """Return the MD5 of all bytes, of which nothing is sent.

        Raises:
            ArtifactChanged, ArtifactMissing: the file is not the one that was seen.
        """
        while len(self._spans) < self._count:
            await self._read_span()
        return self._whole.digest()

    async def run(self) -> bytes:
        """Send what is missing, make it a blob, and return its MD5.

        Raises:
            ArtifactChanged, ArtifactMissing: the file is not the one that was seen; there is no blob of it.
            DestinationError: call again to go on.
        """
        try:
            if self._count == 1:
                await self._send_whole()
            else:
                await self._send_blocks()
                await self._commit()
        except Rejected as error:
            if not is_other_bytes(error):
                raise
            # Size and time of the file are the same: the source would not state it again.
            self._begin_anew()
            message = "the bytes that arrived are not those that were read before"
            raise Transient(message, doing=error.doing, target=error.target) from error
        return self._whole.digest()

    async def _send_whole(self) -> None:
        md5 = await self.digest()
        body = self._held or self._artifact
        await self._door.through(lambda address: self._blobs.put(address, body, md5))

    async def _send_blocks(self) -> None:
        """Send the blocks that storage lacks; after a failure the others that are under way come to their end."""
        if self._sent is None:
            self._sent = await self._known()
        numbers = iter(range(self._count))
        failures: list[_Failure] = []
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._cut.at_once, self._count)):
                workers.create_task(self._work(numbers, self._sent, failures))
        if failures:
            raise min(failures, key=lambda failure: isinstance(failure, DestinationError))

    async def _work(self, numbers: Iterator[int], sent: set[str], failures: list[_Failure]) -> None:
        try:
            while not failures and (block := await self._next_missing(numbers, sent)) is not None:
                span, block_id = block
                async with self._room:
                    await self._send_block(span, block_id)
                sent.add(block_id)
        except (DestinationError, ArtifactChanged, ArtifactMissing) as error:
            failures.append(error)

    async def _next_missing(self, numbers: Iterator[int], sent: set[str]) -> tuple[Span, str] | None:
        """Read on to the next block that is not sent, for one worker at a time."""
        async with self._reading:
            for number in numbers:
                span = await self._span(number)
                block_id = _block_id(number, span)
                if block_id not in sent:
                    return span, block_id
        return None

    async def _send_block(self, span: Span, block_id: str) -> None:
        await self._door.through(lambda address: self._blobs.put_block(address, self._artifact, span, block_id))

    async def _known(self) -> set[str]:
        """Return the blocks that an earlier process has sent; none where storage does not tell."""
        if self._already is None:
            return set()
        try:
            blocks = await self._already.through(
                lambda address: self._blobs.sent_blocks(address, target=self._artifact.path)
            )
        except (AuthFailed, Rejected):
            return set()
        return set(blocks)

    async def _commit(self) -> None:
        async for _ in self._artifact.pieces(self.size_bytes, 0):
            pass  # raises ArtifactChanged
        ids = [_block_id(number, span) for number, span in enumerate(self._spans)]
        md5 = self._whole.digest()
        try:
            await self._door.through(lambda address: self._blobs.commit(address, ids, md5, target=self._artifact.path))
        except Rejected as error:
            if error.code != "InvalidBlockList":
                raise
            self._sent = set()
            hint = "they are sent again"
            raise Transient("storage has dropped blocks", doing=error.doing, target=error.target, hint=hint) from error

    async def _span(self, number: int) -> Span:
        while len(self._spans) <= number:
            await self._read_span()
        return self._spans[number]

    async def _read_span(self) -> None:
        """Read the next span for its MD5 and that of the whole."""
        start = len(self._spans) * self._span_bytes
        length = min(self._span_bytes, self.size_bytes - start)
        own, whole = hashlib.md5(usedforsecurity=False), self._whole.copy()
        held: list[bytes] = []
        got = 0
        async for piece in self._artifact.pieces(start, length):
            got += len(piece)
            if len(piece) < ON_A_THREAD_BYTES:
                _take(piece, own, whole)
            else:
                await asyncio.to_thread(_take, piece, own, whole)
            if self.size_bytes <= HELD_BYTES:
                held.append(piece)
        if got != length:
            raise ArtifactChanged("its length changed", doing="reading artifact", target=self._artifact.path)
        if held:
            self._held = BytesUpload(self._artifact.path, b"".join(held))
        self._whole = whole
        self._spans.append(Span(start, length, own.digest()))


def _take(piece: bytes, *digests: hashlib._Hash) -> None:
    for digest in digests:
        digest.update(piece)


def _block_id(number: int, span: Span) -> str:
    return base64.b64encode(number.to_bytes(4, "big") + span.md5).decode()
