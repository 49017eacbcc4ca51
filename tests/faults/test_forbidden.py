"""What one credential may not do: the rest goes on, and what was forbidden arrives once it is allowed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

from syncd.configuration import DaemonSettings, destination_of_argument, names_of_arguments, source_of_argument
from syncd.core.filters import Filter
from syncd.journal.journal import Journal
from syncd.runtime.pipeline import Pipeline
from tests.faults import oracle
from tests.faults.conftest import Case
from tests.faults.pipelines import CONCURRENCY, deliver
from tests.faults.test_answers import with_many_runs
from tests.standins.fault_proxy import FaultProxy, Rule


async def test_a_sync_with_the_wrong_credentials_says_so(case: Case) -> None:
    async with FaultProxy(case.server.url) as proxy:
        proxy.add(Rule("answer", status=401, body='{"error_code":"UNAUTHENTICATED","message":"no such token"}'))
        refused = await deliver(case.database, proxy.url, case.state, patience_s=1.0)
    assert refused.code == 75
    assert "no answer" not in refused.error
    assert "no such token" in refused.error
    assert "give a token or password" in refused.error
    assert (await deliver(case.database, case.server.url, case.state)).code == 0
    case.check()


async def test_what_is_forbidden_is_set_aside_and_the_rest_arrives(case: Case) -> None:
    with_many_runs(case, 20)
    async with FaultProxy(case.server.url) as proxy:
        proxy.add(Rule("answer", method="PUT", status=403, path="artifacts"))
        first = await deliver(case.database, proxy.url, case.state, patience_s=20.0)
        assert (first.code, first.error) == (0, "")
        assert first.faults
        assert all("not permitted" in fault and "403" in fault for fault in first.faults)
        held = oracle.read_server(case.server, case.experiment).runs
        assert len(held) == len(oracle.read_store(case.database, case.experiment).runs)
        proxy.clear()
        second = await deliver(case.database, proxy.url, case.state)
    assert (second.code, second.faults, second.totals["dead_letters"]) == (0, [], 0)
    case.check()


async def test_a_destination_that_refuses_every_request_does_not_stop_the_others(case: Case) -> None:
    destination = replace(destination_of_argument(case.server.url), max_concurrency=CONCURRENCY)
    async with FaultProxy(case.server.url) as proxy:
        proxy.add(Rule("answer", status=400, body="<html>bad request</html>"))
        [name] = names_of_arguments([str(case.database)])
        pipeline = Pipeline(
            Journal.open(case.state),
            daemon=DaemonSettings(state_dir=case.state, flush_interval_s=0.0),
            sources=[source_of_argument(str(case.database), name=name)],
            destinations=[replace(destination, name="wrong", uri=proxy.url), replace(destination, name="right")],
        )
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            tasks = [*pipeline.start_uploading(group), *pipeline.start_following(group)]
            while case.differences():  # noqa: ASYNC110 - the server has no event for this
                await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
        await pipeline.close()


async def test_a_parent_that_the_filter_leaves_out_is_not_created_for_its_child(case: Case) -> None:
    with closing(sqlite3.connect(case.database)) as db:
        names = {row[0] for row in db.execute("SELECT name FROM runs WHERE lifecycle_stage = 'active'")}
    parents = {name for name in names if name.startswith("parent")}
    children = names - parents
    assert parents
    assert children
    done = await deliver(
        case.database, case.server.url, case.state, settings={"filter": Filter(run_names=tuple(sorted(children)))}
    )
    assert (done.code, done.faults) == (0, [])
    held = {run.name for run in oracle.read_server(case.server, case.experiment).runs.values()}
    assert held == children
