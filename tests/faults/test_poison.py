"""One bad item among many: it alone is refused, with the server's words; the rest arrives."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import oracle
from tests.faults.conftest import Case
from tests.faults.pipelines import deliver
from tests.faults.processes import syncd
from tests.standins.fault_proxy import FaultProxy, Rule
from tests.standins.mlflow_server import RunningMlflow

POINT = "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)"


def execute(case: Case, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(case.database)) as db, db:
        db.execute(statement, parameters)


def letters(case: Case) -> list[dict[str, object]]:
    listed = syncd("dlq", "list", "--state-dir", str(case.state), "--json")
    assert listed.code == 0, listed
    return json.loads(listed.out)["dead_letters"]


@pytest.mark.parametrize(
    ("poison", "parameters", "lost", "words"),
    [
        (POINT, ("a@b", 1.0, 1, 1), "a@b", "a@b"),
        (POINT, ("bad time", 1.0, -5, 1), "bad time", "nonnegative"),
        ("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", ("p?x", "v"), "p?x", "p?x"),
    ],
    ids=["metric key", "negative timestamp", "param key"],
)
def test_a_refused_item_is_a_dead_letter_and_the_rest_arrives(
    case: Case, poison: str, parameters: tuple[object, ...], lost: str, words: str
) -> None:
    execute(case, poison, *parameters, case.run_named("parent").id)
    assert case.sync().code == 3
    case.check(lost_keys=[lost])
    [letter] = letters(case)
    assert words in str(letter["reason"])
    assert case.sync().code == 3
    assert len(letters(case)) == 1


def test_a_refused_tag_of_a_run_that_is_there_is_a_dead_letter(case: Case) -> None:
    """In the create call the server takes any tag; later it does not."""
    assert case.sync().code == 0
    parent = case.run_named("parent").id
    for key in ("t#x", "good"):
        execute(case, "INSERT INTO tags (key, value, run_uuid) VALUES (?, 'v', ?)", key, parent)
    assert case.sync().code == 3
    case.check(lost_keys=["t#x"])
    [letter] = letters(case)
    assert "t#x" in str(letter["reason"])


def test_a_param_that_has_another_value_there_is_refused_alone(case: Case) -> None:
    assert case.sync().code == 0
    parent = case.run_named("parent").id
    execute(case, "UPDATE params SET value = 'other' WHERE key = 'p1' AND run_uuid = ?", parent)
    execute(case, "INSERT INTO params (key, value, run_uuid) VALUES ('new', 'v', ?)", parent)
    ended = case.sync()
    assert ended.code == 3
    [letter] = letters(case)
    assert "Changing param values is not allowed" in str(letter["reason"])
    execute(case, "UPDATE params SET value = 'value 1 – ü' WHERE key = 'p1' AND run_uuid = ?", parent)
    case.check()


def test_names_that_the_server_would_change_are_kept_in_the_overflow(case: Case) -> None:
    folder = case.run_named("parent").folder
    for name in ("a%20b.txt", "sharp#.txt", "tab\tname", "x" * 200 + ".bin"):
        (folder / name).write_text(f"bytes of {name}")
    ended = case.sync()
    assert ended.code == 0, ended
    case.check()


async def test_a_point_that_a_file_store_cannot_hold_does_not_hold_up_its_run(
    file_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FileStore answers 500 to key "a/b" beside key "a", and has then applied a part of the batch."""
    monkeypatch.setattr("syncd.runtime.points.FAULTY_ATTEMPTS", 2)
    parent = file_case.run_named("parent").id
    for step in range(5):
        execute(file_case, POINT, "a", step, step + 1, step, parent)
        execute(file_case, POINT, "a/b", step, step + 1, step, parent)
    done = await deliver(file_case.database, file_case.server.url, file_case.state, patience_s=30.0)
    assert (done.code, done.faults) == (0, [])
    assert done.totals["dead_letters"] > 0
    there = oracle.read_server(file_case.server, file_case.experiment)
    run = next(run for run in there.runs.values() if run.tags[oracle.SOURCE_ID] == parent)
    lost = "a/b" if any(point[0] == "a" for point in run.points) else "a"
    file_case.check(lost_keys=[lost])


@pytest.fixture
async def proxy(mlflow_server: RunningMlflow) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(mlflow_server.url) as running:
        yield running


async def test_runs_that_log_the_same_dataset_at_once_all_keep_it(case: Case, proxy: FaultProxy) -> None:
    """MLflow answers the loser of that race 400 BAD_REQUEST, UNIQUE constraint (seen on 3.15)."""
    body = (
        '{"error_code":"BAD_REQUEST","message":"(sqlite3.IntegrityError) UNIQUE constraint failed: '
        'datasets.experiment_id, datasets.name, datasets.digest"}'
    )
    proxy.add(Rule("answer", status=400, body=body, path="log-inputs", times=3))
    done = await deliver(case.database, proxy.url, case.state)
    assert (done.code, done.totals["dead_letters"]) == (0, 0)
    case.check()


def test_a_run_whose_experiment_is_deleted_there_is_refused_whole(case: Case, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(case.server.url)
    client.delete_experiment(client.create_experiment(case.experiment))
    assert case.sync().code == 3
    assert any("deleted" in str(letter["reason"]) for letter in letters(case))
    client.restore_experiment(next(e.experiment_id for e in client.search_experiments(2) if e.name == case.experiment))
    assert syncd("dlq", "retry", "--all", "--state-dir", str(case.state)).code == 0
    assert case.sync().code == 0
    case.check()
