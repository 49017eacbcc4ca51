"""Read the metric files of a run or model from where the last reading stopped.

Rules
-----
1. Only complete lines are taken. A torn last line waits for its newline; when its run has ended and the file has been
   still for ``STILL_NS``, it is taken as it is.
2. A file is the one that was read before if its consumed bytes have the same checksum. A file that merely grew is
   checked by its first and last consumed 64 bytes; one that was replaced, shortened or touched by all of them.
   If they differ it is read from the start, and its points are stated with ``again``.
3. Memory: one chunk of a file and one reading's lines, whatever the size of the files.

State of a file: [inode, size, mtime_ns (0: not settled), offset, crc of all consumed bytes, crc of the first 64, crc of
the last 64, lines consumed, offset up to which points may have been stated before].
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from syncd.core.facts import Fact, MetricsLogged, SubjectKey
from syncd.core.metric_lines import SEGMENT_LINES, BadLine, LineRenderer, split_complete
from syncd.sources.base import Cursors
from syncd.sources.file_store.small_files import (
    Problems,
    list_files,
    open_regular,
    reason,
    settled_mtime_ns,
)
from syncd.sources.file_store.steps import State, Step, dump_state, load_state, problem_changes

CHUNK_BYTES = 256 * 1024
STILL_NS = 10_000_000_000
ABANDONED_NS = 3600 * 1_000_000_000
LONGEST_LINE_BYTES = 1024 * 1024
_STEP_LINE_BYTES = 3 * 1024 * 1024
_WINDOW_BYTES = 64
_CHECK_ALL_BYTES = 1024 * 1024  # an unsettled file up to this size is compared as a whole
_NAMED_BAD_LINES = 20
_TOO_LONG = f"has a line longer than {LONGEST_LINE_BYTES} bytes; it is read no further"

MetricState = list[int]


@dataclass(slots=True)
class _Position:
    """Where reading a file stands."""

    offset: int = 0
    crc: int = 0
    prefix_crc: int = 0
    window: bytes = b""  # the last consumed bytes, at most 64
    lines: int = 0
    again_until: int = 0


@dataclass(slots=True)
class MetricReader:
    """Reads one subject's metric files; ``newest_ns`` is known after ``steps`` ended."""

    subject: SubjectKey
    root: str
    ended: bool
    now_ns: int
    again: bool = False  # everything of this subject may have been stated before (it was deleted and restored)
    newest_ns: int = 0
    _pieces: list[bytes] = field(default_factory=list)
    _pieces_count: int = 0
    _pieces_again: bool = False
    _segments: list[Fact] = field(default_factory=list)
    _segment_bytes: int = 0

    def steps(self, cursors: Cursors) -> Iterator[Step]:
        """Yield steps of new points; none when nothing changed."""
        key = f"{self.subject.id}/metrics"
        before = load_state(cursors, key)
        files: dict[str, MetricState] = before.get("f", {})
        bad: dict[str, list[tuple[str, str]]] = before.get("b", {})  # by file: (where, what)
        listing = list_files(self.root)
        self.newest_ns = listing.newest_ns
        state: State = {"f": dict(files), "b": dict(bad), "p": before.get("p", {})}
        problems = listing.problems
        for name, path, info in listing.files:
            known = files.get(name)
            if known and known[2] == info.st_mtime_ns and known[1] == info.st_size and known[0] == info.st_ino:
                if known[3] == known[1]:
                    continue
                if (what := self._why_held(info, known)) is not None:
                    if what:
                        problems[path] = what
                    continue
            yield from self._read(name, path, known, state, problems, key)
        if listing.whole:
            present = {name for name, _, _ in listing.files}
            for gone in [name for name in state["f"] if name not in present]:
                del state["f"][gone]
                state["b"].pop(gone, None)
        named = dict(pair for pairs in state["b"].values() for pair in pairs) | problems
        facts = problem_changes(before.get("p", {}), named, subject=self.subject)
        state["p"] = named
        self._pack()
        if facts or self._segments or state != {"f": files, "b": bad, "p": before.get("p", {})}:
            if state == {"f": {}, "b": {}, "p": {}}:
                yield Step(facts, {key: None} if before else {})
            else:
                yield self._take(key, state, facts)

    def _why_held(self, info: os.stat_result, known: MetricState) -> str | None:
        """Say why a torn last line is still held ("" for a good reason), None if it is to be taken now."""
        if known[1] - known[3] > LONGEST_LINE_BYTES:
            return _TOO_LONG
        age_ns = self.now_ns - info.st_mtime_ns
        if self.ended and age_ns > STILL_NS:
            return None
        if not self.ended and age_ns > ABANDONED_NS:
            return "its last line has no newline and its run has not ended: the line is held back"
        return ""

    def _read(
        self, name: str, path: str, known: MetricState | None, state: State, problems: Problems, key: str
    ) -> Iterator[Step]:
        try:
            renderer = LineRenderer(name, model_id=self.subject.id if self.subject.kind == "model" else "")
        except UnicodeEncodeError:
            problems[path] = "its name is not UTF-8 and is not brought over"
            return
        try:
            fd = open_regular(path)
        except FileNotFoundError:
            return
        except OSError as exc:
            problems[path] = f"cannot be read: {reason(exc)}"
            return
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                problems[path] = "is no regular file and is not read"
                return
            position = _resume(fd, info, known)
            if position is None:
                position = _Position(again_until=info.st_size if known or self.again else 0)
                state["b"].pop(name, None)
            final = self.ended and self.now_ns - info.st_mtime_ns > STILL_NS
            for chunk in _chunks(fd, position, info.st_size, final=final, problems=problems, path=path):
                again = position.offset < position.again_until
                rendered = renderer.render(chunk, first_line=position.lines + 1)
                if rendered.bad:
                    _name_bad_lines(state["b"].setdefault(name, []), path, rendered.bad)
                self._add(rendered.segments, again=again)
                _consume(position, chunk, rendered.line_count)
                if self._segment_bytes > _STEP_LINE_BYTES:
                    # Half-read: size 0 can match no stat, so the next reading goes on from this offset.
                    state["f"][name] = _as_state(position, info, mtime_ns=0, size=0)
                    self._pack()
                    yield self._take(key, state, [])
            state["f"][name] = _as_state(
                position, info, mtime_ns=settled_mtime_ns(info.st_mtime_ns, self.now_ns), size=info.st_size
            )
        except OSError as exc:
            problems[path] = f"cannot be read: {reason(exc)}"
        finally:
            os.close(fd)

    def _add(self, segments: Sequence[tuple[bytes, int]], *, again: bool) -> None:
        if again != self._pieces_again:
            self._pack()
            self._pieces_again = again
        for lines, count in segments:
            if self._pieces_count + count > SEGMENT_LINES:
                self._pack()
            self._pieces.append(lines)
            self._pieces_count += count
            self._segment_bytes += len(lines)

    def _pack(self) -> None:
        if self._pieces:
            lines = b"\n".join(self._pieces)
            self._segments.append(MetricsLogged(self.subject, lines, self._pieces_count, self._pieces_again))
            self._pieces, self._pieces_count = [], 0

    def _take(self, key: str, state: State, facts: list[Fact]) -> Step:
        step = Step(self._segments + facts, {key: dump_state(state)})
        self._segments, self._segment_bytes = [], 0
        return step


