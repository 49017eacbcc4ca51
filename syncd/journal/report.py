"""A read-only view of a journal, for ``syncd status`` and ``dlq``; what it says of runs, ``run_reports`` does.

Rules
-----
1. The file is opened read-only and no lock of the state directory is taken: a daemon may be writing all the while.
2. Everything between ``JournalReport.open`` and ``close`` is one snapshot: what is read agrees with itself.
3. What is returned is frozen and says what the journal holds; what follows from it is the caller's.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from syncd.core.events import Event
from syncd.errors import JournalError
from syncd.journal.database import FILE_NAME, VERSION, connect, translated
from syncd.journal.event_rows import event_of
from syncd.journal.queries import STATEMENTS as SQL
from syncd.journal.state_lock import running_pid

PACE_SPAN_MS = 10_000  # add_pace counts in spans of this length
PACE_SPANS = 6


@dataclass(frozen=True, slots=True)
class Sent:
    """What a destination has got. ``last_ms`` is 0 before the first delivery."""

    runs: int
    points: int
    artifacts: int
    bytes: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a destination from one source; ``oldest_ms`` is when the oldest of it was read."""

    source: str
    runs: int
    changes: int
    points: int
    artifacts: int
    bytes: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Pace:
    """What was delivered on average during the last ``window_s`` seconds (50 to 60)."""

    window_s: float
    points_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class DestinationReport:
    """A destination. ``state`` is the last that was recorded and ``state_since_ms`` when it was entered.

    ``active`` is false for one that was configured once and is not now.
    """

    id: int
    name: str
    uri: str
    active: bool
    state: str
    state_since_ms: int | None
    last_error: str
    last_error_ms: int | None
    sent: Sent
    waiting: tuple[Waiting, ...]
    pace: Pace
    dead_letters: int
    overflow: int


@dataclass(frozen=True, slots=True)
class SinkReport:
    """A sink of events. ``waiting`` counts the events behind its cursor, wanted or not; times are None for never."""

    name: str
    active: bool
    state: str
    state_since_ms: int | None
    last_error: str
    last_error_ms: int | None
    sent: int
    waiting: int
    oldest_ms: int | None
    dropped: int
    dropped_ms: int | None
    dead_letters: int


@dataclass(frozen=True, slots=True)
class MessagesReport:
    """What became of a source's messages: events taken, repeated and ignored; messages refused, and kept of them.

    ``files_in_part`` are files that another syncd relays and of which not all has come.
    """

    source: str
    taken: int
    repeated: int
    ignored: int
    refused: int
    last_ms: int | None
    dead_letters: int
    files_in_part: int
    bytes_in_part: int


@dataclass(frozen=True, slots=True)
class PauseReport:
    """A source or destination that rests since a message of ``source`` said so."""

    kind: str
    name: str
    source: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ProblemReport:
    """Something in a source that cannot be read as it is."""

    source: str
    where: str
    what: str
    subject_id: int | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class LetterReport:
    """A dead letter without its body.

    Of what a sink refused, ``destination`` is the sink and the subject an event; of a refused message it is "syncd",
    and the subject is the message.
    """

    id: int
    destination: str
    source: str
    subject_kind: str
    subject_key: str
    subject_id: int
    kind: str
    items: int
    size_bytes: int
    reason: str
    code: str
    status: int
    at_ms: int


