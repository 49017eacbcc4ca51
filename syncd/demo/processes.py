"""The processes of the demo: each in a process group of its own, all of them ended with the demo, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from syncd.demo.folder import DemoFailed

_STOP_TIMEOUT_S = 15.0
_LOG_LINES = 15
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_SETTINGS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
    "PYTHONUNBUFFERED": "1",
}


def demo_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which nothing of the user's own MLflow (server, run, credentials) plays a part."""
    kept = {name: value for name, value in environment.items() if not name.startswith(("MLFLOW_", "SYNCD_"))}
    return {**kept, **_SETTINGS}


class Process:
    """One started process and the file that takes its output."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def check(self, *, may_end: bool = False) -> None:
        """Raise DemoFailed if it has ended, or, if it may end, with anything but 0."""
        code = self._popen.poll()
        if code is None or (may_end and code == 0):
            return
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise DemoFailed("\n".join([f"{self.name} ended with code {code}; {self.log} ends with:", *lines]))

    def stop(self) -> None:
        """End its process group: it is asked first, then forced."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


class Processes:
    """Starts processes; on leaving, ends all of them, the last one first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._started: list[Process] = []
        self._is_starting = self._is_interrupted = False
        self._handlers = {number: signal.getsignal(number) for number in _ENDING}

    def __enter__(self) -> Self:
        for number in _ENDING:
            signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        for process in reversed(self._started):
            process.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str], *, folder: Path, log: Path) -> Process:
        """Start a process in ``folder`` that writes to ``log``. A terminal's Ctrl-C does not reach it."""
        self._is_starting = True
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - the demo's own commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=self._environment,
                start_new_session=True,
            )
        self._started.append(Process(name, popen, log))
        self._is_starting = False
        if self._is_interrupted:
            raise KeyboardInterrupt
        return self._started[-1]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """End the demo, but not between a process's start and the note of it: it would be left running."""
        self._is_interrupted = True
        if not self._is_starting:
            raise KeyboardInterrupt
