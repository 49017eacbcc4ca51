"""Write, with MLflow's own client, a local store full of what readers and senders get wrong.

    python -m tests.awkward OUT_DIR

makes ``OUT_DIR/mlruns-store`` (a FileStore) and ``OUT_DIR/mlflow-db-store`` (an SQLite store).
Rules:

- MLflow writes everything it is willing to write; what it refuses but real stores hold
  (a tag of 81 kB) is put beside it by hand, and `_write_giant_tag` is the only such place.
- MLflow runs in a process of its own whose working directory is the store's root, because that is where it puts a
  store when nothing tells it another place.
- Times are fixed, so that two builds differ only in ids.
"""

import argparse
import random
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tests.standins.forks import Forked
from tests.standins.mlflow_server import QUIET

if TYPE_CHECKING:
    from mlflow import MlflowClient

StoreKind = Literal["mlruns", "mlflow-db"]

BIG_ARTIFACT_BYTES = 20_000_000
BUILD_TIMEOUT_S = 120
EPOCH_MS = 1_760_000_000_000

LONG_SERIES_POINTS = 2_500
POINTS_PER_BATCH = 1_000  # MLflow's own limit for one log-batch
MANY_TAGS = 70
GIANT_TAG_KEY = "mlflow.log-model.history"
GIANT_TAG_BYTES = 81_000
LONG_PARAM_CHARACTERS = 6_000

MAIN_EXPERIMENT = "Prüfstand ⚙ 試験 / a b.c"
PLAIN_EXPERIMENT = "plain"
DELETED_EXPERIMENT = "given up"
# A FileStore's lines are separated by spaces, so MLflow can not read back what it writes here:
# one such run makes the search of its whole experiment fail. Kept apart from everything else.
SPACED_EXPERIMENT = "metrics of a dataset with a spaced name"
SPACED_DATASET = "My data / 数据 v1"

EXPERIMENT_TAGS = {
    "mlflow.note.content": "# Notes\n\nFirst line, `code`, naïve ünïcode 🧪.\n",
    "team": "Forschung & Entwicklung",
    "cost centre/1.2": "4711",
    "пустой": "",
}

# name -> (value, timestamp offset in ms, step), in the order in which they are logged.
AWKWARD_SERIES: dict[str, list[tuple[float, int, int]]] = {
    "loss": [(1.0, 0, 0), (0.5, 1_000, 1), (0.25, 2_000, 2), (0.125, 3_000, 3)],
    "not_finite": [
        (float("nan"), 0, 0),
        (float("inf"), 1, 1),
        (float("-inf"), 2, 2),
        (float("nan"), 3, 3),
        (1.0, 4, 4),
    ],
    "extreme": [
        (1e308, 0, 0),
        (-1e308, 1, 1),
        (sys.float_info.max, 2, 2),
        (5e-324, 3, 3),
        (-5e-324, 4, 4),
        (2.225073858507201e-308, 5, 5),
        (-0.0, 6, 6),
        (0.0, 7, 7),
        (0.1 + 0.2, 8, 8),
        (float(2**53 + 2), 9, 9),
    ],
    "descending_steps": [(5.0, 0, 50), (4.0, 1, 40), (3.0, 2, 30), (2.0, 3, 20), (1.0, 4, 10)],
    "repeated_steps": [(1.0, 0, 7), (2.0, 1, 7), (3.0, 2, 7), (4.0, 3, 8), (5.0, 4, 7)],
    "same_step_and_time": [(1.0, 0, 3), (2.0, 0, 3), (-1.0, 0, 3)],
    "exact_duplicates": [(0.5, 0, 1), (0.5, 0, 1), (0.5, 0, 1), (0.75, 1, 2), (0.75, 1, 2)],
    "huge_and_negative_steps": [(1.0, 0, 2**40), (2.0, 1, -1), (3.0, 2, -(2**40)), (4.0, 3, 0)],
    "time_runs_backwards": [(1.0, 9_000, 0), (2.0, 5_000, 1), (3.0, 0, 2)],
    "epoch_zero": [(1.0, -EPOCH_MS, 0)],
    "a/b/c": [(1.0, 0, 0), (2.0, 1, 1)],
    "a/b/d.e": [(1.0, 0, 0)],
    "val accuracy": [(0.9, 0, 0), (0.95, 1, 1)],
    " leading and trailing ": [(1.0, 0, 0)],
    "dots.and-dashes_1:2": [(1.0, 0, 0)],
    ".hidden": [(1.0, 0, 0)],
    "genauigkeit_über_精度": [(0.5, 0, 0), (0.6, 1, 1)],
    "m" * 200: [(1.0, 0, 0)],
}

