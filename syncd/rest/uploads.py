"""Uploads that are no plain local files: documents made in memory, and files that go under another name."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from syncd.rest.streaming import Upload


class BytesUpload:
    """Bytes that syncd itself writes, under an artifact path (see ``syncd.rest.streaming.Upload``)."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.size_bytes = len(content)
        self._content = content

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` in one piece."""
        yield self._content[start : None if length is None else start + length]


class RenamedUpload:
    """An upload whose bytes go to the destination under another path."""

    def __init__(self, upload: Upload, path: str) -> None:
        self.path = path
        self.size_bytes = upload.size_bytes
        self._upload = upload

    def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start``."""
        return self._upload.pieces(start, length)


async def sha256_of(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the SHA-256 of what comes in pieces."""
    digest = hashlib.sha256()
    async for piece in pieces:
        digest.update(piece)
    return digest.digest()
