"""``syncd sync`` and ``syncd verify`` as a user runs them, on awkward stores and a real server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from syncd.journal.journal import Journal
from tests.awkward import build_awkward_store
from tests.standins.mlflow_server import RunningMlflow

BIG_ARTIFACT_BYTES = 20_000_000


def syncd(*arguments, expect=0, timeout_s=180):
    """Run the command; return its JSON object if it was asked for, else its output."""
    finished = subprocess.run(
        [sys.executable, "-m", "syncd.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert finished.returncode == expect, finished.stdout + finished.stderr
    return json.loads(finished.stdout) if "--json" in arguments else finished.stdout + finished.stderr


def every_byte(folder: Path) -> dict[str, tuple[str, int]]:
    """Name every file and directory below a folder with its content's hash and its mtime."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


def store_path(folder: Path, kind: str) -> Path:
    return folder / "mlflow.db" if kind == "mlflow-db" else folder


@pytest.fixture(scope="module", params=["mlruns", "mlflow-db"])
def awkward(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build_awkward_store(folder, request.param, big_artifact_bytes=BIG_ARTIFACT_BYTES, sklearn=True)
    return folder, store_path(folder, request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunningMlflow(tmp_path_factory.mktemp("server")) as running:
        yield running


def rows_of(server: RunningMlflow) -> dict[str, list[tuple[object, ...]]]:
    """Return everything the server holds of runs and points, without its own timestamps."""
    with sqlite3.connect(f"file:{server.folder / 'backend.db'}?mode=ro", uri=True) as database:
        return {
            "runs": sorted(database.execute("SELECT run_uuid, name, status, start_time, end_time FROM runs")),
            "metrics": sorted(
                database.execute("SELECT run_uuid, key, CAST(value AS TEXT), timestamp, step, is_nan FROM metrics")
            ),
            "params": sorted(database.execute("SELECT run_uuid, key, value FROM params")),
            "tags": sorted(database.execute("SELECT run_uuid, key, value FROM tags")),
            "models": sorted(database.execute("SELECT model_id, name, status FROM logged_models")),
        }


def test_an_awkward_store_arrives_equal_once_and_unchanged(awkward, server, tmp_path):
    folder, source = awkward
    before = every_byte(folder)
    state = tmp_path / "state"
    first = syncd("sync", source, "--to", server.url, "--state-dir", state, "--json")
    assert first["points"] > 2500
    assert first["runs"] >= 10
    assert first["dead_letters"] == 0
    compared = syncd("verify", source, "--against", server.url, "--json")
    assert compared["differences"] == []
    assert compared["compared"]["points"] > 2500
    held = rows_of(server)

    second = syncd("sync", source, "--to", server.url, "--state-dir", state, "--json")
    assert (second["points"], second["artifacts"], second["bytes"]) == (0, 0, 0)
    assert rows_of(server) == held

    shutil.rmtree(state)
    syncd("sync", source, "--to", server.url, "--state-dir", state, "--json")
    assert rows_of(server) == held
    assert every_byte(folder) == before, "the store was changed"


def test_a_spoiled_point_is_found(awkward, server, tmp_path):
    _, source = awkward
    syncd("sync", source, "--to", server.url, "--state-dir", tmp_path / "state")
    with sqlite3.connect(server.folder / "backend.db", timeout=30) as database:
        rowid, value = database.execute(
            "SELECT m.rowid, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'syncd.source'"
            " WHERE m.is_nan = 0 AND ABS(m.value) < 1000 AND t.value = ? LIMIT 1",
            (source.name,),
        ).fetchone()
        database.execute("UPDATE metrics SET value = value + 1 WHERE rowid = ?", (rowid,))
    found = syncd("verify", source, "--against", server.url, "--json", expect=4)
    assert sorted(difference["kind"] for difference in found["differences"]) == ["extra", "missing"]
    with sqlite3.connect(server.folder / "backend.db", timeout=30) as database:
        database.execute("UPDATE metrics SET value = ? WHERE rowid = ?", (value, rowid))
    assert syncd("verify", source, "--against", server.url, "--json")["differences"] == []


def test_a_dry_run_sends_nothing_and_tells_what_is_there(awkward, server, tmp_path):
    _, source = awkward
    held = rows_of(server)
    told = syncd("sync", source, "--to", server.url, "--dry-run", "--json")
    assert sum(experiment["points"] for experiment in told["experiments"]) > 2500
    assert rows_of(server) == held


def test_only_the_named_experiment_is_sent(tmp_path):
    build_awkward_store(tmp_path / "store", "mlruns")
    told = syncd("sync", tmp_path / "store", "--to", "http://127.0.0.1:9", "--dry-run", "--json")
    name = max(told["experiments"], key=lambda experiment: experiment["points"])["name"]
    with RunningMlflow(tmp_path / "server") as server:
        syncd("sync", tmp_path / "store", "--to", server.url, "--state-dir", tmp_path / "s", "--experiment", name)
        with sqlite3.connect(f"file:{server.folder / 'backend.db'}?mode=ro", uri=True) as database:
            names = {row[0] for row in database.execute("SELECT name FROM experiments WHERE experiment_id <> 0")}
            runs = database.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
    assert names - {"Default"} == {name}
    assert runs


# -- bad input -----------------------------------------------------------------------------------------------------


def test_a_directory_that_is_no_store_says_what_was_expected(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    said = syncd("sync", tmp_path / "photos", "--to", "http://127.0.0.1:9", "--state-dir", tmp_path / "s", expect=1)
    assert "photos" in said
    assert "FileStore" in said


def test_a_server_that_does_not_answer_ends_with_75_and_loses_nothing(tmp_path):
    build_awkward_store(tmp_path / "store", "mlruns")
    state = tmp_path / "state"
    said = syncd(
        "sync", tmp_path / "store", "--to", "http://127.0.0.1:9", "--state-dir", state, "--patience", "2", expect=75
    )
    assert "no answer for 2 s" in said
    assert "nothing is lost" in said
    with RunningMlflow(tmp_path / "server") as server:
        syncd("sync", tmp_path / "store", "--to", server.url, "--state-dir", state)
        assert syncd("verify", tmp_path / "store", "--against", server.url, "--json")["differences"] == []


def test_a_second_sync_on_the_same_state_names_the_first(tmp_path, server):
    build_awkward_store(tmp_path / "store", "mlruns")
    held = Journal.open(tmp_path / "state")
    try:
        said = syncd("sync", tmp_path / "store", "--to", server.url, "--state-dir", tmp_path / "state", expect=1)
    finally:
        held.close()
    assert str(os.getpid()) in said
