"""The points that the overflow of one run holds, in a temporary database, so that memory does not grow with them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Self

from syncd.core.compare.points import ToldPoint, told_point
from syncd.core.reconcile import parse_line
from syncd.errors import Rejected


class SegmentPoints:
    """Points by metric name; one that is there twice is one. ``close`` frees the file."""

    def __init__(self) -> None:
        # "": a temporary file, removed when it is closed. Threads use it one after the other.
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute(
            "CREATE TABLE points (name BLOB, timestamp_ms INTEGER, step INTEGER, is_nan INTEGER, value REAL,"
            " PRIMARY KEY (name, timestamp_ms, step, is_nan, value)) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the points."""
        self._rows.close()

    async def take(self, pieces: AsyncIterator[bytes], path: str) -> None:
        """Add the points of a segment.

        Raises:
            Rejected: it cannot be understood.
        """
        rest = b""
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            self._add(lines, path)
        self._add([rest], path)

    def _add(self, lines: list[bytes], path: str) -> None:
        try:
            rows = [_row(line) for line in lines if line]
        except (ValueError, KeyError, TypeError) as exc:
            raise Rejected(f"a line of it is no point: {exc!r}", doing="reading", target=path) from exc
        self._rows.executemany("INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?, ?)", rows)

    def names(self) -> set[str]:
        """Return the names of the metrics that have points here."""
        return {_text(row[0]) for row in self._rows.execute("SELECT DISTINCT name FROM points")}

    def points(self, name: str) -> Iterator[ToldPoint]:
        """Yield the points of that name in ascending order."""
        select = (
            "SELECT timestamp_ms, step, is_nan, value FROM points WHERE name = ?"
            " ORDER BY timestamp_ms, step, is_nan, value"
        )
        yield from self._rows.execute(select, (name.encode("utf-8", "surrogatepass"),))

    def count(self, name: str) -> int:
        """Return how many points of that name are here."""
        key = name.encode("utf-8", "surrogatepass")
        return int(self._rows.execute("SELECT COUNT(*) FROM points WHERE name = ?", (key,)).fetchone()[0])


def _row(line: bytes) -> tuple[bytes, int, int, int, float]:
    name, value, timestamp_ms, step = parse_line(line)
    return name.encode("utf-8", "surrogatepass"), *told_point(value, timestamp_ms, step)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")
