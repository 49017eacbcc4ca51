"""``latency`` and ``writer``: a training that logs with MLflow's client while ``syncd run`` follows."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Background, asked, cpu_s, daemon, memory_mib, null_server
from benchmarks.results import Row, median, percentile, spread
from benchmarks.stores import EXPERIMENT, make_file_store, write_run
from tests.standins.mlflow_server import RunningMlflow

TRAINING = [sys.executable, "-m", "benchmarks.training"]
SECONDS = 30
KINDS = ("FileStore", "SQLite")
Following = Callable[[Path, Sequence[Path], str], AbstractContextManager[Background]]


def _store(folder: Path, kind: str) -> tuple[Path, str]:
    """Make an empty store; return what a daemon follows and what MLflow's client calls it."""
    folder.mkdir(parents=True)
    if kind == "FileStore":
        make_file_store(folder / "mlruns", runs=1, metrics=1, steps=1)
        return folder / "mlruns", str(folder / "mlruns")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    making = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    with Background([sys.executable, "-c", making, uri], log=folder / "making.log") as process:
        process.wait()
    return folder / "mlflow.db", uri


# -- latency -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Followed:
    """Seconds from written to arrived, and the daemon's share of a core and its RSS meanwhile.

    ``call_s`` is what the client's own call took, which is part of the latency; 0 for a plain append.
    """

    latencies_s: list[float]
    cores: float
    size_mib: float
    call_s: float


def latency(folder: Path) -> Iterator[Row]:
    """From just before the client's call (or the file's append) to the request's arrival at the server."""
    for kind in KINDS:
        followed = _paced(folder / f"one-{kind}", kind, runs=1, rate=20)
        yield latency_row(f"{kind}, 1 run × 20 points/s, MLflow's client", followed, 20 * SECONDS)
    followed = _appended(folder / "ten-files", runs=10, rate=50)
    yield latency_row("FileStore, 10 runs × 50 points/s, appended", followed, 500 * SECONDS)
    followed = _paced(folder / "ten-SQLite", "SQLite", runs=10, rate=50)
    yield latency_row("SQLite, 10 runs × 50 points/s, MLflow's client by tens", followed, 500 * SECONDS)
    followed = into_real_server(folder / "real")
    yield latency_row("FileStore, 1 run × 20 points/s, until it is in a real server's database", followed, 20 * SECONDS)


def latency_row(what: str, followed: Followed, expected: int) -> Row:
    told = followed.latencies_s or [float("nan")]
    return Row(
        what,
        "p50 ≤ 0.3 s, p99 ≤ 1 s",
        f"**p50 {percentile(told, 0.5) * 1000:.0f} ms, p99 {percentile(told, 0.99) * 1000:.0f} ms**",
        f"most {max(told) * 1000:.0f} ms, {len(followed.latencies_s):,} of {expected:,} points; the client's own call "
        f"{followed.call_s * 1000:.0f} ms; syncd {followed.cores:.1%} of a core, {followed.size_mib:.0f} MiB",
    )


def _paced(folder: Path, kind: str, *, runs: int, rate: int) -> Followed:
    followed, uri = _store(folder / "store", kind)
    with (
        null_server(folder / "server", "benchmarks.recording_server") as url,
        daemon(folder / "daemon", [followed], url) as process,
    ):
        _wait_until_it_follows(url, kind)
        before_s, begun_s = cpu_s(process.pid), time.monotonic()
        numbers = [str(runs), str(rate), str(SECONDS)]
        with Background([*TRAINING, "paced", uri, *numbers], log=folder / "training.log") as training:
            call_s = float(training.line())
        cores = (cpu_s(process.pid) - before_s) / (time.monotonic() - begun_s)
        time.sleep(2)
        return Followed(asked(f"{url}/null/latencies"), cores, memory_mib(process.pid), call_s)


def _wait_until_it_follows(url: str, kind: str) -> None:
    """Let the first full look end (a FileStore is made with one run in it); forget what it brought."""
    deadline_s = time.monotonic() + 30
    while kind == "FileStore" and time.monotonic() < deadline_s and not asked(f"{url}/null/counts")["runs"]:
        time.sleep(0.1)
    time.sleep(3)
    asked(f"{url}/null/latencies")


