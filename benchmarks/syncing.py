"""``sync-points`` and ``sync-runs``: ``syncd sync`` against others, into a real ``mlflow server`` on SQLite."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Spent, measured, sync
from benchmarks.results import Row, in_turn, median, spread
from benchmarks.stores import make_file_store
from tests.standins.mlflow_server import RunningMlflow

PEERS = "SYNCD_BENCH_PEERS"  # the bin directory of an environment with mlflow-export-import
_numbers = itertools.count()


@dataclass(frozen=True)
class Work:
    """A store, and what a server must hold when it has it all."""

    store: Path
    runs: int
    points: int
    params: int = 0
    files: int = 0


def sync_points(folder: Path) -> Iterator[Row]:
    """Few runs of many points."""
    work = Work(folder / "mlruns", runs=20, points=200_000)
    make_file_store(work.store, runs=20, metrics=10, steps=1_000)
    pairs = in_turn(3, lambda: _into_server(folder, work, by_syncd), lambda: _into_server(folder, work, by_raw_client))
    yield from _compared("20 runs × 10 metrics × 1,000 steps", "raw client", pairs, work, goal=0.95)


def sync_runs(folder: Path) -> Iterator[Row]:
    """Many runs of few points, with params and files."""
    work = Work(folder / "mlruns", runs=100, points=100_000, params=1_000, files=300)
    make_file_store(work.store, runs=100, metrics=10, steps=100, params=10, files=3)
    pairs = in_turn(3, lambda: _into_server(folder, work, by_syncd), lambda: _into_server(folder, work, by_raw_client))
    yield from _compared("100 runs × 1,000 points, 10 params, 3 files", "raw client", pairs, work, goal=0.95)
    if PEERS not in os.environ:
        yield Row("the same", "≥ 3 × as fast as mlflow-export-import", f"not measured: ${PEERS} is not set")
        return
    pairs = in_turn(
        1, lambda: _into_server(folder, work, by_syncd), lambda: _into_server(folder, work, by_export_import)
    )
    yield from _compared("the same", "mlflow-export-import", pairs, work, goal=3.0)


def by_syncd(store: Path, url: str, folder: Path) -> Spent:
    return sync(store, url, folder)


def by_raw_client(store: Path, url: str, folder: Path) -> Spent:
    return measured([sys.executable, "-m", "benchmarks.raw_client", str(store), url, "4"], cwd=folder)


def by_export_import(store: Path, url: str, folder: Path) -> Spent:
    peers = Path(os.environ[PEERS])
    told = {"PYTHONPATH": ""}
    export = [str(peers / "export-all"), "--output-dir", str(folder / "exported")]
    bring = [str(peers / "import-all"), "--input-dir", str(folder / "exported")]
    exported = measured(export, cwd=folder, extra={**told, "MLFLOW_TRACKING_URI": str(store)})
    return exported + measured(bring, cwd=folder, extra={**told, "MLFLOW_TRACKING_URI": url})


def _into_server(folder: Path, work: Work, client: Callable[[Path, str, Path], Spent]) -> Spent:
    """Send into a server of its own, freshly started and asked once, and see that all has arrived."""
    here = folder / f"{client.__name__}-{next(_numbers)}"
    here.mkdir()
    with RunningMlflow(here / "server") as server:
        spent = client(work.store, server.url, here)
        files = sum(1 for path in (here / "server" / "artifacts").rglob("*") if path.is_file())
    with closing(sqlite3.connect(here / "server" / "backend.db")) as database:
        held = [
            database.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
            for what in ("runs WHERE status = 'FINISHED'", "metrics", "params")
        ]
    expected = [work.runs, work.points, work.params]
    if held != expected or files != work.files:
        raise RuntimeError(f"{client.__name__}: runs, points, params, files {held} {files}, expected {work}")
    return spent


def _compared(what: str, rival: str, pairs: list[tuple[Spent, Spent]], work: Work, *, goal: float) -> Iterator[Row]:
    """Yield the rows for pairs of (syncd, rival)."""
    ratios = [theirs.wall_s / ours.wall_s for ours, theirs in pairs]
    yield Row(f"{what}: wall time of {rival} / syncd", f"≥ {goal:g}", f"**{median(ratios):.2f}**", spread(ratios))
    for name, spents in (("syncd", [ours for ours, _ in pairs]), (rival, [theirs for _, theirs in pairs])):
        walls = [spent.wall_s for spent in spents]
        rate = work.points / median(walls)
        cpu_s, peak_mib = median(s.cpu_s for s in spents), median(s.peak_mib for s in spents)
        yield Row(
            f"&nbsp; {name}",
            "",
            f"{median(walls):.1f} s, {rate:,.0f} points/s, {cpu_s:.1f} s CPU, {peak_mib:.0f} MiB",
            spread(walls, "{:.1f} s"),
        )
