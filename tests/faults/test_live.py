"""Everything at once: trainings log live, the daemon is killed again and again, and the way to the server is bad."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import oracle, stores
from tests.faults.processes import Daemon, wait_for, waiting, write_config
from tests.standins.fault_proxy import FaultProxy, Rule, random_mix
from tests.standins.mlflow_server import RunningMlflow

TRAIN_S = 22
KILLS_S = 24
LEAST_STARTS = 4


def rules(path: str = "") -> list[Rule]:
    return [
        Rule("answer", status=429, headers={"Retry-After": "1"}, chance=0.01),
        Rule("answer", status=503, headers={"Retry-After": "1"}, chance=0.01),
        Rule("stall", chance=0.003),
        *random_mix(11, 0.15, path=path),
    ]


async def kill_again_and_again(config: Path, seconds: float) -> Daemon:
    """Run the daemon, killing it every few seconds once it works; return the last one, running."""
    draw = random.Random(5)
    end_s = time.monotonic() + seconds
    starts = 0
    while True:
        running = Daemon(config)
        starts += 1
        while running.text().count('the destination answers"') < starts:
            assert running.process.poll() is None, running.text()[-3000:]
            await asyncio.sleep(0.05)
        if time.monotonic() > end_s and starts > LEAST_STARTS:
            return running
        await asyncio.sleep(draw.uniform(0.3, 3.0))
        assert running.process.poll() is None, running.text()[-3000:]
        running.kill()


def differences(places: list[tuple[Path, str]], server: RunningMlflow) -> list[str]:
    return [
        text
        for place, experiment in places
        for text in oracle.differences(oracle.read_store(place, experiment), oracle.read_server(server, experiment))
    ]


@pytest.mark.timeout(200)
@pytest.mark.soak
@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_live_trainings_arrive_once_whatever_happens(
    mlflow_server: RunningMlflow, file_server: RunningMlflow, template: Path, tmp_path: Path, backend: str
) -> None:
    server = mlflow_server if backend == "sqlite" else file_server
    database = stores.copy_database(template, tmp_path / "db", f"template of {backend}")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("DELETE FROM logged_model_metrics")
    files = tmp_path / "files" / "mlruns"
    files.mkdir(parents=True)
    places = [(database, f"db {backend}"), (files, f"files {backend}")]
    state = tmp_path / "state"
    trainings = []
    async with FaultProxy(server.url, seed=3) as proxy:
        for number in range(4):
            place, experiment = places[number % 2]
            uri = f"sqlite:///{place}" if number % 2 == 0 else str(place)
            experiment = f"{experiment} {number}"
            process = stores.forked("train", uri, experiment, TRAIN_S, cwd=tmp_path / f"t{number}")
            trainings.append((place, experiment, process))
        proxy.add(*rules())
        config = write_config(
            tmp_path / "a.toml",
            state=state,
            url=proxy.url,
            stores=[database, files],
            destination="read_timeout_s = 3\ntotal_timeout_s = 5",
        )
        last = await kill_again_and_again(config, KILLS_S)
        try:
            for _, _, process in trainings:
                assert await asyncio.to_thread(process.wait, 60) == 0
            proxy.clear()
            wanted = [(place, experiment) for place, experiment, _ in trainings]
            await asyncio.to_thread(wait_for, "all is delivered", lambda: not differences(wanted, server), every_s=2)
            assert await asyncio.to_thread(last.terminate) == 0
        except AssertionError:
            found = differences(wanted, server)
            raise AssertionError("\n".join(found[:40]) + "\n" + last.text()[-1500:]) from None
        finally:
            if last.process.poll() is None:
                last.kill()
    assert waiting(state)["delivery"] == 0
    assert waiting(state)["dead_letter"] == 0
    assert sum(proxy.faulted.values()) > 10
    print(dict(proxy.faulted), sum(proxy.seen.values()))