def _appended(folder: Path, *, runs: int, rate: int) -> Followed:
    """Append lines as MLflow does: its client could not write so much beside others on two cores."""
    followed, _ = _store(folder / "store", "FileStore")
    with (
        null_server(folder / "server", "benchmarks.recording_server") as url,
        daemon(folder / "daemon", [followed], url) as process,
    ):
        _wait_until_it_follows(url, "FileStore")
        before_s, begun_s = cpu_s(process.pid), time.monotonic()
        threads = [
            threading.Thread(target=_append, args=(followed / EXPERIMENT / f"{number + 1:032x}", number, rate))
            for number in range(runs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cores = (cpu_s(process.pid) - before_s) / (time.monotonic() - begun_s)
        time.sleep(2)
        return Followed(asked(f"{url}/null/latencies"), cores, memory_mib(process.pid), 0.0)


def _append(folder: Path, number: int, rate: int) -> None:
    write_run(folder, metrics=1, steps=0, number=number, status=1)
    file = folder / "metrics" / "metric_0"
    begun_s = time.monotonic()
    for step in range(rate * SECONDS):
        time.sleep(max(0.0, begun_s + step / rate - time.monotonic()))
        with file.open("a") as opened:
            now_s = time.time()
            opened.write(f"{int(now_s * 1000)} {now_s!r} {step}\n")


def into_real_server(folder: Path, following: Following = daemon) -> Followed:
    """Look into a real server's database every 5 ms for what has arrived; ``following`` begins to bring it there."""
    followed, uri = _store(folder / "store", "FileStore")
    with (
        RunningMlflow(folder / "server") as server,
        following(folder / "daemon", [followed], server.url) as process,
    ):
        time.sleep(6)
        arrived: dict[float, float] = {}
        before_s, begun_s = cpu_s(process.pid), time.time()
        with Background([*TRAINING, "paced", uri, "1", "20", str(SECONDS)], log=folder / "training.log") as training:
            file = f"file:{folder / 'server' / 'backend.db'}?mode=ro"
            with closing(sqlite3.connect(file, uri=True, timeout=0.001)) as database:
                ended_s = float("inf")
                while time.time() < ended_s + 2:
                    _look(database, begun_s, arrived)
                    time.sleep(0.005)
                    if ended_s == float("inf") and not training.is_running:
                        ended_s = time.time()
            call_s = float(training.line())
        cores = (cpu_s(process.pid) - before_s) / (time.time() - begun_s)
        latencies_s = [at_s - written_s for written_s, at_s in arrived.items()]
        return Followed(latencies_s, cores, memory_mib(process.pid), call_s)


def _look(database: sqlite3.Connection, begun_s: float, arrived: dict[float, float]) -> None:
    try:
        rows = database.execute("SELECT value FROM metrics WHERE value > ?", (begun_s,)).fetchall()
    except sqlite3.OperationalError:
        return  # the server is writing; it is looked again at once
    now_s = time.time()
    for (value,) in rows:
        arrived.setdefault(value, now_s)


# -- the training's own speed -----------------------------------------------------------------------------------------


def writer(folder: Path) -> Iterator[Row]:
    """Log as fast as MLflow's client can, in turn into a followed store and one that is not."""
    for kind in KINDS:
        followed, followed_uri = _store(folder / f"followed-{kind}", kind)
        _, alone_uri = _store(folder / f"alone-{kind}", kind)
        here = folder / kind
        with null_server(here / "server") as url, daemon(here / "daemon", [followed], url) as process:
            time.sleep(4)
            before_s, begun_s = cpu_s(process.pid), time.monotonic()
            command = [*TRAINING, "fast", followed_uri, alone_uri, "30", "0.6"]
            with Background(command, log=folder / f"{kind}.log") as training:
                told = json.loads(training.line())
            cores = (cpu_s(process.pid) - before_s) / (time.monotonic() - begun_s)
            time.sleep(1)
            arrived = asked(f"{url}/null/counts")["points"]
        yield from _writer_rows(kind, told, cores, arrived)


def _writer_rows(kind: str, told: dict[str, Any], cores: float, arrived: int) -> Iterator[Row]:
    ratios, control = (
        [one / alone for one, alone in zip(told[name], told["alone"], strict=True)] for name in ("followed", "control")
    )
    locked = sum("locked" in error for error in told["errors"])
    yield Row(
        f"{kind}: log_metric calls/s followed / not followed",
        "≥ 0.97",
        f"**{median(ratios):.3f}**",
        f"{spread(ratios)}; not followed / not followed: {median(control):.3f}, {spread(control)}",
    )
    slowest_ms = {name: seconds * 1000 for name, seconds in told["slowest_s"].items()}
    yield Row(
        "&nbsp; calls/s followed; not followed",
        "",
        f"{median(told['followed']):,.0f}; {median(told['alone']):,.0f}",
        f'slowest call {slowest_ms["followed"]:.0f} and {slowest_ms["alone"]:.0f} ms; "database is locked": '
        f"{locked}; other errors: {len(told['errors']) - locked}; syncd {cores:.1%} of a core; {arrived:,} points came",
    )
