"""The journal: what each destination still has to get, who is who on both sides. ``committing`` puts in what was read.

Rules
-----
1. A delivery row exists from the commit of its fact until the destination has the change (``settle``) or has refused
   it, which moves the change, whole, to a dead letter in the same transaction. Nothing is ever deleted otherwise.
2. A crash loses at most the record of a delivery that took place: it is then delivered again, which every
   destination must bear (``attempted`` and ``again`` say where care is needed).
3. Methods are synchronous, may be called from any thread and are atomic; one lock orders them.
4. What is told of a change (``telling``) is in the outbox from the same transaction on (``outbox`` serves its readers).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from syncd.core.changes import Again, Change, Section
from syncd.errors import JournalCorrupt, JournalError, JournalFull, JournalNewer
from syncd.journal.database import FILE_NAME, Reserve, connect, quarantine, translated
from syncd.journal.overflow import OverPoints, add_points
from syncd.journal.queries import STATEMENTS as SQL
from syncd.journal.state_lock import StateLock
from syncd.journal.telling import Telling

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a destination refused: the change's kind and body, and the server's words."""

    section: Section
    kind: str
    body: bytes
    items: int
    reason: str
    code: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one settlement adds to a subject's progress."""

    points: int = 0
    artifacts: int = 0
    bytes: int = 0


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
        self.settlements = 0  # since the journal was opened
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

        It need not be synced: what power loss takes of it is done again, or looked up (rule 2).
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

    # -- delivery --------------------------------------------------------------------------------------------------

    def waiting_subjects(self, destination_id: int) -> list[int]:
        """Return the subjects that wait for a destination."""
        return [row[0] for row in self._fetch("waiting_subjects", {"destination_id": destination_id})]

    def has_waiting(self, destination_id: int) -> bool:
        """Return whether anything waits for a destination."""
        return bool(self._one("has_waiting", {"destination_id": destination_id}))

    def pending(
        self, destination_id: int, subject_id: int, section: Section, *, after: int = 0, limit: int = 256
    ) -> list[Change]:
        """Return the next changes of one section that the destination still has to get, in order."""
        parameters = {
            "destination_id": destination_id,
            "subject_id": subject_id,
            "section": int(section),
            "after": after,
            "limit": limit,
        }
        rows = self._fetch("pending", parameters)
        return [
            Change(seq, kind, body, items, Again(again), bool(attempted), at_ms)
            for seq, kind, body, items, again, attempted, at_ms in rows
        ]

    def newest_change(self) -> int:
        """Return the number of the newest change that waits for anybody; every later one has a higher number."""
        return int(self._one("newest_change"))

    def waits_before_head(self, destination_id: int, subject_id: int) -> bool:
        """Return whether anything but the head still waits."""
        parameters = {"destination_id": destination_id, "subject_id": subject_id, "section": int(Section.HEAD)}
        return bool(self._one("has_pending", parameters))

    def mark_attempted(self, destination_id: int, subject_id: int, section: Section, seqs: Iterable[int]) -> None:
        """Record, before they are sent, that these changes may reach the server."""
        with self._releasing("recording an attempt", synced=True):
            rows = [(destination_id, subject_id, int(section), seq) for seq in seqs]
            self._connection.executemany(SQL["mark_attempted"], rows)

    def settle(
        self,
        destination_id: int,
        subject_id: int,
        done: Iterable[tuple[Section, int]],
        *,
        dead: Iterable[DeadLetter] = (),
        over: Iterable[OverPoints] = (),
        delivered: Delivered | None = None,
        uploaded: Iterable[int] = (),
        whole: bool = True,
    ) -> None:
        """Record that the destination has these changes, or has refused what the dead letters hold.

        Of ``done``, ``uploaded`` are the artifacts that were sent; ``whole`` is false where some of it was let go.
        ``over`` are points of these changes that have no place there and go to a segment.
        """
        parameters = {"destination_id": destination_id, "subject_id": subject_id, "now_ms": self._wall_ms()}
        with self._releasing("settling deliveries"):
            pairs = list(done)
            files = self._telling.bodies(uploaded)
            self._connection.executemany(
                SQL["drop_delivery"], [(destination_id, subject_id, int(section), seq) for section, seq in pairs]
            )
            self._connection.executemany(SQL["drop_change"], [(seq,) for _, seq in pairs])
            letters = [self._add_dead_letter(parameters, letter) for letter in dead]
            for points in over:
                add_points(self, destination_id, subject_id, points)
            if delivered is not None:
                sums = {"points": delivered.points, "artifacts": delivered.artifacts, "bytes": delivered.bytes}
                self._run("add_progress", {**parameters, **sums})
                if delivered.points or delivered.bytes:
                    self._run("add_pace", {**parameters, **sums})
            whole = whole and bool(pairs)
            self._telling.settled(destination_id, subject_id, uploaded=files, letters=letters, whole=whole)
        self.settlements += 1

    def _add_dead_letter(self, parameters: Mapping[str, int], letter: DeadLetter) -> dict[str, Any]:
        """Add a dead letter; return what is told of it."""
        told = {
            "kind": letter.kind,
            "items": letter.items,
            "reason": letter.reason,
            "code": letter.code,
            "status": letter.status,
        }
        row = self._run("add_dead_letter", {**parameters, "section": int(letter.section), "body": letter.body, **told})
        return {**told, "number": row.lastrowid}

    def _bury(self, destination_id: int, subject_id: int, letter: DeadLetter) -> None:
        """Add a dead letter and tell of it, inside a transaction."""
        about = {"destination_id": destination_id, "subject_id": subject_id, "now_ms": self._wall_ms()}
        told = [self._add_dead_letter(about, letter)]
        self._telling.settled(destination_id, subject_id, uploaded=(), letters=told, whole=False)

    def note(self, destination_id: int, subject_id: int, text: str) -> None:
        """Record in plain words why a subject does not move on just now; "" when it does."""
        with self._releasing("noting a subject's state"):
            self._run("put_note", {"destination_id": destination_id, "subject_id": subject_id, "note": text})

    def note_of(self, destination_id: int, subject_id: int) -> str:
        """Return what ``note`` recorded last, or ""."""
        found = self._one("note_of", {"destination_id": destination_id, "subject_id": subject_id})
        return str(found or "")

    # -- counting --------------------------------------------------------------------------------------------------

    def sums(self, destination_id: int) -> dict[str, int]:
        """Return, by name, what one destination has got, what waits for it, and what it refused."""
        with self._reading, translated("counting", self._path):
            cursor = self._reader.execute(SQL["sums"], {"destination_id": destination_id})
            names = [column[0] for column in cursor.description]
            return dict(zip(names, cursor.fetchone(), strict=True))

    def doubt_points(self, source_ids: Iterable[int]) -> None:
        """Take note that somebody else may have been handed the points of these sources that wait here."""
        with self._transaction("doubting what waits"):
            self._many("doubt_points", ([source_id] for source_id in source_ids))

    def data_version(self) -> int:
        """Return a number that changes when another process has written (``syncd dlq retry``)."""
        with self._lock, translated("looking for changes", self._path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
