"""Walk a subject's artifact directory and state each regular file that is new or changed.

Rules
-----
1. No link is followed out of the root. A link to a regular file inside the root is read as that file; any other link,
   and whatever is no regular file, is named and never opened.
2. Each directory has its own cursor ``<id>/artifacts/<directory>``, so that a change costs what its directory holds; a
   directory of more than ``SHARD_ABOVE`` files is spread over 256 cursors by a hash of the file's name.
3. At rest a directory costs one stat if the caller passes the ``settled`` directories of the last walk, else one stat
   for each file. Overwriting a file in place does not change its directory's mtime: only a walk without ``settled``
   finds it.
4. What cannot be listed is never taken for gone. A file that is gone is forgotten; no fact says so.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH116, PTH118
from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from syncd.core.facts import ArtifactSeen, Fact, ProblemFound, Reading, SubjectKey
from syncd.sources.base import Cursors

SHARD_ABOVE = 2000
SHARDS = 256
FACTS_PER_READING = 5000
SETTLE_NS = 2_000_000_000
_SKEW_NS = 600_000_000_000  # a poll may have begun that long ago; beyond it is a wrong clock
_SHARD_MARK = "\x1f"  # cannot be mistaken for a file's directory in practice, and sorts before "/"

_Files = dict[str, list[int]]  # name: [size, mtime_ns]


@dataclass(slots=True)
class ArtifactWalk:
    """One walk over one subject's artifacts; ``newest_ns`` is the newest mtime met, known when it ended.

    ``root`` must be absolute. ``settled`` maps directories to the mtime at which they were last found unchanged and
    is updated by the walk; None looks at every file. ``hold_young`` leaves files that changed less than two seconds
    ago for the next walk, since they are probably still being written.
    """

    subject: SubjectKey
    root: str
    now_ns: int
    settled: MutableMapping[str, int] | None = None
    hold_young: bool = False
    newest_ns: int = 0
    _real_root: str = field(default="", init=False)

    def readings(self, cursors: Cursors) -> Iterator[Reading]:
        """Yield readings of at most 5,000 facts; none when nothing changed."""
        self._real_root = os.path.realpath(self.root)
        stack = [""]
        while stack:
            directory = stack.pop()
            yield from self._directory(directory, cursors, stack)

    def _directory(self, directory: str, cursors: Cursors, stack: list[str]) -> Iterator[Reading]:
        path = os.path.join(self.root, directory) if directory else self.root
        try:
            mtime_ns = os.stat(path, follow_symlinks=not directory).st_mtime_ns
        except OSError:
            return
        self.newest_ns = max(self.newest_ns, mtime_ns)
        cursor = _DirectoryCursor(f"{self.subject.id}/artifacts/{directory}", cursors)
        if self.settled is not None and self.settled.get(directory) == mtime_ns:
            stack += (_join(directory, name) for name in cursor.directories)
            return
        listed = self._list(directory, path)
        stack += (_join(directory, name) for name in listed.directories)
        yield from self._changes(directory, listed, cursor, cursors)
        if self.settled is not None:
            self.settled.pop(directory, None)
            if listed.whole and not listed.young and self.now_ns - mtime_ns >= SETTLE_NS:
                self.settled[directory] = mtime_ns

    def _list(self, directory: str, path: str) -> _Listed:
        listed = _Listed()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._entry(entry, directory, listed)
        except FileNotFoundError:
            pass
        except OSError as exc:
            listed.whole = False
            listed.problems[path] = f"cannot be listed: {exc.strerror or exc}"
        listed.directories.sort()
        return listed

    def _entry(self, entry: os.DirEntry[str], directory: str, listed: _Listed) -> None:
        try:
            entry.name.encode()
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                target = self._inside(entry.path)
                if target is None:
                    listed.problems[entry.path] = (
                        "is a link that leads out of the artifacts or to no file; not followed"
                    )
                    return
                info = target
        except UnicodeEncodeError:
            listed.problems[repr(entry.path)] = "its name is not UTF-8 and is not brought over"
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            listed.problems[entry.path] = f"cannot be read: {exc.strerror or exc}"
            return
        if stat.S_ISDIR(info.st_mode):
            listed.directories.append(entry.name)
        elif not stat.S_ISREG(info.st_mode):
            listed.problems[entry.path] = "is no regular file and is not opened"
        else:
            self.newest_ns = max(self.newest_ns, info.st_mtime_ns)
            young = -_SKEW_NS < self.now_ns - info.st_mtime_ns < SETTLE_NS
            listed.young = listed.young or young
            if young and self.hold_young:
                listed.held.add(entry.name)
            else:
                listed.files[entry.name] = [info.st_size, info.st_mtime_ns]

    def _inside(self, path: str) -> os.stat_result | None:
        """Return the stat of a link's target if that is a regular file inside the root."""
        target = os.path.realpath(path)
        if not target.startswith(self._real_root + os.sep):
            return None
        info = os.stat(target, follow_symlinks=False)
        return info if stat.S_ISREG(info.st_mode) else None

    def _changes(
        self, directory: str, listed: _Listed, cursor: _DirectoryCursor, cursors: Cursors
    ) -> Iterator[Reading]:
        before = cursor.files()
        moved = cursor.root not in ("", self.root)
        new = sorted(name for name, seen in listed.files.items() if moved or before.get(name) != seen)
        gone = {name for name in before if listed.whole and name not in listed.files and name not in listed.held}
        facts: list[Fact] = []
        for where, what in listed.problems.items():
            if cursor.problems.get(where) != what:
                facts.append(ProblemFound(where, what, self.subject))
        facts += [ProblemFound(where, "", self.subject) for where in cursor.problems if where not in listed.problems]
        updates: dict[str, bytes | None] = {}
        if listed.whole:
            for name in set(cursor.directories).difference(listed.directories):
                updates.update(self._forgotten(_join(directory, name), cursors, facts))
        head_changed = (
            bool(facts) or bool(updates) or moved or (listed.whole and cursor.directories != listed.directories)
        )
        if not (new or gone or head_changed):
            return
        cursor.begin(self.root, listed.directories if listed.whole else cursor.directories, listed.problems)
        cursor.forget(gone)
        for start in range(0, max(1, len(new)), FACTS_PER_READING):
            part = new[start : start + FACTS_PER_READING]
            for name in part:
                size, mtime_ns = listed.files[name]
                facts.append(ArtifactSeen(self.subject, _join(directory, name), self.root, size, mtime_ns))
                cursor.remember(name, listed.files[name])
            yield Reading(facts, updates | cursor.take())
            facts, updates = [], {}

    def _forgotten(self, directory: str, cursors: Cursors, facts: list[Fact]) -> dict[str, bytes | None]:
        """Return the cursors of a directory that is gone, and withdraw its problems."""
        name = f"{self.subject.id}/artifacts/{directory}"
        gone: dict[str, bytes | None] = {}
        for key in cursors.keys(name):
            if key == name or key[len(name)] in ("/", _SHARD_MARK):
                gone[key] = None
                problems = _load(cursors, key).get("p", {})
                facts += [ProblemFound(where, "", self.subject) for where in problems]
        return gone


