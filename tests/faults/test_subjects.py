"""Subjects that stand oddly to each other: circles of parents, deletions with a backlog, large models, live stores."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from tests.faults import oracle, stores
from tests.faults.conftest import Case
from tests.faults.pipelines import deliver
from tests.faults.test_poison import execute, letters
from tests.standins.fault_proxy import FaultProxy, Rule
from tests.standins.mlflow_server import RunningMlflow


async def test_runs_that_are_each_others_parents_arrive(case: Case) -> None:
    parent, child, alone = (case.run_named(start).id for start in ("parent", "child", "still running"))
    for key, value in ((parent, child), (alone, alone)):
        execute(case, "INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.parentRunId', ?, ?)", value, key)
    done = await deliver(case.database, case.server.url, case.state)
    assert (done.code, done.faults, done.totals["dead_letters"]) == (0, [], 0)
    again = await deliver(case.database, case.server.url, case.folder / "another state")
    assert (again.code, again.faults) == (0, [])
    held = oracle.read_server(case.server, case.experiment).runs
    by_source = {run.tags[oracle.SOURCE_ID]: run for run in held.values()}
    assert len(held) == len(by_source) == len(oracle.read_store(case.database, case.experiment).runs)
    assert by_source[child].tags["mlflow.parentRunId"] == by_source[parent].id


@pytest.mark.parametrize("on_delete", ["keep", "delete"])
async def test_a_run_that_is_deleted_while_much_of_it_waits(case: Case, on_delete: Literal["keep", "delete"]) -> None:
    parent = case.run_named("parent").id
    async with FaultProxy(case.server.url) as proxy:
        proxy.add(Rule("answer", status=503, path="log-batch"))
        stopped = await deliver(case.database, proxy.url, case.state, patience_s=1.0)
        assert stopped.code == 75
        assert stopped.totals["points_waiting"] > 0
        was = oracle.read_store(case.database, case.experiment).runs[parent]
        execute(case, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", parent)
        proxy.clear()
        done = await deliver(case.database, proxy.url, case.state, on_delete=on_delete)
    assert (done.code, done.faults, done.totals["dead_letters"]) == (0, [], 0)
    assert [done.totals[f"{what}_waiting"] for what in ("points", "artifacts", "bytes")] == [0, 0, 0]
    held = [
        run
        for run in oracle.read_server(case.server, case.experiment).runs.values()
        if run.tags.get(oracle.SOURCE_ID) == parent
    ]
    if on_delete == "delete":
        assert held == []
        return
    [kept] = held
    assert kept.points == was.points
    assert kept.params == was.params
    assert oracle.digests(was.folder).items() <= oracle.digests(kept.folder).items()


async def test_a_model_with_more_params_than_one_request_takes(case: Case) -> None:
    [model] = oracle.read_store(case.database, case.experiment).models
    with closing(sqlite3.connect(case.database)) as db, db:
        [experiment] = db.execute("SELECT experiment_id FROM logged_models WHERE model_id = ?", (model,)).fetchone()
        db.executemany(
            "INSERT INTO logged_model_params (model_id, experiment_id, param_key, param_value) VALUES (?, ?, ?, ?)",
            [(model, experiment, f"many {number}", str(number)) for number in range(250)],
        )
    done = await deliver(case.database, case.server.url, case.state)
    assert (done.code, done.faults, done.totals["dead_letters"]) == (0, [], 0)
    case.check()


async def test_a_limit_of_params_counts_what_the_run_has_from_earlier(case: Case) -> None:
    child = case.run_named("child").id
    few = {"limit_overrides": {"params_per_run": 6}}
    assert (await deliver(case.database, case.server.url, case.state, settings=few)).totals["overflow"] == 1
    for number in range(5, 9):
        execute(case, "INSERT INTO params (key, value, run_uuid) VALUES (?, 'v', ?)", f"p{number}", child)
    done = await deliver(case.database, case.server.url, case.state, settings=few)
    assert (done.code, done.faults, done.totals["overflow"]) == (0, [], 1 + 3)
    held = next(run for run in oracle.read_server(case.server, case.experiment).runs.values() if run.name == "child")
    assert set(held.params) == {f"p{number}" for number in range(6)}
    kept = json.loads((held.folder / "syncd/overflow/params.json").read_text())
    assert kept == {f"p{number}": "v" for number in range(6, 9)}


async def test_a_refused_tag_of_an_experiment_leaves_the_others(case: Case) -> None:
    for key in ("a" * 251, "good one"):  # the server takes them one by one: the refused one comes first
        execute(
            case,
            "INSERT INTO experiment_tags (key, value, experiment_id) "
            "SELECT ?, 'v', experiment_id FROM experiments WHERE name = ?",
            key,
            case.experiment,
        )
    await deliver(case.database, case.server.url, case.state)
    [letter] = letters(case)
    assert "maximum length of 250" in str(letter["reason"])
    held = oracle.read_server(case.server, case.experiment).tags
    assert held["good one"] == "v"
    assert held["team"] == "ü"


async def test_a_sync_beside_a_training_ends(mlflow_server: RunningMlflow, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    training = stores.forked("train", f"sqlite:///{database}", "beside", 240.0, cwd=tmp_path)
    try:
        async with asyncio.timeout(100):
            while _points(database) <= 100:  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.1)
        done = await deliver(database, mlflow_server.url, tmp_path / "state")
        assert training.poll() is None
        assert (done.code, done.faults) == (0, [])
        assert done.totals["points"] > 100
        (tmp_path / "stop").touch()
        assert await asyncio.to_thread(training.wait, 60) == 0
    finally:
        training.kill()
        training.wait()
    assert (await deliver(database, mlflow_server.url, tmp_path / "state")).code == 0
    found = oracle.differences(oracle.read_store(database, "beside"), oracle.read_server(mlflow_server, "beside"))
    assert found == []


def _points(database: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