AWKWARD_PARAMS = {
    "empty": "",
    "long": "0123456789" * (LONG_PARAM_CHARACTERS // 10),
    "layers/0/units": "64",
    "with space": " leading and trailing ",
    "optimiser.größe": "naïve 模型 🚀",
    "several lines": "first\nsecond\n\nfourth\n",
    "json": '{"a": [1, 2.5, null], "b": "x\\ny"}',
    "looks like a number": "1e-3",
    "None": "None",
}

AWKWARD_TAGS = {
    "mlflow.note.content": "A *description* with ünïcode 🧪,\nof two lines.",
    "empty": "",
    "schlüssel/名前 x.y": "wert 値 🎈",
    "several lines": "first\nsecond\n",
    "carriage return": "first\r\nsecond\r\n",
    "quotes": "'single' \"double\" `back` \\ slash",
    "markup": "<script>alert('x')</script> & {{ braces }} %s %(x)s",
    "full": "v" * 8_000,
}

AWKWARD_FILES: dict[str, bytes] = {
    "empty.bin": b"",
    "nested/deeper/deepest/leaf.txt": b"leaf\n",
    "nested/deeper/empty.txt": b"",
    "nested/sibling.json": b'{"a": 1}\n',
    "with space.txt": b"space\n",
    "percent%20encoded.txt": b"percent\n",
    "percent encoded.txt": b"the twin that %20 must not be mistaken for\n",
    "hash#fragment.txt": b"hash\n",
    "plus+plus.txt": b"plus\n",
    "question?query=1.txt": b"question\n",
    "amper&sand=1.txt": b"ampersand\n",
    "quote'and\"quote.txt": b"quotes\n",
    "semi;colon,comma@at.txt": b"punctuation\n",
    "überraschung_模型_🧪.txt": "ünïcode\n".encode(),
    "decomposed_e\u0301.txt": b"combining accent\n",
    "folder with space/ü#?&%41/file.txt": b"folders too\n",
    ".leading_dot": b"dot\n",
    ".hidden_folder/.nested": b"dots\n",
    "no_suffix": b"x",
    "crlf.txt": b"one\r\ntwo\r\n",
    "binary.bin": bytes(range(256)),
    "n" * 200 + ".txt": b"a long name\n",
}


def build_awkward_store(root: Path, kind: StoreKind, *, big_artifact_bytes: int = 1000, sklearn: bool = False) -> None:
    """Build the awkward store below `root` with the real MLflow client.

    Args:
        root: directory to fill, made if absent; `mlruns` gives ``root/mlruns``, `mlflow-db`
            gives ``root/mlflow.db`` with its artifacts under ``root/mlruns``.
        kind: which of MLflow's two local stores to write.
        big_artifact_bytes: size of the one large artifact, in bytes.
        sklearn: whether to log a scikit-learn model too, which takes longer than all else.

    Raises:
        RuntimeError: MLflow failed; the message carries the end of what it wrote to stderr.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    log = root.with_name(f"{root.name}.log")
    options = {"cwd": root, "log": log, "environment": {**QUIET, "GIT_PYTHON_REFRESH": "quiet"}}
    if Forked("tests.awkward:_write_store", root, kind, big_artifact_bytes, sklearn, **options).wait(BUILD_TIMEOUT_S):
        raise RuntimeError(f"MLflow could not write the {kind} store in {root}:\n{log.read_text()[-4_000:]}")


def _write_store(root: Path, kind: StoreKind, big_artifact_bytes: int, sklearn: bool) -> None:
    """Fill the store of this process's working directory; runs in the forked process only."""
    import mlflow

    # A database's address is left to MLflow, so that the store has its default layout.
    if kind == "mlruns":
        mlflow.set_tracking_uri((root / "mlruns").as_uri())
    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment(MAIN_EXPERIMENT)
    for key, value in EXPERIMENT_TAGS.items():
        client.set_experiment_tag(experiment_id, key, value)
    awkward_run_id = _write_awkward_run(client, experiment_id)
    _write_artifacts(client, awkward_run_id, root, big_artifact_bytes)
    _write_family(client, experiment_id)
    _write_long_series(client, experiment_id)
    _write_inputs(client, experiment_id)
    _write_logged_models(client, experiment_id, root)
    if sklearn:
        _write_sklearn_model(experiment_id)
    _write_spaced_dataset_names(client)
    _write_deletions(client, experiment_id)
    _write_giant_tag(root, kind, experiment_id, awkward_run_id)


def _write_awkward_run(client: "MlflowClient", experiment_id: str) -> str:
    """Write the run that holds every odd metric, param and tag, and return its id."""
    from mlflow.entities import Metric

    run_id = _start_run(client, experiment_id, "awkward läufer 走者 / №1")
    for key, points in AWKWARD_SERIES.items():
        for value, offset_ms, step in points:
            client.log_batch(run_id, metrics=[Metric(key, value, EPOCH_MS + offset_ms, step)])
    for key, text in AWKWARD_PARAMS.items():
        client.log_param(run_id, key, text)
    many = {f"tag_{number:03d}": f"value {number}" for number in range(MANY_TAGS)}
    for key, text in (many | AWKWARD_TAGS).items():
        client.set_tag(run_id, key, text)
    client.set_terminated(run_id, "FINISHED", EPOCH_MS + 60_000)
    return run_id


def _start_run(client: "MlflowClient", experiment_id: str, name: str, parent_run_id: str | None = None) -> str:
    """Create a run that has begun at the fixed time and return its id."""
    tags = {"mlflow.user": "jürgen", "mlflow.source.name": "train.py"}
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    run = client.create_run(experiment_id, start_time=EPOCH_MS, tags=tags, run_name=name)
    return str(run.info.run_id)


def _write_artifacts(client: "MlflowClient", run_id: str, root: Path, big_artifact_bytes: int) -> None:
    """Log files with every name and size that is easily mishandled."""
    _with_files(root, AWKWARD_FILES, lambda folder: client.log_artifacts(run_id, str(folder)))
    big = {"big.bin": random.Random(7).randbytes(big_artifact_bytes)}
    _with_files(root, big, lambda folder: client.log_artifacts(run_id, str(folder), "checkpoints/last"))


def _with_files(root: Path, files: dict[str, bytes], use: Callable[[Path], object]) -> None:
    """Lay out `files` in a temporary folder outside the store, `use` it, remove it."""
    import tempfile

    # Not inside `root`: a reader's test must not find the staging folder.
    with tempfile.TemporaryDirectory(prefix=f"{root.name}-staging-") as staging:
        for name, content in files.items():
            path = Path(staging, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        use(Path(staging))


def _write_family(client: "MlflowClient", experiment_id: str) -> None:
    """Write a parent, three children that ended in different ways, and one still running."""
    parent_id = _start_run(client, experiment_id, "parent")
    client.log_param(parent_id, "trials", 4)
    for number, status in enumerate(("FINISHED", "FAILED", "KILLED", "RUNNING")):
        child_id = _start_run(client, experiment_id, f"child {number}", parent_id)
        client.log_metric(child_id, "score", number / 10, EPOCH_MS + number, number)
        if status != "RUNNING":
            client.set_terminated(child_id, status, EPOCH_MS + 10_000 + number)
    grandchild_id = _start_run(client, experiment_id, "grandchild", child_id)
    client.set_terminated(grandchild_id, "FINISHED", EPOCH_MS + 5_000)
    client.set_terminated(parent_id, "FINISHED", EPOCH_MS + 30_000)
    no_metrics_id = _start_run(client, experiment_id, "no metrics")
    client.log_param(no_metrics_id, "only", "a param")
    client.set_terminated(no_metrics_id, "FINISHED", EPOCH_MS + 1)


def _write_long_series(client: "MlflowClient", experiment_id: str) -> None:
    """Write one series longer than two of MLflow's batches."""
    from mlflow.entities import Metric

    run_id = _start_run(client, experiment_id, "long series")
    points = [Metric("train/loss", 1 / (step + 1), EPOCH_MS + step * 100, step) for step in range(LONG_SERIES_POINTS)]
    for start in range(0, len(points), POINTS_PER_BATCH):
        client.log_batch(run_id, metrics=points[start : start + POINTS_PER_BATCH])
    client.set_terminated(run_id, "FINISHED", EPOCH_MS + LONG_SERIES_POINTS * 100)


def _write_inputs(client: "MlflowClient", experiment_id: str) -> None:
    """Write a run with datasets, shared and not, with tags, and metrics that name a dataset."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", "training")
    schema = '{"mlflow_colspec": [{"type": "double", "name": "größe", "required": true}]}'
    plain = Dataset("iris", "0a1b2c3d", "local", '{"uri": "iris.csv"}', schema, '{"num_rows": 9}')
    awkward = Dataset(SPACED_DATASET, "ffff-0000", "http", '{"url": "https://a.test/x?y=1&z"}')
    run_id = _start_run(client, experiment_id, "with inputs")
    client.log_inputs(
        run_id,
        datasets=[
            DatasetInput(plain, [context, InputTag("split 分", "70 %")]),
            DatasetInput(awkward, []),
        ],
    )
    client.log_metric(run_id, "rmse", 0.5, EPOCH_MS + 3, 3, dataset_name=plain.name, dataset_digest=plain.digest)
    client.set_terminated(run_id, "FINISHED", EPOCH_MS + 2_000)
    second_id = _start_run(client, experiment_id, "with the same input")
    client.log_inputs(second_id, datasets=[DatasetInput(plain, [context])])
    client.set_terminated(second_id, "FINISHED", EPOCH_MS + 2_500)


def _write_logged_models(client: "MlflowClient", experiment_id: str, root: Path) -> None:
    """Write one finished LoggedModel with all it may carry, and one that never got ready."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    run_id = _start_run(client, experiment_id, "with models")
    model = client.create_logged_model(
        experiment_id,
        name="modèle 模型",
        source_run_id=run_id,
        tags={"stage": "kandidat ✓", "empty": ""},
        params={"depth": "3", "long": "p" * 250, "größe": "groß"},
        model_type="Agent",
    )
    files = {"MLmodel": b"flavors: {}\n", "weights/w #1.bin": b"\x00\x01", "weights/empty": b""}
    _with_files(root, files, lambda folder: client.log_model_artifacts(model.model_id, str(folder)))
    for step, accuracy in enumerate((0.5, 0.75, float("nan"))):
        client.log_metric(
            run_id,
            "accuracy",
            accuracy,
            EPOCH_MS + step,
            step,
            model_id=model.model_id,
            dataset_name="iris",
            dataset_digest="0a1b2c3d",
        )
    client.log_metric(run_id, "latency ms", 12.5, EPOCH_MS, 0, model_id=model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=2)])
    pending = client.create_logged_model(experiment_id, name="never ready", source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(pending.model_id, step=0)])
    client.set_terminated(run_id, "FINISHED", EPOCH_MS + 4_000)
    user_id = _start_run(client, experiment_id, "evaluates a model")
    client.log_inputs(user_id, models=[LoggedModelInput(model.model_id)])
    client.set_terminated(user_id, "FINISHED", EPOCH_MS + 5_000)


