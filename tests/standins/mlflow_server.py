"""A real ``mlflow server`` in a process group of its own, on a free port of 127.0.0.1.

    with RunningMlflow(tmp_path) as server:
        ... server.url ...

``python`` may be another environment's interpreter, for other versions of MLflow; its default is taken from
``SYNCD_TEST_MLFLOW_PYTHON``, so that whole suites run against one. ``backend`` is "sqlite" or "file".
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

from tests.standins.startable import Startable, end_group

START_TIMEOUT_S = 90.0
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",
}


class RunningMlflow(Startable):
    """Starts on entering, stops on leaving; ``restart`` keeps port and data."""

    def __init__(
        self,
        folder: Path,
        *,
        python: str = "",
        backend: Literal["sqlite", "file"] = "sqlite",
        serve_artifacts: bool = True,
        port: int = 0,
    ) -> None:
        self.folder = folder
        self._python = python or os.environ.get("SYNCD_TEST_MLFLOW_PYTHON", sys.executable)
        self._backend = backend
        self._serve_artifacts = serve_artifacts
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        store = self.folder / "backend"
        uri = f"sqlite:///{store}.db" if self._backend == "sqlite" else str(store)
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        if not self._serve_artifacts:
            artifacts = ["--no-serve-artifacts", "--default-artifact-root", str(self.folder / "artifacts")]
        command = [self._python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1", "--backend-store-uri", uri, *artifacts],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **QUIET},
                start_new_session=True,
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"mlflow server did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """End the server and its workers: its own process group, never by name."""
        process, self._process = self._process, None
        if process is None:
            return
        end_group(process)


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
