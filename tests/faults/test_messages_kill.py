"""``kill -9`` while one batch of messages is settled and the next is committed: each counts once, and none is left."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from pathlib import Path

import aiomqtt
import pytest

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from syncd.journal.report import JournalReport
from tests.faults.oracle import point, read_server
from tests.faults.processes import daemon, wait_for, waiting
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

COUNT = 500
FIRST_MS = 1_790_000_000_000
WHERE = ["inbox.take:before:3", "inbox.take:after:3", "{}.complete:before:2", "{}.complete:after:2"]


def bodies(experiment: str) -> list[bytes]:
    """Return events that each log one point of one run."""
    event = {"specversion": "1.0", "type": "dev.syncd.log", "source": f"/{experiment}"}
    data = [
        {"run": "night", "experiment": experiment, "metrics": {"loss": n / 8}, "step": n, "timestamp": FIRST_MS + n}
        for n in range(COUNT)
    ]
    return [json.dumps({**event, "id": f"{n}", "data": one}).encode() for n, one in enumerate(data)]


def killed_and_started_again(folder: Path, source: str, server: RunningMlflow, experiment: str, failpoint: str) -> None:
    """Have a daemon killed at the failpoint, and another one take what is left."""
    state = folder / "state"
    file = folder / "syncd.toml"
    file.write_text(
        f'[daemon]\nstate_dir = "{state}"\nlog_format = "json"\n[[sources]]\nname = "in"\n{source}'
        f'[[destinations]]\nname = "d"\nuri = "{server.url}"\n'
    )
    with daemon(file, module=("tests.faults.failpoints", failpoint, "--")) as killed:
        assert killed.process.wait(60) == -9, killed.text()[-2000:]
    with daemon(file) as running:
        wait_for("all messages", lambda: waiting(state)["inbox"] == COUNT)
        wait_for("nothing waits", lambda: waiting(state)["delivery"] == 0)
        assert running.terminate() == 0
    report = JournalReport.open(state)
    assert report is not None
    with report:
        [counts] = report.messages()
    assert (counts.taken, counts.refused) == (COUNT, 0)
    [run] = read_server(server, experiment).runs.values()
    assert run.points == Counter(point("loss", n / 8, FIRST_MS + n, n) for n in range(COUNT))


@pytest.mark.parametrize("where", WHERE)
def test_a_queue(tmp_path: Path, mlflow_server: RunningMlflow, where: str) -> None:
    experiment = f"queue {uuid.uuid4().hex}"
    with ServiceBus(tmp_path / "bus") as bus:
        bus.put(bus.queue("in", lock_s=5.0), bodies(experiment))
        source = f'kind = "service-bus"\nqueue = "in"\nconnection_string = "{bus.connection_string}"\n'
        killed_and_started_again(tmp_path, source, mlflow_server, experiment, where.format("bus"))
        wait_for("an empty queue", lambda: bus.count("in") == 0)


@pytest.mark.parametrize("where", WHERE)
def test_a_topic(tmp_path: Path, mlflow_server: RunningMlflow, mosquitto: RunningMosquitto, where: str) -> None:
    experiment = f"topic {uuid.uuid4().hex}"
    client = uuid.uuid4().hex

    async def publish() -> None:
        address = MqttAddress(host=mosquitto.host, port=mosquitto.port, client_id=client)
        async with await open_client(address, session_expiry_s=3600) as receiver:
            await receiver.subscribe_to([f"{client}/+/+/metrics"])
        async with aiomqtt.Client(mosquitto.host, mosquitto.port) as sender:
            sender.pending_calls_threshold = COUNT
            sends = (sender.publish(f"{client}/device/x/metrics", body, qos=1) for body in bodies(experiment))
            await asyncio.gather(*sends)

    asyncio.run(publish())
    source = (
        f'kind = "mqtt"\nhost = "{mosquitto.host}"\nport = {mosquitto.port}\nclient_id = "{client}"\n'
        f'session_expiry_s = 3600\ntopics = ["{client}/+/+/metrics"]\n'
    )
    killed_and_started_again(tmp_path, source, mlflow_server, experiment, where.format("mqtt"))
