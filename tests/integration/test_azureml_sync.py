"""``syncd sync`` and ``syncd verify`` into a workspace, as a user runs them; Microsoft's client reads what arrived."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.awkward import DELETED_EXPERIMENT, MAIN_EXPERIMENT, build_awkward_store
from tests.faults.oracle import StoredRun, digests, point, read_store
from tests.standins.azureml import RunningWorkspace, Shelf
from tests.standins.azureml.reading_session import read_back

OWN = "syncd."
RENAMED = {"mlflow.parentRunId", "mlflow.runName"}


def syncd(workspace: RunningWorkspace, *arguments: object, expect: int = 0) -> Any:
    ended = subprocess.run(
        [sys.executable, "-m", "syncd.cli.main", *map(str, arguments), "--json"],
        env={**os.environ, **workspace.place.client_environment()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def overflow_document(files: dict[str, bytes], section: str) -> dict[str, str]:
    """Return what the documents of a section say, by the rules of docs/decisions/0005."""
    pattern = re.compile(rf"syncd/overflow/{section}(?:\.(\d+))?\.json")
    numbered = sorted((int(match[1] or 1), path) for path in files if (match := pattern.fullmatch(path)))
    said: dict[str, str | None] = {}
    for _, path in numbered:
        said |= json.loads(files[path])
    return {key: value for key, value in said.items() if value is not None}


def segment_points(files: dict[str, bytes]) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for path, data in files.items():
        if re.fullmatch(r"syncd/overflow/metrics/\d+\.jsonl", path):
            for line in data.splitlines():
                one = json.loads(line)
                found[point(one["key"], float(one["value"]), one["timestamp"], one["step"])] += 1
    return found


def assert_as_in_source(source: StoredRun, there: dict[str, Any], folder: Path) -> None:
    """Compare a run of the source's files with what Microsoft's client has read and downloaded, overflow included."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (there["name"], there["status"]) == (source.name, source.status)
    assert (there["start"], there["end"]) == (source.start_ms, source.end_ms)
    assert there["params"] | overflow_document(files, "params") == source.params
    tags = there["tags"] | overflow_document(files, "tags")
    kept = {key: value for key, value in tags.items() if not key.startswith(OWN) and key not in RENAMED}
    assert kept == {key: value for key, value in source.tags.items() if key not in RENAMED}
    held = Counter(point(key, float(value), ms, step) for key, value, ms, step in there["points"])
    held += segment_points(files)
    assert set(held) == set(source.points)
    assert set(held.values()) <= {1}, "a point is there twice"
    assert {tuple(dataset) for dataset in there["datasets"]} == source.datasets
    ours = digests(source.folder)
    renamed = overflow_document(files, "artifacts")
    theirs = digests(folder)
    assert {path: theirs.get(renamed.get(path, path)) for path in ours} == ours


def assert_a_lost_journal_adds_nothing(workspace: RunningWorkspace, source: Path, state: Path, *, runs: int) -> None:
    tracking, artifacts = workspace.state.tracking, workspace.state.artifacts
    points = {run.identity: dict(run.series) for run in tracking.runs.values()}
    registered = {shelf: dict(paths) for shelf, paths in artifacts.registered.items()}
    told = syncd(workspace, "sync", source, "--to", workspace.place.tracking_uri, "--state-dir", state)
    assert (told["runs_found"], told["dead_letters"]) == (runs, 0)
    assert {run.identity: run.series for run in tracking.runs.values()} == points
    assert {shelf: dict(paths) for shelf, paths in artifacts.registered.items()} == registered


