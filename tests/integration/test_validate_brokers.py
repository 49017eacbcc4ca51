"""``syncd validate`` reaches brokers and sinks as they are: right, wrong, away; it takes no message and no session."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest

from syncd.cli.main import main
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.ports import free_port
from tests.standins.service_bus.server import ServiceBus


def checks(
    folder: Path, url: str, table: str, capsys: pytest.CaptureFixture[str], *, of: str = "sources"
) -> tuple[int, dict[str, tuple[bool, str]]]:
    config = folder / "syncd.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{folder / "state"}"\n[[destinations]]\nname = "server"\nuri = "{url}"\n'
        f'[[{of}]]\nname = "messages"\n{table}\n'
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
            _, found = checks(tmp_path, mlflow_url, f"{source}\nrelay = true", capsys)
            assert found["messages"][0] == (name == "sessions")
            assert ("with sessions: a relay needs them" in found["messages"][1]) == (name == "plain")
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
    assert "is the broker there, and are host, port and tls right?" in found["messages"][1]


def test_sinks(tmp_path: Path, mlflow_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlruns").mkdir()
    store = f'[[sources]]\nname = "store"\nkind = "mlruns"\npath = "{tmp_path / "mlruns"}"\n'

    def sink(table: str) -> tuple[int, tuple[bool, str]]:
        code, found = checks(tmp_path, mlflow_url, f"{table}\n{store}", capsys, of="sinks")
        return code, found["messages"]

    with RunningMosquitto(tmp_path / "mqtt", users={"device": "secret"}) as broker:
        base = f'kind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}\nusername = "device"\n'
        assert sink(base + 'password = "secret"')[1][0]
        code, (ok, detail) = sink(base + 'password = "wrong"')
        assert (code, ok) == (75, False)
        assert "check username, password" in detail
    with ServiceBus(tmp_path / "bus") as bus:
        base = f'kind = "service-bus"\nconnection_string = "{bus.connection_string}"\nqueue = '
        bus.queue("there")
        assert sink(base + '"there"')[1] == (True, "queue there can be sent to")
        assert bus.count("there") == 0
        code, (ok, detail) = sink(base + '"missing"')
        assert (code, ok) == (75, False)
        assert "connecting to queue missing at 127.0.0.1:" in detail
        assert "create it" in detail
    assert "reachable from here" in sink(base + '"there"')[1][1]
    for table in ('kind = "webhook"\nurl = "URL"', 'kind = "event-grid"\nendpoint = "URL"\nkey = "k"'):
        _, (ok, detail) = sink(table.replace("URL", f"{mlflow_url}/hook?token=secret"))
        assert ok
        assert "secret" not in detail
        code, (ok, _) = sink(table.replace("URL", f"http://127.0.0.1:{free_port()}/hook"))
        assert (code, ok) == (75, False)
