"""A local file as an ``Upload``: opened below its root without following links, checked before and after reading."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import Final

from syncd.errors import ArtifactChanged, ArtifactMissing

PIECE_BYTES: Final = 1 << 20
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a FIFO must not block


class LocalUpload:
    """A regular file below ``root``, as it was when it was seen: ``size_bytes``, ``mtime_ns``.

    ``path`` is relative with "/"; neither it nor a link on the way may lead out of ``root`` (no link below ``root`` is
    followed at all). The file is opened for each reading and closed after it, on a thread.
    """

    def __init__(self, root: str, path: str, size_bytes: int, mtime_ns: int) -> None:
        self.root = root
        self.path = path
        self.size_bytes = size_bytes
        self.mtime_ns = mtime_ns

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` in pieces of at most 1 MiB.

        Raises ArtifactMissing if there is no such regular file, ArtifactChanged if it is not the one that was seen,
        at the latest in place of the last piece.
        """
        end = self.size_bytes if length is None else min(self.size_bytes, start + length)
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_and_read, start, end))
        try:
            opened, piece = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        try:
            offset = start
            while piece:
                offset += len(piece)
                yield piece
                piece = await asyncio.to_thread(self._read, opened, offset, end) if offset < end else b""
        finally:
            if opened >= 0:
                os.close(opened)

    def _open_and_read(self, start: int, end: int) -> tuple[int, bytes]:
        """Return the descriptor (-1 when all is read) and the first piece: one hop to a thread for a small file."""
        opened = self._open()
        try:
            piece = self._read(opened, start, end) if start < end else b""
        except BaseException:
            os.close(opened)
            raise
        if start + len(piece) < end:
            return opened, piece
        os.close(opened)
        return -1, piece

    def _open(self) -> int:
        names = self.path.split("/")
        if any(name in ("", ".", "..") for name in names):
            raise self._missing("its path leads out of the artifact directory")
        try:
            opened = _open_below(self.root, names)
        except OSError as exc:
            raise self._missing(exc.strerror or str(exc)) from exc
        try:
            self._check(opened)
        except BaseException:
            os.close(opened)
            raise
        return opened

    def _read(self, opened: int, offset: int, end: int) -> bytes:
        try:
            piece = os.pread(opened, min(PIECE_BYTES, end - offset), offset)
        except OSError as exc:
            raise self._missing(exc.strerror or str(exc)) from exc
        if not piece:
            raise self._changed("it became shorter")
        if offset + len(piece) >= end:
            self._check(opened)
            self._check_name_still_leads_to(opened)
        return piece

    def _check(self, opened: int) -> None:
        now = os.fstat(opened)
        if not stat.S_ISREG(now.st_mode):
            raise self._missing("it is not a regular file")
        if (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise self._changed("size or modification time differ from what was seen")

    def _check_name_still_leads_to(self, opened: int) -> None:
        """Notice that another file was put in its place by a rename."""
        ours = os.fstat(opened)
        try:
            again = _open_below(self.root, self.path.split("/"))
        except OSError as exc:
            raise self._changed("it was removed or replaced") from exc
        try:
            now = os.fstat(again)
        finally:
            os.close(again)
        if (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino):
            raise self._changed("it was replaced")

    def _missing(self, why: str) -> ArtifactMissing:
        return ArtifactMissing(why, doing="reading artifact", target=f"{self.root}/{self.path}")

    def _changed(self, why: str) -> ArtifactChanged:
        return ArtifactChanged(
            why, doing="reading artifact", target=f"{self.root}/{self.path}", hint="it is sent again when it is stable"
        )


def _open_below(root: str, names: list[str]) -> int:
    """Open ``root``/names…, refusing every link below ``root``; the root itself may be reached through links."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(names[-1], _FILE_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _close_opened(opening: asyncio.Future[tuple[int, bytes]]) -> None:
    """Close what a thread opened after nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None and opening.result()[0] >= 0:
        os.close(opening.result()[0])
