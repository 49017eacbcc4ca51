"""What a server or the way to it does wrong: lost answers, throttling, refused credentials, outages."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Case
from tests.faults.pipelines import deliver
from tests.standins.fault_proxy import FaultProxy, Rule, random_mix
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.ports import free_port


@pytest.fixture
async def proxy(mlflow_server: RunningMlflow) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(mlflow_server.url, seed=1) as running:
        yield running


@pytest.fixture
async def file_proxy(file_server: RunningMlflow) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(file_server.url, seed=1) as running:
        yield running


async def complete(case: Case, proxy: FaultProxy, **options: Any) -> None:
    done = await deliver(case.database, proxy.url, case.state, **options)
    assert (done.code, done.error, done.faults, done.totals["dead_letters"]) == (0, "", [], 0)
    case.check()


# -- applied, but the answer was lost ----------------------------------------------------------------------------------

REQUESTS = {
    "experiment create": ("POST", "/experiments/create"),
    "experiment tag": ("POST", "/set-experiment-tag"),
    "run create": ("POST", "/runs/create"),
    "log-batch": ("POST", "/log-batch"),
    "inputs": ("POST", "/log-inputs"),
    "outputs": ("POST", "/outputs"),
    "update": ("POST", "/runs/update"),
    "artifact": ("PUT", "/mlflow-artifacts/"),
    "model create": ("POST", "/logged-models$"),
    "model status": ("PATCH", "/logged-models/"),
    "search": ("POST", "/search"),
    "any get": ("GET", ""),
}


@pytest.mark.parametrize("fault", ["lost_answer", "half_answer"])
@pytest.mark.parametrize("request_name", REQUESTS)
async def test_a_lost_answer_is_made_good(case: Case, proxy: FaultProxy, request_name: str, fault: str) -> None:
    method, path = REQUESTS[request_name]
    proxy.add(Rule(fault, method=method, path=path, times=2))  # type: ignore[arg-type]
    await complete(case, proxy)
    assert proxy.faulted[fault] >= 1


@pytest.mark.parametrize("request_name", ["run create", "log-batch", "experiment create"])
async def test_a_lost_answer_doubles_nothing_on_a_store_that_appends(
    file_case: Case, file_proxy: FaultProxy, request_name: str
) -> None:
    method, path = REQUESTS[request_name]
    file_proxy.add(Rule("lost_answer", method=method, path=path, times=3))
    await complete(file_case, file_proxy)
    assert file_proxy.faulted["lost_answer"] >= 1


@pytest.mark.parametrize("kind", ["sql", "appending"])
async def test_a_storm_of_all_faults_loses_and_doubles_nothing(
    case: Case, file_case: Case, proxy: FaultProxy, file_proxy: FaultProxy, kind: str
) -> None:
    """One request in five meets a fault."""
    chosen, way = (case, proxy) if kind == "sql" else (file_case, file_proxy)
    way.add(*random_mix(7, 0.2))
    await complete(chosen, way)
    assert sum(way.faulted.values()) >= 5


# -- throttling --------------------------------------------------------------------------------------------------------


def with_many_runs(case: Case, count: int) -> None:
    """Add runs with a few points each, straight into the source's database."""
    with closing(sqlite3.connect(case.database)) as db, db:
        experiment_id, uri = db.execute(
            "SELECT r.experiment_id, r.artifact_uri FROM runs r JOIN experiments e USING (experiment_id) "
            "WHERE e.name = ? LIMIT 1",
            (case.experiment,),
        ).fetchone()
        for i in range(count):
            run_id = f"{i:032x}"
            db.execute(
                "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, "
                "experiment_id, user_id) VALUES (?, ?, 'FINISHED', 1760000000000, 1760000001000, 'active', ?, ?, 'u')",
                (run_id, f"n{i}", f"{Path(uri).parents[1] / run_id / 'artifacts'}", experiment_id),
            )
            db.execute("INSERT INTO tags VALUES ('mlflow.runName', ?, ?)", (f"n{i}", run_id))
            db.executemany(
                "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES ('x', ?, ?, ?, ?, 0)",
                [(j / 3, 1760000000000 + j, j, run_id) for j in range(20)],
            )


