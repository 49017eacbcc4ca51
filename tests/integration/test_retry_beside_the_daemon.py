"""``syncd dlq retry`` while ``syncd run`` runs: the daemon notices, sends, and ``status`` and ``explain`` agree."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from syncd.journal import database
from syncd.journal.queries import STATEMENTS

RUN_ID = "5eed" + "0" * 27 + "1"
SYNCD = [sys.executable, "-m", "syncd.cli.main"]


def write_store(root: Path) -> None:
    run = root / "1" / RUN_ID
    for folder in ("metrics", "params", "tags", "artifacts"):
        (run / folder).mkdir(parents=True)
    (root / "1" / "meta.yaml").write_text(
        f"artifact_location: {root.as_uri()}/1\nexperiment_id: '1'\nlifecycle_stage: active\nname: retried\n"
    )
    (run / "meta.yaml").write_text(
        f"artifact_uri: {run.as_uri()}/artifacts\nend_time: 1700000001000\nentry_point_name: ''\nexperiment_id: '1'\n"
        f"lifecycle_stage: active\nrun_id: {RUN_ID}\nrun_name: bold-fox-1\nrun_uuid: {RUN_ID}\nsource_name: ''\n"
        "source_type: 4\nsource_version: ''\nstart_time: 1700000000000\nstatus: 3\ntags: []\nuser_id: ann\n"
    )
    (run / "metrics" / "loss").write_text("1700000000000 0.5 1\n")


def refuse_a_param(state_dir: Path) -> None:
    """Put a dead letter beside the running daemon, as if the server had refused a param."""
    with closing(database.join(state_dir / database.FILE_NAME)) as connection:
        subject, destination = connection.execute(
            "SELECT s.id, d.id FROM subject s, destination d WHERE s.key = ?", (RUN_ID,)
        ).fetchone()
        letter = {"section": 0, "kind": "params", "body": b'{"late":"yes"}', "items": 1}
        said = {"reason": "out of params", "code": "", "status": 400, "now_ms": time.time_ns() // 1_000_000}
        ids = {"subject_id": subject, "destination_id": destination}
        connection.execute(STATEMENTS["add_dead_letter"], {**letter, **said, **ids})


def asked(config: Path, *words: str) -> Any:
    done = subprocess.run([*SYNCD, *words, "--config", str(config), "--json"], capture_output=True, check=True)
    return json.loads(done.stdout)


PATIENCE_S = 150.0


def eventually(check: Callable[[], bool]) -> None:
    begun_s = time.monotonic()
    while not check():
        assert time.monotonic() - begun_s < PATIENCE_S, "it did not come about"
        time.sleep(0.1)


def state(config: Path) -> str:
    runs = asked(config, "runs")["runs"]
    return str(runs[0]["destinations"][0]["state"]) if runs else "none"


def test_a_running_daemon_sends_what_was_put_back(tmp_path: Path, mlflow_url: str) -> None:
    write_store(tmp_path / "mlruns")
    config = tmp_path / "syncd.toml"
    config.write_text(
        '[daemon]\nstate_dir = "state"\n[[sources]]\nname = "local"\nkind = "mlruns"\npath = "mlruns"\n'
        f'[[destinations]]\nname = "server"\nuri = "{mlflow_url}"\n'
    )
    with subprocess.Popen([*SYNCD, "run", "--config", str(config)]) as daemon:
        try:
            eventually(lambda: (tmp_path / "state" / database.FILE_NAME).exists())
            eventually(lambda: state(config) == "synced")
            status = asked(config, "status")
            assert (status["pid"], status["destinations"][0]["state"]) == (daemon.pid, "up")
            assert status["destinations"][0]["sent"]["points"] == 1
            refuse_a_param(tmp_path / "state")
            assert state(config) == "dead-letters"
            assert asked(config, "dlq", "retry", "--all")["waiting"] == [1]
            there = asked(config, "explain", "bold-fox-1")["runs"][0]["destinations"][0]

            def params() -> dict[str, str]:
                url = f"{mlflow_url}/api/2.0/mlflow/runs/get?run_id={there['run_id']}"
                with urllib.request.urlopen(url) as answer:
                    data = json.load(answer)["run"]["data"]
                return {param["key"]: param["value"] for param in data.get("params", [])}

            eventually(lambda: params() == {"late": "yes"})
            eventually(lambda: state(config) == "synced")
            assert asked(config, "dlq", "list")["dead_letters"] == []
            assert there["link"].startswith(f"{mlflow_url}/#/experiments/")
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=200) == 0
    assert asked(config, "status")["running"] is False