def _write_spaced_dataset_names(client: "MlflowClient") -> None:
    """Write metrics, of a run and of a model, whose dataset's name holds spaces."""
    experiment_id = client.create_experiment(SPACED_EXPERIMENT)
    run_id = _start_run(client, experiment_id, "spaced")
    model = client.create_logged_model(experiment_id, name="spaced", source_run_id=run_id)
    client.finalize_logged_model(model.model_id, "READY")
    for step, model_id in enumerate((None, model.model_id)):
        client.log_metric(
            run_id,
            "rmse",
            0.5,
            EPOCH_MS + step,
            step,
            model_id=model_id,
            dataset_name=SPACED_DATASET,
            dataset_digest="ffff-0000",
        )
    client.set_terminated(run_id, "FINISHED", EPOCH_MS + 1_000)


def _write_sklearn_model(experiment_id: str) -> None:
    """Log a real scikit-learn model with signature and example."""
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn import linear_model

    features = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 0.5]])
    model = linear_model.LinearRegression().fit(features, features.sum(axis=1))
    with mlflow.start_run(experiment_id=experiment_id, run_name="scikit-learn"):
        mlflow.log_param("fit_intercept", True)
        mlflow.sklearn.log_model(
            model,
            name="regressor",
            signature=infer_signature(features, model.predict(features)),
            input_example=features[:1],
            pip_requirements=["scikit-learn"],  # given: inferring it costs ten seconds
        )