@pytest.mark.parametrize("kind", ["mlruns", "mlflow-db"])
def test_an_awkward_store_is_read_back_equal_by_microsofts_client(kind: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build_awkward_store(store, kind, big_artifact_bytes=3_000_000)
    source = store / "mlflow.db" if kind == "mlflow-db" else store
    state = tmp_path / "state"
    with RunningWorkspace(tmp_path / "workspace") as workspace:
        uri = workspace.place.tracking_uri
        first = syncd(workspace, "sync", source, "--to", uri, "--state-dir", state)
        assert (first["dead_letters"], first["points_waiting"]) == (0, 0)
        compared = syncd(workspace, "verify", source, "--against", uri)
        assert compared["differences"] == []
        assert compared["compared"]["points"] > 2500
        assert compared["overflow"]["tags"] > 30
        if kind == "mlruns":
            assert_a_lost_journal_adds_nothing(workspace, source, tmp_path / "another journal", runs=first["runs"])
        told = read_back(workspace.place, tmp_path / "read")
    assert DELETED_EXPERIMENT not in told
    found = read_store(store / "mlflow.db" if kind == "mlflow-db" else store / "mlruns", MAIN_EXPERIMENT)
    there = {run["tags"].get("syncd.source_run_id"): run for run in told[MAIN_EXPERIMENT]}
    assert set(found.runs) == set(there) - {None}
    for key, run in found.runs.items():
        assert_as_in_source(run, there[key], tmp_path / "read" / there[key]["id"])


def make_wide_run(store: Path) -> None:
    """Write a FileStore with one run of 400 metrics, 300 params and 80 tags."""
    run = store / "1" / ("a" * 32)
    (run / "artifacts").mkdir(parents=True)
    (store / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: wide\nlifecycle_stage: active\n")
    (run / "meta.yaml").write_text(
        f"run_id: {'a' * 32}\nexperiment_id: '1'\nrun_name: wide\nstatus: 3\nlifecycle_stage: active\n"
        f"start_time: 1700000000000\nend_time: 1700000100000\nartifact_uri: {run}/artifacts\nuser_id: u\n"
    )
    for folder, count, text in (
        ("metrics", 400, "1700000000000 0.5 0\n1700000001000 0.25 1\n1700000002000 nan 2\n"),
        ("params", 300, "value"),
        ("tags", 80, "text"),
    ):
        for number in range(count):
            path = run / folder / f"layer{number % 7}" / f"{folder}_{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def test_a_run_with_400_metrics_300_params_and_80_tags_is_there_whole_and_explained(tmp_path: Path) -> None:
    make_wide_run(tmp_path / "mlruns")
    state = tmp_path / "state"
    with RunningWorkspace(tmp_path / "workspace") as workspace:
        uri = workspace.place.tracking_uri
        told = syncd(workspace, "sync", tmp_path / "mlruns", "--to", uri, "--state-dir", state)
        assert (told["points"], told["dead_letters"]) == (1200, 0)
        compared = syncd(workspace, "verify", tmp_path / "mlruns", "--against", uri)
        assert compared["differences"] == []
        assert compared["overflow"] == {
            "params": 100, "tags": 36, "artifacts": 0, "points": 350 * 3, "datasets": 0,
        }  # fmt: skip
        explained = syncd(workspace, "explain", "a" * 32, "--state-dir", state)
        [there] = explained["runs"][0]["destinations"]
        sections = Counter(entry["section"] for entry in there["overflow_entries"])
        assert sections == {"metrics": 350, "params": 100, "tags": 36}
        [run] = workspace.state.tracking.runs.values()
        assert (len(run.series), len(run.params), len(run.tags)) == (50, 200, 49)
        assert run.tags["syncd.overflow"] == "metrics: 350, params: 100, tags: 36; see syncd/overflow/"
        shelf = Shelf.of_run(run.identity)
        lines = workspace.state.artifacts.bytes_of(shelf, "syncd/overflow/metrics/1.jsonl").splitlines()
        assert len(lines) == len(set(lines)) == 350 * 3

        workspace.state.artifacts._blobs.blobs[shelf.blob_name("syncd/overflow/metrics/1.jsonl")].committed = None
        spoiled = syncd(workspace, "verify", tmp_path / "mlruns", "--against", uri, expect=4)
        assert spoiled["differences"]
