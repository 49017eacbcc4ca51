"""``ceiling``, ``flat-memory`` and ``import-memory``: what syncd itself costs, without a server's cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import Spent, asked, measured, null_server, sync
from benchmarks.results import Row, median, spread
from benchmarks.stores import make_file_store

ROUNDS = 3


def ceiling(folder: Path) -> Iterator[Row]:
    """A million points into a server that only counts."""
    for what, goal, runs, steps in (
        ("1,000,000 points in 20 runs", "≥ 200,000", 20, 5_000),
        ("1,000,000 points in 1,000 runs", "", 1_000, 100),
    ):
        store = folder / f"store-{runs}"
        make_file_store(store, runs=runs, metrics=10, steps=steps)
        spents = [_into_null(store, folder / f"{runs}-{number}", points=1_000_000) for number in range(ROUNDS)]
        rates = [1_000_000 / spent.cpu_s for spent in spents]
        walls = [1_000_000 / spent.wall_s for spent in spents]
        yield Row(f"{what}: points per CPU second", goal, f"**{median(rates):,.0f}**", spread(rates, "{:,.0f}"))
        yield Row(
            "&nbsp; points per second of wall time, start included",
            "",
            f"{median(walls):,.0f}",
            spread(walls, "{:,.0f}"),
        )


def flat_memory(folder: Path) -> Iterator[Row]:
    """The largest RSS of ``syncd sync`` as what it syncs grows."""
    for steps in (10_000, 100_000, 300_000):
        store = folder / f"points-{steps}"
        make_file_store(store, runs=1, metrics=10, steps=steps)
        spent = _into_null(store, folder / f"p{steps}", points=steps * 10)
        yield Row(f"{steps * 10:,} points in one run", "flat", f"{spent.peak_mib:.0f} MiB", f"{spent.wall_s:.1f} s")
    for runs in (1_000, 10_000):
        store = folder / f"runs-{runs}"
        make_file_store(store, runs=runs, metrics=2, steps=10, params=2)
        spent = _into_null(store, folder / f"r{runs}", points=runs * 20)
        yield Row(f"{runs:,} runs of 20 points", "flat", f"{spent.peak_mib:.0f} MiB", f"{spent.wall_s:.1f} s")


def _into_null(store: Path, folder: Path, *, points: int) -> Spent:
    with null_server(folder) as url:
        spent = sync(store, url, folder)
        arrived = asked(f"{url}/null/counts")["points"]
    if arrived != points:
        raise RuntimeError(f"{arrived} points arrived of {points}")
    return spent


def import_memory(folder: Path) -> Iterator[Row]:
    """The RSS of a process that has only imported the daemon."""
    look = "import re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    for what, modules in (
        ("python alone", "sys"),
        ("import syncd.cli.run", "syncd.cli.run"),
        ("import aiohttp", "aiohttp"),
    ):
        sizes, times = [], []
        for _ in range(5):
            spent = measured([sys.executable, "-c", f"import {modules}; {look}"], cwd=folder)
            sizes.append(int((folder / "output.log").read_text()) / 1024)
            times.append(spent.cpu_s)
        yield Row(what, "", f"{median(sizes):.1f} MiB, {median(times):.2f} s CPU", spread(sizes, "{:.1f}"))
