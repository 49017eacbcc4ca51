"""The oracle: everything that is in a source store is on the destination, once, and nothing else is.

It shares no code with syncd: both sides are read here straight from MLflow's files (an SQLite database or a
FileStore; a server's backend is one or the other) and compared value by value, file by file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.standins.mlflow_server import RunningMlflow

Point = tuple[str, float | str, int, int]
SOURCE_ID = "syncd.source_run_id"
SOURCE_MODEL_ID = "syncd.source_model_id"
PARENT = "mlflow.parentRunId"
STATUSES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


@dataclass
class StoredRun:
    """A run or a logged model as its store holds it; ``points`` counts equal ones."""

    id: str
    name: str
    status: str
    start_ms: int | None
    end_ms: int | None
    folder: Path
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: Counter[Point] = field(default_factory=Counter)
    datasets: set[tuple[str, str]] = field(default_factory=set)
    outputs: set[tuple[str, int]] = field(default_factory=set)


@dataclass
class Stored:
    """One experiment of a store."""

    runs: dict[str, StoredRun]
    models: dict[str, StoredRun]
    tags: dict[str, str]


def point(key: str, value: float, timestamp: int, step: int) -> Point:
    """Return a point as an SQL store can hold it: NaN by name, an infinity as the largest double, -0.0 as 0.0."""
    if math.isnan(value):
        return key, "nan", timestamp, step
    if math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return key, value + 0.0, timestamp, step


# -- reading -----------------------------------------------------------------------------------------------------------


def read_store(place: Path, experiment: str, *, artifacts: Path | None = None) -> Stored:
    """Read one experiment of a database file or a FileStore; ``artifacts`` is a server's artifact destination."""
    if place.is_dir():
        return _read_files(place, experiment, artifacts)
    with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=30)) as db:
        db.row_factory = sqlite3.Row
        return _read_database(db, experiment, artifacts)


def read_server(server: RunningMlflow, experiment: str) -> Stored:
    """Read one experiment of a server's backend."""
    database = server.folder / "backend.db"
    return read_store(
        database if database.exists() else server.folder / "backend", experiment, artifacts=server.folder / "artifacts"
    )


def _folder(uri: str, artifacts: Path | None) -> Path:
    if uri.startswith("mlflow-artifacts:"):
        assert artifacts is not None
        return artifacts / uri.removeprefix("mlflow-artifacts:").lstrip("/")
    return Path(uri.removeprefix("file://"))


