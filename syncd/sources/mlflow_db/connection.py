"""Open somebody else's SQLite database so that neither it nor its writer notices.

Rules
-----
1. Nothing is ever created or changed beside the database, and no lock is held while Python thinks.
2. A read is optimistic first: ``immutable=1`` takes no lock at all; the file's version (inode, size, mtime, change
   counter, no journal) is compared before and after, and the result thrown away when it moved. So a writer with a
   time-out of 0 is not disturbed either.
3. Where that cannot be (a transaction is open, or the writer is too busy) single autocommit SELECTs with
   ``mode=ro`` hold SQLite's SHARED lock for a chunk of rows, milliseconds.
4. A WAL database with its ``-wal`` and ``-shm`` is read with ``readonly_shm=1``: with a live writer as one more
   reader, at rest with an index in private memory, in both cases without writing to the ``-shm``. The connection
   lasts for one read, since a longer one would keep an ending writer from tidying its ``-wal`` away.
5. What needs recovery (a crashed writer's journal, a ``-wal`` without ``-shm``) is recovered in a private copy.
6. Closing any descriptor of a file drops this process's POSIX locks on it (sqlite.org/howtocorrupt.html, 2.2,
   checked 2026-11), so the header is only looked at while no statement runs and no WAL connection is open.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from syncd.core.sqlite_header import may_be_database
from syncd.errors import SourceError, SourceNotReady

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
FileStamp = tuple[int, int, int]  # inode, size, mtime_ns

BUSY_TIMEOUT_S = 0.02
OPTIMISTIC_ATTEMPTS = 12
PAUSE_S = 0.004  # between attempts: about one commit of a writer
YOUNG_NS = 100_000_000  # an mtime younger than this may hide another write in the same clock tick
UNSHARED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}  # the -shm is unreadable, empty or just gone
COPY_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Version:
    """What a database file is at one moment, by stat and header alone."""

    database: FileStamp
    counter: bytes  # header bytes 24..27, raised by every commit outside WAL mode
    wal_mode: bool
    wal: FileStamp | None

    @property
    def inode(self) -> int:
        """Identity of the file."""
        return self.database[0]

    @property
    def changed_ns(self) -> int:
        """When it was last written, ns since the epoch."""
        return max(self.database[2], self.wal[2] if self.wal else 0)


@dataclass(frozen=True, slots=True)
class Look:
    """A version, and the files of transactions beside it."""

    version: Version
    journal: FileStamp | None  # a rollback journal with a header: open transaction or crashed writer
    shm: bool

    @property
    def at_rest(self) -> bool:
        """True when the database file alone is the whole truth."""
        if self.version.wal_mode:
            return self.version.wal is None
        return self.journal is None


class Database:
    """Read-only access to one SQLite file of another program."""

    def __init__(
        self,
        path: Path,
        *,
        temp_dir: Path | None = None,
        copy_limit_bytes: int = COPY_LIMIT_BYTES,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._file = path  # with links resolved, as SQLite does before it names the files beside it
        self._temp_dir = temp_dir
        self._copy_limit_bytes = copy_limit_bytes
        self._now_ns = now_ns
        self._pause = pause
        self._was_there = False
        self._waited_for: FileStamp | None = None  # a journal that did not go away: a long transaction
        self._kept: tuple[Version, sqlite3.Connection] | None = None
        self._copy: tuple[Look, tempfile.TemporaryDirectory[str]] | None = None

    def version(self) -> Version:
        """Return the present version without any SQL; raise SourceNotReady or SourceError."""
        return self._look().version

    def settled(self, version: Version) -> bool:
        """Tell whether the version's times are old enough that an equal version means an equal content."""
        return self._now_ns() - version.changed_ns > YOUNG_NS

    def read(self, work: Work[T]) -> T:
        """Return ``work(connection)``; it only queries, fetches all at once, and may be called again.

        Raises:
            SourceNotReady: the writer is in the way; poll again later.
            SourceError: no such file, no database, or a malformed one.
        """
        for attempt in range(OPTIMISTIC_ATTEMPTS):
            if attempt:
                self._pause(PAUSE_S)
            look = self._look()
            if look.at_rest:
                result = self._read_optimistic(look, work)
                if result is not None:
                    return result[0]
            elif look.version.wal_mode and look.shm:
                return self._read_wal(look, work)
            elif look.version.wal_mode or (self._copy is not None and self._copy[0] == look):
                return self._read_copy(look, work)
            elif look.journal == self._waited_for:
                break
        if look.version.wal_mode:  # never without immutable=1: SQLite would create a -wal
            raise self._error(SourceNotReady, "it changes too fast just now", "it is read again later")
        self._waited_for = look.journal
        try:
            return self._read_opened("mode=ro", work)
        except _HotJournal:
            return self._read_copy(self._look(), work)

    def close(self) -> None:
        """Close the kept connection and remove the private copy."""
        self._drop_kept()
        self._drop_copy()

    def _look(self) -> Look:
        self._file = self.path.resolve()
        try:
            with self._file.open("rb") as file:
                header = file.read(28)
            version_stamp = _stamp(self._file)
        except FileNotFoundError:
            version_stamp, header = None, b""
        except OSError as error:
            raise self._error(SourceError, error.strerror or str(error), "check its permissions") from error
        if version_stamp is None:
            self.close()
            kind = SourceNotReady if self._was_there else SourceError
            raise self._error(kind, "there is no such file", "check the path; it appears with the first logged run")
        self._was_there = True
        if not may_be_database(header):
            raise self._error(SourceError, "it is not an SQLite database", "point the source at MLflow's .db file")
        if version_stamp[1] == 0 or len(header) < 28:
            raise self._error(SourceNotReady, "the file is still empty", "MLflow is creating it, or it was never used")
        wal = _stamp(self._beside("-wal"))
        version = Version(
            database=version_stamp,
            counter=header[24:28],
            wal_mode=2 in header[18:20],
            wal=wal if wal and wal[1] else None,
        )
        return Look(version=version, journal=_live_journal(self._beside("-journal")), shm=self._beside("-shm").exists())

    def _read_optimistic(self, look: Look, work: Work[T]) -> tuple[T] | None:
        """Return the result in a tuple, or None when the database moved meanwhile."""
        connection = self._immutable(look.version)
        try:
            result = work(connection)
        except sqlite3.Error as error:
            self._drop_kept()
            if self._look() != look:
                return None
            raise self._translated(error) from error
        if self._look() != look:
            self._drop_kept()
            return None
        if not self.settled(look.version):
            # An equal version may hide a write: what was read of the file is read anew, but the schema stays parsed,
            # which took two thirds of a poll's time (a schema that changed is noticed by its cookie).
            connection.execute("PRAGMA shrink_memory")
        return (result,)

    def _immutable(self, version: Version) -> sqlite3.Connection:
        if self._kept is not None and self._kept[0] == version:
            return self._kept[1]
        self._drop_kept()
        self._kept = (version, self._open(self._file, "immutable=1"))
        return self._kept[1]

    def _read_wal(self, look: Look, work: Work[T]) -> T:
        try:
            return self._read_opened("mode=ro&readonly_shm=1", work)
        except SourceNotReady as error:
            if not isinstance(error.__cause__, sqlite3.Error) or _code(error.__cause__) & 0xFF not in UNSHARED:
                raise
            return self._read_copy(look, work)

    def _read_opened(self, parameters: str, work: Work[T]) -> T:
        self._drop_kept()
        try:
            with closing(self._open(self._file, parameters)) as connection:
                return work(connection)
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_READONLY_ROLLBACK:
                raise _HotJournal from error
            raise self._translated(error) from error

    def _read_copy(self, look: Look, work: Work[T]) -> T:
        if self._copy is None or self._copy[0] != look:
            self._make_copy(look)
        assert self._copy is not None
        try:
            with closing(self._open(Path(self._copy[1].name) / "copy.db", "mode=rw")) as connection:
                return work(connection)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _make_copy(self, look: Look) -> None:
        """Copy database and journal (or ``-wal``) together; only a copy that nobody disturbed counts."""
        self._drop_copy()
        size_bytes = sum(stamp[1] for stamp in (look.version.database, look.version.wal, look.journal) if stamp)
        if size_bytes > self._copy_limit_bytes:
            raise self._error(
                SourceNotReady,
                f"a crashed writer left a transaction, and {size_bytes} bytes are too many to copy",
                "open the store once with MLflow so that SQLite recovers it",
            )
        directory = tempfile.TemporaryDirectory(prefix="syncd-", dir=self._temp_dir)
        try:
            for suffix in ("", "-wal", "-journal"):
                if self._beside(suffix).exists():
                    shutil.copyfile(self._beside(suffix), Path(directory.name) / f"copy.db{suffix}")
            undisturbed = self._look() == look
        except OSError as error:
            directory.cleanup()
            raise self._error(SourceNotReady, f"copying it failed: {error}", "free some temporary space") from error
        if not undisturbed:
            directory.cleanup()
            raise self._error(SourceNotReady, "it changed while a private copy was made", "it is read again later")
        self._copy = (look, directory)

    def _open(self, path: Path, parameters: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?{parameters}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,  # one thread at a time, says StoreSource; not always the same
        )

    def _beside(self, suffix: str) -> Path:
        return self._file.with_name(self._file.name + suffix)

    def _drop_kept(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy[1].cleanup()
            self._copy = None

    def _translated(self, error: sqlite3.Error) -> SourceError:
        primary = _code(error) & 0xFF
        if primary == sqlite3.SQLITE_NOTADB:
            return self._error(SourceError, "it is not an SQLite database", "point the source at MLflow's .db file")
        if primary == sqlite3.SQLITE_CORRUPT:
            return self._error(SourceError, f"SQLite says: {error}", "try `sqlite3 FILE .recover` on a copy")
        return self._error(SourceNotReady, f"SQLite says: {error}", "it is read again later")

    def _error(self, kind: type[SourceError], message: str, hint: str) -> SourceError:
        return kind(message, doing="reading the MLflow database", target=str(self.path), hint=hint)


class _HotJournal(SourceNotReady):
    """A crashed writer's journal must be rolled back before the database can be read."""

    def __init__(self) -> None:
        super().__init__("a crashed writer left a journal")


def _stamp(path: Path) -> FileStamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _live_journal(path: Path) -> FileStamp | None:
    """Return the stamp of a rollback journal that holds something (PERSIST and TRUNCATE modes leave a blank one)."""
    try:
        with path.open("rb") as file:
            blank = file.read(1) in {b"", b"\0"}
    except FileNotFoundError:
        return None
    return None if blank else _stamp(path)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0
