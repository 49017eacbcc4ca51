"""One process at a time on a state directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from syncd.errors import JournalError, JournalLocked

LOCK_NAME = "lock"
LOOKS = 10
LOOK_S = 0.02


class StateLock:
    """An exclusive ``flock`` on ``<state_dir>/lock``; the file names the holder's process id.

    The kernel releases it when the process ends, however it ends.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_NAME
        self._file: int | None = None
        self.was_abandoned = False  # whether the holder before this one was killed

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            JournalLocked: another process holds it; its pid is named.
            JournalError: the directory cannot be written.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise JournalError(
                exc.strerror or str(exc),
                doing="locking",
                target=str(self._path),
                hint="make the state_dir writable for the user that runs syncd",
            ) from exc
        try:
            _lock(file)
        except BlockingIOError as exc:
            pid = holder(self._path)
            os.close(file)
            raise JournalLocked(
                f"process {pid or 'unknown'} already uses it", pid=pid, target=str(self._path.parent)
            ) from exc
        self.was_abandoned = holder(self._path) != 0
        # The descriptor is locked before it is written, so a reader of the pid never sees a half-written one as held.
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back; the file stays."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def _lock(file: int) -> None:
    """Lock a file, bearing with ``running_pid``, which holds it for an instant to see whether it is free."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
        else:
            return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(path: Path) -> int:
    """Return the process id written in a lock file, or 0."""
    try:
        return int(path.read_text() or 0)
    except (OSError, ValueError):
        return 0


def running_pid(state_dir: Path) -> int:
    """Return the process id of the syncd that holds the state directory now, or 0 when none does."""
    path = state_dir / LOCK_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder(path)
    finally:
        os.close(file)
    return 0
