"""The processes that take part: measured to their end, or watched while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.results import TICKS_PER_S

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "PYTHONWARNINGS": "ignore",
    "GIT_PYTHON_REFRESH": "quiet",
}
SYNCD = [sys.executable, "-m", "syncd.cli.main"]


@dataclass(frozen=True)
class Spent:
    """What a process took from its start to its end: wall and CPU (user + system) seconds, its largest RSS."""

    wall_s: float
    cpu_s: float
    peak_mib: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, max(self.peak_mib, other.peak_mib))


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment that our processes run in."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as installed
    return {**given, **ENVIRONMENT, "PYTHONPATH": str(ROOT), **(extra or {})}


def measured(command: Sequence[str], *, cwd: Path, extra: dict[str, str] | None = None) -> Spent:
    """Run a command to its end, which must be a good one."""
    with (cwd / "output.log").open("wb") as log:
        begun_s = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, env=environment(extra))
        peaks = [0.0]
        sampler = threading.Thread(target=_sample_peak, args=(process.pid, peaks), daemon=True)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun_s
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.join()
    if process.returncode:
        tail = (cwd / "output.log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Spent(wall_s, usage.ru_utime + usage.ru_stime, peaks[0])


def _sample_peak(pid: int, peaks: list[float]) -> None:
    """Follow VmHWM, which begins anew at exec; ru_maxrss would begin with the size of this process."""
    with suppress(OSError, KeyError):
        while True:
            peaks[0] = memory_mib(pid, "VmHWM")
            time.sleep(0.05)


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Return a size of a live process from /proc, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return int(sizes[what]) / 1024


def cpu_s(pid: int) -> float:
    """Return user + system seconds of a live process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def sync(store: Path, url: str, folder: Path) -> Spent:
    """Run ``syncd sync`` with a new journal below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*SYNCD, "sync", str(store), "--to", url, "--state-dir", str(folder / "state"), "--json"]
    return measured(command, cwd=folder)


class Background:
    """A process that runs while others are measured; ended with SIGTERM, by its own id."""

    def __init__(self, command: Sequence[str], *, log: Path, extra: dict[str, str] | None = None) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            command, cwd=log.parent, stdout=subprocess.PIPE, stderr=self._log, env=environment(extra), text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def wait(self) -> None:
        """Wait for its end, which must be a good one."""
        if self._process.wait():
            raise RuntimeError(f"it ended with {self._process.returncode}: see {self._log.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()


@contextmanager
def null_server(folder: Path, module: str = "tests.standins.null_server") -> Iterator[str]:
    """Run a server that accepts everything; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    with Background([sys.executable, "-m", module, "--port", "0"], log=folder / "null.log") as server:
        yield f"http://127.0.0.1:{server.line()}"


def asked(url: str) -> Any:
    """GET a JSON value."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def daemon(folder: Path, stores: Sequence[Path], url: str) -> Background:
    """Start ``syncd run`` with its default settings over these stores (a directory, or a database)."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = "".join(
        f'[[sources]]\nname = "s{number}"\n'
        + (
            f'kind = "mlruns"\npath = "{store}"\n'
            if store.is_dir()
            else f'kind = "mlflow-db"\nuri = "sqlite:///{store}"\n'
        )
        for number, store in enumerate(stores)
    )
    config = folder / "syncd.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{folder / "state"}"\nlog_format = "plain"\n'
        f'{sources}[[destinations]]\nname = "server"\nuri = "{url}"\n'
    )
    return Background([*SYNCD, "run", "--config", str(config)], log=folder / "daemon.log")


def wait_until_quiet(url: str, *, runs: int, timeout_s: float = 400, quiet_s: float = 3) -> None:
    """Wait until a null server has got that many runs and then nothing for a while."""
    deadline_s = time.monotonic() + timeout_s
    before, since_s = -1, time.monotonic()
    while time.monotonic() < deadline_s:
        counts = asked(f"{url}/null/counts")
        # Asking is itself counted as a request.
        now = counts["points"] + counts["artifact_files"] + counts["runs"] + counts["batches"]
        if now != before or counts["runs"] < runs:
            before, since_s = now, time.monotonic()
        elif time.monotonic() - since_s >= quiet_s:
            return
        time.sleep(0.5)
    raise RuntimeError(f"not quiet after {timeout_s} s: {counts}")
