"""Files that another syncd sends in chunks, written down in the spool until nothing of them is missing.

Rules
-----
1. A chunk is written where it belongs in the file and fsynced before the journal commits that it is there. What a crash
   leaves between is written once more, or goes with its directory at the next start (``Spool``).
2. Chunks may come in any order, twice, and overlap. Those of a file that is whole, or of an older word about it, are
   known. A later word about other content begins the file anew.
3. A file is stated when all of it is there and its SHA-256 is as was said; else all of it is forgotten.
4. Nothing is trusted: what a chunk says of its file must be what the others said, and of open files, their holes and
   their sizes there are so many and no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from syncd.core.changes import Head, head_of
from syncd.core.facts import ProblemFound, SubjectKey
from syncd.core.messages.statements import KeptArtifact, KeptChunk
from syncd.core.relay.pieces import Piece, add_piece, holds
from syncd.core.relay.values import RelayedChunk, RelayOrigin
from syncd.errors import MessageRefused
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal
from syncd.journal.spool import DIRECTORY, sync_directories, translated

MOST_OPEN: Final = 10_000
MOST_PIECES: Final = 1000
# As long as Service Bus keeps a message by default: of a file of which nothing came for so long nothing is to come.
EXPIRE_MS: Final = 14 * 24 * 3600 * 1000
EXPIRE_LOOKS: Final = 24 * 3600  # a day, of one a second


@dataclass(slots=True)
class _File:
    """What is there of a file. ``whole`` is order and digest of the last one that was whole; ``root`` "": nothing."""

    whole: tuple[int, str] | None = None
    order: int = 0
    digest: str = ""
    size_bytes: int = 0
    root: str = ""
    pieces: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file of which something is here: who sends it, what went with it, and what is there of it."""

    subject: SubjectKey
    origin: RelayOrigin
    about: Sequence[Head]
    order: int
    path: str
    digest: str
    size_bytes: int
    root: str
    pieces: Sequence[Piece]
    session: str
    heard_ms: int


