"""Running ``syncd`` as its users do: as processes that can be killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncd.cli.main import main
from tests.standins.forks import Forked

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def syncd(*arguments: str, timeout_s: float = TIMEOUT_S) -> Ended:
    """Run a command in a process of its own to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "syncd.cli.main", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def sync_arguments(store: Path, url: str, state: Path) -> list[str]:
    return ["sync", str(store), "--to", url, "--state-dir", str(state), "--json"]


def sync(store: Path, url: str, state: Path) -> Ended:
    """Run ``syncd sync`` inside this process, which spares it the start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(sync_arguments(store, url, state))
    return Ended(code, out.getvalue(), err.getvalue())


def forked_sync(store: Path, url: str, state: Path, *, failpoint: str = "") -> Forked:
    """Start ``syncd sync`` in a process of its own, with a failpoint or none."""
    return Forked("tests.faults.failpoints:run", failpoint, sync_arguments(store, url, state))


def killed_sync(failpoint: str, store: Path, url: str, state: Path) -> int | None:
    """Run ``syncd sync`` in a process of its own up to a failpoint; return its exit code."""
    process = forked_sync(store, url, state, failpoint=failpoint)
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{failpoint} was not reached in {TIMEOUT_S:g} s") from None


def write_config(
    file: Path,
    *,
    state: Path,
    url: str,
    stores: Sequence[Path],
    daemon: str = "",
    source: str = "",
    destination: str = "",
) -> Path:
    """Write a configuration of one destination and these stores."""
    sources = "\n".join(
        f'[[sources]]\nname = "s{i}"\n'
        + (f'kind = "mlruns"\npath = "{store}"' if store.is_dir() else f'kind = "mlflow-db"\nuri = "sqlite:///{store}"')
        + f"\n{source}"
        for i, store in enumerate(stores)
    )
    file.write_text(
        f'[daemon]\nstate_dir = "{state}"\nlog_format = "json"\n{daemon}\n'
        f'{sources}\n[[destinations]]\nname = "d"\nuri = "{url}"\n{destination}\n'
    )
    return file


class Daemon:
    """A ``syncd run`` process; its log is ``log``."""

    def __init__(
        self, config: Path, *, module: Sequence[str] = ("syncd.cli.main",), under: Sequence[str] = (), **more: str
    ) -> None:
        self.log = config.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", *module, "run", "--config", str(config)],
                env={**environment(), **more},
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 120.0) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def daemon(config: Path, **options: Any) -> Iterator[Daemon]:
    """Run the daemon; it is killed at the end if it is still there."""
    running = Daemon(config, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def wait_for(what: str, condition: Any, *, timeout_s: float = 120.0, every_s: float = 0.2) -> Any:
    """Wait until ``condition()`` is true and return it."""
    end_s = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end_s:
            raise AssertionError(f"in {timeout_s:g} s never: {what}; last {found!r}")
        time.sleep(every_s)


def waiting(state: Path) -> Mapping[str, int]:
    """Return counts of the journal's rows, read beside its owner; nothing while there is no journal yet."""
    tables = ("delivery", "change", "dead_letter", "remote", "inbox", "refused_message")
    if not (state / "journal.db").exists():
        return dict.fromkeys(tables, 0)
    with contextlib.closing(sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True, timeout=10)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'refused_message'").fetchone():
            return dict.fromkeys(tables, 0)
        return {table: db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}
