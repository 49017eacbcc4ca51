"""Thousands of messages through both brokers at once, repeated, shuffled and malformed, while everything is killed."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import pytest

from syncd.brokers.mqtt import MqttAddress
from tests.faults.processes import daemon, waiting
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

RUNS = 20
DUPLICATES = 20  # one of so many
MALFORMED = 100
PATIENCE_S = 240.0
PATIENCE_OF_THOUSANDS_S = 1200.0
FIRST_MS = 1_790_000_000_000
CLIENT = "the-daemon"


Point = tuple[str, int, int, float]  # run, timestamp, step, value


@dataclass(frozen=True)
class Sent:
    """What is sent to one broker, as ``experiment``; ``bad`` are ids of those that nobody can read."""

    bodies: Sequence[bytes]
    bad: frozenset[str]
    experiment: str
    expected: Counter[Point]


def messages_of(experiment: str, count: int, seed: int) -> Sent:
    """Return so many messages that each say one point, some of them twice, some malformed, in any order."""
    malformed = count // MALFORMED
    shuffled = random.Random(seed)
    bodies: list[bytes] = []
    bad: set[str] = set()
    for number in range(count):
        event = {"specversion": "1.0", "type": "dev.syncd.log", "source": f"/{experiment}", "id": f"{number}"}
        data = {"run": f"run-{number % RUNS}", "experiment": experiment, "metrics": {"loss": number / 8}}
        data |= {"step": number, "timestamp": FIRST_MS + number}
        if number < malformed:
            data["step"] = f"not a number: {number}"
            bad.add(f"{number}")
        bodies.append(json.dumps({**event, "data": data}).encode())
    bodies += shuffled.sample(bodies[malformed:], count // DUPLICATES)
    shuffled.shuffle(bodies)
    good = Counter(
        (f"run-{number % RUNS}", FIRST_MS + number, number, number / 8) for number in range(malformed, count)
    )
    return Sent(bodies, frozenset(bad), experiment, good)


def points_of(server: RunningMlflow, experiment: str) -> Counter[Point]:
    """What the server has, as (run, timestamp, step, value); a run that is there twice shows twice."""
    query = (
        "SELECT runs.name, metrics.timestamp, metrics.step, metrics.value FROM metrics"
        " JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
    )
    with closing(sqlite3.connect(f"file:{server.folder}/backend.db?mode=ro", uri=True, timeout=30)) as database:
        return Counter(
            (str(name), int(at), int(step), float(value))
            for name, at, step, value in database.execute(query, (experiment,))
        )


def refused_in_the_journal(state: Path) -> frozenset[str]:
    """Ids of the messages that MQTT has no place for, each kept once with a reason."""
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as database:
        rows = database.execute("SELECT body, description FROM refused_message").fetchall()
    assert all("expected a whole number of 64 bits" in description for _, description in rows)
    ids = [json.loads(body)["id"] for body, _ in rows]
    assert len(set(ids)) == len(ids)
    return frozenset(ids)


async def publish(broker: RunningMosquitto, bodies: Sequence[bytes]) -> None:
    async with aiomqtt.Client(broker.host, broker.port, identifier="publisher") as client:
        client.pending_calls_threshold = len(bodies)
        for first in range(0, len(bodies), 100):
            part = bodies[first : first + 100]
            await asyncio.gather(*(client.publish("syncd/device/x/metrics", body, qos=1, timeout=60) for body in part))


async def keep_a_session(broker: RunningMosquitto) -> None:
    address = MqttAddress(host=broker.host, port=broker.port, client_id=CLIENT)
    async with await address.open_client(session_expiry_s=3600) as client:
        await client.subscribe_to(["syncd/+/+/metrics"])


def config(folder: Path, bus: ServiceBus, queue: str, broker: RunningMosquitto, server: RunningMlflow) -> Path:
    file = folder / "syncd.toml"
    file.write_text(
        f'[daemon]\nstate_dir = "{folder}/state"\nlog_format = "json"\n'
        f'[[sources]]\nname = "bus"\nkind = "service-bus"\nqueue = "{queue}"\n'
        f'connection_string = "{bus.connection_string}"\n'
        f'[[sources]]\nname = "devices"\nkind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}\n'
        f'client_id = "{CLIENT}"\ntopics = ["syncd/+/+/metrics"]\nsession_expiry_s = 3600\n'
        f'[[destinations]]\nname = "d"\nuri = "{server.url}"\n'
    )
    return file


def until(what: str, condition: Callable[[], bool], deadline_s: float) -> None:
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.5)


@pytest.mark.timeout(PATIENCE_OF_THOUSANDS_S + 60)
@pytest.mark.parametrize(
    ("count", "patience_s"),
    [(1_000, PATIENCE_S), pytest.param(10_000, PATIENCE_OF_THOUSANDS_S, marks=pytest.mark.soak)],
    ids=["1000", "10000"],
)
def test_every_good_point_arrives_once_and_every_bad_message_is_kept_with_its_reason(
    tmp_path: Path, mlflow_server: RunningMlflow, count: int, patience_s: float
) -> None:
    deadline_s = time.monotonic() + patience_s
    by_bus = messages_of(f"by-bus-{count}", count, 1)
    by_mqtt = messages_of(f"by-mqtt-{count}", count, 2)
    quick = "autosave_interval 2\nautosave_on_changes false"  # else it writes all of it for each message
    with ServiceBus(tmp_path / "bus") as bus, RunningMosquitto(tmp_path / "mqtt", options=quick) as broker:
        queue = bus.queue("in", lock_s=10.0)
        bus.put(queue, by_bus.bodies)
        asyncio.run(keep_a_session(broker))
        asyncio.run(publish(broker, by_mqtt.bodies))
        file = config(tmp_path, bus, queue, broker, mlflow_server)
        good = by_bus.expected.total() + by_mqtt.expected.total()

        def arrived() -> int:
            return sum(points_of(mlflow_server, one.experiment).total() for one in (by_bus, by_mqtt))

        def more_than(part: float) -> None:
            until(f"{part:.0%} of the points", lambda: arrived() >= part * good, deadline_s)

        for part in (0.05, 0.2, 0.35):
            with daemon(file) as running:
                more_than(part)
                running.kill()
        with daemon(file) as running:
            more_than(0.5)
            bus.kill()
            broker.kill()  # it has forgotten the acknowledgements of the last seconds then
            time.sleep(1)
            bus.start()
            broker.start()
            more_than(1.0)
            until("an empty queue", lambda: bus.count(queue) == 0, deadline_s)
            until("nothing waits", lambda: waiting(tmp_path / "state")["delivery"] == 0, deadline_s)
            until("all refusals", lambda: refused_in_the_journal(tmp_path / "state") == by_mqtt.bad, deadline_s)
            assert running.terminate() == 0
        for sent in (by_bus, by_mqtt):
            assert points_of(mlflow_server, sent.experiment) == sent.expected
        dead = bus.dead_letters(queue)
        assert {json.loads(kept.body)["id"] for kept in dead} == by_bus.bad
        for kept in dead:
            assert kept.dead_letter is not None
            reason, description = kept.dead_letter
            assert (reason, "expected a whole number of 64 bits" in description) == ("Malformed", True)
