"""``daemon``: what ``syncd run`` holds and takes while it follows large stores, all but one run of which are silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Background, cpu_s, daemon, memory_mib, null_server, wait_until_quiet
from benchmarks.results import Row
from benchmarks.stores import EXPERIMENT, make_file_store, write_run

LIVE_S = 10.0
IDLE_S = 60.0
SETTLE_S = 8.0
FINISHED, RUNNING = 3, 1


@dataclass
class _Case:
    """One store and its daemon."""

    what: str
    runs: int
    metrics: int
    params: int
    files: int
    status: int
    process: Background | None = None
    after_sync_mib: float = 0.0
    live_mib: float = 0.0
    peak_mib: float = 0.0
    sync_s: float = 0.0
    live_cores: float = 0.0
    idle_cores: list[float] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


def daemon_at_rest(folder: Path) -> Iterator[Row]:
    """Follow three stores, each with a daemon of its own; they idle at the same time."""
    cases = [
        _Case("1,000 FINISHED runs × 20 files", runs=1_000, metrics=10, params=5, files=2, status=FINISHED),
        _Case("10,000 FINISHED runs × 6 files", runs=10_000, metrics=1, params=2, files=0, status=FINISHED),
        _Case("1,000 RUNNING runs × 20 files", runs=1_000, metrics=10, params=5, files=2, status=RUNNING),
    ]
    with ExitStack() as stack:
        for number, case in enumerate(cases):
            _sync_and_follow(stack, folder / f"case-{number}", case)
        time.sleep(SETTLE_S)
        for _ in range(2):
            _idle(cases, IDLE_S / 2)
    for case in cases:
        yield from _rows(case)


def _sync_and_follow(stack: ExitStack, folder: Path, case: _Case) -> None:
    store = folder / "mlruns"
    make_file_store(
        store,
        runs=case.runs,
        metrics=case.metrics,
        steps=5,
        params=case.params,
        files=case.files,
        file_bytes=100,
        status=case.status,
    )
    url = stack.enter_context(null_server(folder / "server"))
    begun_s = time.monotonic()
    case.process = stack.enter_context(daemon(folder / "daemon", [store], url))
    quiet_s = 3.0
    wait_until_quiet(url, runs=case.runs, quiet_s=quiet_s)
    case.sync_s = time.monotonic() - begun_s - quiet_s
    case.after_sync_mib = memory_mib(case.pid)
    cpu_before_s = cpu_s(case.pid)
    sizes = list(while_a_run_lives(store / EXPERIMENT / "11111111111111111111111111111111", case.pid))
    case.live_cores = (cpu_s(case.pid) - cpu_before_s) / LIVE_S
    case.live_mib = max(sizes)
    case.peak_mib = memory_mib(case.pid, "VmHWM")


def while_a_run_lives(run: Path, pid: int) -> Iterator[float]:
    """Write 20 points a second into a new run and yield the daemon's size meanwhile."""
    write_run(run, metrics=1, steps=0, status=RUNNING)
    begun_s = time.monotonic()
    with (run / "metrics" / "metric_0").open("a", buffering=1) as file:
        step = 0
        while time.monotonic() - begun_s < LIVE_S:
            file.write(f"{time.time_ns() // 1_000_000} {step / 7} {step}\n")
            step += 1
            time.sleep(0.05)
            if step % 20 == 0:
                yield memory_mib(pid)
    write_run(run, metrics=0, steps=0, status=FINISHED)


def _idle(cases: list[_Case], seconds: float) -> None:
    before = [cpu_s(case.pid) for case in cases]
    begun_s = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - begun_s
    for case, spent_s in zip(cases, before, strict=True):
        case.idle_cores.append((cpu_s(case.pid) - spent_s) / took_s)


def _rows(case: _Case) -> Iterator[Row]:
    goal = "≤ 60 MiB" if case.status == FINISHED else ""
    yield Row(
        f"{case.what}: resident after the first sync, following one live run",
        goal,
        f"**{case.live_mib:.1f} MiB**",
        f"{case.after_sync_mib:.1f} right after the sync, {case.peak_mib:.1f} at most",
    )
    idle = sum(case.idle_cores) / len(case.idle_cores)
    halves = " and ".join(f"{part:.2%}" for part in case.idle_cores)
    yield Row(f"&nbsp; CPU idle, {IDLE_S:.0f} s", "≤ 0.3 %", f"**{idle:.2%}**", f"halves {halves}")
    yield Row("&nbsp; CPU following 20 points/s; the first sync", "", f"{case.live_cores:.1%}; {case.sync_s:.0f} s")
