"""``syncd demo``, run as a user runs it; what is on its server is asked of MLflow itself, not of the demo."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins.mlflow_server import RunningMlflow

pytestmark = pytest.mark.timeout(400)
COMMAND = [sys.executable, "-m", "syncd.cli.main", "demo"]
PATIENCE_S = 200.0
Points = dict[str, list[tuple[float, int, int]]]


def call(url: str, method: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{method}",
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def runs_on(url: str) -> dict[str, dict[str, Any]]:
    """All runs of the server by their id in the store they came from."""
    experiments = call(url, "experiments/search", max_results=100).get("experiments", [])
    ids = [experiment["experiment_id"] for experiment in experiments]
    runs = call(url, "runs/search", experiment_ids=ids, max_results=1000).get("runs", [])
    by_source = {tags(run)["syncd.source_run_id"]: run for run in runs}
    assert len(by_source) == len(runs)
    return by_source


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def processes_in(folder: Path) -> list[str]:
    """The processes that work in or below the folder, by their command lines."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink().is_relative_to(folder / "demo-data"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], Any], demo: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except (OSError, tomllib.TOMLDecodeError):
            pass
        assert demo.poll() is None
        time.sleep(0.1)
    raise AssertionError("the demo was too slow")


def url_of(folder: Path) -> str:
    text = (folder / "demo-data" / "syncd.toml").read_text()
    return str(tomllib.loads(text)["destinations"][0]["uri"])


