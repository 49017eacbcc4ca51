"""What an unmodified azureml-mlflow reads back of a workspace, in a process of its own.

    told = read_back(workspace.place, folder)       # experiment name -> [{params, tags, points, datasets, files, …}]

Points are asked for page by page, as the client's own ``get_metric_history`` asks for more at once than is allowed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.standins.azureml.place import Place

CLIENT_TIMEOUT_S = 240.0


def read_back(place: Place, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all runs by experiment; each run's artifacts are downloaded to ``folder/<run id>``."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [sys.executable, "-m", __name__, str(folder)],
        env={**os.environ, **place.client_environment()},
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr[-4000:])
    told: dict[str, list[dict[str, Any]]] = json.loads((folder / "told.json").read_text())
    return told


def use_client(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read everything with MLflow's client."""
    from mlflow import MlflowClient

    client: Any = MlflowClient()
    return {
        experiment.name: [_read(client, run, folder) for run in client.search_runs([experiment.experiment_id])]
        for experiment in client.search_experiments()
    }


def _read(client: Any, run: Any, folder: Path) -> dict[str, Any]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    run_id = run.info.run_id
    (folder / run_id).mkdir()
    repository: Any = get_artifact_repository(run.info.artifact_uri)
    if repository.list_artifacts(""):
        repository.download_artifacts("", str(folder / run_id))
    return {
        "id": run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": run.data.params,
        "tags": run.data.tags,
        "datasets": [[one.dataset.name, one.dataset.digest] for one in run.inputs.dataset_inputs],
        "points": [point for key in run.data.metrics for point in _points(client, run_id, key)],
    }


def _points(client: Any, run_id: str, key: str) -> list[list[Any]]:
    store, points, token = client._tracking_client.store, [], None
    while True:
        page = store.get_metric_history(run_id, key, max_results=999, page_token=token)
        points += [[key, repr(point.value), point.timestamp, point.step] for point in page]
        token = page.token
        if not token:
            return points


if __name__ == "__main__":
    where = Path(sys.argv[1])
    (where / "told.json").write_text(json.dumps(use_client(where)))
