"""Sorting the points of one key without holding them: sorted segments in one temporary file, merged when read."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from syncd.core.compare.points import ToldPoint

SEGMENT_POINTS = 20_000
READ_POINTS = 2_000
_POINT = struct.Struct("<qqbd")


class PointSort:
    """Takes points in any order and gives them back sorted, repeated ones repeatedly; ``close`` frees the file."""

    def __init__(self, folder: Path, *, segment_points: int = SEGMENT_POINTS) -> None:
        self._folder = folder
        self._segment_points = segment_points
        self._held: list[ToldPoint] = []
        self._file: IO[bytes] | None = None
        self._segments: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the points."""
        if self._file is not None:
            self._file.close()

    def add(self, point: ToldPoint) -> None:
        """Take a point."""
        self._held.append(point)
        if len(self._held) >= self._segment_points:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - ``close`` closes it
        self._held.sort()
        start = self._file.tell()
        self._file.write(b"".join(_POINT.pack(*point) for point in self._held))
        self._segments.append((start, self._file.tell()))
        self._held = []

    def __iter__(self) -> Iterator[ToldPoint]:
        """Yield all points in ascending order; nothing may be added meanwhile."""
        self._held.sort()
        return heapq.merge(self._held, *(self._read(start, end) for start, end in self._segments))

    def _read(self, start: int, end: int) -> Iterator[ToldPoint]:
        assert self._file is not None
        while start < end:
            self._file.seek(start)
            piece = self._file.read(min(end - start, READ_POINTS * _POINT.size))
            yield from _POINT.iter_unpack(piece)
            start += len(piece)