@pytest.mark.parametrize("wish", ["seconds", "date"])
async def test_the_whole_destination_is_left_alone_for_as_long_as_it_wishes(
    case: Case, proxy: FaultProxy, wish: str
) -> None:
    with_many_runs(case, 30)
    refused_s: list[float] = []
    arrived_s: list[float] = []

    def note(method: str, target: str) -> None:
        arrived_s.append(time.monotonic())
        if "log-batch" in target and not refused_s:
            refused_s.append(time.monotonic())
            # The date has whole seconds: at least two of the three remain.
            headers = {"Retry-After": "2.5" if wish == "seconds" else formatdate(time.time() + 3.5, usegmt=True)}
            proxy.rules.append(Rule("answer", status=429, headers=headers, path="log-batch", times=1))

    proxy.on_request = note
    await complete(case, proxy)
    in_the_quiet = [round(t - refused_s[0], 2) for t in arrived_s if 0.2 < t - refused_s[0] < 2.2]
    assert in_the_quiet == []


async def test_throttling_spends_no_attempt(case: Case, proxy: FaultProxy) -> None:
    """Far more refusals of one request than any retry cap would bear; afterwards all goes on at once."""
    proxy.add(Rule("answer", status=429, headers={"Retry-After": "0.1"}, path="log-batch", times=40))
    proxy.add(Rule("answer", status=503, headers={"Retry-After": "0.1"}, path="/runs/update", times=20))
    await complete(case, proxy)
    assert proxy.faulted["answer"] == 60


# -- a server that is not well -----------------------------------------------------------------------------------------


async def test_writes_that_fail_for_seconds_while_reads_succeed_lose_nothing(case: Case, proxy: FaultProxy) -> None:
    """A server whose database is locked or full answers 500 to what writes, and 200 to what reads."""
    proxy.add(Rule("answer", status=500, body="<html>locked</html>", path="log-batch|runs/create|PUT"))
    task = asyncio.create_task(complete(case, proxy))
    await asyncio.sleep(8)
    proxy.clear()
    await task


QUEUE_POOL = (
    '{"error_code":"BAD_REQUEST","message":"QueuePool limit of size 5 overflow 10 reached, connection timed out, '
    'timeout 30.00 (Background on this error at: https://sqlalche.me/e/21/3o7r)"}'
)


async def test_an_overloaded_server_that_blames_the_request_is_asked_again(case: Case, proxy: FaultProxy) -> None:
    """MLflow 3.15 answers 400 BAD_REQUEST when its own connection pool is exhausted (seen with 16 in flight)."""
    proxy.add(Rule("answer", status=400, body=QUEUE_POOL, path="log-batch|runs/update|runs/create", times=9))
    await complete(case, proxy)
    assert proxy.faulted["answer"] == 9


async def test_a_create_that_keeps_failing_is_not_hammered(case: Case, proxy: FaultProxy) -> None:
    proxy.add(Rule("answer", status=500, body="<html>no</html>", path="/runs/create"))
    task = asyncio.create_task(complete(case, proxy))
    await asyncio.sleep(3)
    assert proxy.faulted["answer"] < 40
    proxy.clear()
    await task


@pytest.mark.parametrize("status", [401, 403])
async def test_a_destination_that_refuses_the_credentials_is_parked(case: Case, proxy: FaultProxy, status: int) -> None:
    def refuse_from_now_on(method: str, target: str) -> None:
        if "log-batch" in target and not proxy.rules:
            proxy.add(Rule("answer", status=status, body='{"error_code":"UNAUTHENTICATED","message":"no"}'))

    proxy.on_request = refuse_from_now_on
    task = asyncio.create_task(complete(case, proxy))
    await _until(lambda: _state(case.state) == "auth")
    await asyncio.sleep(1)
    assert not task.done()
    assert proxy.faulted["answer"] < 60
    proxy.on_request = None
    proxy.clear()
    await task
    assert _state(case.state) == "up"