class JournalReport:
    """One snapshot of the journal of a state directory. Use ``JournalReport.open`` in a ``with``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._connection.row_factory = sqlite3.Row

    @classmethod
    def open(cls, state_dir: Path) -> JournalReport | None:
        """Open the journal for reading; None when there is none yet.

        Raises:
            JournalCorrupt: damaged.
            JournalError: it cannot be read, or is of an older or a newer version.
        """
        path = state_dir / FILE_NAME
        if not _is_there(path):
            return None
        connection = connect(path, read_only=True)
        with translated("reading", path):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("BEGIN")
        if version == VERSION:
            return cls(path, connection)
        connection.close()
        if version == 0:  # it is being created
            return None
        pid = running_pid(state_dir)
        older = f"stop the older syncd that uses it (process {pid}) and " if pid else ""
        raise JournalError(
            f"its version {version} is older than this syncd's {VERSION}",
            doing="opening",
            target=str(path),
            hint=f"{older}start this one once: it brings the journal up to date",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, name: str, parameters: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        with translated("reading", self._path):
            return self._connection.execute(SQL[name], parameters or {}).fetchall()

    # -- the whole -------------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """Return the bytes in use inside the journal's file."""
        with translated("measuring", self._path):
            pages, free, size = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def free_disk_bytes(self) -> int:
        """Return the bytes that are free on the journal's file system."""
        return shutil.disk_usage(self._path.parent).free

    def set_aside(self) -> list[Path]:
        """Return the journals that could not be used and were put aside."""
        found = self._path.parent.glob(f"{self._path.name}.unusable-*")
        return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))

    def destinations(self, now_ms: int) -> list[DestinationReport]:
        """Return every destination that is configured, and those that once were and have something outstanding."""
        found = [self._destination(row, now_ms) for row in self._rows("destinations")]
        return [one for one in found if one.active or one.waiting or one.dead_letters]

    def _destination(self, row: sqlite3.Row, now_ms: int) -> DestinationReport:
        key = {"destination_id": row["id"]}
        return DestinationReport(
            id=row["id"],
            name=row["name"],
            uri=row["uri"],
            active=bool(row["active"]),
            state=row["state"],
            state_since_ms=row["last_success_ms"] if row["state"] == "up" else row["last_error_ms"],
            last_error=row["last_error"],
            last_error_ms=row["last_error_ms"],
            sent=Sent(**dict(self._rows("sent", key)[0])),
            waiting=tuple(Waiting(**dict(one)) for one in self._rows("waiting", key)),
            pace=self._pace(row["id"], now_ms),
            dead_letters=self._rows("dead_letter_count", key)[0][0],
            overflow=self._rows("overflow_count", key)[0][0],
        )

    def _pace(self, destination_id: int, now_ms: int) -> Pace:
        since_ms = now_ms - now_ms % PACE_SPAN_MS - (PACE_SPANS - 1) * PACE_SPAN_MS
        window_s = (now_ms - since_ms) / 1000
        parameters = {"destination_id": destination_id, "since_ms": since_ms, "now_ms": now_ms}
        points, size_bytes = self._rows("pace", parameters)[0]
        return Pace(window_s, points / window_s, size_bytes / window_s)

    def problems(self) -> list[ProblemReport]:
        """Return what in the sources cannot be read as it is."""
        return [ProblemReport(*row) for row in self._rows("problems")]

    # -- messages --------------------------------------------------------------------------------------------------

    def messages(self) -> list[MessagesReport]:
        """Return what became of messages, by source."""
        return [MessagesReport(*row) for row in self._rows("message_counts")]

    def pauses(self) -> list[PauseReport]:
        """Return what rests because a command said so."""
        return [PauseReport(*row) for row in self._rows("pauses")]

    # -- events ----------------------------------------------------------------------------------------------------

    def sinks(self) -> list[SinkReport]:
        """Return the sinks that are configured, and those that once were and have letters."""
        letters = dict(tuple(row) for row in self._rows("sink_letter_counts"))
        found = [self._sink(row, letters.get(row["name"], 0)) for row in self._rows("sinks")]
        return [one for one in found if one.active or one.dead_letters]

    def _sink(self, row: sqlite3.Row, dead_letters: int) -> SinkReport:
        waiting, oldest_ms = self._rows("events_waiting", {"after": row["cursor"]})[0]
        return SinkReport(
            name=row["name"],
            active=bool(row["active"]),
            state=row["state"],
            state_since_ms=row["last_success_ms"] if row["state"] == "up" else row["last_error_ms"],
            last_error=row["last_error"],
            last_error_ms=row["last_error_ms"],
            sent=row["sent"],
            waiting=waiting,
            oldest_ms=oldest_ms,
            dropped=row["dropped"],
            dropped_ms=row["dropped_ms"],
            dead_letters=dead_letters,
        )

    def events_after(self, after: int, limit: int) -> list[Event]:
        """Return the events behind a number, in order."""
        return [event_of(*row) for row in self._rows("events_after", {"after": after, "limit": limit})]

    def event_range(self) -> tuple[int, int]:
        """Return the numbers of the oldest and the newest event that is kept, 0 and 0 for none."""
        first, last = self._rows("event_range")[0]
        return int(first), int(last)

    def event_seq(self, event_id: str) -> int | None:
        """Return the number of the event of that id, None if it is not kept (any more)."""
        rows = self._rows("event_seq", {"id": event_id})
        return int(rows[0][0]) if rows else None

    # -- dead letters ----------------------------------------------------------------------------------------------

    def letters(self, subject_id: int | None = None) -> list[LetterReport]:
        """Return all dead letters, or those of one subject."""
        return [LetterReport(**dict(row)) for row in self._rows("dead_letters", {"subject_id": subject_id})]

    def letter_body(self, letter_id: int) -> bytes:
        """Return what a dead letter carries."""
        rows = self._rows("dead_letter_body", {"id": letter_id})
        return bytes(rows[0][0])


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as exc:
        raise JournalError(
            exc.strerror or str(exc), doing="reading", target=str(path), hint="run this as the user that runs syncd"
        ) from exc
