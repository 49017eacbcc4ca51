"""Small source stores written by MLflow's own client, and live trainings that log with it.

An SQLite store costs seconds, so one is made per session and copied for each case: the copy gets its own experiment
name and artifact directory, and its runs keep their ids (they are looked up per experiment).
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.standins.forks import Forked
from tests.standins.mlflow_server import QUIET

EPOCH_MS = 1_760_000_000_000
TEMPLATE_EXPERIMENT = "template"
GIANT_TAG = "giant"
GIANT_TAG_LENGTH = 20_000
MAKE_TIMEOUT_S = 120


def make(uri: str, experiment: str) -> None:
    """Write a parent, a child, a running run and (MLflow 3) a logged model."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client = MlflowClient(uri)
    experiment_id = client.create_experiment(experiment, tags={"mlflow.note.content": "a *note*\n", "team": "ü"})

    def start(name: str, **tags: str) -> str:
        run = client.create_run(experiment_id, start_time=EPOCH_MS, run_name=name, tags=tags)
        return str(run.info.run_id)

    parent = start("parent läuft", kind="parent")
    child = start("child", **{"mlflow.parentRunId": parent})
    open_run = start("still running")
    for number, run_id in enumerate((parent, child, open_run)):
        points = [
            Metric(key, value + number, EPOCH_MS + i, i)
            for key in ("loss", "train/acc ü")
            for i, value in enumerate([0.1 + 0.2, -0.0, 1e308, 5e-324, 1 / 3] * 4)
        ]
        points += [Metric("odd", float(text), EPOCH_MS + i, -i) for i, text in enumerate(("nan", "inf", "-inf", "2"))]
        params = [Param(f"p{i}", f"value {i} – ü") for i in range(5)]
        client.log_batch(run_id, points, params, [RunTag("a tag", "x\ny"), RunTag("b", "")])
    dataset = Dataset("data", "abc123", "local", '{"uri": "x"}', "{}", "{}")
    client.log_inputs(parent, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    folder = Path("to-log")
    (folder / "deep").mkdir(parents=True)
    (folder / "plain.txt").write_text("plain\n")
    (folder / "empty").write_bytes(b"")
    (folder / "deep" / "größe 1.bin").write_bytes(random.Random(1).randbytes(2_500_000))
    client.log_artifacts(parent, str(folder))
    client.log_artifact(child, str(folder / "plain.txt"))
    model = client.create_logged_model(
        experiment_id, "model", source_run_id=parent, params={"depth": "3"}, tags={"m": "t"}
    )
    client.log_model_artifacts(model.model_id, str(folder / "deep"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(parent, [_output(model.model_id)])
    client.log_batch(parent, [Metric("model metric", 0.5, EPOCH_MS, 1, model_id=model.model_id)])
    client.set_terminated(child, "FAILED", EPOCH_MS + 5000)
    client.set_terminated(parent, "FINISHED", EPOCH_MS + 9000)


def _output(model_id: str):  # type: ignore[no-untyped-def]
    from mlflow.entities import LoggedModelOutput

    return LoggedModelOutput(model_id, step=3)


def train(uri: str, experiment: str, seconds: float) -> None:
    """Log live for so long, or until there is a file ``stop``: points one by one and in batches, params, tags,
    artifacts, short runs and one long.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    long_run = client.create_run(experiment_id, run_name="long").info.run_id
    end_s = time.monotonic() + seconds
    step = 0
    while time.monotonic() < end_s and not Path("stop").exists():
        now_ms = time.time_ns() // 1_000_000
        client.log_batch(long_run, [Metric(f"m{i}", step + i / 7, now_ms, step) for i in range(20)])
        client.log_metric(long_run, "single", float("nan") if step % 10 == 3 else step / 3, now_ms, step)
        client.set_tag(long_run, "progress", str(step))
        if step % 10 == 0:
            client.log_param(long_run, f"p{step}", str(step))
            client.log_text(long_run, f"text {step}\n" * 200, f"texts/{step}.txt")
            short = client.create_run(experiment_id, run_name=f"short {step}").info.run_id
            client.log_batch(short, [Metric("x", i * 0.1, now_ms, i) for i in range(50)])
            client.set_terminated(short)
        step += 1
        time.sleep(0.05)
    client.set_terminated(long_run, "FINISHED")


def forked(function: str, *arguments: object, cwd: Path) -> Forked:
    """Run a function of this module in a process of its own in ``cwd``, which relative artifact roots follow."""
    cwd.mkdir(parents=True, exist_ok=True)
    environment = {**QUIET, "GIT_PYTHON_REFRESH": "quiet"}
    return Forked(
        f"tests.faults.stores:{function}", *arguments, cwd=cwd, log=cwd / "script.log", environment=environment
    )


def make_in(folder: Path, uri: str, experiment: str = TEMPLATE_EXPERIMENT) -> None:
    """Write a store with ``make`` in a process of its own."""
    if forked("make", uri, experiment, cwd=folder).wait(MAKE_TIMEOUT_S) != 0:
        raise RuntimeError((folder / "script.log").read_text())


def copy_database(template: Path, folder: Path, experiment: str) -> Path:
    """Copy ``template/mlflow.db`` with its artifacts; give the copy its own experiment name and one giant tag."""
    shutil.copytree(template, folder)
    path = folder / "mlflow.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE experiments SET name = ? WHERE name = ?", (experiment, TEMPLATE_EXPERIMENT))
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(template), str(folder)))
        parent = db.execute("SELECT run_uuid FROM runs WHERE name LIKE 'parent%'").fetchone()[0]
        db.execute(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", (GIANT_TAG, "ü" * GIANT_TAG_LENGTH, parent)
        )
    return path
