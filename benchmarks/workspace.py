"""``workspace``: ``syncd sync`` against the azureml-mlflow client itself, on a stand-in that answers 50 ms late;
``workspace-daemon``: what ``syncd run`` holds while it follows a run into it.

A real workspace is far away. The stand-in is no real workspace: what is measured is what latency and limits cost.

    python -m benchmarks.workspace STORE        # the rival: the client does the same work, one call after the other
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.following import while_a_run_lives
from benchmarks.processes import Spent, daemon, measured, memory_mib, sync
from benchmarks.results import Row
from benchmarks.stores import EXPERIMENT, make_file_store
from tests.standins.azureml import WorkspaceProcess

LATENCY_S = 0.05
BATCH = 250  # the workspace takes no more points in one request
RUNS, METRICS, STEPS, FILES, FILE_BYTES = 10, 10, 2_000, 10, 200_000


def into_workspace(folder: Path) -> Iterator[Row]:
    """Bring 200,000 points and 100 artifacts of 200 kB over."""
    store = folder / "mlruns"
    make_file_store(store, runs=RUNS, metrics=METRICS, steps=STEPS, files=FILES, file_bytes=FILE_BYTES)
    ours = _measured(folder / "syncd", lambda here, uri: sync(store, uri, here))
    rival = [sys.executable, "-m", "benchmarks.workspace", str(store)]
    theirs = _measured(folder / "client", lambda here, _: measured(rival, cwd=here))
    what = f"{RUNS * METRICS * STEPS:,} points, {RUNS * FILES} artifacts of {FILE_BYTES // 1000} kB, 50 ms an answer"
    yield Row(
        f"{what}: azureml-mlflow's wall time / syncd's", "≥ 10", f"**{theirs[0].wall_s / ours[0].wall_s:.1f}**", ""
    )
    for name, (spent, requests) in (("syncd", ours), ("azureml-mlflow", theirs)):
        took = f"{spent.wall_s:.1f} s, {spent.cpu_s:.1f} s CPU, {spent.peak_mib:.0f} MiB, {requests} requests"
        yield Row(f"&nbsp; {name}", "", took, "")


def following_into_workspace(folder: Path) -> Iterator[Row]:
    """Follow a run that lives, in a store that had hardly anything, and in one that had 100 runs with artifacts."""
    for runs, files in ((1, 0), (100, 3)):
        live_mib, peak_mib = _followed(folder / str(runs), runs, files)
        what = f"daemon's memory, following 20 points/s into the workspace, after {runs} runs, {runs * files} artifacts"
        yield Row(what, "≤ 80 MiB", f"**{live_mib:.1f} MiB**", f"{peak_mib:.1f} at most")


def _followed(folder: Path, runs: int, files: int) -> tuple[float, float]:
    """Return what the daemon held while a run lived, and at most, in MiB."""
    store = folder / "mlruns"
    make_file_store(store, runs=runs, metrics=10, steps=50, params=5, files=files, file_bytes=FILE_BYTES)
    with WorkspaceProcess(folder / "workspace") as workspace:
        workspace.control(latency_s=LATENCY_S)
        os.environ.update(workspace.place.client_environment())
        with daemon(folder / "daemon", [store], workspace.place.tracking_uri) as process:
            deadline_s = time.monotonic() + 120
            while _has_less(workspace, points=runs * 500, artifacts=runs * files) and time.monotonic() < deadline_s:
                time.sleep(1)
            sizes = list(while_a_run_lives(store / EXPERIMENT / ("1" * 32), process.pid))
            peak_mib = memory_mib(process.pid, "VmHWM")
        if _has_less(workspace, points=runs * 500 + 1, artifacts=runs * files):
            raise RuntimeError("not all has arrived")
    return max(sizes), peak_mib


def _has_less(workspace: WorkspaceProcess, **wanted: int) -> bool:
    stored = workspace.control()["stored"]
    return any(stored[name] < count for name, count in wanted.items())


def _measured(here: Path, work: Any) -> tuple[Spent, int]:
    here.mkdir()
    with WorkspaceProcess(here / "workspace") as workspace:
        workspace.control(latency_s=LATENCY_S)
        os.environ.update(workspace.place.client_environment())
        spent = work(here, workspace.place.tracking_uri)
        told = workspace.control()
    stored = told["stored"]
    if (stored["runs"], stored["points"], stored["artifacts"]) != (RUNS, RUNS * METRICS * STEPS, RUNS * FILES):
        raise RuntimeError(f"not all has arrived: {stored}")
    return spent, sum(told["counts"].values())


def send_by_client(store: Path) -> None:
    """Send a FileStore with MLflow's client and its plugin for workspaces, as a careful user would."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client: Any = MlflowClient()
    experiment = client.create_experiment("bench")
    for folder in sorted(path.parent for path in store.glob("*/*/meta.yaml")):
        run_id = client.create_run(experiment, run_name=folder.name).info.run_id
        points = [
            Metric(file.name, float(value), int(timestamp), int(step))
            for file in sorted((folder / "metrics").iterdir())
            for timestamp, value, step in (line.split() for line in file.read_text().splitlines())
        ]
        for start in range(0, len(points), BATCH):
            client.log_batch(run_id, points[start : start + BATCH])
        client.log_artifacts(run_id, str(folder / "artifacts"))
        client.set_terminated(run_id)


if __name__ == "__main__":
    send_by_client(Path(sys.argv[1]))
