"""Webhooks into a running daemon over HTTP: the signers are Standard Webhooks' own and MLflow's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook as MlflowWebhook
from mlflow.entities.webhook import WebhookEvent
from mlflow.webhooks.delivery import _send_webhook_request
from standardwebhooks.webhooks import Webhook

from syncd.core.source_tags import SOURCE_RUN_ID
from syncd.journal.report import JournalReport
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.ports import free_port

SECRET = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIGdvb2Qgc2VjcmV0"
DEADLINE_S = 90.0


class Daemon:
    """``syncd run`` with two webhooks."""

    def __init__(self, folder: Path, url: str, experiment: str) -> None:
        self.state_dir = folder / "state"
        self.url = f"http://127.0.0.1:{free_port()}"
        config = folder / "syncd.toml"
        config.write_text(
            f'[daemon]\nstate_dir = "{self.state_dir}"\n[http]\nlisten = "{self.url.removeprefix("http://")}"\n'
            f'[[sources]]\nname = "signed"\nkind = "webhook"\nexperiment = "{experiment}"\n'
            'secrets = [{ env = "HOOK_SECRET" }]\nmax_message_bytes = "100kB"\nstart_patience_s = 0.2\n'
            '[[sources]]\nname = "registry"\nkind = "webhook"\nsecrets = [{ env = "MLFLOW_SECRET" }]\n'
            f'[[destinations]]\nname = "server"\nuri = "{url}"\n'
        )
        self._log = (folder / "syncd.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "syncd.cli.main", "run", "--config", str(config)],
            env={**os.environ, "HOOK_SECRET": SECRET, "MLFLOW_SECRET": "registry secret"},
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._log.close()

    def post(self, body: bytes, headers: dict[str, str], *, source: str = "signed") -> requests.Response:
        return requests.post(f"{self.url}/hooks/{source}", data=body, headers=headers, timeout=60)

    def metrics(self) -> str:
        return requests.get(f"{self.url}/metrics", timeout=60).text

    def counts(self, source: str) -> dict[str, int]:
        journal = JournalReport.open(self.state_dir)
        assert journal is not None
        with journal:
            [found] = [one for one in journal.messages() if one.source == source]
            return {"taken": found.taken, "repeated": found.repeated, "refused": found.refused}


def until(holds: Any) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def experiment() -> str:
    return f"webhooks {uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, mlflow_server: RunningMlflow, experiment: str) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("daemon"), mlflow_server.url, experiment)

    def answers() -> bool:
        try:
            return requests.get(f"{made.url}/livez", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    until(answers)
    yield made
    made.stop()


def signed(body: bytes, *, message_id: str | None = None, age_s: float = 0.0) -> dict[str, str]:
    message_id = message_id or f"msg_{uuid.uuid4().hex}"
    at = datetime.fromtimestamp(time.time() - age_s, UTC)
    signature = Webhook(SECRET).sign(message_id, at, body.decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
        "content-type": "application/json",
    }


def log(run: str, step: int) -> bytes:
    return json.dumps(
        {"run": {"id": run}, "metrics": {"loss": step / 7}, "step": step, "timestamp": 1000 + step}
    ).encode()


def test_what_is_signed_is_taken_once_and_what_is_not_is_refused(
    daemon: Daemon, mlflow_server: RunningMlflow, experiment: str
) -> None:
    body = log("hooked", 1)
    headers = signed(body)
    assert daemon.post(body, headers).json() == {"status": "taken"}
    assert daemon.post(body, headers).status_code == 200  # a replay, or its sender did not get the answer
    assert daemon.post(log("hooked", 2), headers).status_code == 401
    assert daemon.post(body, signed(body, age_s=400)).status_code == 401
    assert daemon.post(body, {}).status_code == 401
    assert daemon.post(body, signed(body), source="other").status_code == 404
    large = b" " * 200_000 + body
    assert daemon.post(large, signed(large)).status_code == 413
    wrong = b'{"run": "x", "metrics": 7}'
    answer = daemon.post(wrong, signed(wrong))
    assert (answer.status_code, answer.json()["error"].partition(",")[0]) == (
        400,
        "/metrics: expected an object of names and numbers",
    )
    assert daemon.counts("signed") == {"taken": 1, "repeated": 1, "refused": 1}
    client = MlflowClient(mlflow_server.url)

    def runs() -> list[Any]:
        found = client.get_experiment_by_name(experiment)
        return client.search_runs([found.experiment_id]) if found else []

    [run] = until(runs)
    assert run.data.tags[SOURCE_RUN_ID] == "hooked"
    [point] = until(lambda: client.get_metric_history(run.info.run_id, "loss"))
    assert (point.value, point.timestamp, point.step) == (1 / 7, 1001, 1)


def test_what_mlflow_sends_of_its_registry_is_taken(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    event = WebhookEvent("model_version", "created")
    hook = MlflowWebhook("1", "syncd", f"{daemon.url}/hooks/registry", [event], 0, 0, secret="registry secret")
    payload: Any = {"name": "churn", "version": "2", "source": "s", "run_id": "r", "tags": {}, "description": None}
    assert _send_webhook_request(hook, payload, event, requests.Session()).status_code == 200
    hook = MlflowWebhook("1", "syncd", f"{daemon.url}/hooks/registry", [event], 0, 0, secret="another secret")
    assert _send_webhook_request(hook, payload, event, requests.Session()).status_code == 401
    assert daemon.counts("registry") == {"taken": 1, "repeated": 0, "refused": 0}


def test_a_wrong_signature_costs_nothing_however_often(daemon: Daemon) -> None:
    before = daemon.counts("signed")
    body = b"[" * 90_000
    for _ in range(100):
        headers = {**signed(body), "webhook-signature": "v1,AAAA"}
        assert daemon.post(body, headers).status_code == 401
    assert daemon.counts("signed") == before
    found = re.search(r'hook_requests_total{source="signed",outcome="unauthorized"} (\d+)', daemon.metrics())
    assert found is not None
    assert int(found[1]) >= 100