class Partials:
    """The open files of one source. Called from one thread at a time.

    ``keep`` is followed by ``committed`` or ``abandon``. No file may be larger than ``most_bytes``.
    """

    def __init__(self, journal: Journal, state_dir: Path, source_id: int, *, most_bytes: int) -> None:
        self._journal = journal
        self._directory = state_dir / DIRECTORY
        self._source_id = source_id
        self._most_bytes = most_bytes
        self._files: dict[tuple[str, str, str], _File] = {}  # as they are once what was kept is committed
        self._seen_old: dict[tuple[str, str, str], int] = {}
        self._begun: list[str] = []
        self._gone: list[str] = []

    def keep(self, chunk: RelayedChunk, session: str) -> KeptChunk:
        """Write a chunk's bytes down for good and return what came of it.

        Raises:
            MessageRefused: it contradicts what was said before, or is over a bound.
            JournalFull: there is no space.
            JournalError: the directory cannot be written.
        """
        file = self._file(chunk)
        said = replace(chunk, content=b"")
        if file.whole is not None and (chunk.order <= file.whole[0] or chunk.digest == file.whole[1]):
            return self._known(file, said)
        if file.root and chunk.order < file.order:
            return KeptChunk(chunk=said, outcome="known")
        if not file.root or (chunk.digest, chunk.size_bytes) != (file.digest, file.size_bytes):
            self._begin(file, chunk)
        after = chunk.offset + len(chunk.content)
        if holds(file.pieces, chunk.offset, after) and chunk.size_bytes and chunk.order == file.order:
            return KeptChunk(chunk=said, outcome="known")
        file.order = chunk.order
        pieces = add_piece(file.pieces, chunk.offset, after)
        if len(pieces) > MOST_PIECES:
            raise MessageRefused(f"/chunk/offset: expected a file with at most {MOST_PIECES} holes")
        path = Path(file.root) / chunk.path
        try:
            self._write(path, chunk)
        except OSError as exc:
            raise translated(exc, path) from exc
        file.pieces = pieces
        kept = KeptChunk(chunk=said, outcome="part", session=session, root=file.root, pieces=tuple(pieces))
        return self._ended(file, kept) if holds(pieces, 0, chunk.size_bytes) else kept

    def committed(self) -> None:
        """Take note that what was kept is committed."""
        self._forget(self._gone)

    def abandon(self) -> None:
        """Take note that what was kept is not committed."""
        self._forget(self._begun)

    # -- files of which nothing comes any more ---------------------------------------------------------------------

    def silent(self, *, begun_ms: int, silence_ms: int, most_doublings: int) -> list[OpenFile]:
        """Return the files of which nothing has come for ``silence_ms``, or since ``begun_ms``.

        The time doubles each time that a file was given back, ``most_doublings`` times at most.
        """
        parameters = {"begun_ms": begun_ms, "silence_ms": silence_ms, "most_doublings": most_doublings}
        now_ms = self._journal._wall_ms()
        rows = self._journal._fetch("silent_partials", {"source_id": self._source_id, "now_ms": now_ms, **parameters})
        return [_open_file(row) for row in rows]

    def given_back(self, file: OpenFile) -> bool:
        """Forget a file that somebody else will get whole; return False if more of it has come meanwhile.

        Raises:
            JournalFull: it is not forgotten.
        """
        with self._journal._transaction("giving a file back"):
            place = {"kind": file.subject.kind, "key": file.subject.id, "path": file.path}
            values = {**place, "source_id": self._source_id, "root": file.root, "heard_ms": file.heard_ms}
            gone = bool(self._journal._run("give_back_partial", values).rowcount)
        if gone:
            shutil.rmtree(file.root, ignore_errors=True)
        return gone

    def expire(self) -> None:
        """Give up files of which nothing has come for very long, and say so. Call it while messages are received.

        That a file is old is not enough, for the clock may have jumped, or syncd have been away and what is missing
        wait with the broker: this must have seen it ``EXPIRE_LOOKS`` times since the start.

        Raises:
            JournalFull: nothing was given up.
        """
        before_ms = self._journal._wall_ms() - EXPIRE_MS
        found = self._journal._fetch("old_partials", {"source_id": self._source_id, "before_ms": before_ms})
        self._seen_old = {row[:3]: self._seen_old.get(row[:3], 0) + 1 for row in found}
        old = [row for row in found if self._seen_old[row[:3]] > EXPIRE_LOOKS]
        if not old:
            return
        with self._journal._transaction("giving up files"):
            facts = FactIntake(self._journal, self._source_id, [], first_reading=False)
            for kind, key, path, root, held_bytes, size_bytes in old:
                place = {"source_id": self._source_id, "kind": kind, "key": key, "path": path}
                self._journal._run("drop_partial", place)
                if root:
                    what = f"of {size_bytes} bytes {held_bytes} came, and no more for 14 days: they were given up"
                    facts.add(ProblemFound(f"{kind} {key}, artifact {path}", what))
        for _, _, _, root, _, _ in old:
            if root:
                shutil.rmtree(root, ignore_errors=True)

    def used_bytes(self) -> int:
        """Return how much is there of the open files of all sources."""
        return int(self._journal._one("partial_bytes"))

    def _forget(self, roots: list[str]) -> None:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)
        self._files.clear()
        self._begun.clear()
        self._gone.clear()

    # -- one file --------------------------------------------------------------------------------------------------

    def _file(self, chunk: RelayedChunk) -> _File:
        key = (chunk.subject.kind, chunk.subject.id, chunk.path)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = self._load(*key)
        return file

    def _load(self, kind: str, key: str, path: str) -> _File:
        place: dict[str, Any] = {"source_id": self._source_id, "kind": kind, "key": key}
        whole = self._journal._fetch("whole_artifact", {**place, "path": path.encode()})
        file = _File(whole=whole[0] if whole else None)
        for order, digest, size_bytes, root, pieces in self._journal._fetch("partial", {**place, "path": path}):
            if root and (file.whole is None or order > file.whole[0]):
                file.order, file.digest, file.size_bytes, file.root = order, digest, size_bytes, root
                file.pieces = [(first, after) for first, after in json.loads(pieces)]
        return file

    def _known(self, file: _File, chunk: RelayedChunk) -> KeptChunk:
        assert file.whole is not None
        if chunk.order <= file.whole[0]:
            return KeptChunk(chunk=chunk, outcome="known")
        file.whole = (chunk.order, chunk.digest)
        if file.root:  # the word between told of other content
            self._drop(file)
        return KeptChunk(chunk=chunk, outcome="confirmed")

    def _begin(self, file: _File, chunk: RelayedChunk) -> None:
        """Begin a file, or begin it anew with other content."""
        if file.root and chunk.order == file.order:
            raise MessageRefused("/chunk: expected the digest and the size that other chunks of this file say")
        if chunk.size_bytes > self._most_bytes:
            text = f"the file has {chunk.size_bytes} bytes, journal_max_bytes is {self._most_bytes}"
            hint = "raise journal_max_bytes and take the message from the dead letters again"
            raise MessageRefused(text, reason="TooLarge", hint=hint)
        if not file.root and self._journal._one("partial_count", {"source_id": self._source_id}) >= MOST_OPEN:
            raise MessageRefused(f"{MOST_OPEN} files are open, of which not all has come yet", reason="TooMany")
        if file.root:
            self._drop(file)
        file.order, file.digest, file.size_bytes = chunk.order, chunk.digest, chunk.size_bytes
        file.root = str(self._directory / secrets.token_hex(12))
        self._begun.append(file.root)

    def _drop(self, file: _File) -> None:
        self._gone.append(file.root)
        file.root, file.pieces = "", []

    def _write(self, path: Path, chunk: RelayedChunk) -> None:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        is_new = not path.exists()
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            written = 0
            while written < len(chunk.content):
                written += os.pwrite(opened, memoryview(chunk.content)[written:], chunk.offset + written)
            os.fsync(opened)
        finally:
            os.close(opened)
        if is_new:
            sync_directories(path, up_to=self._directory)

    def _ended(self, file: _File, kept: KeptChunk) -> KeptChunk:
        """Hold a file of which all is there against its digest."""
        path = Path(file.root) / kept.chunk.path
        try:
            with path.open("rb") as opened:
                found = os.fstat(opened.fileno())
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as exc:
            raise translated(exc, path) from exc
        if digest != file.digest or found.st_size != file.size_bytes:
            self._drop(file)
            return replace(kept, outcome="broken", pieces=())
        whole = KeptArtifact(
            path=kept.chunk.path,
            root=file.root,
            size_bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            digest=digest,
            spooled=True,
        )
        file.whole, file.root, file.pieces = (file.order, digest), "", []
        return replace(kept, outcome="whole", whole=whole)


def _open_file(row: Sequence[Any]) -> OpenFile:
    kind, key, path, order, digest, size_bytes, root, pieces, session, origin, about, heard_ms = row
    return OpenFile(
        subject=SubjectKey(kind, key),
        origin=RelayOrigin(**json.loads(origin)),
        about=[head_of(head) for head in json.loads(about)],
        order=order,
        path=path,
        digest=digest,
        size_bytes=size_bytes,
        root=root,
        pieces=[(first, after) for first, after in json.loads(pieces)],
        session=session,
        heard_ms=heard_ms,
    )
