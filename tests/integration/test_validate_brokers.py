"""``syncd validate`` reaches brokers as they are: right, wrong, away; it takes no message and no session."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest

from syncd.cli.main import main
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus


def checks(
    folder: Path, url: str, source: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, tuple[bool, str]]]:
    config = folder / "syncd.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{folder / "state"}"\n[[sources]]\nname = "messages"\n{source}\n'
        f'[[destinations]]\nname = "server"\nuri = "{url}"\n'
    )
    code = main(["validate", "--config", str(config), "--json"])
    content = json.loads(capsys.readouterr().out)
    return code, {check["name"]: (check["ok"], check["detail"]) for check in content["checks"]}


def test_a_service_bus_queue(tmp_path: Path, mlflow_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceBus(tmp_path) as bus:
        for name, rules in (("plain", {}), ("sessions", {"sessions": True})):
            bus.queue(name, **rules)
            source = f'kind = "service-bus"\nconnection_string = "{bus.connection_string}"\nqueue = "{name}"'
            if name == "plain":
                bus.put(name, [b"{}"])
            _, found = checks(tmp_path, mlflow_url, source, capsys)
            assert found["messages"] == (True, f"queue {name} can be received from")
        [message] = bus.messages("plain")
        assert message.failures == 0
        code, found = checks(tmp_path, mlflow_url, source.replace("sessions", "missing"), capsys)
        assert (code, found["messages"][0]) == (75, False)
        assert "create it" in found["messages"][1]


def test_an_mqtt_broker(tmp_path: Path, mlflow_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with RunningMosquitto(tmp_path, users={"device": "secret"}) as broker:
        base = f'kind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}\ntopics = ["a"]\nclient_id = "gateway"\n'
        right = base + 'username = "device"\npassword = "secret"\n'

        async def beside_the_daemon() -> tuple[int, dict[str, tuple[bool, str]]]:
            async with aiomqtt.Client(
                broker.host, broker.port, identifier="gateway", username="device", password="secret"
            ) as client:
                found = await asyncio.to_thread(checks, tmp_path, mlflow_url, right, capsys)
                await client.publish("still/here", b"x", qos=1)
                return found

        _, found = asyncio.run(beside_the_daemon())
        assert found["messages"][0], found
        code, found = checks(tmp_path, mlflow_url, base + 'username = "device"\npassword = "wrong"\n', capsys)
        assert (code, found["messages"][0]) == (75, False)
        assert "check username, password" in found["messages"][1]
    _, found = checks(tmp_path, mlflow_url, right, capsys)
    assert not found["messages"][0]
