"""The journal: the open database of one state directory, its statements and its transactions.

What is in it, the other modules of this room keep: who takes part (``participants``), what was read (``committing``,
``inbox``), of whom (``subjects``, ``bindings``), and what each destination still has to get (``deliveries``,
``overflow``). Their functions take the journal first, and what of it begins with an underscore is theirs alone.

Rules
-----
1. Each of these functions is synchronous, may be called from any thread and is atomic; one lock orders those that
   write, and what only reads waits for none of them.
2. What is told of a change (``telling``) is in the outbox from the same transaction on (``outbox`` serves its readers).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from syncd.errors import JournalCorrupt, JournalError, JournalFull, JournalNewer
from syncd.journal.database import FILE_NAME, Reserve, connect, quarantine, translated
from syncd.journal.queries import STATEMENTS as SQL
from syncd.journal.state_lock import StateLock
from syncd.journal.telling import Telling

log = structlog.get_logger(__name__)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Journal:
    """The open journal of one state directory. Use ``Journal.open``."""

    def __init__(self, state_dir: Path, *, wall_ms: Callable[[], int] = _wall_ms, event_source: str = "") -> None:
        self._path = state_dir / FILE_NAME
        self._wall_ms = wall_ms
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._forgotten: list[tuple[int, str]] = []  # (source, prefix of cursors), in order (``committing``)
        self._state_lock = StateLock(state_dir)
        self._reserve = Reserve(state_dir)
        self._telling = Telling(self._run, source=event_source, wall_ms=wall_ms)
        self.rebuilt_from: Path | None = None
        self.settlements = 0  # since the journal was opened (``deliveries``)
        # Called after a commit that has told something, in the thread that made it.
        self.on_told: Callable[[], None] | None = None

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        wall_ms: Callable[[], int] = _wall_ms,
        condemned: bool = False,
        event_source: str = "",
    ) -> Journal:
        """Open or create the journal, taking the state directory for this process.

        ``condemned`` says that the present file proved damaged in use: it is moved aside in any case.
        ``event_source`` is the CloudEvents source of what is told ("syncd/host"); without it nothing is told.

        A journal that is damaged, or newer and of stores alone, is moved aside, not deleted, and a new one is begun:
        the sources are then read anew and the destinations are asked what they already hold.

        Raises:
            JournalLocked: another process uses the directory.
            JournalNewer: a newer syncd wrote it and took messages into it, which no source states again.
            JournalFull: no space even to open it.
            JournalError: the directory cannot be used.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise JournalError(
                exc.strerror or str(exc), doing="creating", target=str(state_dir), hint="choose another state_dir"
            ) from exc
        journal = cls(state_dir, wall_ms=wall_ms, event_source=event_source)
        journal._state_lock.acquire()
        try:
            journal._open_file(condemned=condemned)
        except BaseException:
            journal._state_lock.release()
            raise
        return journal

    def _open_file(self, *, condemned: bool) -> None:
        try:
            if condemned:
                raise JournalCorrupt("it proved damaged while it was used")
            self._connection = connect(self._path)
        except (JournalCorrupt, JournalNewer) as error:
            if isinstance(error, JournalNewer) and not error.replaceable:
                raise
            stamp = datetime.fromtimestamp(self._wall_ms() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
            self.rebuilt_from = quarantine(self._path, stamp)
            log.warning(
                "the journal cannot be used; it was put aside and is rebuilt from the sources and destinations",
                reason=error.message,
                kept_as=str(self.rebuilt_from),
            )
            self._connection = connect(self._path)
        self._reader = connect(self._path, read_only=True)
        self._reserve.refill()

    def close(self) -> None:
        """Close the file and give the state directory back."""
        with self._lock, self._reading:
            self._reader.close()
            self._connection.close()
            self._state_lock.release()

    # -- statements ------------------------------------------------------------------------------------------------

    def _run(self, name: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        return self._connection.execute(SQL[name], parameters)

    def _many(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(SQL[name], rows)

    def _fetch(self, name: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[Any]:
        """Return what a statement reads, on the connection that never waits for a commit."""
        with self._reading, translated(name, self._path):
            return self._reader.execute(SQL[name], parameters).fetchall()

    def _named(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the one row that a statement reads, by column."""
        with self._reading, translated(name, self._path):
            cursor = self._reader.execute(SQL[name], parameters)
            return dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))

    def _one(self, name: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        rows = self._fetch(name, parameters)
        return rows[0][0] if rows else None

    @contextmanager
    def _transaction(self, doing: str, *, synced: bool = True) -> Iterator[None]:
        with self._lock, translated(doing, self._path):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            told = self._telling.count
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            told = self._telling.count - told
        if told and self.on_told is not None:
            self.on_told()

    @contextmanager
    def _releasing(self, doing: str, *, synced: bool = False) -> Iterator[None]:
        """Open a transaction that records what was done: when the disk is full, the reserve is given up for it.

        It need not be synced: what power loss takes of it is done again, or looked up (``deliveries`` rule 2).
        """
        try:
            with self._transaction(doing, synced=synced):
                yield
        except JournalFull:
            self._reserve.give_up()
            raise

    def used_bytes(self) -> int:
        """Return the bytes in use inside the journal's file."""
        with self._lock, translated("measuring", self._path):
            pages, free, size = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def refill_reserve(self) -> bool:
        """Allocate the reserve again; return whether there was space for it."""
        return self._reserve.refill()

    # -- the whole -------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[str, int]:
        """Return what tells this journal from all others, and when it was made, s since the epoch."""
        journal, made_s = self._fetch("identity")[0]
        return str(journal), int(made_s)

    @property
    def was_abandoned(self) -> bool:
        """Whether the process that had this journal before was killed."""
        return self._state_lock.was_abandoned

    def data_version(self) -> int:
        """Return a number that changes when another process has written (``syncd dlq retry``)."""
        with self._lock, translated("looking for changes", self._path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
