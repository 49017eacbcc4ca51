"""The whole loop: start everything, show what arrives while the trainings go on, compare, say where to look.

Theory of operation
-------------------
The server, then the daemon, then both trainings: all of them subprocesses, so that the daemon has nothing to go by but
the stores. The demo asks the server by REST what it holds, a few times a second, and prints what is new. When the
trainings have ended it waits until each run that they made is over on the server, and then has ``syncd verify`` compare
both stores with the server.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from syncd.demo.arrivals import Snapshot, news
from syncd.demo.folder import DemoFailed, DemoFolder, prepare
from syncd.demo.processes import Process, Processes, demo_environment
from syncd.demo.server import Server, server_command
from syncd.demo.trainings import GRID_SEARCH, LIVE_CURVES, runs_told
from syncd.errors import ConfigError

_LOOK_S = 0.25
_TRAININGS_TIMEOUT_S = 300.0
_DELIVERY_TIMEOUT_S = 60.0
_DIFFERENCES = 4  # the exit code of `syncd verify`
_MEANING = {0: "both sides are equal", _DIFFERENCES: "they differ"}


def run_demo(root: Path, *, stay: bool) -> int:
    """Run the demo in the folder ``root``; return the exit code of its ``syncd verify``.

    Args:
        root: the folder; see ``prepare``.
        stay: keep server and daemon up until Ctrl-C when all is done.

    Raises:
        ConfigError: scikit-learn is missing, or the folder holds something else.
        DemoFailed: a part of the demo failed.
    """
    _require_trainings()
    folder, lock = prepare(root)
    environment = demo_environment(os.environ)
    try:
        with Processes(environment) as processes:
            return _Demo(folder, environment, processes).run(stay=stay)
    finally:
        lock.release()


def _require_trainings() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "the trainings of the demo need scikit-learn, which is not installed",
            hint=f"{Path(sys.executable).name} -m pip install scikit-learn, or install syncd with its extra 'demo'",
        )


class _Demo:
    """One run of the demo."""

    def __init__(self, folder: DemoFolder, environment: Mapping[str, str], processes: Processes) -> None:
        self._folder = folder
        self._environment = environment
        self._processes = processes
        self._begun_s = time.monotonic()
        self._seen = Snapshot()

    def run(self, *, stay: bool) -> int:
        self._say("starting a local `mlflow server`; this takes ten seconds or more on a slow machine")
        server = Server.start(self._processes, self._folder)
        self._say(f"the tracking server answers at {server.url}")
        self._folder.write_configuration(server.url)
        daemon = self._start("syncd run", "daemon", "syncd.cli.main", "run", "--config", "syncd.toml")
        self._say("the daemon runs and watches two stores that do not exist yet; the trainings start")
        trainings = [
            self._start("the training of curves", "live_curves", "syncd.demo.trainings.live_curves"),
            self._start("the grid search", "grid_search", "syncd.demo.trainings.grid_search", below="database"),
        ]
        self._follow(server, daemon, trainings)
        self._await_delivery(server, daemon, trainings)
        code = self._verify(server, daemon)
        self._say_where_to_look(server, stay=stay)
        if stay:
            _wait_for_interrupt([server.process, daemon])
            self._say("stopping")
        return code

    def _start(self, name: str, log: str, module: str, *arguments: str, below: str = "") -> Process:
        command = [sys.executable, "-m", module, *arguments]
        return self._processes.start(name, command, folder=self._folder.root / below, log=self._folder.log(log))

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun_s:6.1f} s  {text}", flush=True)

    # -- showing what arrives --------------------------------------------------------------------------------------

    def _follow(self, server: Server, daemon: Process, trainings: list[Process]) -> None:
        """Show what arrives until the trainings have ended."""
        deadline_s = time.monotonic() + _TRAININGS_TIMEOUT_S
        while not all(training.ended for training in trainings):
            daemon.check()
            for training in trainings:
                training.check(may_end=True)
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"the trainings did not end within {_TRAININGS_TIMEOUT_S:.0f} s")
            self._look(server)
        for training in trainings:
            training.check(may_end=True)
        self._say("the trainings have ended")

    def _look(self, server: Server) -> None:
        time.sleep(_LOOK_S)
        ours = {name: id_ for name, id_ in server.experiments().items() if name in (LIVE_CURVES, GRID_SEARCH)}
        now = server.look(ours)
        for line in news(self._seen, now, now_ms=time.time_ns() // 1_000_000):
            self._say(f"  {line}")
        self._seen = now

    def _await_delivery(self, server: Server, daemon: Process, trainings: list[Process]) -> None:
        """Wait until every run that the trainings made is over on the server, which syncd says last."""
        made = {run_id for training in trainings for run_id in runs_told(training.log.read_text(errors="replace"))}
        deadline_s = time.monotonic() + _DELIVERY_TIMEOUT_S
        while not self._seen.has_all_of(made):
            daemon.check()
            if time.monotonic() > deadline_s:
                raise DemoFailed(
                    f"not all {len(made)} runs were delivered within {_DELIVERY_TIMEOUT_S:.0f} s",
                    hint=f"see {self._folder.log('daemon')}",
                )
            self._look(server)
        self._say(f"all {len(made)} runs and their {len(self._seen.models)} model are there")

    # -- the end ---------------------------------------------------------------------------------------------------

    def _verify(self, server: Server, daemon: Process) -> int:
        """Compare both sides, for as long as something may still be on its way (a file just written is held back)."""
        arguments = ["verify", str(self._folder.file_store), str(self._folder.database), "--against", server.url]
        self._say(f"comparing both sides: syncd {' '.join(arguments)}")
        deadline_s = time.monotonic() + _DELIVERY_TIMEOUT_S
        while True:
            daemon.check()
            answer = self._ask(*arguments)
            if answer.returncode != _DIFFERENCES or time.monotonic() > deadline_s:
                break
            self._say("  not all of it is there yet; comparing again")
        for line in (answer.stdout + answer.stderr).splitlines():
            self._say(f"  {line}")
        self._say(f"syncd verify ends with code {answer.returncode}: {_MEANING.get(answer.returncode, 'it failed')}")
        return answer.returncode

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the demo's own command
            [sys.executable, "-m", "syncd.cli.main", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def _say_where_to_look(self, server: Server, *, stay: bool) -> None:
        folder, program = self._folder, _program()
        live = server.experiments()[LIVE_CURVES]
        run_id = next(run.source_run_id for run in self._seen.runs.values())
        stores = f"{folder.file_store} {folder.database}"
        lines = [
            f"the server     {server.url}/#/experiments/{live}",
            f"the stores     {stores}",
            f"the journal    {folder.state}",
            f"the logs       {folder.log('daemon').parent}",
            "",
            "to try next:",
            f"  {program} status --config {folder.configuration}",
            f"  {program} runs --config {folder.configuration}",
            f"  {program} explain {run_id} --config {folder.configuration}",
            f"  {program} verify {stores} --against {server.url}",
            f"  {program} sync {stores} --to {server.url} --state-dir {folder.root / 'second-state'}",
            "    (with a journal of its own: it finds everything there and sends nothing twice)",
            "",
        ]
        again = " ".join([_relative(sys.executable), *server_command(server.port, below=f"{folder.server}/")[1:]])
        end = ["Ctrl-C ends server and daemon."] if stay else ["The server ends now. To start it again:", f"  {again}"]
        print("", *lines, *end, sep="\n", flush=True)


def _program() -> str:
    """Return how the user calls syncd from this directory."""
    if shutil.which("syncd"):
        return "syncd"
    script = Path(sys.executable).with_name("syncd")
    return _relative(script) if script.exists() else f"{_relative(sys.executable)} -m syncd.cli.main"


def _relative(path: str | Path) -> str:
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


def _wait_for_interrupt(processes: list[Process]) -> None:
    try:
        while True:
            for process in processes:
                process.check()
            time.sleep(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
