"""More than one syncd at once, on one state directory or on one store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from syncd.runtime.pipeline import LAND_S
from tests.faults import processes
from tests.faults.conftest import Case
from tests.faults.pipelines import deliver
from tests.faults.processes import daemon, syncd, wait_for, waiting, write_config
from tests.faults.test_answers import with_many_runs
from tests.standins.fault_proxy import FaultProxy, Rule


def test_a_second_process_on_one_state_directory_names_the_first(case: Case, tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.toml", state=case.state, url=case.server.url, stores=[case.database])
    with daemon(config) as running:
        wait_for("the daemon", lambda: "syncd runs" in running.text())
        second = syncd("run", "--config", str(config))
        assert second.code == 1
        assert f"process {running.pid} " in second.err
        assert running.terminate() == 0
    assert case.sync().code == 0
    case.check()


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(3))
def test_two_syncs_at_the_same_moment_make_each_run_once(case: Case, turn: int) -> None:
    with_many_runs(case, 12)
    started = [
        processes.forked_sync(case.database, case.server.url, case.folder / f"state{number}") for number in range(2)
    ]
    for process in started:
        assert process.wait(120) == 0
    case.check()


async def test_a_create_that_comes_late_finds_what_another_made_meanwhile(case: Case) -> None:
    """The first syncd has looked, is throttled at its create, and goes on when the second has done everything."""
    with_many_runs(case, 12)
    async with FaultProxy(case.server.url) as proxy:
        proxy.add(Rule("answer", status=429, headers={"Retry-After": "4"}, path="/runs/create"))
        first = asyncio.create_task(deliver(case.database, proxy.url, case.folder / "first"))
        while not proxy.faulted["answer"]:  # noqa: ASYNC110 - counted by the proxy
            await asyncio.sleep(0.02)
        proxy.rules.clear()
        second = await deliver(case.database, case.server.url, case.folder / "second")
        assert (second.code, second.faults) == (0, [])
        case.check()
        done = await first
    assert (done.code, done.faults, done.totals["dead_letters"]) == (0, [], 0)
    case.check()


async def both_deliver(case: Case, one: Rule, other: Rule) -> None:
    """Deliver twice at the same time, each over a connection with its rule, and check what is there."""
    async with FaultProxy(case.server.url) as first, FaultProxy(case.server.url) as second:
        first.add(one)
        second.add(other)
        both = await asyncio.gather(
            deliver(case.database, first.url, case.folder / "first"),
            deliver(case.database, second.url, case.folder / "second"),
        )
    assert [(done.code, done.faults, done.totals["dead_letters"]) for done in both] == [(0, [], 0)] * 2
    case.check()


async def test_two_that_create_at_once_keep_the_same_run(case: Case) -> None:
    """Both have looked and both create: the answer to one create comes late."""
    with_many_runs(case, 6)
    await both_deliver(case, *[Rule("late", path="/runs/search", drip_s=0.4) for _ in range(2)])


async def test_a_sync_waits_for_the_creates_of_another_one_where_creating_is_slow(case: Case) -> None:
    """Neither has seen anything of the other when the quicker one has delivered everything."""
    with_many_runs(case, 1)
    await both_deliver(case, *[Rule("held", path="/runs/create", drip_s=drip_s) for drip_s in (1.5, 4.0)])


async def test_a_run_that_lost_the_race_is_not_doubled_on_a_store_that_appends(file_case: Case) -> None:
    """As above; when the loser states the run again for the kept one, its points are there already."""
    async with FaultProxy(file_case.server.url) as slow, FaultProxy(file_case.server.url) as other:
        slow.add(Rule("late", path="/runs/search", drip_s=0.4))
        slow.add(Rule("late", path="log-batch", drip_s=1.0))
        other.add(Rule("late", path="/runs/search", drip_s=0.4))
        both = await asyncio.gather(
            deliver(file_case.database, slow.url, file_case.folder / "first"),
            deliver(file_case.database, other.url, file_case.folder / "second"),
        )
    assert [(done.code, done.faults) for done in both] == [(0, [])] * 2
    file_case.check()


@pytest.mark.parametrize("killed", [True, False])
async def test_what_a_killed_process_has_sent_is_given_time_to_land_before_it_is_looked_for(
    case: Case, killed: bool
) -> None:
    case.state.mkdir()
    (case.state / "lock").write_text("4194304\n" if killed else "")  # no process has such a number
    asked_s: dict[str, float] = {}
    async with FaultProxy(case.server.url) as proxy:
        proxy.on_request = lambda _, target: asked_s.setdefault(target.rsplit("/", 1)[-1], time.monotonic())
        assert (await deliver(case.database, proxy.url, case.state)).code == 0
    assert (asked_s["create"] - asked_s["version"] >= LAND_S) is killed
    case.check()


def test_a_state_directory_is_free_again_after_kill_9(case: Case, tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.toml", state=case.state, url=case.server.url, stores=[case.database])
    with daemon(config) as running:
        wait_for("the daemon", lambda: "syncd runs" in running.text())
        running.kill()
    assert (case.state / "lock").read_text().strip() == str(running.pid)
    with daemon(config) as running:
        wait_for("all is delivered", lambda: not case.differences())
        assert running.terminate() == 0


def test_a_backlog_of_a_source_that_was_renamed_is_still_delivered(case: Case, tmp_path: Path) -> None:
    """The runs are then stated twice in one process, under both names, and are one run each there."""
    case.drop_models()  # of models no second look is taken
    config = write_config(tmp_path / "a.toml", state=case.state, url="http://127.0.0.1:9", stores=[case.database])
    with daemon(config) as running:
        wait_for("the backlog", lambda: waiting(case.state)["delivery"] > 10)
        running.kill()
    with closing(sqlite3.connect(case.state / "journal.db")) as db, db:
        db.execute("UPDATE destination SET uri = ?", (case.server.url,))
    assert case.sync().code == 0  # names the source after its file
    assert waiting(case.state)["delivery"] == 0
    case.check()