class Shown:
    """A demo that ran to its end without a terminal, and what its server said of the live run meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "demo-data"
        self.live_steps: list[int] = []
        with (folder / "output.txt").open("wb") as output:
            demo = subprocess.Popen(COMMAND, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            url = wait_for(lambda: url_of(folder), demo)
            self._watch(url, demo)
            self.code = demo.wait(PATIENCE_S)
        finally:
            demo.terminate()
            demo.wait(60)
        self.output = (folder / "output.txt").read_text()
        self.left = processes_in(folder)

    def _watch(self, url: str, demo: subprocess.Popen[bytes]) -> None:
        while demo.poll() is None:
            try:
                running = [run for run in runs_on(url).values() if run["info"]["status"] == "RUNNING"]
            except OSError:
                running = []
            for run in running:
                if run["info"]["run_name"] == "sgd":
                    self.live_steps += [point.get("step", 0) for point in run["data"].get("metrics", [])]
            time.sleep(0.2)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def url(shown: Shown) -> Iterator[str]:
    """A server of the test's own, on the database and the artifacts that the demo's server has left."""
    with RunningMlflow(shown.folder / "server") as server:
        yield server.url


def test_the_demo_ends_well_and_leaves_nothing_running(shown: Shown) -> None:
    assert shown.code == 0, shown.output
    assert shown.left == []


def test_points_arrived_while_the_run_went_on(shown: Shown) -> None:
    assert len(set(shown.live_steps)) >= 5
    assert shown.live_steps == sorted(shown.live_steps)


def test_the_file_stores_runs_are_on_the_server_whole(shown: Shown, url: str) -> None:
    runs = runs_on(url)
    folders = [meta.parent for meta in (shown.folder / "mlruns").glob("*/*/meta.yaml")]
    ours = {folder.name: {file.name: lines(file) for file in (folder / "metrics").iterdir()} for folder in folders}
    assert {len(points) for metrics in ours.values() for points in metrics.values()} == {25, 4}
    for run_id, metrics in ours.items():
        assert points_on(url, runs[run_id], metrics) == metrics
    assert sorted(runs[run_id]["info"]["status"] for run_id in ours) == ["FAILED", "FINISHED"]
    [live] = [runs[run_id] for run_id in ours if runs[run_id]["info"]["status"] == "FINISHED"]
    assert artifacts(url, live) == {"confusion.csv", "weights"}


def test_the_databases_runs_are_on_the_server_whole(shown: Shown, url: str) -> None:
    runs = runs_on(url)
    with sqlite3.connect(shown.folder / "database" / "mlflow.db") as db:
        ours = [run_id for (run_id,) in db.execute("SELECT run_uuid FROM runs")]
        rows = db.execute("SELECT run_uuid, key, value, timestamp, step FROM metrics").fetchall()
    assert len(ours) == len(rows) == 7
    for run_id, key, *point in rows:
        assert points_on(url, runs[run_id], [key]) == {key: [tuple(point)]}
        assert runs[run_id]["info"]["status"] == "FINISHED"
    [parent] = [runs[run_id] for run_id in ours if runs[run_id]["info"]["run_name"] == "search"]
    parents = [tags(runs[run_id]).get("mlflow.parentRunId") for run_id in ours]
    assert parents.count(parent["info"]["run_id"]) == 6
    [dataset] = parent["inputs"]["dataset_inputs"]
    assert dataset["dataset"]["name"] == "digits"
    assert artifacts(url, parent) == {"report.csv"}


def test_the_model_is_on_the_server_with_all_its_files(shown: Shown, url: str) -> None:
    experiment = call(url, "experiments/get-by-name?experiment_name=demo%3A%20grid%20search")["experiment"]
    [model] = call(url, "logged-models/search", experiment_ids=[experiment["experiment_id"]])["models"]
    assert model["info"]["status"] in ("READY", "LOGGED_MODEL_READY")
    [ours] = (shown.folder / "database" / "mlruns").glob("*/models/*/artifacts")
    [theirs] = (shown.folder / "server" / "artifacts").glob(f"*/models/{model['info']['model_id']}/artifacts")
    assert {file.name: file.read_bytes() for file in theirs.iterdir()} == {
        file.name: file.read_bytes() for file in ours.iterdir()
    }


def test_a_second_sync_as_the_demo_names_it_sends_nothing_twice(shown: Shown, url: str) -> None:
    before = runs_on(url)
    arguments = re.search(r"syncd(?:\.cli\.main)? (sync .*) --to \S+ (--state-dir \S+)", shown.output)
    assert arguments is not None
    command = [*COMMAND[:-1], *arguments.group(1).split(), "--to", url, *arguments.group(2).split()]
    subprocess.run(command, cwd=shown.folder.parent, check=True, timeout=PATIENCE_S)
    after = runs_on(url)
    assert {run_id: run["info"]["run_id"] for run_id, run in after.items()} == {
        run_id: run["info"]["run_id"] for run_id, run in before.items()
    }
    for run_id, run in after.items():
        keys = [point["key"] for point in before[run_id]["data"].get("metrics", [])]
        assert points_on(url, run, keys) == points_on(url, before[run_id], keys)


def test_sigterm_ends_all_that_was_started(tmp_path: Path) -> None:
    demo = subprocess.Popen(COMMAND, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(processes_in(tmp_path)) >= 4, demo)  # server, daemon, both trainings
    finally:
        demo.terminate()
    assert demo.wait(60) == 130
    assert processes_in(tmp_path) == []


def test_on_a_terminal_it_stays_until_ctrl_c_and_wipes_its_own_folder_first(tmp_path: Path) -> None:
    for old in ("made-by-syncd-demo.txt", "mlruns/left-over"):
        (tmp_path / "demo-data" / old).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo-data" / old).touch()
    screen, terminal = pty.openpty()
    demo = subprocess.Popen(COMMAND, cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while b"Ctrl-C ends" not in shown:
            shown += os.read(screen, 65536)
        time.sleep(2)
        assert demo.poll() is None
        assert runs_on(url_of(tmp_path))
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    finally:
        demo.terminate()
        demo.wait(60)
        os.close(screen)
    assert processes_in(tmp_path) == []
    assert not (tmp_path / "demo-data" / "mlruns" / "left-over").exists()


def test_it_leaves_a_folder_alone_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "demo-data").mkdir()
    (tmp_path / "demo-data" / "mine.txt").write_text("dear to me")
    demo = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert demo.returncode == 78
    assert "was not made by a demo" in demo.stderr
    assert [path.name for path in (tmp_path / "demo-data").iterdir()] == ["mine.txt"]


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['sklearn'] = None; from syncd.cli.main import main; sys.exit(main(['demo']))"
    demo = subprocess.run([sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert demo.returncode == 78
    assert "scikit-learn" in demo.stderr
    assert not list(tmp_path.iterdir())


def lines(file: Path) -> list[tuple[float, int, int]]:
    """A FileStore's metric file: value, timestamp, step of each line."""
    parts = [line.split() for line in file.read_text().splitlines()]
    return [(float(value), int(timestamp), int(step)) for timestamp, value, step in parts]


def points_on(url: str, run: dict[str, Any], keys: Any) -> Points:
    found: Points = {}
    for key in keys:
        query = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={key}&max_results=1000"
        points = call(url, query)["metrics"]
        found[key] = [(point["value"], int(point["timestamp"]), int(point.get("step", 0))) for point in points]
        found[key].sort(key=lambda point: point[2])
    return found


def artifacts(url: str, run: dict[str, Any]) -> set[str]:
    listed = call(url, f"artifacts/list?run_id={run['info']['run_id']}")
    return {file["path"] for file in listed.get("files", [])}
