"""A real ``mlflow server`` in a process group of its own, on a free port of 127.0.0.1.

    with RunningMlflow(tmp_path) as server:
        ... server.url ...

It is forked from a process that has imported MLflow, and its database is a copy of one that has been made once; both
take seconds. ``python`` may be another environment's interpreter, for other versions of MLflow, which then runs as its
users run it; its default is taken from ``SYNCD_TEST_MLFLOW_PYTHON``, so that whole suites run against one.
``backend`` is "sqlite" or "file".
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Literal

from tests.standins.forks import Forked
from tests.standins.server_process import ServerProcess
from tests.standins.startable import Process

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",
}
_templates = tempfile.TemporaryDirectory(prefix="syncd-mlflow-")


@functools.cache
def fresh_database() -> Path:
    """Return a database as a server makes it at its first start; copy it."""
    path = Path(_templates.name) / "fresh.db"
    assert Forked("tests.standins.mlflow_app:make_database", path).wait() == 0
    return path


class RunningMlflow(ServerProcess):
    """Starts on entering, stops on leaving; started again, it has the same port and data."""

    environment = QUIET

    def __init__(
        self,
        folder: Path,
        *,
        python: str = "",
        backend: Literal["sqlite", "file"] = "sqlite",
        serve_artifacts: bool = True,
        port: int = 0,
    ) -> None:
        super().__init__(folder, port=port)
        self._python = python or os.environ.get("SYNCD_TEST_MLFLOW_PYTHON", "")
        self._backend = backend
        self._serve_artifacts = serve_artifacts
        self.url = f"http://127.0.0.1:{self.port}"

    def _arguments(self) -> list[str]:
        store = self.folder / "backend"
        uri = f"sqlite:///{store}.db" if self._backend == "sqlite" else str(store)
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        if not self._serve_artifacts:
            artifacts = ["--no-serve-artifacts", "--default-artifact-root", str(self.folder / "artifacts")]
        server = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        return [*server, "--backend-store-uri", uri, *artifacts]

    def command(self) -> list[str]:
        return [self._python, "-m", "mlflow", *self._arguments()]

    def _started(self) -> Process:
        if self._python:
            return super()._started()
        database = self.folder / "backend.db"
        if self._backend == "sqlite" and self._serve_artifacts and not database.exists():
            shutil.copyfile(fresh_database(), database)
        arguments = self._arguments()
        place = "tests.standins.mlflow_app:command"
        return Forked(place, arguments, cwd=self.folder, log=self.log, environment=self.environment)

    def answers(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
