"""Dead letters: made where a destination refuses a change, put back or given up at somebody's word.

Rules
-----
1. A letter holds the change whole, and is added in the transaction that ends its delivery (``deliveries`` rule 1).
2. It is put back or given up from outside the process that owns the journal. The state directory is not taken: each
   step is one short write transaction beside the daemon, which notices it through ``PRAGMA data_version``. Without a
   daemon, what was put back is sent at the next start.
3. A letter goes and its change comes in the same transaction, so that nothing is lost or sent twice for it.
4. What the source has stated anew since then is not undone: a head is sent as it is now, and of tags only those
   that still have the letter's value. Params and points do not age, nor do a store's artifacts (a changed file is
   stated anew); of what came in messages, a file is sent that is still the latest word about its path.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from syncd.core.changes import Again, Section, parse, render
from syncd.core.messages.statements import local_digest
from syncd.core.source_tags import PARENT_RUN_ID
from syncd.journal.database import FILE_NAME, join, translated
from syncd.journal.fact_intake import LONGEST_TAG
from syncd.journal.journal import Journal
from syncd.journal.queries import STATEMENTS as SQL

# Letters that are put back in one transaction; a daemon waits for no more than this.
TOGETHER = 200


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
class Outcome:
    """What became of letters: waiting again, overtaken (their source states newer), dropped, or unknown ids."""

    waiting: tuple[int, ...] = ()
    overtaken: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


# -- in the journal's own transactions ------------------------------------------------------------------------------


def add_dead_letter(journal: Journal, parameters: Mapping[str, int], letter: DeadLetter) -> dict[str, Any]:
    """Add a dead letter; return what is told of it."""
    told = {
        "kind": letter.kind,
        "items": letter.items,
        "reason": letter.reason,
        "code": letter.code,
        "status": letter.status,
    }
    row = journal._run("add_dead_letter", {**parameters, "section": int(letter.section), "body": letter.body, **told})
    return {**told, "number": row.lastrowid}


def bury(journal: Journal, destination_id: int, subject_id: int, letter: DeadLetter) -> None:
    """Add a dead letter and tell of it, inside a transaction."""
    about = {"destination_id": destination_id, "subject_id": subject_id, "now_ms": journal._wall_ms()}
    told = [add_dead_letter(journal, about, letter)]
    journal._telling.settled(destination_id, subject_id, uploaded=(), letters=told, whole=False)


# -- from outside -----------------------------------------------------------------------------------------------------


def retry(state_dir: Path, ids: Sequence[int] | None, *, wall_ms: Callable[[], int] | None = None) -> Outcome:
    """Let dead letters wait again for the destination that refused them; ``ids`` None takes all.

    Raises:
        JournalError: the journal cannot be opened or written; letters not in the result are as they were.
    """
    now_ms = (wall_ms or _wall_ms)()
    return _each(state_dir, ids, lambda connection, letter_id: _retry(connection, letter_id, now_ms))


def drop(state_dir: Path, ids: Sequence[int] | None) -> Outcome:
    """Give up dead letters for good; ``ids`` None takes all.

    Raises:
        JournalError: as ``retry``.
    """
    return _each(state_dir, ids, _drop)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


_Step = Callable[[sqlite3.Connection, int], str]


def _each(state_dir: Path, ids: Sequence[int] | None, step: _Step) -> Outcome:
    path = state_dir / FILE_NAME
    became: dict[str, list[int]] = {"waiting": [], "overtaken": [], "dropped": [], "unknown": []}
    with closing(join(path)) as connection:
        wanted = iter(_all(connection, path) if ids is None else dict.fromkeys(ids))
        for together in iter(lambda: list(islice(wanted, TOGETHER)), []):
            with translated("changing dead letters", path):
                for letter_id, outcome in _together(connection, together, step):
                    became[outcome].append(letter_id)
    return Outcome(**{outcome: tuple(letters) for outcome, letters in became.items()})


def _all(connection: sqlite3.Connection, path: Path) -> list[int]:
    with translated("reading dead letters", path):
        return [row[0] for row in connection.execute(SQL["dead_letter_ids"]).fetchall()]


def _together(connection: sqlite3.Connection, ids: Sequence[int], step: _Step) -> Iterator[tuple[int, str]]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [(letter_id, step(connection, letter_id)) for letter_id in ids]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    yield from outcomes


def _drop(connection: sqlite3.Connection, letter_id: int) -> str:
    names = ("drop_dead_letter", "drop_sink_letter", "drop_refused_message")
    return "dropped" if any(connection.execute(SQL[name], {"id": letter_id}).rowcount for name in names) else "unknown"


def _retry(connection: sqlite3.Connection, letter_id: int, now_ms: int) -> str:
    row = connection.execute(SQL["dead_letter"], {"id": letter_id}).fetchone()
    if row is None:  # a refused event or message stays a letter until it was taken
        names = ("retry_sink_letter", "retry_refused_message")
        tried = any(connection.execute(SQL[name], {"id": letter_id}).rowcount for name in names)
        return "waiting" if tried else "unknown"
    destination_id, subject_id, section, kind, body, items, head, tags, deleted = row
    connection.execute(SQL["drop_dead_letter"], {"id": letter_id})
    if kind == "artifact" and _is_overtaken(connection, subject_id, parse(bytes(body))):
        return "overtaken"
    present = present_body(kind, bytes(body), head=head, tags=parse(tags.encode()), deleted=bool(deleted))
    if present is None:
        return "overtaken"
    change = {
        "subject_id": subject_id,
        "section": section,
        "kind": kind,
        "body": present,
        "items": items,
        "size_bytes": parse(present)["size_bytes"] if kind == "artifact" else len(present),
        "again": int(Again.RESTATED),
        "now_ms": now_ms,
    }
    seq = connection.execute(SQL["add_change"], change).lastrowid
    connection.execute(SQL["add_delivery"], (destination_id, subject_id, section, seq))
    return "waiting"


def _is_overtaken(connection: sqlite3.Connection, subject_id: int, artifact: Any) -> bool:
    """Return whether messages have said since then that another content belongs at an artifact's path."""
    place = {name: artifact[name].encode("utf-8", "surrogatepass") for name in ("root", "path")}
    spooled, latest = connection.execute(SQL["artifact_digests"], {"subject_id": subject_id, **place}).fetchone()
    digest = local_digest(**{name: artifact[name] for name in _LOCAL}) if spooled is None else spooled
    return bool(latest and digest and latest != digest)


_LOCAL = ("root", "size_bytes", "mtime_ns")


def present_body(kind: str, body: bytes, *, head: Any, tags: dict[str, str], deleted: bool) -> bytes | None:
    """Return what is to be sent of a letter now, given what its source states by now; None for nothing.

    Args:
        kind: of the change that was refused.
        body: of the change that was refused.
        head: the subject's present head as the journal keeps it, or None.
        tags: the subject's present tags, values shortened to ``LONGEST_TAG``.
        deleted: whether the subject is deleted in its store.
    """
    match kind:
        case "head":
            return None if head is None else bytes(head)
        case "deleted":
            return body if deleted else None
        case "tags":
            kept = {key: value for key, value in parse(body).items() if tags.get(key) == value[:LONGEST_TAG]}
            if PARENT_RUN_ID in parse(body) and PARENT_RUN_ID in tags:  # the letter has the parent's id over there
                kept[PARENT_RUN_ID] = tags[PARENT_RUN_ID]
            return render(kept) if kept else None
        case "untag":
            gone = [key for key in parse(body) if key not in tags]
            return render(gone) if gone else None
        case _:
            return body
