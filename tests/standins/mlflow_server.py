"""A real ``mlflow server`` in a process group of its own, on a free port of 127.0.0.1.

    with RunningMlflow(tmp_path) as server:
        ... server.url ...

``python`` may be another environment's interpreter, for other versions of MLflow; its default is taken from
``SYNCD_TEST_MLFLOW_PYTHON``, so that whole suites run against one. ``backend`` is "sqlite" or "file".
"""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path
from typing import Literal

from tests.standins.server_process import ServerProcess

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",
}


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
        self._python = python or os.environ.get("SYNCD_TEST_MLFLOW_PYTHON", sys.executable)
        self._backend = backend
        self._serve_artifacts = serve_artifacts
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        store = self.folder / "backend"
        uri = f"sqlite:///{store}.db" if self._backend == "sqlite" else str(store)
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        if not self._serve_artifacts:
            artifacts = ["--no-serve-artifacts", "--default-artifact-root", str(self.folder / "artifacts")]
        server = [self._python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        return [*server, "--workers", "1", "--backend-store-uri", uri, *artifacts]

    def answers(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
