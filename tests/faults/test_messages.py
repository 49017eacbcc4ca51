"""10,000 messages of a broker, shuffled, some twice and some malformed, while daemon and broker are killed.

Every good point is on a real server once, and every malformed message is kept with its reason.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import pytest
from mlflow import MlflowClient

from syncd.errors import JournalError
from syncd.journal.report import JournalReport
from tests.faults.processes import environment
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

RUNS = 10
GOOD, TWICE, MALFORMED = 9_400, 500, 100
FIRST_MS = 1_700_000_000_000
DEADLINE_S = 240.0


def composed(experiment: str) -> list[bytes]:
    """Return the bodies in the order in which they are sent; always the same but for the experiment."""
    chance = random.Random(7)
    good = [
        json.dumps(
            {
                "specversion": "1.0",
                "type": "dev.syncd.log",
                "source": "/trainer",
                "id": str(number),
                "data": {
                    "run": {"id": f"{experiment}-{number % RUNS}", "name": f"run {number % RUNS}"},
                    "experiment": experiment,
                    "metrics": {"loss": number / 7},
                    "step": number,
                    "timestamp": FIRST_MS + number,
                },
            }
        ).encode()
        for number in range(GOOD)
    ]
    bad = [f'{{"run": "x", "metrics": {number}}}'.encode() for number in range(MALFORMED)]
    bodies = [*good, *chance.choices(good, k=TWICE), *bad]
    chance.shuffle(bodies)
    return bodies


class Daemon:
    """``syncd run`` as a process."""

    def __init__(self, folder: Path, source: str, url: str, experiment: str) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.config = folder / "syncd.toml"
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state_dir}"\nlog_format = "json"\n\n'
            f'[[sources]]\nname = "messages"\nexperiment = "{experiment}"\n{source}\n'
            f'[[destinations]]\nname = "server"\nuri = "{url}"\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "syncd.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "syncd.cli.main", "run", "--config", str(self.config)],
            env=environment(),
            stdout=log,
            stderr=log,
        )

    def end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def events(self) -> int:
        """Return how many events the journal has met so far."""
        try:
            journal = JournalReport.open(self.state_dir)
        except JournalError:
            return 0
        if journal is None:
            return 0
        with journal:
            return sum(one.taken + one.repeated for one in journal.messages())

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            said = (self.folder / "syncd.log").read_text()[-3000:]
            assert time.monotonic() < deadline_s, said
            assert self._process is None or self._process.poll() is None, said
            time.sleep(0.1)


class BusCase:
    """A queue of the stand-in of Service Bus."""

    def __init__(self, folder: Path) -> None:
        self.broker = ServiceBus(folder)

    def prepare(self, daemon: Daemon) -> None:
        """Nothing: a queue keeps what comes before anybody reads."""

    def open(self) -> str:
        self.broker.queue("in")
        return f'kind = "service-bus"\nconnection_string = "{self.broker.connection_string}"\nqueue = "in"'

    def send(self, bodies: list[bytes]) -> None:
        for position in range(0, len(bodies), 500):
            self.broker.put("in", bodies[position : position + 500])

    def refused(self, daemon: Daemon) -> list[tuple[str, str, str]]:
        found = self.broker.dead_letters("in")
        return [(one.body, *(one.dead_letter or ("", ""))) for one in found]


class MqttCase:
    """A mosquitto that keeps a session for the daemon."""

    def __init__(self, folder: Path) -> None:
        # After each change it would write all that waits: that is for tests of few messages.
        self.broker = RunningMosquitto(folder, options="autosave_on_changes false")

    def open(self) -> str:
        return (
            f'kind = "mqtt"\nhost = "{self.broker.host}"\nport = {self.broker.port}\n'
            'topics = ["syncd/#"]\nclient_id = "gateway"'
        )

    def prepare(self, daemon: Daemon) -> None:
        """Have the daemon subscribe once, so that the broker keeps what comes from then on."""
        daemon.start()
        log = self.broker.folder / "log"
        daemon.until(lambda: "SUBSCRIBE from gateway" in _text_of(self.broker))
        assert daemon.end(signal.SIGTERM) == 0, log

    def send(self, bodies: list[bytes]) -> None:
        async def publish() -> None:
            async with aiomqtt.Client(
                self.broker.host, self.broker.port, max_queued_outgoing_messages=0, max_inflight_messages=100
            ) as client:
                for body in bodies:
                    await client.publish("syncd/events", body, qos=1)

        asyncio.run(publish())
        time.sleep(3)  # the broker has written it down by then

    def refused(self, daemon: Daemon) -> list[tuple[str, str, str]]:
        journal = JournalReport.open(daemon.state_dir)
        assert journal is not None
        with journal:
            bodies = {one.id: json.loads(journal.letter_body(one.id)) for one in journal.letters()}
            return [(bytes.fromhex(bodies[one.id]["body"]).decode(), one.code, one.reason) for one in journal.letters()]


def _text_of(broker: RunningMosquitto) -> str:
    return broker.log.read_text(errors="replace")


@contextmanager
def case_of(kind: str, folder: Path) -> Iterator[BusCase | MqttCase]:
    case = BusCase(folder) if kind == "service-bus" else MqttCase(folder)
    with case.broker:
        yield case


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["service-bus", "mqtt"])
def test_messages_arrive_whole_and_once_though_all_is_killed(
    kind: str, tmp_path: Path, mlflow_server: RunningMlflow
) -> None:
    experiment = f"messages {kind} {uuid.uuid4().hex[:8]}"
    (tmp_path / "broker").mkdir()
    with case_of(kind, tmp_path / "broker") as case:
        daemon = Daemon(tmp_path, case.open(), mlflow_server.url, experiment)
        case.prepare(daemon)
        case.send(composed(experiment))
        for number in range(1, 4):
            daemon.start()
            daemon.until(lambda number=number: daemon.events() >= number * GOOD // 5)  # type: ignore[misc]
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        daemon.start()
        daemon.until(lambda: daemon.events() >= 4 * GOOD // 5)
        case.broker.kill()
        case.broker.start()
        daemon.until(lambda: daemon.events() >= GOOD + TWICE and len(case.refused(daemon)) >= MALFORMED)
        client = MlflowClient(mlflow_server.url)
        daemon.until(lambda: points_of(client, experiment) >= GOOD)
        assert daemon.end(signal.SIGTERM) == 0
        check(client, experiment)
        check_refused(case.refused(daemon))


def points_of(client: MlflowClient, experiment: str) -> int:
    return sum(len(client.get_metric_history(run, "loss")) for run in runs_of(client, experiment))


def runs_of(client: MlflowClient, experiment: str) -> dict[str, str]:
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    return {run.info.run_id: run.info.run_name for run in runs}


def check(client: MlflowClient, experiment: str) -> None:
    runs = runs_of(client, experiment)
    assert sorted(runs.values()) == [f"run {number}" for number in range(RUNS)]
    for run_id, name in runs.items():
        found = Counter((one.value, one.timestamp, one.step) for one in client.get_metric_history(run_id, "loss"))
        mine = range(int(name.removeprefix("run ")), GOOD, RUNS)
        assert found == Counter((number / 7, FIRST_MS + number, number) for number in mine)


def check_refused(refused: list[tuple[str, str, str]]) -> None:
    assert {body for body, _, _ in refused} == {f'{{"run": "x", "metrics": {n}}}' for n in range(MALFORMED)}
    for body, reason, description in refused:
        found = json.loads(body)["metrics"]
        assert reason == "Malformed"
        assert description == (
            "/metrics: expected an object of names and numbers, or an array of points {key, value, timestamp, step}, "
            f"found {found}"
        )