def _state(state: Path) -> str:
    if not (state / "journal.db").exists():
        return ""
    with closing(sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True)) as db:
        row = db.execute("SELECT state FROM destination").fetchone()
        return str(row[0]) if row else ""


async def _until(condition, *, timeout_s: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a condition of another process's or task's making
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_an_unreachable_destination_ends_sync_with_75_and_the_rest_waits(case: Case, host: str) -> None:
    done = await deliver(case.database, f"http://{host}:{free_port()}", case.state, patience_s=1.5)
    assert done.code == 75
    assert "the journal" in done.error
    assert done.totals["points_waiting"] > 100


async def test_a_server_that_comes_late_gets_everything(case: Case) -> None:
    port = free_port()
    task = asyncio.create_task(deliver(case.database, f"http://127.0.0.1:{port}", case.state))
    await asyncio.sleep(2)
    assert not task.done()
    async with FaultProxy(case.server.url, port=port):
        assert (await task).code == 0
    case.check()


@pytest.mark.parametrize("fault", ["stall", "lost_then_stall", "deaf", "drip"])
async def test_silence_is_not_waited_for_for_ever(case: Case, proxy: FaultProxy, fault: str) -> None:
    proxy.add(Rule(fault, path="log-batch|runs/create|mlflow-artifacts", times=4, drip_s=0.1))  # type: ignore[arg-type]
    await complete(case, proxy, settings={"connect_timeout_s": 1.0, "read_timeout_s": 0.7, "total_timeout_s": 1.0})
    assert proxy.faulted[fault] >= 1


async def test_many_nans_sent_twice_get_through_though_every_seventh_request_is_lost(
    case: Case, proxy: FaultProxy
) -> None:
    """Each goes alone then, so a batch is more requests than ever get through in a row."""
    await complete(case, proxy)
    source_id = case.run_named("parent").id
    keys = [f"nan {number}" for number in range(30)]
    insert = "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, 0, 1, 1, ?, 1)"
    with closing(sqlite3.connect(case.database)) as db, db:
        db.executemany(insert, [(key, source_id) for key in keys])
    await asyncio.to_thread(log_there, case, source_id, keys)
    seen = 0

    def lose_every_seventh(_method: str, target: str) -> None:
        nonlocal seen
        if "log-batch" in target:
            seen += 1
            if seen % 7 == 0:
                proxy.add(Rule("reset", path="log-batch", times=1))

    proxy.on_request = lose_every_seventh
    await complete(case, proxy)
    assert proxy.faulted["reset"] >= 4


def log_there(case: Case, source_id: str, keys: list[str]) -> None:
    """Put NaNs where syncd would: what it sends then is there already, as after an answer that was lost."""
    query = "SELECT run_uuid FROM tags WHERE key = 'syncd.source_run_id' AND value = ? AND run_uuid IN "
    query += "(SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?)"
    with closing(sqlite3.connect(case.server.folder / "backend.db", timeout=60)) as db:
        [(run_id,)] = db.execute(query, (source_id, case.experiment)).fetchall()
    points = [{"key": key, "value": "NaN", "timestamp": 1, "step": 1} for key in keys]
    body = json.dumps({"run_id": run_id, "metrics": points}).encode()
    url = f"{case.server.url}/api/2.0/mlflow/runs/log-batch"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


async def test_a_nan_sent_twice_is_one_point(case: Case, proxy: FaultProxy) -> None:
    """MLflow 3.15 on SQL refuses a batch with a NaN that is there already, with a 400 for the whole batch."""
    assert (await deliver(case.database, proxy.url, case.state)).code == 0
    shutil.rmtree(case.state)
    before = proxy.seen.total()
    proxy.add(Rule("lost_answer", path="log-batch", times=4))
    await complete(case, proxy)
    assert proxy.seen.total() > before
