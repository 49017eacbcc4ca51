"""``events``: from the end of a run in its store to the event at a webhook."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import null_server
from benchmarks.results import Row, percentile
from benchmarks.stores import EXPERIMENT, make_file_store, write_run
from tests.faults.processes import daemon, write_config
from tests.standins.event_receiver import EventReceiver

RUNS = 100
PAUSE_S = 0.1


def events(folder: Path) -> Iterator[Row]:
    """End a run every 100 ms and take the times at which its events arrive."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "mlruns"
    make_file_store(store, runs=1, metrics=1, steps=1)
    with null_server(folder / "server") as url:
        arrived, ended_s = asyncio.run(_follow(folder, store, url))
    for name in ("run.finished", "run.synced"):
        latencies_s = [at_s - ended_s[run] for (run, kind), at_s in arrived.items() if kind == name and run in ended_s]
        told = latencies_s or [float("nan")]
        yield Row(
            f"{name} at a webhook after a run ended",
            "",
            f"**p50 {percentile(told, 0.5) * 1000:.0f} ms, p99 {percentile(told, 0.99) * 1000:.0f} ms**",
            f"{len(latencies_s)} of {RUNS} runs",
        )


async def _follow(folder: Path, store: Path, url: str) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    ended_s: dict[str, float] = {}
    arrived: dict[tuple[str, str], float] = {}
    async with EventReceiver() as receiver:
        sink = f'[[sinks]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\n'
        config = write_config(folder / "a.toml", state=folder / "state", url=url, stores=[store], destination=sink)
        with daemon(config):
            await _until(receiver, arrived, lambda: "run.synced" in receiver.types)
            ending = threading.Thread(target=_end_runs, args=(store, ended_s))
            ending.start()
            await _until(receiver, arrived, lambda: receiver.types.count("run.synced") > RUNS)
            ending.join()
    return arrived, ended_s


def _end_runs(store: Path, ended_s: dict[str, float]) -> None:
    for number in range(RUNS):
        run = f"a{number:031x}"  # YAML would read digits alone as a number
        write_run(store / EXPERIMENT / run, metrics=1, steps=2, number=number, status=3)
        ended_s[run] = time.time()
        time.sleep(PAUSE_S)


async def _until(receiver: EventReceiver, arrived: dict[tuple[str, str], float], done: object) -> None:
    """Take the time of each event as it comes, every 2 ms, until it is done or two minutes have passed."""
    deadline_s = time.monotonic() + 120
    seen = len(arrived)
    while not done() and time.monotonic() < deadline_s:  # type: ignore[operator]
        for event in receiver.events[seen:]:
            key = (event["data"].get("run_id", ""), event["type"].removeprefix("dev.syncd."))
            arrived.setdefault(key, time.time())
        seen = len(receiver.events)
        await asyncio.sleep(0.002)
    for event in receiver.events[seen:]:
        key = (event["data"].get("run_id", ""), event["type"].removeprefix("dev.syncd."))
        arrived.setdefault(key, time.time())