def _read_database(db: sqlite3.Connection, experiment: str, artifacts: Path | None) -> Stored:
    found = db.execute(
        "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'", (experiment,)
    ).fetchone()
    if found is None:
        return Stored({}, {}, {})
    runs = {
        row["run_uuid"]: StoredRun(
            row["run_uuid"],
            row["name"],
            row["status"],
            row["start_time"],
            row["end_time"] or None,  # a server unsets an end with a 0
            _folder(row["artifact_uri"], artifacts),
        )
        for row in db.execute("SELECT * FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'", (found[0],))
    }
    for run in runs.values():
        for key, value, timestamp, step, is_nan in db.execute(
            "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = ?", (run.id,)
        ):
            run.points[point(key, math.nan if is_nan else value, timestamp, step)] += 1
        run.params = dict(db.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run.id,)))
        run.tags = dict(db.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run.id,)))
        run.datasets = set(
            db.execute(
                "SELECT d.name, d.digest FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id "
                "WHERE i.destination_type = 'RUN' AND i.destination_id = ?",
                (run.id,),
            ).fetchall()
        )
        run.datasets = {tuple(pair) for pair in run.datasets}
        run.outputs = {
            (row[0], row[1])
            for row in db.execute(
                "SELECT destination_id, step FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id = ?", (run.id,)
            )
        }
    models = {}
    for row in db.execute(
        "SELECT * FROM logged_models WHERE experiment_id = ? AND lifecycle_stage = 'active'", (found[0],)
    ):
        model = StoredRun(
            row["model_id"], row["name"], str(row["status"]), None, None, _folder(row["artifact_location"], artifacts)
        )
        model.params = dict(
            db.execute("SELECT param_key, param_value FROM logged_model_params WHERE model_id = ?", (model.id,))
        )
        model.tags = dict(
            db.execute("SELECT tag_key, tag_value FROM logged_model_tags WHERE model_id = ?", (model.id,))
        )
        models[model.id] = model
    tags = dict(db.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", (found[0],)))
    return Stored(runs, models, tags)


def _meta(path: Path) -> dict[str, Any]:
    """Return a meta.yaml; MLflow rewrites it in place, so for a moment it is empty."""
    for _ in range(100):
        head = yaml.safe_load(path.read_text())
        if head:
            return dict(head)
        time.sleep(0.05)
    raise AssertionError(f"{path} stays empty")


def _read_files(root: Path, experiment: str, artifacts: Path | None) -> Stored:
    for meta in root.glob("*/meta.yaml"):
        head = _meta(meta)
        if head.get("name") == experiment and head.get("lifecycle_stage") == "active":
            folder = meta.parent
            break
    else:
        return Stored({}, {}, {})
    runs = {}
    for meta in folder.glob("*/meta.yaml"):
        head = _meta(meta)
        if head.keys().isdisjoint({"run_uuid", "run_id"}) or head.get("lifecycle_stage") == "deleted":
            continue
        run = _run_in_files(meta.parent, head, artifacts)
        runs[run.id] = run
    models = {}
    for meta in folder.glob("models/*/meta.yaml"):
        head = _meta(meta)
        if head.get("lifecycle_stage") == "deleted":
            continue
        model = StoredRun(
            head["model_id"],
            head["name"],
            str(head["status"]),
            None,
            None,
            _folder(head["artifact_location"], artifacts),
        )
        model.params, model.tags = _values(meta.parent / "params"), _values(meta.parent / "tags")
        models[model.id] = model
    return Stored(runs, models, _values(folder / "tags"))


def _run_in_files(folder: Path, head: dict[str, Any], artifacts: Path | None) -> StoredRun:
    status = head["status"]
    run = StoredRun(
        head.get("run_id") or head["run_uuid"],
        head.get("run_name") or "",
        STATUSES[status] if isinstance(status, int) else status,
        head["start_time"],
        head["end_time"],
        _folder(head["artifact_uri"], artifacts),
        params=_values(folder / "params"),
        tags=_values(folder / "tags"),
    )
    for path in _files(folder / "metrics"):
        key = path.relative_to(folder / "metrics").as_posix()
        for line in path.read_text().splitlines():
            words = line.split(" ")
            run.points[point(key, float(words[1]), int(words[0]), int(words[2]) if len(words) > 2 else 0)] += 1
    for meta in (folder / "inputs").glob("*/meta.yaml"):
        link = yaml.safe_load(meta.read_text())
        if link["source_type"] == "DATASET":
            dataset = yaml.safe_load((folder.parent / "datasets" / link["source_id"] / "meta.yaml").read_text())
            run.datasets.add((dataset["name"], dataset["digest"]))
    for meta in (folder / "outputs").glob("*/meta.yaml"):
        link = yaml.safe_load(meta.read_text())
        run.outputs.add((link["destination_id"], int(link.get("step", 0))))
    return run


def _values(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each regular file below a folder, by relative path.

    Where a server is writing, a file may be gone before it is read: it has another name then.
    """
    found = {}
    for path in _files(folder):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# -- comparing ---------------------------------------------------------------------------------------------------------


def differences(
    source: Stored,
    remote: Stored,
    *,
    lost_keys: Collection[str] = (),
    lost_artifacts: Collection[str] = (),
    lost_runs: Collection[str] = (),
) -> list[str]:
    """Return what differs, in words; empty when the destination is exactly right.

    ``lost_keys`` (of metrics, params, tags) and ``lost_artifacts`` must *not* be there: they were refused.
    """
    found: list[str] = []
    twins = Counter(run.tags.get(SOURCE_ID, f"(no source tag) {run.id}") for run in remote.runs.values())
    found += [f"run {key} is there {count} times" for key, count in twins.items() if count > 1]
    found += [f"run {key} is there but not in the source" for key in twins if key not in source.runs]
    by_source = {run.tags.get(SOURCE_ID, ""): run for run in remote.runs.values()}
    model_twins = Counter(model.tags.get(SOURCE_MODEL_ID, "?") for model in remote.models.values())
    found += [f"model {key} is there {count} times" for key, count in model_twins.items() if count > 1]
    models = {model.tags.get(SOURCE_MODEL_ID, ""): model for model in remote.models.values()}
    for key, model in source.models.items():
        if key not in models:
            found.append(f"model {key} is missing")
        else:
            found += [f"model {key}: {text}" for text in _model_differences(model, models[key])]
    for key, run in source.runs.items():
        if key in lost_runs:
            continue
        if key not in by_source:
            found.append(f"run {key} is missing")
            continue
        texts = _run_differences(run, by_source[key], lost_keys, lost_artifacts)
        texts += _link_differences(run, by_source[key], by_source, models)
        found += [f"run {key}: {text}" for text in texts]
    if source.tags.items() - remote.tags.items() and not lost_runs:
        found.append(f"experiment tags: {source.tags} became {remote.tags}")
    return found


def _run_differences(
    run: StoredRun, other: StoredRun, lost_keys: Collection[str], lost_artifacts: Collection[str]
) -> list[str]:
    found = [
        f"{what} {ours!r} became {theirs!r}"
        for what, ours, theirs in (
            ("name", run.name, other.name),
            ("status", run.status, other.status),
            ("start", run.start_ms, other.start_ms),
            ("end", run.end_ms, other.end_ms),
        )
        if ours != theirs
    ]
    wanted = {p for p in run.points if p[0] not in lost_keys}
    found += [f"point {p} is missing" for p in sorted(wanted - other.points.keys(), key=str)[:5]]
    found += [f"point {p} is not in the source" for p in sorted(other.points.keys() - wanted, key=str)[:5]]
    found += [f"point {p} is there {n} times" for p, n in other.points.items() if n > 1][:5]
    params = {key: value for key, value in run.params.items() if key not in lost_keys}
    if params != other.params:
        found.append(f"params {_odd(params, other.params)}")
    over = _overflow(other, "tags")
    tags = {k: v for k, v in run.tags.items() if k not in lost_keys and k not in over and k not in _RENAMED}
    theirs = {k: v for k, v in other.tags.items() if not k.startswith("syncd.") and k not in _RENAMED}
    if tags != theirs:
        found.append(f"tags {_odd(tags, theirs)}")
    found += [f"tag {k} in the overflow differs" for k, v in over.items() if run.tags.get(k) != v]
    found += _artifact_differences(run, other, lost_artifacts)
    if run.datasets != other.datasets:
        found.append(f"datasets {run.datasets} became {other.datasets}")
    return found


_RENAMED = {PARENT, "mlflow.runName"}  # the parent's id is another there; the name is compared as the run's name


def _artifact_differences(run: StoredRun, other: StoredRun, lost: Collection[str]) -> list[str]:
    renamed = _overflow(other, "artifacts")
    ours = {renamed.get(k, k): v for k, v in digests(run.folder).items() if k not in lost}
    theirs = digests(other.folder)
    theirs = {k: v for k, v in theirs.items() if k in renamed.values() or not k.startswith("syncd/overflow/")}
    return [f"artifacts {_odd(ours, theirs)}"] if ours != theirs else []


def _model_differences(model: StoredRun, other: StoredRun) -> list[str]:
    found = [] if (model.name, model.status) == (other.name, other.status) else ["name or status"]
    if model.params != other.params:
        found.append(f"params {_odd(model.params, other.params)}")
    theirs = {key: value for key, value in other.tags.items() if not key.startswith("syncd.")}
    if model.tags != theirs:
        found.append(f"tags {_odd(model.tags, theirs)}")
    return found + _artifact_differences(model, other, ())


def _link_differences(
    run: StoredRun, other: StoredRun, runs: dict[str, StoredRun], models: dict[str, StoredRun]
) -> list[str]:
    found = []
    parent = run.tags.get(PARENT)
    if parent and other.tags.get(PARENT) != (runs[parent].id if parent in runs else parent):
        found.append(f"parent {parent} became {other.tags.get(PARENT)}")
    outputs = {(models[key].id if key in models else key, step) for key, step in run.outputs}
    if outputs != other.outputs:
        found.append(f"outputs {outputs} became {other.outputs}")
    return found


def _overflow(run: StoredRun, section: str) -> dict[str, str]:
    path = run.folder / "syncd" / "overflow" / f"{section}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _odd(ours: dict[str, str], theirs: dict[str, str]) -> str:
    def short(values: dict[str, str], others: dict[str, str]) -> dict[str, str]:
        return {k: v[:40] for k, v in values.items() if others.get(k) != v}

    return f"{short(ours, theirs)} became {short(theirs, ours)}"