def _write_deletions(client: "MlflowClient", experiment_id: str) -> None:
    """Write a deleted run, a deleted experiment that holds a run, and a plain experiment."""
    deleted_id = _start_run(client, experiment_id, "deleted")
    client.log_metric(deleted_id, "loss", 1.0, EPOCH_MS, 0)
    client.set_terminated(deleted_id, "FINISHED", EPOCH_MS + 1)
    client.delete_run(deleted_id)
    for name in (PLAIN_EXPERIMENT, DELETED_EXPERIMENT):
        other_id = client.create_experiment(name)
        run_id = _start_run(client, other_id, f"run of {name}")
        client.log_metric(run_id, "loss", 1.0, EPOCH_MS, 0)
        client.set_terminated(run_id, "FINISHED", EPOCH_MS + 1)
    client.delete_experiment(other_id)


def _write_giant_tag(root: Path, kind: StoreKind, experiment_id: str, run_id: str) -> None:
    """Put a tag past the client's limit where real stores have one (the largest seen: 81 kB)."""
    pattern = '{"run_id": "größe", "artifact_path": "model"}, '
    value = pattern * (GIANT_TAG_BYTES // len(pattern.encode()))
    if kind == "mlruns":
        tag = root / "mlruns" / experiment_id / run_id / "tags" / GIANT_TAG_KEY
        tag.write_bytes(value.encode())
        return
    database = sqlite3.connect(root / "mlflow.db")
    with database:
        database.execute(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
            (GIANT_TAG_KEY, value, run_id),
        )
    database.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Build both stores below OUT_DIR."""
    parser = argparse.ArgumentParser(description="Write awkward MLflow stores.")
    parser.add_argument("out_dir", type=Path, help="directory to fill")
    parser.add_argument("--kind", choices=get_args(StoreKind), help="only this kind of store")
    parser.add_argument("--big-artifact-bytes", type=int, default=BIG_ARTIFACT_BYTES)
    options = parser.parse_args(arguments)
    kinds = get_args(StoreKind) if options.kind is None else (options.kind,)
    for kind in kinds:
        root = options.out_dir / f"{kind}-store"
        build_awkward_store(root, kind, big_artifact_bytes=options.big_artifact_bytes, sklearn=True)


if __name__ == "__main__":
    main()
