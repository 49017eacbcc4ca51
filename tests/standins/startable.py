"""What local services share: they run inside a ``with``, and those that are processes end with their whole group."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Protocol, Self

STOP_TIMEOUT_S = 10.0


class Process(Protocol):
    """What is asked of a process, whoever started it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Startable(ABC):
    """Starts on entering, stops on leaving."""

    @abstractmethod
    def start(self) -> None:
        """Serve; return when requests are taken."""

    @abstractmethod
    def stop(self) -> None:
        """Stop serving, if it does; what is stored stays."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def end_group(process: Process, *, at_once: bool = False) -> None:
    """End a process and its workers, its own process group, never by name: politely first unless ``at_once``."""
    for sign in (signal.SIGKILL,) if at_once else (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
