"""Read directories of small files (params, tags) and remember each file's identity.

Rules
-----
1. An unchanged file costs one stat. A file is unchanged when inode, size and mtime (in ns) are what they were.
2. Clocks of file systems are coarse: a file whose mtime is younger than ``SETTLE_NS`` is remembered with mtime 0, so
   that it is read again; the hash of its content then tells whether anything is to be stated.
3. Links are not followed, and nothing but a regular file is opened; others are named.
4. What cannot be listed or read is never taken for gone.
5. A value that its writer may be in the middle of is not stated: an empty file that is young (opened, not written
   yet), and more than a page that was touched just now (a reader may see the first pages of one write only). A param
   would stay so for good where it is sent to. By a clock that is ahead (of another machine) a file stays young for as
   long as it is ahead: the writer of a long one is waited for a little instead.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH116, PTH118
from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from hashlib import blake2b

SETTLE_NS = 2_000_000_000
_SKEW_NS = 600_000_000_000
SMALL_FILE_LIMIT_BYTES = 4 * 1024 * 1024
_PAGE_BYTES = 4096
_QUIET_NS = 200_000_000
_PAUSE_S = 0.05
_MOST_PAUSES = 5
JUNK_NAMES = frozenset({".DS_Store", ".gitkeep", ".gitignore", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"})
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

Problems = dict[str, str]
FileState = list[int | str]  # inode, size, mtime_ns (0: not settled), hash


def open_regular(path: str) -> int:
    """Open a file for reading: never through a link, never waiting for a FIFO's writer.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, _OPEN_FLAGS)


def read_small(path: str, *, limit_bytes: int = SMALL_FILE_LIMIT_BYTES) -> bytes:
    """Return a small file's content.

    Raises:
        OSError: it cannot be read, or is larger than ``limit_bytes``.
    """
    fd = open_regular(path)
    try:
        content = os.read(fd, 65536)
        if len(content) < 65536:
            return content
        pieces, total = [content], len(content)
        while content := os.read(fd, 1 << 20):
            pieces.append(content)
            total += len(content)
            if total > limit_bytes:
                raise OSError(f"larger than {limit_bytes} bytes")
        return b"".join(pieces)
    finally:
        os.close(fd)


def reason(exc: OSError) -> str:
    """Say in plain words why a file could not be read."""
    return (exc.strerror or str(exc)).lower()


def content_hash(content: bytes) -> str:
    """Return a short hash that tells contents apart."""
    return blake2b(content, digest_size=6).hexdigest()


def is_young(mtime_ns: int, now_ns: int, *, settle_ns: int = SETTLE_NS) -> bool:
    """Tell whether a file changed so lately that its coarse clock may hide another change.

    ``now_ns`` is when the poll began, so a file may be younger than that; one from a far future is a wrong clock's.
    """
    return -_SKEW_NS < now_ns - mtime_ns < settle_ns


def settled_mtime_ns(mtime_ns: int, now_ns: int) -> int:
    """Return the mtime to remember: 0 while the file is so young that the clock may hide a change."""
    return 0 if is_young(mtime_ns, now_ns) else mtime_ns


@dataclass(slots=True)
class Listing:
    """Regular files below a directory: name relative to it with "/", path, stat; and whether all could be listed."""

    files: list[tuple[str, str, os.stat_result]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=dict)
    whole: bool = True
    newest_ns: int = 0


def list_files(root: str) -> Listing:
    """List the regular files below ``root`` (an absent directory is an empty one)."""
    listing = Listing()
    stack = [("", root)]
    while stack:
        prefix, directory = stack.pop()
        try:
            with os.scandir(directory) as entries:
                listing.directories.append(directory)
                for entry in entries:
                    name = entry.name
                    if name in JUNK_NAMES:
                        continue
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        listing.files.append((prefix + name, entry.path, info))
                        if info.st_mtime_ns > listing.newest_ns:
                            listing.newest_ns = info.st_mtime_ns
                    elif stat.S_ISDIR(info.st_mode):
                        stack.append((prefix + name + "/", entry.path))
                    else:
                        listing.problems[entry.path] = f"is {kind_of(info.st_mode)} and is not read"
        except FileNotFoundError:
            pass  # absent, or removed while it was listed
        except OSError as exc:
            listing.problems[directory] = f"cannot be listed: {reason(exc)}"
            listing.whole = False
    return listing


def kind_of(mode: int) -> str:
    """Name what is no regular file."""
    for test, name in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a directory"),
    ):
        if test(mode):
            return name
    return "a device"


@dataclass(slots=True)
class SmallFiles:
    """What a directory of small files holds that is new, and the state to remember."""

    values: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    state: dict[str, FileState] = field(default_factory=dict)
    problems: Problems = field(default_factory=dict)
    newest_ns: int = 0


def read_small_files(root: str, before: dict[str, FileState], *, now_ns: int, hold_young: bool) -> SmallFiles:
    """Read what is new or changed below ``root``.

    Args:
        root: directory whose files' relative names are the keys.
        before: the state of the last time.
        now_ns: wall clock.
        hold_young: leave what may be half written for the next time; otherwise its writer is waited for a little.
    """
    listing = list_files(root)
    found = SmallFiles(problems=listing.problems, newest_ns=listing.newest_ns)
    for name, path, info in listing.files:
        known = before.get(name)
        if known and known[2] == info.st_mtime_ns and known[1] == info.st_size and known[0] == info.st_ino:
            found.state[name] = known
            continue
        try:
            name.encode()
            content = read_small(path)
            digest = content_hash(content)
            changed = not known or known[3] != digest
            # Who waits goes by the time that it is by now: of however many files, all have come to rest two seconds on.
            if changed and _is_doubtful(content, info, now_ns if hold_young else time.time_ns()):
                if hold_young and not (content and info.st_mtime_ns - now_ns > SETTLE_NS):
                    if known:
                        found.state[name] = known
                    continue
                info, content = _once_written(path, info, content)
                digest = content_hash(content)
            value = content.decode()
        except FileNotFoundError:
            continue
        except UnicodeError:
            found.problems[path] = "its name or content is not UTF-8 and is not brought over"
            continue
        except OSError as exc:
            found.problems[path] = f"cannot be read: {reason(exc)}"
            if known:
                found.state[name] = known
            continue
        if not known or known[3] != digest:
            found.values[name] = value
        found.state[name] = [info.st_ino, info.st_size, settled_mtime_ns(info.st_mtime_ns, now_ns), digest]
    gone = before.keys() - found.state.keys()
    if listing.whole:
        found.deleted = sorted(name for name in gone if not os.path.lexists(os.path.join(root, name)))
    for name in gone.difference(found.deleted):
        found.state[name] = before[name]
    return found


def _is_doubtful(content: bytes, info: os.stat_result, now_ns: int) -> bool:
    """Tell whether a file's writer may be in the middle of it."""
    if not content:
        return is_young(info.st_mtime_ns, now_ns)
    return len(content) > _PAGE_BYTES and is_young(info.st_mtime_ns, now_ns, settle_ns=_QUIET_NS)


def _once_written(path: str, info: os.stat_result, content: bytes) -> tuple[os.stat_result, bytes]:
    """Return the file as it is once a pause changes nothing any more; one that goes on changing, as it is at last.

    Raises:
        OSError: it cannot be read.
    """
    for _ in range(_MOST_PAUSES):
        time.sleep(_PAUSE_S)
        before, read = info, content
        info = os.stat(path, follow_symlinks=False)
        content = read_small(path)
        if content == read and info.st_mtime_ns == before.st_mtime_ns:
            break
    return info, content