def _resume(fd: int, info: os.stat_result, known: MetricState | None) -> _Position | None:
    """Return the position to go on from, or None to read from the start."""
    if known is None:
        return None
    _, size, mtime_ns, offset, crc, prefix_crc, window_crc, lines, again_until = known
    if info.st_size < offset:
        return None
    window_start = max(0, offset - _WINDOW_BYTES)
    window = os.pread(fd, offset - window_start, window_start)
    if crc32(window) != window_crc or crc32(os.pread(fd, min(offset, _WINDOW_BYTES), 0)) != prefix_crc:
        return None
    grew = info.st_ino == known[0] and info.st_size > size
    unsettled_and_large = mtime_ns == 0 and info.st_ino == known[0] and offset > _CHECK_ALL_BYTES
    if not grew and not unsettled_and_large and _crc_of(fd, offset) != crc:
        return None
    return _Position(offset, crc, prefix_crc, window, lines, again_until)


def _crc_of(fd: int, length: int) -> int:
    crc, position = 0, 0
    while position < length and (chunk := os.pread(fd, min(CHUNK_BYTES, length - position), position)):
        crc = crc32(chunk, crc)
        position += len(chunk)
    return crc


def _chunks(fd: int, position: _Position, size: int, *, final: bool, problems: Problems, path: str) -> Iterator[bytes]:
    """Yield chunks of complete lines from ``position.offset`` on; with ``final`` the torn last line too."""
    torn = b""
    at = position.offset
    while at < size and (data := os.pread(fd, min(CHUNK_BYTES, size - at), at)):
        at += len(data)
        complete, torn = split_complete(torn + data if torn else data)
        if complete:
            yield complete
        if len(torn) > LONGEST_LINE_BYTES:
            problems[path] = _TOO_LONG
            return
    if torn and final:
        yield torn


def _consume(position: _Position, chunk: bytes, lines: int) -> None:
    if position.offset < _WINDOW_BYTES:
        position.prefix_crc = crc32((position.window + chunk)[:_WINDOW_BYTES])
    position.crc = crc32(chunk, position.crc)
    position.window = (position.window + chunk[-_WINDOW_BYTES:])[-_WINDOW_BYTES:]
    position.offset += len(chunk)
    position.lines += lines


def _as_state(position: _Position, info: os.stat_result, *, mtime_ns: int, size: int) -> MetricState:
    return [
        info.st_ino,
        size,
        mtime_ns,
        position.offset,
        position.crc,
        position.prefix_crc,
        crc32(position.window),
        position.lines,
        position.again_until if position.again_until > position.offset else 0,
    ]


def _name_bad_lines(named: list[tuple[str, str]], path: str, bad: Sequence[BadLine]) -> None:
    """Name the first bad lines of a file one by one, and the rest by their number."""
    more = 0
    if len(named) > _NAMED_BAD_LINES:
        more = int(named.pop()[1].split()[0])
    room = _NAMED_BAD_LINES - len(named)
    named += [(f"{path}:{line.number}", line.what) for line in bad[:room]]
    more += len(bad[room:])
    if more:
        named.append((path, f"{more} more lines are no points"))
