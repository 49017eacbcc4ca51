"""What the asking commands share: which state directory is meant, whether a daemon runs, times in words."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from syncd.cli.report import duration_text
from syncd.configuration import find_file, load_daemon
from syncd.errors import ConfigError
from syncd.journal.database import FILE_NAME
from syncd.journal.report import JournalReport
from syncd.journal.state_lock import LOCK_NAME, holder, running_pid
from syncd.runtime.journal_status import Viewpoint


@dataclass(frozen=True, slots=True)
class Asked:
    """The state directory that is asked about.

    ``pid`` is 0 if no syncd holds it; ``journal_max_bytes`` None if the configuration was not looked at.
    ``started_ms`` is when the syncd that holds it took it; ``last_ran_ms`` when the last one gave it back, or last
    wrote if it was killed. None if that is not so, or not known.
    """

    state_dir: Path
    pid: int
    journal_max_bytes: int | None
    now_ms: int
    option: str  # what to add to a command that is to ask about the same journal
    started_ms: int | None = None
    last_ran_ms: int | None = None

    def open(self) -> JournalReport | None:
        """Open the journal for reading; None if there is none. Raises as ``JournalReport.open``."""
        return JournalReport.open(self.state_dir)

    @property
    def view(self) -> Viewpoint:
        """From where the journal is looked at."""
        return Viewpoint(now_ms=self.now_ms, started_ms=self.started_ms, journal_max_bytes=self.journal_max_bytes)

    def ago(self, at_ms: int) -> str:
        """Return how long ago something was: "3 min 20 s ago"."""
        return f"{duration_text(max(0, self.now_ms - at_ms) / 1000)} ago"

    def when(self, at_ms: int) -> str:
        """Return a time with its age: "2026-01-02 03:04:05 UTC (3 min ago)"."""
        return f"{time_text(at_ms)} ({self.ago(at_ms)})"

    @property
    def no_journal(self) -> str:
        """What to say when there is no journal."""
        return f"there is no journal in {self.state_dir} yet: start `syncd run`, or name the directory with --state-dir"


def asked(arguments: argparse.Namespace) -> Asked:
    """Return what the arguments ask about: ``--state-dir``, else the configuration's.

    Raises:
        ConfigError: there is no configuration, or it is wrong.
    """
    configured = None
    if arguments.config or not arguments.state_dir:
        try:
            configured = load_daemon(find_file(arguments.config))
        except ConfigError as error:
            if not error.hint.startswith("examples"):
                raise
            raise ConfigError(error.message, hint="name the journal's directory with --state-dir") from error
    state_dir = Path(arguments.state_dir).absolute() if arguments.state_dir else configured.state_dir  # type: ignore[union-attr]
    pid = running_pid(state_dir)
    return Asked(
        state_dir=state_dir,
        pid=pid,
        journal_max_bytes=configured.journal_max_bytes if configured else None,
        now_ms=time.time_ns() // 1_000_000,
        option=_option(arguments),
        started_ms=_changed_ms(state_dir / LOCK_NAME) if pid else None,
        last_ran_ms=None if pid else _last_ran_ms(state_dir),
    )


def _last_ran_ms(state_dir: Path) -> int | None:
    """Return when the last syncd ended; its lock file is emptied then, and not if it was killed (see StateLock)."""
    lock = state_dir / LOCK_NAME
    ended_ms = _changed_ms(lock)
    if ended_ms is None or not holder(lock):
        return ended_ms
    written = (_changed_ms(state_dir / f"{FILE_NAME}{suffix}") for suffix in ("", "-wal"))
    return max(at_ms for at_ms in (ended_ms, *written) if at_ms is not None)


def _changed_ms(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except OSError:
        return None


def _option(arguments: argparse.Namespace) -> str:
    if arguments.state_dir:
        return f" --state-dir {shlex.quote(arguments.state_dir)}"
    return f" --config {shlex.quote(arguments.config)}" if arguments.config else ""


def time_text(at_ms: int) -> str:
    """Return a time for people, to the second; one that no calendar has, as the number that was said."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return f"{at_ms} ms"


def pause_text(about: Asked, pause: Mapping[str, Any]) -> str:
    """Say what a command has paused; ``pause`` is one of the status's ``paused``."""
    said = f"by a message of {pause['source']}, {about.when(pause['at_ms'])}"
    return f"{pause['kind']} {pause['name']} is paused {said}; it rests until a message resumes it"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "12,000 points"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
