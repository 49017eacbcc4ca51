"""What an unmodified azureml-mlflow does with a workspace, in a process of its own.

    told = run_plugin(workspace.place, folder)

``python -m tests.standins.azureml.plugin_session FOLDER`` finds the workspace by its environment alone, writes a run,
reads it back, and prints one JSON line of what came back. Files to send are in ``FOLDER/sent``, what was downloaded is
in ``FOLDER/got`` after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.standins.azureml.place import Place

CLIENT_TIMEOUT_S = 120.0
POINTS = [(0.5, 1_700_000_000_000, 0), (0.25, 1_700_000_001_000, 1), (float("nan"), 1_700_000_002_000, 2)]
PARAMS = {"lr": "0.1", "name with space": "ü"}
TAGS = {"team": "blue", "note": "ä\nb"}
FILES = {"plain.txt": "héllo".encode(), "deep/a b#%.bin": bytes(range(256)), "empty": b"", "large": b"x" * 5_000_000}


def run_plugin(place: Place, folder: Path) -> dict[str, Any]:
    """Return what the plugin's process told; ``folder`` is to be empty."""
    for name, data in FILES.items():
        (folder / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sent" / name).write_bytes(data)
    (folder / "got").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", __name__, str(folder)],
        env={**os.environ, **place.client_environment()},
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr)
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def use_plugin(folder: Path) -> dict[str, Any]:
    """Write a run, files and model versions, read them back, and return what came back."""
    from mlflow import MlflowClient, entities
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client: Any = MlflowClient()
    made: Any = entities
    experiment_id = client.create_experiment("plugin's", tags={"kind": "test"})
    run = client.create_run(experiment_id, start_time=1_700_000_000_000, run_name="first")
    run_id, uri = run.info.run_id, run.info.artifact_uri
    metrics = [made.Metric("loss", value, timestamp, step) for value, timestamp, step in POINTS]
    params = [made.Param(key, value) for key, value in PARAMS.items()]
    client.log_batch(run_id, metrics, params, [made.RunTag(key, value) for key, value in TAGS.items()])
    client.log_metric(run_id, "later", 1.0, synchronous=False).wait()
    repository: Any = get_artifact_repository(uri)
    repository.log_artifacts(str(folder / "sent"))
    repository.download_artifacts("", str(folder / "got"))
    client.set_terminated(run_id, end_time=1_700_000_005_000)
    client.create_registered_model("model")
    client.create_model_version("model", f"{uri}/deep", run_id)
    (folder / "local").mkdir()
    (folder / "local" / "MLmodel").write_text("flavors: {}")
    client.create_model_version("model", f"file://{folder / 'local'}")
    many = [made.Metric(f"m{number}", 0.0, 0, 0) for number in range(50)]
    store = client._tracking_client.store  # its own paging asks for 25,000 points at once, which is refused
    back = client.get_run(run_id)
    return {
        "run_id": run_id,
        "experiment": client.get_experiment_by_name("plugin's").tags,
        "found": [found.info.run_id for found in client.search_runs([experiment_id], "tags.team = 'blue'")],
        "times": [back.info.start_time, back.info.end_time],
        "status": back.info.status,
        "params": back.data.params,
        "tags": back.data.tags,
        "points": [repr((p.value, p.timestamp, p.step)) for p in store.get_metric_history(run_id, "loss")],
        "listed": sorted(info.path for info in repository.list_artifacts("")),
        "sources": [version.source for version in client.search_model_versions("name = 'model'")],
        "refused": {
            "logged models": _error(lambda: client.search_logged_models([experiment_id])),
            "a file again": _error(lambda: repository.log_artifact(str(folder / "sent" / "plain.txt"))),
            "too many metrics": _error(lambda: client.log_batch(run_id, many)),
            "history": _error(lambda: client.get_metric_history(run_id, "loss")),
        },
    }


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as exc:  # noqa: BLE001 - the plugin raises Exception itself
        return str(exc)
    return ""


if __name__ == "__main__":
    print(json.dumps(use_plugin(Path(sys.argv[1]))))
