"""The demo's tracking server, and the little of MLflow's REST API by which the demo looks at it."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from typing import Any

from syncd.core import source_tags
from syncd.demo.arrivals import Model, Point, Run, Snapshot
from syncd.demo.folder import DemoFailed, DemoFolder
from syncd.demo.processes import Process, Processes

_START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 30.0
_STORE = "backend.db"
_ARTIFACTS = "artifacts"

# Straight to the loopback, whatever proxy the environment names.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def server_command(port: int, *, below: str = "") -> list[str]:
    """Return how the server is started; ``below`` is the way to its folder, "" inside it."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{below}{_STORE}", "--artifacts-destination", f"{below}{_ARTIFACTS}"),
    ]


class Server:
    """A running ``mlflow server``."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    def start(cls, processes: Processes, folder: DemoFolder) -> Server:
        """Start the server on a free port and wait until it answers."""
        port = _free_port()
        process = processes.start(
            "the tracking server", server_command(port), folder=folder.server, log=folder.log("server")
        )
        server = cls(process, port)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not server._answers():
            process.check()
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"no answer within {_START_TIMEOUT_S:.0f} s", doing="starting", target=server.url)
            time.sleep(0.2)
        return server

    def _answers(self) -> bool:
        try:
            with _opener.open(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def look(self, experiments: dict[str, str]) -> Snapshot:
        """Return what the server holds of the experiments (id by name)."""
        ids = list(experiments.values())
        if not ids:
            return Snapshot()
        runs = self._call("runs/search", {"experiment_ids": ids, "max_results": 1000}).get("runs", [])
        models = self._call("logged-models/search", {"experiment_ids": ids}).get("models", [])
        return Snapshot({run.id: run for run in map(_run, runs)}, {model.id: model for model in map(_model, models)})

    def experiments(self) -> dict[str, str]:
        """Return the ids of the server's experiments by name."""
        found = self._call("experiments/search", {"max_results": 1000}).get("experiments", [])
        return {experiment["name"]: experiment["experiment_id"] for experiment in found}

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - a fixed http:// address on the loopback
            f"{self.url}/api/2.0/mlflow/{method}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _opener.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except (OSError, ValueError) as exc:
            self.process.check()
            raise DemoFailed(str(exc), doing=f"asking {method} of", target=self.url) from exc


def _run(content: dict[str, Any]) -> Run:
    info, data = content["info"], content["data"]
    return Run(
        id=info["run_id"],
        name=info["run_name"],
        status=info["status"],
        source_run_id=_pairs(data, "tags").get(source_tags.SOURCE_RUN_ID, ""),
        params=_pairs(data, "params"),
        latest={
            point["key"]: Point(float(point["value"]), int(point.get("step", 0)), int(point["timestamp"]))
            for point in data.get("metrics", [])
        },
    )


def _model(content: dict[str, Any]) -> Model:
    info = content["info"]
    return Model(id=info["model_id"], name=info["name"], ready=str(info["status"]).endswith("READY"))


def _pairs(data: dict[str, Any], name: str) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in data.get(name, [])}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
