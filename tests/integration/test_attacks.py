"""Messages that mean harm, to a daemon, through each way in: refused, counted, in flat memory, and the others taken."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import resource
import socket
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import requests
from mlflow import MlflowClient

from syncd.http.connections import MOST as MOST_CONNECTIONS
from tests.faults.processes import Daemon, daemon, syncd, wait_for
from tests.integration.test_webhook_server import SECRET, signed
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.ports import free_port
from tests.standins.service_bus.server import ServiceBus

NAME = "in"
MAX_BYTES = 1_000_000
# So much comes before memory is looked at, and then so much more.
WARM_UP_MESSAGES, STREAM_MESSAGES = 40, 120
GROWTH_BYTES = 60_000_000  # the stream is 107 MB


def event(data: Any, *, of: str = "log") -> bytes:
    about = {"specversion": "1.0", "type": f"dev.syncd.{of}", "source": "/attacker", "id": uuid.uuid4().hex}
    return json.dumps({**about, "data": data}).encode()


def artifact(**fields: str) -> bytes:
    return event({"run": "x", "artifacts": [{"path": "a", **fields}]})


def huge(number: int) -> bytes:
    """Return one of several huge messages that nothing can be made of, each time another one."""
    mark = b"%08d" % number
    match number % 4:
        case 0:
            return b"[" * 900_000 + mark
        case 1:
            return b'{"a":' * 180_000 + mark
        case 2:
            return b"[" + b"7," * 450_000 + mark.lstrip(b"0") + b"7]"
        case _:
            return b'{"run": "x", "metrics": {"' + b"k" * 900_000 + mark + b'": 1}}'


HOSTILE = [
    (artifact(path="../secret", content=""), "Malformed", "without"),
    (artifact(path="/etc/passwd", content=""), "Malformed", "relative"),
    (artifact(path="passwd", root="/etc"), "NotAllowed", "not below an allowed root"),
    (artifact(path="passwd", root="/tmp/../etc"), "NotAllowed", "not below an allowed root"),
    (event({"source": NAME}, of="command.sync"), "NotAllowed", "not allowed"),
    (event({"run": "x", "model": "m", "artifact_path": "p"}, of="command.register"), "NotSupported", "this version"),
    (event({}, of="command.reboot"), "Malformed", "expected one of sync"),
    (event({"run": "x", "metrics": {"k": "1; DROP TABLE"}}), "Malformed", "a number"),
    (huge(0), "Malformed", "deeper"),
    (huge(1), "Malformed", "deeper"),
    (huge(2), "Malformed", "10000 events"),
    (huge(3), "Malformed", "metric's name"),
]


class WayIn(ABC):
    """One kind of source with its broker; ``settings`` are its lines of the configuration."""

    settings: str
    too_large: Sequence[tuple[bytes, str, str]] = ((b"x" * 1_500_000, "TooLarge", "max_message_bytes"),)

    @abstractmethod
    def send(self, bodies: Sequence[bytes]) -> None:
        """Send messages; they may be taken later."""

    @abstractmethod
    def kept(self, config: Path) -> list[tuple[str, str, str]]:
        """Return what was refused and is kept, as body, reason and description."""


class ByServiceBus(WayIn):
    def __init__(self, bus: ServiceBus) -> None:
        self._bus = bus
        bus.queue("q")
        self.settings = f'kind = "service-bus"\nqueue = "q"\nconnection_string = "{bus.connection_string}"\n'

    def send(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            self._bus.put("q", [body], message_id=uuid.uuid4().hex)

    def kept(self, config: Path) -> list[tuple[str, str, str]]:
        return [(one.body, *(one.dead_letter or ("", ""))) for one in self._bus.dead_letters("q")]


class KeptHere(WayIn):
    def kept(self, config: Path) -> list[tuple[str, str, str]]:
        about = "--config", str(config), "--json"
        numbers = [str(one["id"]) for one in syncd("dlq", "list", *about).json()["dead_letters"]]
        letters = syncd("dlq", "show", *numbers, *about).json()["dead_letters"]
        return [(one["content"]["text"], one["code"], one["reason"]) for one in letters]


class ByMqtt(KeptHere):
    def __init__(self, broker: RunningMosquitto) -> None:
        self._broker = broker
        self._topic = f"syncd/{uuid.uuid4().hex}/x/metrics"
        self.settings = f'kind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}\ntopics = ["{self._topic}"]\n'

    def send(self, bodies: Sequence[bytes]) -> None:
        async def publish() -> None:
            async with aiomqtt.Client(self._broker.host, self._broker.port) as client:
                for body in bodies:
                    await client.publish(self._topic, body, qos=1, timeout=60)

        asyncio.run(publish())


class ByWebhook(KeptHere):
    """Each message comes with a wrong signature first. What is too large is answered 413, and not kept."""

    too_large = ()

    def __init__(self, url: str) -> None:
        self.forged = 0
        self._url = f"{url}/hooks/{NAME}"
        self.settings = f'kind = "webhook"\nsecrets = ["{SECRET}"]\n'

    def send(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            headers = signed(body)
            assert self.post(body, {**headers, "webhook-signature": signed(b"other")["webhook-signature"]}) == 401
            self.forged += 1
            self.post(body, headers)

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        return requests.post(self._url, data=body, headers=headers, timeout=60).status_code


@contextmanager
def by_service_bus(folder: Path, url: str) -> Iterator[WayIn]:
    with ServiceBus(folder) as bus:
        yield ByServiceBus(bus)


@contextmanager
def by_mqtt(folder: Path, url: str) -> Iterator[WayIn]:
    with RunningMosquitto(folder) as broker:
        yield ByMqtt(broker)


@contextmanager
def by_webhook(folder: Path, url: str) -> Iterator[WayIn]:
    yield ByWebhook(url)


class Attacked:
    """A daemon with one way in."""

    def __init__(self, running: Daemon, url: str) -> None:
        self._running = running
        self._url = url

    def answers(self) -> bool:
        try:
            return requests.get(f"{self._url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def status(self) -> Counter[str]:
        """Return what ``status`` says of messages."""
        found = requests.get(f"{self._url}/api/v1/status", timeout=60).json()["messages"]
        return Counter({what: one[what] for one in found for what in ("taken", "repeated", "refused", "dead_letters")})

    def metric(self, name: str, outcome: str) -> int:
        text = requests.get(f"{self._url}/metrics", timeout=60).text
        found = re.search(rf'^{name}{{source="{NAME}",outcome="{outcome}"}} (\d+)$', text, re.MULTILINE)
        assert found is not None, text
        return int(found[1])

    def peak_bytes(self) -> int:
        """Return the most memory that was ever resident."""
        status = Path(f"/proc/{self._running.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1])


@pytest.mark.parametrize("way_in", [by_service_bus, by_mqtt, by_webhook], ids=["service-bus", "mqtt", "webhook"])
def test_attacks_are_refused_and_counted_in_flat_memory_and_the_others_are_taken(
    tmp_path: Path, mlflow_server: RunningMlflow, way_in: Callable[..., Any]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    experiment = f"attacked {uuid.uuid4().hex}"
    with way_in(tmp_path / "broker", url) as way:
        config = tmp_path / "syncd.toml"
        config.write_text(
            f'[daemon]\nstate_dir = "{tmp_path}/state"\n[http]\nlisten = "{url.removeprefix("http://")}"\n'
            f'[[sources]]\nname = "{NAME}"\nexperiment = "{experiment}"\n'
            f"max_message_bytes = {MAX_BYTES}\n{way.settings}"
            f'[[destinations]]\nname = "d"\nuri = "{mlflow_server.url}"\n'
        )
        with daemon(config) as running:
            attacked = Attacked(running, url)
            wait_for("it listens", attacked.answers)
            good = [event({"run": "good", "metrics": {"m": number}, "step": number}) for number in range(20)]
            hostile = [*HOSTILE, *way.too_large]
            way.send([good[0]])
            wait_for("it receives", lambda: attacked.status()["taken"] == 1)
            way.send([*good[:10], *(body for body, _, _ in hostile), *good[10:], *good[:10]])
            counts = {"taken": 20, "repeated": 11, "refused": len(hostile)}
            wait_for("all are dealt with", lambda: counts.items() <= attacked.status().items())
            for outcome, count in counts.items():
                assert attacked.metric("syncd_messages_total", outcome) == count
            # What a broker keeps is handed back to it after it was counted.
            letters = wait_for("all are kept", lambda: len(found := way.kept(config)) >= len(hostile) and found)
            kept = {body: (reason, text) for body, reason, text in letters}
            assert len(kept) == len(letters) == len(hostile)
            for body, reason, words in hostile:
                found, text = kept[body.decode()]
                assert (found, words in text) == (reason, True), (body[:200], found, text[:200])
            numbers = itertools.count(len(hostile))

            def bombard(count: int) -> int:
                bodies = [huge(next(numbers)) for _ in range(count)]
                refused = attacked.status()["refused"] + count
                way.send(bodies)
                wait_for("all are refused", lambda: attacked.status()["refused"] == refused)
                return attacked.peak_bytes()

            before_bytes = bombard(WARM_UP_MESSAGES)
            growth_bytes = bombard(STREAM_MESSAGES) - before_bytes
            print(f"peak {before_bytes} bytes, {growth_bytes} more")
            assert growth_bytes < GROWTH_BYTES
            if isinstance(way, ByWebhook):
                assert attacked.metric("syncd_hook_requests_total", "unauthorized") == way.forged
                refused = attacked.metric("syncd_hook_requests_total", "refused")
                assert way.post(b"x" * 1_500_000, signed(b"")) == 413
                assert attacked.metric("syncd_hook_requests_total", "refused") == refused + 1
            assert attacked.status()["taken"] == 20
            assert running.terminate() == 0
        client = MlflowClient(mlflow_server.url)
        [run] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert [one.value for one in client.get_metric_history(run.info.run_id, "m")] == list(range(20))


def test_connections_that_are_only_held_keep_out_no_message_and_no_probe(tmp_path: Path) -> None:
    """More than the process may have files: some say nothing, some half a head, some half a body."""
    url = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "syncd.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}/state"\nshutdown_grace_s = 0.1\n'
        f'[http]\nlisten = "{url.removeprefix("http://")}"\n'
        f'[[sources]]\nname = "{NAME}"\nkind = "webhook"\nsecrets = ["{SECRET}"]\n'
        f'[[destinations]]\nname = "d"\nuri = "http://127.0.0.1:{free_port()}"\n'
    )
    head = f"POST /hooks/{NAME} HTTP/1.1\r\nHost: localhost\r\n".encode()
    host, port = url.removeprefix("http://").split(":")
    with daemon(config) as running, ExitStack() as held:
        attacked, way = Attacked(running, url), ByWebhook(url)
        wait_for("it listens", attacked.answers)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (MOST_CONNECTIONS + 100, MOST_CONNECTIONS + 100))
        for number in range(MOST_CONNECTIONS + 200):
            connection = held.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall((b"", head, head + b"Content-Length: 9\r\n\r\n{")[number % 3])
        body = event({"run": "good", "metrics": {"m": 1}})
        assert way.post(body, signed(body)) == 200
        assert requests.get(f"{url}/livez", timeout=5).status_code == 200
        metrics = requests.get(f"{url}/metrics", timeout=60).text
        counted = {
            name: int(count) for name, count in re.findall(r"^(syncd_http_connections\S*) (\d+)$", metrics, re.M)
        }
        assert counted["syncd_http_connections"] <= MOST_CONNECTIONS
        assert counted["syncd_http_connections_cut_off_total"] >= 200
        assert 'syncd_http_answers_total{status="200"}' in metrics
        assert running.terminate() == 0
