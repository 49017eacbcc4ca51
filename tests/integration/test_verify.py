"""``syncd verify`` against a real server: a faithful copy has no difference, and each way of spoiling it is found.

The copy is made with MLflow's own client, so that neither side depends on what syncd sends.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
import sqlite3
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from syncd.cli import verify as command
from syncd.cli.main import main
from syncd.destinations.base import RemoteSubject
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.errors import Transient
from tests.standins.fault_proxy import FaultProxy, Rule
from tests.standins.forks import Forked
from tests.standins.mlflow_server import QUIET, RunningMlflow, fresh_database

API = "/api/2.0/mlflow"
EXPERIMENT = "verified"
LONG = "x" * 20_000
T0 = 1_700_000_000_000

WRITE_SOURCE = """
import pathlib, sys
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
folder = pathlib.Path(sys.argv[1])
client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
experiment = client.create_experiment("verified", artifact_location=str(folder / "artifacts"), tags={"team": "a"})
client.create_experiment("without runs", tags={"mlflow.note.content": "note"})
files = folder / "files"
(files / "deep").mkdir(parents=True)
(files / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 5000)
(files / "empty").write_bytes(b"")
(files / "hash#name.txt").write_bytes(b"hash")

parent = client.create_run(experiment, start_time=1_700_000_000_000, run_name="parent", tags={"mlflow.user": "me"})
run_id = parent.info.run_id
points = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(2500)]
for start in range(0, 2500, 1000):
    client.log_batch(run_id, metrics=points[start : start + 1000])
odd = [float("nan"), float("inf"), float("-inf"), -0.0, 1e308]
client.log_batch(run_id, metrics=[Metric("odd", value, 1_700_000_000_000, step) for step, value in enumerate(odd)])
client.log_batch(run_id, params=[Param("lr", "0.1"), Param("empty", "")], tags=[RunTag("candidate", "true")])
client.log_artifacts(run_id, str(files))
dataset = Dataset("train", "digest1", "local", "{}", "schema", "profile")
client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
model = client.create_logged_model(experiment, "model", run_id, tags={"t": "1"}, params={"p": "1"}, model_type="m")
client.log_model_artifacts(model.model_id, str(files / "deep"))
client.finalize_logged_model(model.model_id, "READY")
client.log_metric(run_id, "accuracy", 0.5, 1_700_000_000_000, 1, model_id=model.model_id)
client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
client.set_terminated(run_id, "FINISHED", 1_700_000_009_000)

child = client.create_run(experiment, start_time=5, run_name="child", tags={"mlflow.parentRunId": run_id})
client.log_metric(child.info.run_id, "loss", 2.0, 7, 0)
client.set_terminated(child.info.run_id, "FAILED", 9)
client.create_run(experiment, start_time=6, run_name="still running")

import sqlite3
with sqlite3.connect(folder / "mlflow.db") as db:  # longer than MLflow's own client lets through
    db.execute("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", ("long", "x" * 20_000, run_id))
