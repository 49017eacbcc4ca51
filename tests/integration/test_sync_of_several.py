"""``syncd sync`` of several sources of which some cannot be read, and of what is there already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.awkward import build_awkward_store
from tests.standins.mlflow_server import RunningMlflow


def syncd(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "syncd.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def told(finished: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(finished.stdout)


def test_the_good_ones_are_brought_over_and_the_bad_ones_named(tmp_path: Path) -> None:
    good, empty, photos = tmp_path / "good", tmp_path / "empty.db", tmp_path / "photos"
    build_awkward_store(good, "mlruns")
    empty.touch()
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    with RunningMlflow(tmp_path / "server") as server:
        to = ("--to", server.url, "--patience", "20", "--state-dir", tmp_path / "state")
        first = syncd("sync", empty, photos, good, *to, "--json")
        assert first.returncode == 1, first.stderr
        assert told(first)["runs"] >= 10
        assert [one["source"] for one in told(first)["unread"]] == ["empty.db", "photos"]
        assert str(empty) in told(first)["error"]["target"]
        assert first.stderr.count(str(photos)) == 1

        missing = syncd("sync", tmp_path / "none", good, *to)
        assert (missing.returncode, missing.stderr.count("there is no such directory or file")) == (78, 1)
        runs = told(first)["runs_there"]
        assert f"nothing new: {runs} runs were already there" in missing.stdout

        anew = syncd("sync", good, "--to", server.url, "--state-dir", tmp_path / "anew")
        assert f"{runs} runs were already there; sent 0 new runs" in anew.stdout, anew.stdout + anew.stderr


def test_a_dry_run_names_the_bad_one_too(tmp_path: Path) -> None:
    build_awkward_store(tmp_path / "good", "mlruns")
    (tmp_path / "bad.db").write_bytes(b"garbage")
    found = syncd("sync", tmp_path / "bad.db", tmp_path / "good", "--to", "http://127.0.0.1:9", "--dry-run", "--json")
    assert found.returncode == 1
    assert told(found)["error"]["message"] == "it is not an SQLite database"
    assert sum(experiment["runs"] for experiment in told(found)["experiments"]) >= 10


def test_a_directory_with_only_a_database_gets_one_piece_of_advice(tmp_path: Path) -> None:
    build_awkward_store(tmp_path / "store", "mlflow-db")
    build_awkward_store(tmp_path / "good", "mlruns")
    found = syncd("sync", tmp_path / "store", tmp_path / "good", "--to", "http://127.0.0.1:9", "--dry-run")
    assert found.returncode == 1
    assert (found.stdout + found.stderr).count(str(tmp_path / "store" / "mlflow.db")) == 1
