"""An upload whose bytes are in memory: the documents that syncd itself writes into ``syncd/overflow/``."""

from __future__ import annotations

from collections.abc import AsyncIterator


class BytesUpload:
    """Bytes under an artifact path (see ``syncd.destinations.base.Upload``)."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.size_bytes = len(content)
        self._content = content

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` in one piece."""
        yield self._content[start : None if length is None else start + length]
