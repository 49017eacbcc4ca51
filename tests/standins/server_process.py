"""A server as a process of its own on a free port of 127.0.0.1: started, waited for, killed, started again."""

from __future__ import annotations

import os
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.standins.ports import free_port
from tests.standins.startable import Process, Startable, end_group

START_TIMEOUT_S = 200.0
LOOK_S = 0.02


class ServerProcess(Startable):
    """Starts on entering, stops on leaving; started again, it has the same port and data."""

    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.log = folder / "server.log"
        self._process: Process | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Write what the server reads at its start; return the command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests by now. Raises OSError where it does not."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = self._started()
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def _started(self) -> Process:
        """Start the process, in a group of its own, its output going to ``log``."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def _wait_until_it_answers(self, process: Process) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and process.poll() is None:
            try:
                if self.answers():
                    return
            except OSError:
                pass
            time.sleep(LOOK_S)
        said = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
        raise RuntimeError(f"{type(self).__name__} does not answer (exit code {process.poll()}):\n{said}")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            end_group(process, at_once=True)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_group(process)
