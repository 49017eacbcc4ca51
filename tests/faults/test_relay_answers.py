"""Answers that are lost between two syncd, their broker and a server that stores every point once more."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.between import QUEUE, edge, gateway, is_through, running, service_bus, state_of
from tests.faults.processes import wait_for, waiting
from tests.faults.test_relay_kill import SMALL_MESSAGES, check, differences, store
from tests.standins.fault_proxy import FaultProxy, Rule
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.server import ServiceBus


@pytest.mark.timeout(180)
async def test_lost_answers_and_a_lost_journal_double_nothing_behind_a_gateway(
    tmp_path: Path, file_server: RunningMlflow
) -> None:
    made = store(tmp_path / "stores", "answers")
    async with FaultProxy(file_server.url) as proxy:
        proxy.add(Rule("lost_answer", method="POST", path="/runs/create", times=1))
        proxy.add(Rule("lost_answer", method="POST", path="/runs/log-batch", times=4))
        await asyncio.to_thread(_bring, tmp_path, made, proxy.url, file_server)
        assert proxy.faulted["lost_answer"] == 5
    await asyncio.to_thread(check, [made], file_server)


def points_told(state: Path) -> int:
    """Return how many points an edge has sent."""
    if not waiting(state)["remote"]:
        return 0
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        return int(journal.execute("SELECT COALESCE(SUM(points), 0) FROM progress").fetchone()[0])


def _bring(folder: Path, made: Path, url: str, server: RunningMlflow) -> None:
    with service_bus(folder / "bus") as (bus, sends, receives):
        assert isinstance(bus, ServiceBus)
        sender = edge(folder, made, sends, relay=SMALL_MESSAGES)
        receiver = gateway(folder, url, receives)

        bus.fault(Fault.SEND_UNANSWERED, times=3)
        bus.fault(Fault.SETTLE_UNANSWERED, times=2)
        bus.fault(Fault.SETTLE_DROPPED, times=2)
        with running([receiver]):
            for _ in range(2):
                shutil.rmtree(state_of(sender), ignore_errors=True)
                with running([sender]):
                    wait_for("all is told", lambda: points_told(state_of(sender)) and is_through(state_of(sender)))
            wait_for("all is there", lambda: not differences([made], server))
            wait_for("nothing waits", lambda: bus.count(QUEUE) == 0 and is_through(state_of(receiver)))
