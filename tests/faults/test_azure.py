"""A workspace that throttles, loses answers, or whose syncd is killed: nothing lost, nothing twice.

Sign-in that fails is in ``test_azure_sign_in.py``, artifacts and storage are in ``test_azure_artifacts.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins.azureml import Fault, RunningWorkspace

NAMES = 60
STEPS = 30


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path / "workspace") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a FileStore with a run of more metrics, params and tags than a workspace takes, and an artifact."""
    root = tmp_path / "mlruns"
    run = root / "1" / ("b" * 32)
    (run / "artifacts").mkdir(parents=True)
    (run / "artifacts" / "notes.txt").write_text("notes")
    (root / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: faults\nlifecycle_stage: active\n")
    (run / "meta.yaml").write_text(
        f"run_id: {'b' * 32}\nexperiment_id: '1'\nrun_name: r\nstatus: 3\nlifecycle_stage: active\n"
        f"start_time: 1700000000000\nend_time: 1700000100000\nartifact_uri: {run}/artifacts\nuser_id: u\n"
    )
    points = "".join(f"{1_700_000_000_000 + step} {step / 4} {step}\n" for step in range(STEPS))
    for folder, count, text in (("metrics", NAMES, points), ("params", 210, "v"), ("tags", 60, "t")):
        (run / folder).mkdir()
        for number in range(count):
            (run / folder / f"{folder}_{number:03}").write_text(text)
    return root


def syncd(workspace: RunningWorkspace, store: Path, *, failpoint: str = "", killed: bool = False) -> Any:
    """Sync the store; with a failpoint, the process is killed there."""
    command = ["sync", store, "--to", workspace.place.tracking_uri, "--state-dir", store.parent / "state", "--json"]
    module = ["tests.faults.failpoints", failpoint, "--"] if failpoint else ["syncd.cli.main"]
    ended = subprocess.run(
        [sys.executable, "-m", *module, *map(str, command)],
        env={**os.environ, **workspace.place.client_environment()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if killed:
        assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr
        return None
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def assert_whole_and_once(workspace: RunningWorkspace) -> None:
    state = workspace.state
    [run] = [run for run in state.tracking.runs.values() if run.lifecycle_stage == "active"]
    held = Counter((key, point.step) for key, series in run.series.items() for point in series)
    params, tags = dict(run.params), dict(run.tags)
    for shelf, registered in state.artifacts.registered.items():
        for path in registered:
            if path.endswith(".jsonl"):
                lines = [json.loads(line) for line in state.artifacts.bytes_of(shelf, path).splitlines()]
                held.update((line["key"], line["step"]) for line in lines)
            elif path.startswith("syncd/overflow/params"):
                params |= json.loads(state.artifacts.bytes_of(shelf, path))
            elif path.startswith("syncd/overflow/tags"):
                tags |= json.loads(state.artifacts.bytes_of(shelf, path))
    assert held == Counter((f"metrics_{name:03}", step) for name in range(NAMES) for step in range(STEPS))
    assert len(params) == 210
    assert {key for key in tags if key.startswith("tags_")} == {f"tags_{number:03}" for number in range(60)}
    assert (run.status, run.ended_at_ms) == ("FINISHED", 1_700_000_100_000)


def test_throttling_holds_up_and_loses_nothing(workspace: RunningWorkspace, store: Path) -> None:
    faults = workspace.state.faults
    for kind in ("runs/create", "runs/log-batch", "artifacts/batch/metadata", "blob", "runs/update"):
        faults.throttle_next(2, kind=kind, retry_after_s=0.2)
    assert syncd(workspace, store)["dead_letters"] == 0
    assert not faults.pending
    assert_whole_and_once(workspace)


@pytest.mark.parametrize(
    "kind",
    ["experiments/create", "runs/create", "runs/log-batch", "artifacts/batch/metadata", "blob/put", "runs/update"],
)
def test_a_lost_answer_doubles_nothing(workspace: RunningWorkspace, store: Path, kind: str) -> None:
    """History is told in pages of less than 1,000 points, here of 20, and read to its end."""
    workspace.state.limits.history_results = 21
    workspace.state.faults.add(Fault("lose", kind, times=1 if kind.endswith("create") else 3))
    assert syncd(workspace, store)["dead_letters"] == 0
    assert not workspace.state.faults.pending
    assert_whole_and_once(workspace)


def test_a_storm_of_everything_loses_and_doubles_nothing(workspace: RunningWorkspace, store: Path) -> None:
    workspace.state.faults.add(
        Fault("lose", "runs/log-batch", times=4),
        Fault("throttle", "runs", times=4, retry_after_s=0.1),
        Fault("drop", "runs", times=4),
        Fault("fail", "artifacts", times=4, status=503),
        Fault("drop", "blob", times=3),
    )
    assert syncd(workspace, store)["dead_letters"] == 0
    assert_whole_and_once(workspace)


@pytest.mark.parametrize(
    "failpoint",
    [
        "overflow.keep:after",
        "overflow.freeze_segment:before",
        "overflow.freeze_segment:after",
        "overflow.freeze_document:after",
        "overflow.arrived:before",
        "overflow.arrived:after",
        "workspace.create:after",
        "workspace.send:after:2",
        "workspace.upload:after",
        "workspace.upload:after:2",
    ],
)
def test_a_killed_sync_is_finished_by_the_next(workspace: RunningWorkspace, store: Path, failpoint: str) -> None:
    syncd(workspace, store, failpoint=failpoint, killed=True)
    assert syncd(workspace, store)["dead_letters"] == 0
    assert_whole_and_once(workspace)
