"""The SQLite file of the journal: opening, migrating, the reserve, and errors in the project's words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from syncd.errors import JournalCorrupt, JournalError, JournalFull, JournalNewer
from syncd.journal.queries import (
    SCHEMA,
    SCHEMA_COMMANDS,
    SCHEMA_EVENTS,
    SCHEMA_MESSAGES,
    SCHEMA_OVERFLOW,
    SCHEMA_RELAY,
    SCHEMA_RETRIES,
)

FILE_NAME = "journal.db"
RESERVE_NAME = "reserve"
RESERVE_BYTES = 8 * 1024 * 1024
# Of each connection; the system caches the file as well. 4 MiB made nothing faster (measured 2026-11).
CACHE_KIB = 1024

# migrations[n] brings a journal of version n to n + 1. Version 0 is an empty file.
MIGRATIONS: tuple[str, ...] = (
    SCHEMA,
    SCHEMA_EVENTS,
    SCHEMA_MESSAGES,
    SCHEMA_OVERFLOW,
    SCHEMA_RELAY,
    SCHEMA_COMMANDS,
    SCHEMA_RETRIES,
)
VERSION = len(MIGRATIONS)

_FULL = {sqlite3.SQLITE_FULL}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextlib.contextmanager
def translated(doing: str, target: Path) -> Iterator[None]:
    """Turn sqlite3's errors into JournalError and its kinds."""
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        message = f"{exc} ({getattr(exc, 'sqlite_errorname', 'sqlite3')})"
        if code in _FULL or (code == sqlite3.SQLITE_IOERR and _disk_is_full(target)):
            raise JournalFull(message, doing=doing, target=str(target), hint="free space on this file system") from exc
        if code in _CORRUPT:
            raise JournalCorrupt(message, doing=doing, target=str(target)) from exc
        raise JournalError(message, doing=doing, target=str(target)) from exc


def _disk_is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize < 1024 * 1024
    return False


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the journal's file for use from any one thread at a time.

    Raises:
        JournalCorrupt: damaged.
        JournalNewer: of a newer version; nothing in it is changed.
        JournalError: anything else.
    """
    connection = _open(f"file:{_quote(path)}?mode={'ro' if read_only else 'rwc'}", path, prepare=not read_only)
    version = _version(connection, path)
    if version > VERSION:
        replaceable = _has_taken_no_message(connection)
        connection.close()
        message = f"its version {version} is newer than this syncd's {VERSION}"
        raise JournalNewer(message, replaceable=replaceable, target=str(path))
    return connection


def _has_taken_no_message(connection: sqlite3.Connection) -> bool:
    """Return whether all in a journal of any version came from stores, which can be read again."""
    try:
        taken = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM message_count WHERE last_ms > 0) OR EXISTS (SELECT 1 FROM inbox)"
        )
        return not taken.fetchone()[0]
    except sqlite3.Error:
        return False


def join(path: Path) -> sqlite3.Connection:
    """Open an existing journal for short writes beside the process that owns it: nothing is created or migrated.

    Raises:
        JournalError: it is not there, damaged, or of another version.
    """
    connection = _open(f"file:{_quote(path)}?mode=rw", path, prepare=False)
    version = _version(connection, path)
    if version != VERSION:
        connection.close()
        raise JournalError(
            f"its version is {version}, this syncd's is {VERSION}",
            doing="opening",
            target=str(path),
            hint="use the syncd that runs the daemon, or restart the daemon with this one",
        )
    return connection


def _open(uri: str, path: Path, *, prepare: bool) -> sqlite3.Connection:
    with translated("opening", path):
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=200
        )
        try:
            connection.execute("PRAGMA busy_timeout = 10000")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            if prepare:
                _prepare(connection, path)
            connection.execute("PRAGMA user_version").fetchone()
        except BaseException:
            connection.close()
            raise
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    with translated("opening", path):
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _quote(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("PRAGMA temp_store = MEMORY")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for step in range(version, VERSION):
        script = f"BEGIN IMMEDIATE;\n{MIGRATIONS[step]}\nPRAGMA user_version = {step + 1};\nCOMMIT;"
        connection.executescript(script)
    if version <= VERSION:
        result = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if version else "ok"
        if result != "ok":
            raise JournalCorrupt(str(result), doing="checking", target=str(path))
    path.chmod(0o600)


def quarantine(path: Path, stamp: str) -> Path:
    """Move a journal that cannot be used beside itself, with its -wal; nothing is deleted. Return its new name.

    The -wal goes first: beside a new journal, SQLite would take it for that journal's own.
    """
    kept = _free_name(path.with_name(f"{path.name}.unusable-{stamp}"))
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept


def _free_name(path: Path) -> Path:
    names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(2, 1000)))
    return next(name for name in names if not (name.exists() or name.with_name(f"{name.name}-wal").exists()))


class Reserve:
    """A preallocated file that is given up when the disk is full, so that deliveries can still be recorded."""

    def __init__(self, state_dir: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = state_dir / RESERVE_NAME
        self._size_bytes = size_bytes

    def refill(self) -> bool:
        """Allocate the reserve if it is not there; return whether it is there now."""
        if self._path.exists() and self._path.stat().st_size >= self._size_bytes:
            return True
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> None:
        """Free the reserve's space."""
        self._path.unlink(missing_ok=True)
