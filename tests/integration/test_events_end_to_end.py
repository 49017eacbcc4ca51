"""A real training, a real server, the daemon as a process: its events at a webhook, by HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncd.core.webhook_signature import sign
from syncd.schemas.checking import check
from tests.faults.processes import daemon, environment, syncd, wait_for, write_config
from tests.standins.event_receiver import EventReceiver
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.ports import free_port

TRAINING = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("events " + sys.argv[2])
for outcome in ("FINISHED", "FAILED"):
    with_run = mlflow.start_run(run_name=outcome.lower())
    for step in range(20):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("weights", "model/weights.txt")
    mlflow.end_run(outcome)
"""


class Asked:
    """Asks the daemon's HTTP server as another program would."""

    def __init__(self, port: int, *, token: str = "") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.token = token

    def __call__(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(self.url + path, method=method, data=body, headers={**shown, **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _value(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _value(error.read())
        except OSError:
            return 0, None

    def status(self, path: str, **more: Any) -> int:
        return self(path, **more)[0]


def _value(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def train(folder: Path, name: str) -> None:
    folder.mkdir()
    command = [sys.executable, "-c", TRAINING, str(folder / "mlruns"), name]
    subprocess.run(
        command, cwd=folder, env={**environment(), "MLFLOW_ALLOW_FILE_STORE": "true"}, check=True, timeout=120
    )


@pytest.mark.timeout(240)
async def test_a_training_s_events_arrive_wherever_they_are_asked_for(
    mlflow_server: RunningMlflow, tmp_path: Path
) -> None:
    train(tmp_path / "first", "before")
    port = free_port()
    async with EventReceiver() as receiver:
        more = (
            f'[http]\nlisten = "127.0.0.1:{port}"\nliveness_window_s = 60\n'
            f'[[sinks]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\nsecrets = ["s3cret"]\n'
            'types = ["run.*", "artifact.*"]\n'
        )
        config = write_config(
            tmp_path / "a.toml",
            state=tmp_path / "state",
            url=mlflow_server.url,
            stores=[tmp_path / "first" / "mlruns"],
            daemon='name = "gpu-1"',
            destination=more,
        )
        ask = Asked(port)
        with daemon(config) as running:
            follow = _follow(config)
            try:
                await _until(lambda: receiver.types.count("run.synced") == 2, running.text)
                await asyncio.to_thread(_look_at_http, ask, receiver)
                assert running.terminate() == 0
            finally:
                follow.send_signal(signal.SIGINT)
                lines = follow.communicate(timeout=30)[0].splitlines()
    assert {event["source"] for event in receiver.events} == {"syncd/gpu-1"}
    assert [check("events/event", event) for event in receiver.events] == [None] * len(receiver.events)
    for outcome in ("finished", "failed"):
        told = [one["type"] for one in receiver.events if one["data"].get("run_name") == outcome]
        assert told == [f"dev.syncd.run.{what}" for what in ("discovered", outcome, "synced")]
    assert receiver.types.count("artifact.uploaded") == 2
    followed = [json.loads(line)["id"] for line in lines]
    assert [one for one in followed if one in receiver.ids] == receiver.ids
    code = syncd("events", "--config", str(config), "--json")
    assert [event["id"] for event in code.json()["events"]] == followed


def _follow(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "syncd.cli.main", "events", "--config", str(config), "--follow", "--json"]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, preexec_fn=_take_interrupts)


def _take_interrupts() -> None:
    """Be started as a terminal does: who runs in a shell's background ignores interrupts, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _look_at_http(ask: Asked, receiver: EventReceiver) -> None:
    assert ask("/livez") == (200, {"ok": True, "reason": ""})
    assert ask("/readyz") == (200, {"ok": True, "reason": ""})
    code, status = ask("/api/v1/status")
    assert (code, status["command"], status["running"]) == (200, "status", True)
    assert [(one["name"], one["state"]) for one in status["sinks"]] == [("hook", "up")]
    assert status["destinations"][0]["sent"]["points"] == 40
    code, runs = ask("/api/v1/runs")
    assert sorted(run["name"] for run in runs["runs"]) == ["failed", "finished"]
    assert {run["destinations"][0]["state"] for run in runs["runs"]} == {"synced"}
    _, first = ask("/api/v1/events?limit=1")
    _, rest = ask(f"/api/v1/events?since={first['next']}")
    ids = [event["id"] for event in [*first["events"], *rest["events"]]]
    assert set(receiver.ids) <= set(ids)
    _, none = ask(f"/api/v1/events?since={rest['next']}&wait_s=0.5")
    assert (none["events"], none["next"]) == ([], rest["next"])
    _, unwanted = ask("/api/v1/events?type=model.*")
    assert (unwanted["events"], unwanted["next"]) == ([], rest["next"])  # who is told of few does not fall behind
    assert ask.status("/api/v1/events?since=unknown") == 404
    assert ask.status("/api/v1/events?limit=x") == 400
    code, text = ask("/metrics")
    assert 'syncd_points_sent_total{destination="d"} 40' in text
    assert 'syncd_events_waiting{sink="hook"} 0' in text
    assert "/api/v1/status" in ask("/")[1]
    assert ask.status("/api/v1/reload", method="POST") == 501
    assert ask.status("/api/v1/reload") == 405
    assert ask.status("/nothing") == 404
    assert ask.status("/metrics", Host="evil.example") == 421
    assert ask.status("/hooks/none", method="POST", body=b"{}") == 404


@pytest.mark.timeout(240)
async def test_uploads_go_on_beside_a_dead_sink_and_kill_9_loses_no_event(
    mlflow_server: RunningMlflow, tmp_path: Path
) -> None:
    receiver = EventReceiver()
    more = f'[[sinks]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\nsecrets = ["s"]\n'
    train(tmp_path / "first", "dead sink")
    config = write_config(
        tmp_path / "a.toml",
        state=tmp_path / "state",
        url=mlflow_server.url,
        stores=[tmp_path / "first" / "mlruns"],
        destination=more,
    )
    with daemon(config) as running:
        await asyncio.to_thread(wait_for, "all is synced", lambda: _synced(config) == 2, timeout_s=90)
        running.kill()
    with daemon(config) as running:
        async with receiver:
            await _until(lambda: receiver.types.count("run.synced") == 2, running.text)
            assert running.terminate() == 0
    told = syncd("events", "--config", str(config), "--json").json()["events"]
    assert receiver.ids == [event["id"] for event in told]


def _synced(config: Path) -> int:
    ended = syncd("events", "--config", str(config), "--type", "run.synced", "--json")
    return len(ended.json().get("events", [])) if ended.code == 0 else 0


async def _until(condition: Callable[[], object], log: Callable[[], str]) -> None:
    try:
        async with asyncio.timeout(120):
            while not condition():  # noqa: ASYNC110 - what comes from another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(log()[-3000:]) from None


@pytest.mark.timeout(120)
async def test_elsewhere_than_on_the_loopback_a_token_is_needed_and_hooks_take_signed_messages(
    mlflow_server: RunningMlflow, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    port = free_port()
    more = (
        f'[http]\nlisten = "0.0.0.0:{port}"\ntoken = "t0ken"\n'
        '[[sources]]\nname = "hook"\nkind = "webhook"\nsecrets = ["s3cret"]\nmax_message_bytes = 2000\n'
    )
    config = write_config(
        tmp_path / "a.toml",
        state=tmp_path / "state",
        url=mlflow_server.url,
        stores=[tmp_path / "empty"],
        destination=more,
    )
    ask, stranger = Asked(port, token="t0ken"), Asked(port)
    with daemon(config) as running:
        await asyncio.to_thread(wait_for, "HTTP answers", lambda: stranger.status("/readyz") == 200, timeout_s=60)
        for path in ("/metrics", "/api/v1/status", "/api/v1/runs", "/api/v1/events", "/"):
            assert await asyncio.to_thread(stranger.status, path) == 401, path
            assert await asyncio.to_thread(ask.status, path) == 200, path
        taken = await asyncio.to_thread(_post_signed, stranger, b'{"run": "r1", "metrics": {"loss": 0.5}, "step": 1}')
        assert taken == 200, running.text()[-2000:]
        assert await asyncio.to_thread(_post_signed, stranger, b"x" * 3000) == 413
        assert await asyncio.to_thread(lambda: stranger.status("/hooks/hook", method="POST", body=b"{}")) == 401
        assert running.terminate() == 0


def _post_signed(ask: Asked, body: bytes) -> int:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "test",
        "type": "dev.syncd.log",
        "data": json.loads(body) if body.startswith(b"{") else body.decode(),
    }
    body = json.dumps(event).encode()
    at_s = int(time.time())
    headers = {
        "Content-Type": "application/cloudevents+json",
        "webhook-id": "m1",
        "webhook-timestamp": str(at_s),
        "webhook-signature": sign(b"s3cret", message_id="m1", timestamp_s=at_s, body=body),
    }
    return ask.status("/hooks/hook", method="POST", body=body, **headers)
