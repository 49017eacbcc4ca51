"""What people do with MLflow 3's models: log them to a local store, and use them from a workspace. Real clients only.

Each in a process of its own: ``make_stores(folder)`` trains and logs to one store of each kind;
``use_models(place, folder, told)`` finds what arrived in the workspace, downloads and loads it with the unmodified
azureml-mlflow, and registers it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.standins.azureml.place import Place

TIMEOUT_S = 240.0
STORES = {"sqlite": "mlflow.db", "file": "mlruns"}
ROWS = [[0.1, 0.2], [5.0, 6.0], [0.3, 9.0]]


def make_stores(folder: Path) -> dict[str, dict[str, Any]]:
    """Return for each kind of store what was logged: the run's id, and by model what it predicts for ``ROWS``.

    The stores are ``STORES[kind]`` in the folder.
    """
    environment = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return _in_a_process(["make", str(folder)], environment, cwd=folder)


def use_models(place: Place, folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the plugin found in the workspace of what ``make_store`` has told."""
    return _in_a_process(["use", str(folder), json.dumps(dict(told))], place.client_environment(), cwd=folder)


def _in_a_process(arguments: list[str], environment: Mapping[str, str], *, cwd: Path) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr)
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def _make(uri: str, artifacts: Path) -> dict[str, Any]:
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    flow: Any = mlflow
    flow.set_tracking_uri(uri)
    flow.set_experiment(experiment_id=flow.create_experiment("models", artifact_location=artifacts.as_uri()))
    rows = np.array(ROWS)
    model, other = LogisticRegression().fit(rows, [0, 1, 1]), LogisticRegression(C=9).fit(rows, [0, 0, 1])
    signature = infer_signature(rows, model.predict(rows))
    more = {"signature": signature, "pip_requirements": ["scikit-learn"], "input_example": rows}
    with flow.start_run(run_name="trained") as run:
        first = flow.sklearn.log_model(model, name="classifier", params={"C": "1.0"}, **more)
        flow.log_metric("accuracy", 0.75, step=3, model_id=first.model_id)
        second = flow.sklearn.log_model(other, name="classifier", step=2, **more)
        flow.set_logged_model_tags(first.model_id, {"team": "blue"})
        flow.log_text("own", "notes/own.txt")
    made = {first.model_id: model, second.model_id: other}
    return {
        "run": run.info.run_id,
        "predicted": {model_id: one.predict(rows).tolist() for model_id, one in made.items()},
        "probabilities": {model_id: one.predict_proba(rows).tolist() for model_id, one in made.items()},
    }


def _make_all(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        kind: _make(f"sqlite:///{folder / name}" if kind == "sqlite" else str(folder / name), folder / f"{kind}-files")
        for kind, name in STORES.items()
    }


def _use(folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    import mlflow
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    flow: Any = mlflow
    client: Any = MlflowClient()
    rows = np.array(ROWS)
    experiment = client.get_experiment_by_name("models")
    [run] = client.search_runs([experiment.experiment_id], f"tags.`syncd.source_run_id` = '{told['run']}'")
    uri = f"{run.info.artifact_uri}/classifier"
    repository: Any = get_artifact_repository(run.info.artifact_uri)
    local = repository.download_artifacts("classifier", str(folder))
    client.create_registered_model(f"churn-{told['run'][:8]}")
    version = client.create_model_version(f"churn-{told['run'][:8]}", source=uri, run_id=run.info.run_id)
    loaded = flow.sklearn.load_model(uri)
    described = flow.models.Model.load(local)  # its get_model_info asks for the LoggedModel, and raises
    return {
        "listed": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        "files": sorted(path.name for path in Path(local).iterdir()),
        "predicted": flow.pyfunc.load_model(local).predict(rows).tolist(),
        "probabilities": loaded.predict_proba(rows).tolist(),
        "by_run": flow.pyfunc.load_model(f"runs:/{run.info.run_id}/classifier").predict(rows).tolist(),
        "signature": described.signature.to_dict(),
        "example": described.load_input_example(local).tolist(),
        "source": version.source,
        "registered": flow.pyfunc.load_model(f"models:/churn-{told['run'][:8]}/1").predict(rows).tolist(),
    }


if __name__ == "__main__":
    if sys.argv[1] == "make":
        print(json.dumps(_make_all(Path(sys.argv[2]))))
    else:
        print(json.dumps(_use(Path(sys.argv[2]), json.loads(sys.argv[3]))))