"""

COPY = """
import json, pathlib, shutil, sys, tempfile
import mlflow.entities as e
from mlflow.tracking import MlflowClient
folder, url, prefix = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
source, there = MlflowClient(f"sqlite:///{folder}/mlflow.db"), MlflowClient(url)
experiment = there.create_experiment("verified", tags={"team": "a"})
there.create_experiment("without runs", tags={"mlflow.note.content": "note"})
ids, models = {}, {}
runs = source.search_runs([source.get_experiment_by_name("verified").experiment_id], order_by=["start_time DESC"])
for run in runs:
    tags = {k: v for k, v in run.data.tags.items() if k not in ("long", "mlflow.parentRunId")}
    parent = run.data.tags.get("mlflow.parentRunId")
    if parent:
        tags["mlflow.parentRunId"] = ids[parent]
    copy = there.create_run(
        experiment, start_time=run.info.start_time, run_name=run.info.run_name,
        tags={**tags, "syncd.source_run_id": run.info.run_id, "syncd.source": "copy"},
    ).info.run_id
    ids[run.info.run_id] = copy
    there.log_batch(copy, params=[e.Param(k, v) for k, v in run.data.params.items()])
    for key in run.data.metrics:
        history = source.get_metric_history(run.info.run_id, key)
        for start in range(0, len(history), 1000):
            batch = [e.Metric(m.key, m.value, m.timestamp, m.step) for m in history[start : start + 1000]]
            there.log_batch(copy, metrics=batch)
    if run.inputs.dataset_inputs:
        there.log_inputs(copy, run.inputs.dataset_inputs)
    if run.info.run_name == "parent":
        with tempfile.TemporaryDirectory() as temp:
            files = pathlib.Path(temp)
            shutil.copytree(folder / "files", files, dirs_exist_ok=True)
            over = files / "syncd" / "overflow" / "artifacts"
            over.mkdir(parents=True)
            (files / "hash#name.txt").rename(over / "stored.txt")
            stored = {"hash#name.txt": "syncd/overflow/artifacts/stored.txt"}
            (over.parent / "artifacts.json").write_text(json.dumps(stored))
            (over.parent / "tags.json").write_text(json.dumps({"long": "x" * 20_000}))
            there.log_artifacts(copy, temp)
    if run.info.status != "RUNNING":
        there.set_terminated(copy, run.info.status, run.info.end_time)
for model in source.search_logged_models([source.get_experiment_by_name("verified").experiment_id]):
    run_id = ids[model.source_run_id]
    copy = there.create_logged_model(
        experiment, model.name, run_id, tags={**model.tags, "syncd.source_model_id": model.model_id},
        params=model.params, model_type=model.model_type,
    ).model_id
    there.log_model_artifacts(copy, str(folder / "files" / "deep"))
    for m in model.metrics:
        there.log_metric(run_id, m.key, m.value, m.timestamp, m.step, model_id=copy)
    there.finalize_logged_model(copy, str(model.status))
    there.log_outputs(run_id, [e.LoggedModelOutput(copy, 0)])
    models[model.model_id] = copy
names = {run.info.run_name: run.info.run_id for run in runs}
print(json.dumps({"experiment": experiment, "names": names, "runs": ids, "models": models}))
"""


@dataclass
class Copy:
    """A store, its faithful copy on a server, and ways to spoil the copy that are undone at the end of a test."""

    source: Path
    server: RunningMlflow
    names: dict[str, str]
    runs: dict[str, str]
    models: dict[str, str]
    experiment: str
    undo: list[Callable[[], object]] = field(default_factory=list)

    @property
    def parent(self) -> str:
        return self.runs[self.names["parent"]]

    @property
    def child(self) -> str:
        return self.runs[self.names["child"]]

    @property
    def model(self) -> str:
        [model] = self.models.values()
        return model

    def artifact(self, path: str) -> Path:
        return self.server.folder / "artifacts" / self.experiment / self.parent / "artifacts" / path

    def spoil(self, table: str, sql: str, *parameters: object) -> None:
        """Change a table of the server's database; the whole table is put back afterwards."""
        with closing(sqlite3.connect(self.server.folder / "backend.db", timeout=30)) as db, db:
            before = db.execute(f"SELECT * FROM {table}").fetchall()
            assert db.execute(sql, parameters).rowcount > 0, "the test spoils nothing"
        self.undo.append(lambda: self._put_back(table, before))

    def _put_back(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        with closing(sqlite3.connect(self.server.folder / "backend.db", timeout=30)) as db, db:
            db.execute(f"DELETE FROM {table}")
            db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)

    def spoil_file(self, path: str, content: bytes | None) -> None:
        """Replace, make or (None) remove an artifact."""
        file = self.artifact(path)
        before = file.read_bytes() if file.exists() else None
        self._write(file, content)
        self.undo.append(lambda: self._write(file, before))

    @staticmethod
    def _write(file: Path, content: bytes | None) -> None:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.server.url}{API}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def run_mlflow(program: str, *arguments: str, folder: Path) -> str:
    log = folder / "program.log"
    log.unlink(missing_ok=True)
    code = Forked("tests.standins.mlflow_app:execute", program, list(arguments), log=log, environment=QUIET).wait(280)
    printed = log.read_text(errors="replace")
    assert code == 0, printed[-3000:]
    return printed


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify-source")
    shutil.copyfile(fresh_database(), folder / "mlflow.db")
    run_mlflow(WRITE_SOURCE, str(folder), folder=folder)
    return folder


