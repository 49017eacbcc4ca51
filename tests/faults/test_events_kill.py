"""``kill -9`` around every step of an event: what happened is told, in order, with the id that it always has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.stores import make_file_store
from syncd.journal.report import JournalReport
from tests.faults.processes import Daemon, daemon, write_config
from tests.standins.event_receiver import EventReceiver
from tests.standins.null_server import NullMlflow

RUNS = 3
TOLD = RUNS * 4  # discovered, finished, artifact.uploaded, synced
FAILPOINTS = [
    "journal.commit:after",
    "journal.settle:before",
    "journal.settle:after:3",
    "outbox.move_sink:before",
    "outbox.move_sink:after:3",
    "sink.send:before",
    "sink.send:after:4",
]


async def ended(process: Daemon) -> int:
    return await asyncio.to_thread(process.process.wait, 60)


def first_ones(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_killed_daemon_tells_every_event_with_the_same_id(tmp_path: Path, failpoint: str) -> None:
    make_file_store(tmp_path / "mlruns", runs=RUNS, metrics=1, steps=2, files=1)
    async with NullMlflow() as server, EventReceiver() as receiver:
        sink = (
            f'[[sinks]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\nsecrets = ["s"]\nfrom = "beginning"\n'
        )
        config = write_config(
            tmp_path / "a.toml",
            state=tmp_path / "state",
            url=server.url,
            stores=[tmp_path / "mlruns"],
            destination=sink,
        )
        with daemon(config, module=("tests.faults.failpoints", failpoint, "--")) as killed:
            assert await ended(killed) == -9, killed.text()[-2000:]
        with daemon(config) as running:
            async with asyncio.timeout(60):
                while receiver.types.count("run.synced") < RUNS:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(running.terminate) == 0
    with JournalReport.open(tmp_path / "state") as journal:  # type: ignore[union-attr]
        told = journal.events_after(0, 100)
    assert len(told) == TOLD
    assert first_ones(receiver.ids) == [event.id for event in told]
    assert len(receiver.ids) <= TOLD + 1, "one was on its way when the daemon was killed"