@dataclass(slots=True)
class _Listed:
    """What listing one directory found."""

    files: _Files = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    directories: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    young: bool = False


class _DirectoryCursor:
    """The remembered content of one directory, spread over shards when it is large."""

    def __init__(self, key: str, cursors: Cursors) -> None:
        self._key = key
        self._cursors = cursors
        head = _load(cursors, key)
        self.root: str = head.get("r", "")
        self.directories: list[str] = head.get("d", [])
        self.problems: dict[str, str] = head.get("p", {})
        self._sharded = bool(head.get("s"))
        self._head_files: _Files = head.get("f", {})
        self._shards: dict[int, _Files] = {}
        self._dirty: set[int] = set()
        self._head_dirty = False

    def files(self) -> _Files:
        """Return every remembered file."""
        if not self._sharded:
            return self._head_files
        everything: _Files = {}
        for shard in range(SHARDS):
            self._shards[shard] = _load(self._cursors, self._shard_key(shard)).get("f", {})
            everything.update(self._shards[shard])
        return everything

    def begin(self, root: str, directories: list[str], problems: dict[str, str]) -> None:
        """Set what the head of the cursor says."""
        self.root, self.directories, self.problems = root, directories, problems
        self._head_dirty = True

    def forget(self, names: set[str]) -> None:
        """Drop files that are gone."""
        for name in names:
            if self._sharded:
                shard = _shard_of(name)
                self._shards[shard].pop(name, None)
                self._dirty.add(shard)
            else:
                self._head_files.pop(name, None)

    def remember(self, name: str, seen: list[int]) -> None:
        """Take over a file."""
        if not self._sharded and len(self._head_files) >= SHARD_ABOVE:
            self._spread()
        if self._sharded:
            shard = _shard_of(name)
            self._shards.setdefault(shard, {})[name] = seen
            self._dirty.add(shard)
        else:
            self._head_files[name] = seen

    def take(self) -> dict[str, bytes | None]:
        """Return the cursors that changed since the last call."""
        changed: dict[str, bytes | None] = {
            self._shard_key(shard): _dump({"f": self._shards.get(shard, {})}) for shard in self._dirty
        }
        if self._head_dirty or not self._sharded:
            head: dict[str, Any] = {"r": self.root, "d": self.directories, "p": self.problems}
            head |= {"s": 1} if self._sharded else {"f": self._head_files}
            changed[self._key] = _dump({name: value for name, value in head.items() if value})
        self._dirty, self._head_dirty = set(), False
        return changed

    def _spread(self) -> None:
        self._sharded, self._head_dirty = True, True
        for name, seen in self._head_files.items():
            self._shards.setdefault(_shard_of(name), {})[name] = seen
        self._dirty = set(self._shards)
        self._head_files = {}

    def _shard_key(self, shard: int) -> str:
        return f"{self._key}{_SHARD_MARK}{shard:02x}"


def _shard_of(name: str) -> int:
    return crc32(name.encode()) % SHARDS


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _load(cursors: Cursors, key: str) -> dict[str, Any]:
    raw = cursors.load(key)
    try:
        state = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _dump(state: dict[str, Any]) -> bytes:
    return json.dumps(state, separators=(",", ":")).encode("ascii")
