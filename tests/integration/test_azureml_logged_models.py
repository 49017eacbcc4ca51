"""``log_model`` of MLflow 3 to a local store, and from there into a workspace, which the unmodified plugin uses."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins.azureml import RunningWorkspace, Shelf
from tests.standins.azureml.model_session import STORES, make_stores, use_models


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("stores")
    return folder, make_stores(folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as running:
        running.state.habits.write_offered = False  # a workspace that replaces nothing
        yield running


def syncd(workspace: RunningWorkspace, *arguments: object) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "syncd.cli.main", *map(str, arguments), "--json"],
        env={**os.environ, **workspace.place.client_environment()},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.mark.parametrize("kind", STORES)
def test_a_logged_model_is_a_model_in_the_workspace(
    workspace: RunningWorkspace, stores: tuple[Path, dict[str, dict[str, Any]]], kind: str, tmp_path: Path
) -> None:
    folder, logged = stores
    told, source = logged[kind], folder / STORES[kind]
    state = ["--to", workspace.place.tracking_uri, "--state-dir", tmp_path / "state"]
    syncd(workspace, "sync", source, *state)
    compared = syncd(workspace, "verify", source, "--against", workspace.place.tracking_uri)
    assert compared["compared"]["models"] == 2
    assert compared["differences"] == []
    [run] = [run for run in workspace.state.tracking.runs.values() if told["run"] in run.tags.values()]
    paths = dict(workspace.state.artifacts.registered[Shelf.of_run(run.identity)])
    assert {"classifier/MLmodel", "notes/own.txt"} <= paths.keys()
    # Of two models of one name that are brought over together either may be the first there.
    [(second, plain)] = [
        (f"classifier-{one}", other)
        for one, other in itertools.permutations(told["predicted"])
        if f"classifier-{one}/MLmodel" in paths
    ]
    if kind == "file":
        return
    # once more, from a journal that knows nothing
    workspace.state.log.clear()
    syncd(workspace, "sync", source, *state[:3], tmp_path / "another state")
    assert workspace.state.artifacts.registered[Shelf.of_run(run.identity)] == paths
    assert not [asked for asked in workspace.state.log.of("blob") if asked.method == "PUT"]
    used = use_models(workspace.place, tmp_path, told)
    assert used["listed"] == sorted(["classifier", second, "notes", "syncd"])
    assert {"MLmodel", "input_example.json", "serving_input_example.json"} <= set(used["files"])
    assert used["predicted"] == used["by_run"] == used["registered"] == told["predicted"][plain]
    assert used["probabilities"] == told["probabilities"][plain]
    assert used["signature"]["inputs"]
    assert used["example"]
    assert used["source"] == f"{run.artifact_uri}/classifier"
