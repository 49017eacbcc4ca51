"""The points that a destination holds of a run, where it must be known which: in a database of its own.

SQLite keeps the database in memory while it is small and in a file without a name when it is not, so that a history of
a million points takes some megabytes of memory.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Mapping

from syncd.core.reconcile import parse_line, point_key

CACHE_KIB = 2048
# A daemon that goes on with runs which it found there has about as many of them under way.
RUNS_REMEMBERED = 8

_SCHEMA = """
CREATE TABLE point (key INTEGER, value, timestamp_ms INTEGER, step INTEGER,
PRIMARY KEY (key, step, timestamp_ms, value)) WITHOUT ROWID
"""
_ADD = "INSERT OR IGNORE INTO point (key, value, timestamp_ms, step) VALUES (?, ?, ?, ?)"
_IS_HELD = "SELECT 1 FROM point WHERE key = ? AND value = ? AND timestamp_ms = ? AND step = ?"

Told = tuple[float, int, int]


class HeldPoints:
    """Points of one run by metric key: those that were read there, and those that were sent since.

    Points are told as (value, timestamp_ms, step) and equal as ``core.reconcile`` says. What is read gets a number with
    ``begin``, and ``finish`` says of which key it is all there is: a reading that fails midway is known of no key.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._unused = itertools.count()
        self._opened: sqlite3.Connection | None = None

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = sqlite3.connect("", isolation_level=None)
            self._opened.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._opened.execute("PRAGMA journal_mode = OFF")
            self._opened.execute(_SCHEMA)
            self._opened.execute("BEGIN")
        return self._opened

    def close(self) -> None:
        """Give up everything."""
        if self._opened is not None:
            self._opened.close()

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def __contains__(self, key: str) -> bool:
        return key in self._numbers

    def begin(self) -> int:
        """Return the number of a reading that begins."""
        return next(self._unused)

    def add(self, number: int, points: Iterable[Told]) -> None:
        """Take note of points that were read."""
        self._database.executemany(_ADD, ((number, *point_key(*point)) for point in points))

    def finish(self, number: int, key: str) -> None:
        """Take what was read under that number for all that is there of the key."""
        self.forget([key])
        self._numbers[key] = number

    def add_missing(self, key: str, lines: Iterable[bytes]) -> list[bytes]:
        """Return those points of a known key, in wire form, that are not there, each once; from then on they are."""
        number = self._numbers[key]
        told = ((line, point_key(*parse_line(line)[1:])) for line in lines)
        return [line for line, point in told if self._database.execute(_ADD, (number, *point)).rowcount]

    def forget(self, keys: Iterable[str]) -> None:
        """Know nothing of these keys any longer."""
        for key in keys:
            if key in self._numbers:
                self._database.execute("DELETE FROM point WHERE key = ?", (self._numbers.pop(key),))

    def forget_others(self, latest: Mapping[str, Told]) -> None:
        """Forget the keys whose latest point there is none of those known: somebody else has sent some since."""
        self.forget([key for key in self._numbers if not self._holds(key, latest.get(key))])

    def _holds(self, key: str, point: Told | None) -> bool:
        if point is None:
            return False
        return self._database.execute(_IS_HELD, (self._numbers[key], *point_key(*point))).fetchone() is not None


class RememberedPoints:
    """What a few runs hold, from one pass over a run to the next."""

    def __init__(self) -> None:
        self._runs: dict[str, HeldPoints] = {}

    def close(self) -> None:
        """Give up everything."""
        for held in self._runs.values():
            held.close()
        self._runs.clear()

    def take(self, run_id: str) -> HeldPoints:
        """Return what is known of a run there. It is the caller's: who has not sent what is in it must not keep it."""
        return self._runs.pop(run_id, None) or HeldPoints()

    def keep(self, run_id: str, held: HeldPoints) -> None:
        """Remember what is known of a run, in the place of what was kept longest ago."""
        self._runs[run_id] = held
        if len(self._runs) > RUNS_REMEMBERED:
            self._runs.pop(next(iter(self._runs))).close()