def make_copy(source: Path, server: RunningMlflow) -> Copy:
    printed = run_mlflow(COPY, str(source), server.url, "", folder=server.folder)
    made = json.loads(printed.splitlines()[-1])
    return Copy(source / "mlflow.db", server, **made)


@pytest.fixture(scope="module")
def sql_copy(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with RunningMlflow(tmp_path_factory.mktemp("verify-server")) as server:
        yield make_copy(source, server)


@pytest.fixture
def copy(sql_copy: Copy) -> Iterator[Copy]:
    yield sql_copy
    while sql_copy.undo:
        sql_copy.undo.pop()()


def verify(copy: Copy, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["verify", str(copy.source), *more, "--against", copy.server.url, "--json"])
    return code, json.loads(capsys.readouterr().out)


def found(copy: Copy, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str, str]]:
    code, report = verify(copy, capsys)
    assert code == (4 if report["differences"] else 0)
    assert report["equal"] is (code == 0)
    return [(d["kind"], d["part"], d["key"]) for d in report["differences"]]


# -- a faithful copy


def test_a_faithful_copy_has_no_difference(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = verify(copy, capsys)
    assert report["differences"] == []
    assert code == 0
    assert report["overflow"] == {"params": 0, "tags": 1, "artifacts": 1, "points": 0, "datasets": 0}
    size_bytes = 2 * 256 * 5000 + len(b"hash")
    assert report["compared"] | {"tags": 0} == {
        "experiments": 3,
        "runs": 3,
        "models": 1,
        "points": 2500 + 5 + 1 + 1 + 1,  # a point of a model is one of its run, too
        "params": 3,
        "tags": 0,
        "datasets": 1,
        "artifacts": 4,
        "bytes": size_bytes,
    }


def test_it_writes_nothing_into_the_source(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.source.parent.rglob("*")}
    verify(copy, capsys)
    assert {path: path.stat().st_mtime_ns for path in copy.source.parent.rglob("*")} == before


# -- points


def test_a_changed_point(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("metrics", "UPDATE metrics SET value = 9 WHERE run_uuid = ? AND key = 'loss' AND step = 7", copy.parent)
    code, report = verify(copy, capsys)
    missing, extra = report["differences"]
    assert code == 4
    assert (missing["kind"], missing["key"], missing["count"]) == ("missing", "loss", 1)
    assert missing["id"] == copy.names["parent"]
    assert missing["destination_id"] == copy.parent
    assert missing["examples"] == [f"0.125 at step 7, {T0 + 7} ms"]
    assert (extra["kind"], extra["examples"]) == ("extra", [f"9.0 at step 7, {T0 + 7} ms"])


def test_a_point_at_another_time(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("metrics", "UPDATE metrics SET timestamp = timestamp + 1 WHERE run_uuid = ?", copy.child)
    assert found(copy, capsys) == [("missing", "points", "loss"), ("extra", "points", "loss")]


def test_a_missing_point(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("metrics", "DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND step = 2499", copy.parent)
    assert found(copy, capsys) == [("missing", "points", "loss")]


def test_a_missing_nan_and_a_nan_too_many(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("metrics", "UPDATE metrics SET step = 77 WHERE is_nan AND run_uuid = ?", copy.parent)
    assert found(copy, capsys) == [("missing", "points", "odd"), ("extra", "points", "odd")]


def test_an_extra_point(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("metrics", "INSERT INTO metrics SELECT key, value, timestamp, run_uuid, 99, is_nan FROM metrics "
               "WHERE run_uuid = ? AND key = 'loss' AND step = 3", copy.parent)  # fmt: skip
    assert found(copy, capsys) == [("extra", "points", "loss")]


def test_a_metric_that_the_source_does_not_have(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    for table in ("metrics", "latest_metrics"):
        copy.spoil(table, f"UPDATE {table} SET key = 'other' WHERE run_uuid = ?", copy.child)
    assert found(copy, capsys) == [("missing", "points", "loss"), ("extra", "points", "other")]


def test_a_point_twice_on_a_server_that_appends(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningMlflow(tmp_path / "server", backend="file") as server:
        copy = make_copy(source, server)
        point = {"run_id": copy.child, "key": "loss", "value": 2.0, "timestamp": 7, "step": 0}
        before = found(copy, capsys)
        copy.post("runs/log-metric", point)
        after = found(copy, capsys)
    assert [d for d in before if d[0] == "twice"] == [("twice", "points", "accuracy")]  # the copy's own, of the model
    assert set(after) - set(before) == {("twice", "points", "loss")}


# -- params, tags, heads


@pytest.mark.parametrize(
    ("table", "sql", "difference"),
    [
        ("tags", "UPDATE tags SET value = 'false' WHERE key = 'candidate' AND run_uuid = ?", ("different", "tag")),
        ("tags", "DELETE FROM tags WHERE key = 'candidate' AND run_uuid = ?", ("missing", "tag")),
        ("params", "UPDATE params SET value = '0.2' WHERE key = 'lr' AND run_uuid = ?", ("different", "param")),
        ("params", "DELETE FROM params WHERE key = 'empty' AND run_uuid = ?", ("missing", "param")),
        ("runs", "UPDATE runs SET end_time = end_time + 1 WHERE run_uuid = ?", ("different", "end time")),
        ("runs", "UPDATE runs SET end_time = NULL WHERE run_uuid = ?", ("different", "end time")),
        ("runs", "UPDATE runs SET start_time = start_time - 1 WHERE run_uuid = ?", ("different", "start time")),
        ("runs", "UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", ("different", "status")),
        ("runs", "UPDATE runs SET user_id = 'you' WHERE run_uuid = ?", ("different", "user")),
    ],
)
def test_a_spoilt_run(
    copy: Copy, capsys: pytest.CaptureFixture[str], table: str, sql: str, difference: tuple[str, str]
) -> None:
    copy.spoil(table, sql, copy.parent)
    assert [d[:2] for d in found(copy, capsys)] == [difference]


def test_an_extra_tag_and_an_extra_param(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("tags", "INSERT INTO tags VALUES ('more', '1', ?)", copy.child)
    copy.spoil("params", "INSERT INTO params VALUES ('more', '1', ?)", copy.child)
    assert found(copy, capsys) == [("extra", "param", "more"), ("extra", "tag", "more")]


def test_another_name(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("runs", "UPDATE runs SET name = 'renamed' WHERE run_uuid = ?", copy.child)
    copy.spoil("tags", "UPDATE tags SET value = 'renamed' WHERE key = 'mlflow.runName' AND run_uuid = ?", copy.child)
    assert found(copy, capsys) == [("different", "name", ""), ("different", "tag", "mlflow.runName")]


def test_a_wrong_parent(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "UPDATE tags SET value = ? WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
    copy.spoil("tags", sql, copy.runs[copy.names["still running"]], copy.child)
    assert found(copy, capsys) == [("different", "parent", "")]


def test_a_parent_under_its_old_id(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "UPDATE tags SET value = ? WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
    copy.spoil("tags", sql, copy.names["parent"], copy.child)
    assert found(copy, capsys) == [("different", "parent", "")]


def test_a_spoilt_overflow_document(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil_file("syncd/overflow/tags.json", json.dumps({"long": LONG[:-1]}).encode())
    assert found(copy, capsys) == [("different", "tag", "long")]
    copy.spoil_file("syncd/overflow/tags.json", b"{")
    assert found(copy, capsys) == [("unreadable", "artifact", "syncd/overflow/tags.json"), ("missing", "tag", "long")]


# -- artifacts


def test_one_flipped_byte(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(copy.artifact("deep/weights.bin").read_bytes())
    content[1_100_000] ^= 1
    copy.spoil_file("deep/weights.bin", bytes(content))
    assert found(copy, capsys) == [("different", "artifact", "deep/weights.bin")]


@pytest.mark.parametrize(
    ("path", "content", "difference"),
    [
        ("deep/weights.bin", None, ("missing", "artifact", "deep/weights.bin")),
        ("deep/weights.bin", b"short", ("different", "artifact", "deep/weights.bin")),
        ("empty", b"x", ("different", "artifact", "empty")),
        ("empty", None, ("missing", "artifact", "empty")),
        ("more.txt", b"x", ("extra", "artifact", "more.txt")),
        ("syncd/overflow/artifacts/stored.txt", b"HASH", ("different", "artifact", "hash#name.txt")),
        ("syncd/overflow/artifacts/stored.txt", None, ("missing", "artifact", "hash#name.txt")),
    ],
)
def test_a_spoilt_artifact(
    copy: Copy,
    capsys: pytest.CaptureFixture[str],
    path: str,
    content: bytes | None,
    difference: tuple[str, str, str],
) -> None:
    copy.spoil_file(path, content)
    assert found(copy, capsys) == [difference]


def test_a_local_file_that_cannot_be_read_is_named(
    copy: Copy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncd.destinations.local_upload import LocalUpload

    real = LocalUpload._open

    def without_empty(self: LocalUpload) -> int:
        if self.path == "empty":
            raise self._missing("Permission denied")
        return real(self)

    monkeypatch.setattr(LocalUpload, "_open", without_empty)
    code, report = verify(copy, capsys)
    assert code == 0
    [problem] = report["problems"]
    assert "empty" in problem["where"]
    assert "Permission denied" in problem["what"]


# -- runs


def test_a_twin(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    tags = [{"key": "syncd.source_run_id", "value": copy.names["child"]}]
    twin = copy.post("runs/create", {"experiment_id": copy.experiment, "tags": tags})["run"]["info"]["run_id"]
    copy.undo.append(lambda: copy.post("runs/delete", {"run_id": twin}))
    code, report = verify(copy, capsys)
    [difference] = report["differences"]
    assert (code, difference["kind"], difference["part"]) == (4, "twice", "run")
    assert twin in difference["destination_value"]
    assert copy.child in difference["destination_value"]


def test_a_missing_run(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.post("runs/delete", {"run_id": copy.child})
    copy.undo.append(lambda: copy.post("runs/restore", {"run_id": copy.child}))
    assert found(copy, capsys) == [("missing", "run", "")]


def test_a_run_in_another_experiment(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("runs", "UPDATE runs SET experiment_id = 0 WHERE run_uuid = ?", copy.child)
    _, report = verify(copy, capsys)
    [difference] = report["differences"]
    assert (difference["kind"], difference["part"]) == ("missing", "run")
    assert difference["detail"] == f"it is {copy.child} in experiment 'Default'"


# -- datasets, models, experiments


@pytest.mark.parametrize(
    ("table", "sql", "difference"),
    [
        ("inputs", "DELETE FROM inputs WHERE source_type = 'DATASET'", ("missing", "dataset", "train digest1")),
        ("datasets", "UPDATE datasets SET dataset_schema = 'x'", ("different", "dataset schema", "train digest1")),
        ("logged_models", "UPDATE logged_models SET name = 'x'", ("different", "name", "")),
        ("logged_models", "UPDATE logged_models SET model_type = 'x'", ("different", "type", "")),
        ("logged_models", "UPDATE logged_models SET status = 1", ("different", "status", "")),
        ("logged_models", "UPDATE logged_models SET source_run_id = 'x'", ("different", "source run", "")),
        ("logged_model_params", "UPDATE logged_model_params SET param_value = 'x'", ("different", "param", "p")),
        ("logged_model_tags", "DELETE FROM logged_model_tags WHERE tag_key = 't'", ("missing", "tag", "t")),
        ("logged_model_metrics", "DELETE FROM logged_model_metrics", ("missing", "model points", "accuracy")),
        ("experiment_tags", "UPDATE experiment_tags SET value = 'b' WHERE key = 'team'", ("different", "tag", "team")),
        (
            "experiment_tags",
            "DELETE FROM experiment_tags WHERE key = 'mlflow.note.content'",
            ("missing", "tag", "mlflow.note.content"),
        ),
        ("experiments", "UPDATE experiments SET name = 'x' WHERE name = 'without runs'", ("missing", "experiment", "")),
    ],
)
def test_what_else_may_be_spoilt(
    copy: Copy, capsys: pytest.CaptureFixture[str], table: str, sql: str, difference: tuple[str, str, str]
) -> None:
    copy.spoil(table, sql)
    assert found(copy, capsys) == [difference]


def test_a_link_to_a_model(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("inputs", "DELETE FROM inputs WHERE destination_type LIKE '%MODEL%'")
    assert found(copy, capsys) == [("missing", "model output", next(iter(copy.models)))]


def test_the_step_of_a_model_output(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("inputs", "UPDATE inputs SET step = 5 WHERE source_type = 'RUN_OUTPUT'")
    _, report = verify(copy, capsys)
    [difference] = report["differences"]
    model = next(iter(copy.models))
    assert (difference["kind"], difference["part"], difference["key"]) == ("different", "model output step", model)
    assert (difference["source_value"], difference["destination_value"]) == ("0", "5")


def test_a_dataset_of_which_the_first_was_kept_is_a_note(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("datasets", "UPDATE datasets SET dataset_profile = 'x'")
    code, report = verify(copy, capsys)
    assert (code, [note["part"] for note in report["notes"]]) == (0, ["dataset"])


def test_a_missing_model(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("logged_model_tags", "DELETE FROM logged_model_tags WHERE tag_key = 'syncd.source_model_id'")
    model = next(iter(copy.models))
    assert found(copy, capsys) == [
        ("missing", "model", ""),
        ("missing", "model output", model),
        ("extra", "model output", copy.model),
    ]


def test_a_second_store_with_the_experiment(copy: Copy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "mlruns" / "0"
    (folder / "tags").mkdir(parents=True)
    (folder / "meta.yaml").write_text(
        f"artifact_location: ./mlruns/0\nexperiment_id: '0'\nlifecycle_stage: active\nname: {EXPERIMENT}\n"
    )
    (folder / "tags" / "second").write_text("1")
    copy.spoil("experiment_tags", "INSERT INTO experiment_tags VALUES ('second', '1', ?)", copy.experiment)
    code, report = verify(copy, capsys)
    assert (code, [note["key"] for note in report["notes"]]) == (0, ["second"])
    code, report = verify(copy, capsys, str(tmp_path / "mlruns"))
    assert (code, report["differences"], report["notes"]) == (0, [], [])


# -- the command


def test_lines_for_people(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.spoil("params", "UPDATE params SET value = '0.2' WHERE key = 'lr'")
    assert main(["verify", str(copy.source), "--against", copy.server.url]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"different  run {copy.names['parent']} 'parent': param lr: source 0.1, destination 0.2"
    assert "3 runs, 1 models, 2508 points" in lines[1]
    assert "1 tags, 1 artifacts under other names" in lines[2]
    assert lines[-1] == "1 differences"


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, *, times: int) -> Iterator[list[int]]:
    """Break the first downloads of an artifact in the middle."""
    real, left = MlflowReader.content, [times]

    async def content(self: MlflowReader, subject: RemoteSubject, path: str) -> Any:
        async for piece in real(self, subject, path):
            yield piece
            if left[0]:
                left[0] -= 1
                raise Transient("cut")

    monkeypatch.setattr(MlflowReader, "content", content)
    monkeypatch.setattr("syncd.verification.reading_back._wait", lambda _state: 0.0)
    yield left


def test_a_broken_download_begins_again(
    copy: Copy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(monkeypatch, times=3) as left:
        assert found(copy, capsys) == []
    assert left == [0]


def test_a_destination_that_stays_away(
    copy: Copy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(monkeypatch, times=10**6):
        assert main(["verify", str(copy.source), "--against", copy.server.url]) == 75
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    capsys.readouterr()
    assert main(["verify", str(copy.source), "--against", f"http://127.0.0.1:{port}", "--json"]) == 75
    told = capsys.readouterr()
    assert "syncd verify:" in told.err
    error = json.loads(told.out)["error"]
    assert (error["kind"], error["exit_code"]) == ("Transient", 75)


@pytest.mark.parametrize(
    ("token", "words"),
    [("wrong", "the server refuses these credentials"), ("", "the server refuses to answer without credentials")],
)
async def test_refused_credentials_are_no_silence(
    copy: Copy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, token: str, words: str
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    if token:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    monkeypatch.setattr("syncd.verification.reading_back._wait", lambda _state: 60.0)  # it is not waited for
    async with FaultProxy(copy.server.url) as proxy:
        proxy.add(Rule("answer", status=401, body='{"error_code":"UNAUTHENTICATED","message":"no such token"}'))
        code = await asyncio.to_thread(main, ["verify", str(copy.source), "--against", proxy.url, "--json"])
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert (code, error["kind"], error["exit_code"]) == (75, "AuthFailed", 75)
    for text in (told.err, error["message"]):
        assert f"{words}: 401 UNAUTHENTICATED: no such token" in text
    for text in (told.err, error["hint"]):
        assert "check the credentials and what they may do" in text
        assert "MLFLOW_TRACKING_TOKEN" in text


def test_a_source_that_is_not_there(copy: Copy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path / "no"), "--against", copy.server.url, "--json"]) == 78
    assert command.ExitCode.CONFIGURATION == 78
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"]) == ("ConfigError", 78)
    assert str(tmp_path / "no") in error["target"]


def test_infinities_held_as_the_largest_double_are_a_note(
    copy: Copy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(copy.server.folder / "backend.db")) as db:
        [largest] = db.execute("SELECT max(value) FROM metrics WHERE key = 'odd'").fetchone()
    assert largest == sys.float_info.max < math.inf
    faithful = replace(copy, source=tmp_path / "mlflow.db")  # a store that holds infinities, as a FileStore does
    shutil.copy(copy.source, faithful.source)
    with closing(sqlite3.connect(faithful.source)) as db, db:
        db.execute("UPDATE metrics SET value = 9e999 WHERE value = ?", [largest])
        db.execute("UPDATE metrics SET value = -9e999 WHERE value = ?", [-largest])
    code, report = verify(faithful, capsys)
    [note] = report["notes"]
    what = "2 infinities are held as the largest double, ±1.797e308: "
    what += f"inf at step 1, {T0} ms; -inf at step 2, {T0} ms"
    assert (code, report["differences"]) == (0, [])
    assert (note["id"], note["part"], note["key"], note["what"]) == (copy.names["parent"], "points", "odd", what)
    assert main(["verify", str(faithful.source), "--against", copy.server.url]) == 0
    assert f"note       run {copy.names['parent']} 'parent': points odd: {what}\n" in capsys.readouterr().err
    _, report = verify(copy, capsys)
    assert report["notes"] == []  # that store holds the largest double itself
