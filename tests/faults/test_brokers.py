"""Thousands of messages through both brokers at once, repeated, shuffled and malformed, while everything is killed.

What the brokers and the server hold in the end is counted message by message and point by point. A server on a
FileStore shows what it is sent twice, which one on SQLite hides.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from tests.faults.oracle import SOURCE_ID, Point, read_server
from tests.faults.processes import daemon, syncd, wait_for, waiting
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

RUNS = 10
DUPLICATES = 20  # one of so many
MALFORMED = 100
KILLS = 3  # of the daemon; then the brokers are killed
STALL_S = 1.0
PATIENCE_S = 300.0
FIRST_MS = 1_790_000_000_000
QUEUE, CLIENT = "in", "the-daemon"

Posted = tuple[str, bytes]  # the broker's id of a message, where it has one, and its body


@dataclass(frozen=True)
class Sent:
    """What is sent to one broker, as ``experiment``.

    ``parts`` are sent one after the other. ``good`` has the points of each run by name, ``last`` the run and the point
    that come last. ``bad`` are the bodies that nobody can read, as text, and what is to be said of them.
    """

    experiment: str
    parts: Sequence[Sequence[Posted]]
    good: Mapping[str, Counter[Point]]
    last: tuple[str, Point]
    bad: Mapping[str, str]
    repeated: int

    @property
    def points(self) -> int:
        return sum(run.total() for run in self.good.values())


def messages_of(experiment: str, count: int, *, enveloped: Callable[[int], bool]) -> Sent:
    """Make so many messages that each say one point, some of them twice, some malformed, in any order.

    The last one comes once: MQTT keeps the order, so all are through when its point is there. What is not ``enveloped``
    is told apart by the broker's id alone.
    """
    shuffled = random.Random(experiment)
    good: dict[str, Counter[Point]] = {f"run-{number}": Counter() for number in range(RUNS)}
    posted: list[Posted] = []
    spoilt: list[tuple[Posted, str]] = []
    for number in range(count):
        run, key, value, at_ms = f"run-{number % RUNS}", f"m{number % 3}", number / 8, FIRST_MS + number
        data = {"run": run, "experiment": experiment, "metrics": {key: value}, "step": number, "timestamp": at_ms}
        event = {"specversion": "1.0", "type": "dev.syncd.log", "source": f"/{experiment}", "id": f"{number}"}
        whole: dict[str, Any] = {**event, "data": data} if enveloped(number) else data
        if number < count // MALFORMED:
            body, words = malformed(number, whole, data)
            spoilt.append(((f"id-{number}", body), words))
        else:
            posted.append((f"id-{number}", json.dumps(whole).encode()))
            good[run][key, value, at_ms, number] += 1
    last = posted.pop()
    twice = shuffled.sample(posted, count // DUPLICATES)
    posted += [*twice, *(one for one, _ in spoilt)]
    shuffled.shuffle(posted)
    posted.append(last)
    size = -(-len(posted) // (2 * (KILLS + 1)))
    parts = [posted[first : first + size] for first in range(0, len(posted), size)]
    bad = {body.decode(): words for (_, body), words in spoilt}
    return Sent(experiment, parts, good, (run, (key, value, at_ms, number)), bad, len(twice))


def malformed(number: int, whole: dict[str, Any], data: dict[str, Any]) -> tuple[bytes, str]:
    """Spoil a message in one of several ways; return what is left of it and what must be said of it."""
    match number % 4:
        case 0:
            data["step"] = f"not a number: {number}"
            return json.dumps(whole).encode(), "/step: expected a whole number of 64 bits"
        case 1:
            data["artifacts"] = [{"path": f"../../{number}", "content": ""}]
            return json.dumps(whole).encode(), "/artifacts/0/path: expected a path without"
        case 2:
            return json.dumps(whole).encode()[:-1], "the body is not JSON"
        case _:
            return b"[" * 50_000 + b"%d" % number, "nested deeper than 32"


# -- brokers -----------------------------------------------------------------------------------------------------------


def put(bus: ServiceBus, posted: Sequence[Posted]) -> None:
    for message_id, body in posted:
        bus.put(QUEUE, [body], message_id=message_id)


def publish(broker: RunningMosquitto, posted: Sequence[Posted]) -> None:
    async def send() -> None:
        async with aiomqtt.Client(broker.host, broker.port, identifier="publisher") as client:
            client.pending_calls_threshold = len(posted)
            for first in range(0, len(posted), 100):
                part = [body for _, body in posted[first : first + 100]]
                await asyncio.gather(*(client.publish("syncd/a/b/metrics", body, qos=1, timeout=60) for body in part))

    asyncio.run(send())


def keep_a_session(broker: RunningMosquitto) -> None:
    async def subscribe() -> None:
        address = MqttAddress(host=broker.host, port=broker.port, client_id=CLIENT)
        async with await open_client(address, session_expiry_s=3600) as client:
            await client.subscribe_to(["syncd/+/+/metrics"])

    asyncio.run(subscribe())


# -- the daemon --------------------------------------------------------------------------------------------------------


def config(folder: Path, bus: ServiceBus, broker: RunningMosquitto, server: RunningMlflow) -> Path:
    file = folder / "syncd.toml"
    file.write_text(
        f'[daemon]\nstate_dir = "{folder}/state"\nlog_format = "json"\n'
        f'[[sources]]\nname = "bus"\nkind = "service-bus"\nqueue = "{QUEUE}"\n'
        f'connection_string = "{bus.connection_string}"\n'
        f'[[sources]]\nname = "devices"\nkind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}\n'
        f'client_id = "{CLIENT}"\ntopics = ["syncd/+/+/metrics"]\nsession_expiry_s = 3600\n'
        f'[[destinations]]\nname = "d"\nuri = "{server.url}"\n'
    )
    return file


def taken(state: Path) -> Counter[str]:
    """Return how many messages the journal knows of each source."""
    if not waiting(state)["inbox"]:
        return Counter()
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        query = "SELECT source.name, COUNT(*) FROM inbox JOIN source ON source.id = inbox.source_id GROUP BY 1"
        return Counter(dict(journal.execute(query).fetchall()))


@contextmanager
def stalled(state: Path) -> Iterator[None]:
    """Let nothing be committed to the journal meanwhile, as a disk that does not answer."""
    with closing(sqlite3.connect(state / "journal.db", isolation_level=None, timeout=30)) as journal:
        journal.execute("BEGIN IMMEDIATE")
        yield
        journal.execute("ROLLBACK")


def works(state: Path, since: Counter[str]) -> None:
    """Wait until both sources have been read further."""
    wait_for("both sources are read", lambda: all(taken(state)[one] > since[one] for one in ("bus", "devices")))


# -- the proof ---------------------------------------------------------------------------------------------------------


def asked(file: Path, *command: str) -> Any:
    done = syncd(*command, "--config", str(file), "--json")
    assert done.code == 0, done.err
    return done.json()


def arrived(server: RunningMlflow, sent: Sent) -> int:
    return sum(run.points.total() for run in read_server(server, sent.experiment).runs.values())


def has_last(server: RunningMlflow, sent: Sent) -> bool:
    run, point = sent.last
    return any(
        found.name == run and point in found.points for found in read_server(server, sent.experiment).runs.values()
    )


def check_points(server: RunningMlflow, sent: Sent) -> None:
    """Hold the server's runs and points against what was sent, each by all that it is."""
    runs = read_server(server, sent.experiment).runs.values()
    assert Counter(run.name for run in runs) == Counter(list(sent.good))
    assert len({run.tags[SOURCE_ID] for run in runs}) == len(runs)
    for run in runs:
        assert run.points == sent.good[run.name], run.name


def check_refused(sent: Sent, kept: Sequence[tuple[str, str, str]]) -> None:
    """Hold the refused messages, as body, reason and description, against what was sent."""
    assert Counter(body for body, _, _ in kept) == Counter(list(sent.bad))
    for body, reason, description in kept:
        assert (reason, sent.bad[body] in description) == ("Malformed", True), (body, reason, description)


def kept_by(bus: ServiceBus) -> list[tuple[str, str, str]]:
    return [(one.body, *(one.dead_letter or ("", ""))) for one in bus.dead_letters(QUEUE)]


def kept_here(file: Path) -> list[tuple[str, str, str]]:
    numbers = [str(letter["id"]) for letter in asked(file, "dlq", "list")["dead_letters"]]
    letters = asked(file, "dlq", "show", *numbers)["dead_letters"]
    return [(one["content"]["text"], one["code"], one["reason"]) for one in letters]


def check_told(file: Path, *, bus: Sent, devices: Sent) -> None:
    """Hold the events about refused messages against what was sent: each once, by the id that tells it from others."""
    told = [event["data"] for event in asked(file, "events", "--type", "dead_letter.added")["events"]]
    assert Counter(one["source"] for one in told) == Counter(bus=len(bus.bad), devices=len(devices.bad))
    assert len({one["message_id"] for one in told if one["source"] == "bus"}) == len(bus.bad)
    assert len({one["letter"] for one in told if one["source"] == "devices"}) == len(devices.bad)


def check_counts(file: Path, *, bus: Sent, devices: Sent) -> None:
    """Hold what ``syncd status`` says against what was sent."""
    status = asked(file, "status")
    assert status["dead_letters"] == len(devices.bad)
    for source, sent, kept in (("bus", bus, 0), ("devices", devices, len(devices.bad))):
        [told] = [one for one in status["messages"] if one["source"] == source]
        assert (told["taken"], told["ignored"], told["dead_letters"]) == (sent.points, 0, kept)
        assert told["repeated"] >= sent.repeated
        assert told["refused"] >= len(sent.bad)  # what is delivered again is counted again


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "backend"),
    [
        (1_000, "file"),
        pytest.param(10_000, "file", marks=pytest.mark.soak),
        pytest.param(10_000, "sqlite", marks=pytest.mark.soak),
    ],
)
def test_every_good_point_arrives_once_and_every_bad_message_is_kept_with_its_reason(
    tmp_path: Path, mlflow_server: RunningMlflow, file_server: RunningMlflow, count: int, backend: str
) -> None:
    """The daemon is killed three times with messages in hand that it cannot commit, and both brokers once.

    mosquitto 2.0.11 writes what it has acknowledged to its disk some time later: killed, it loses the last one of 200
    messages, whoever receives them. So it is told to write before it is killed. What it hears after that, that messages
    were received, it has forgotten when it comes back.
    """
    server = mlflow_server if backend == "sqlite" else file_server
    by_bus = messages_of(f"by bus {count} {backend}", count, enveloped=lambda number: number % 2 == 0)
    by_mqtt = messages_of(f"by mqtt {count} {backend}", count, enveloped=lambda _: True)
    state = tmp_path / "state"
    saves_when_told = "autosave_interval 3600\nautosave_on_changes false"
    with ServiceBus(tmp_path / "bus") as bus, RunningMosquitto(tmp_path / "mqtt", options=saves_when_told) as broker:
        bus.queue(QUEUE, lock_s=5.0)
        keep_a_session(broker)
        file = config(tmp_path, bus, broker, server)
        parts = iter(zip(by_bus.parts, by_mqtt.parts, strict=True))

        def send() -> int:
            to_bus, to_mqtt = next(parts)
            put(bus, to_bus)
            publish(broker, to_mqtt)
            return len(to_bus)

        for _ in range(KILLS):
            before, delivered = taken(state), arrived(server, by_bus)
            send()
            with daemon(file) as running:
                works(state, before)
                wait_for("points arrive", lambda delivered=delivered: arrived(server, by_bus) > delivered)
                with stalled(state):
                    remain = send()
                    time.sleep(STALL_S)
                    running.kill()
                assert bus.count(QUEUE) >= remain
        with daemon(file) as running:
            before = taken(state)
            with stalled(state):
                send()
                broker.save()
            works(state, before)
            to_bus, to_mqtt = next(parts)
            with stalled(state):
                put(bus, to_bus)
                assert bus.count(QUEUE) >= len(to_bus)
                bus.kill()
                broker.kill()
            bus.start()
            broker.start()
            publish(broker, to_mqtt)
            wait_for("an empty queue", lambda: bus.count(QUEUE) == 0, timeout_s=PATIENCE_S)
            wait_for("the last of MQTT", lambda: has_last(server, by_mqtt), timeout_s=PATIENCE_S)
            wait_for("nothing waits", lambda: waiting(state)["delivery"] == 0)
            wait_for("all refusals", lambda: waiting(state)["refused_message"] >= len(by_mqtt.bad))
            assert running.terminate() == 0
        for sent in (by_bus, by_mqtt):
            check_points(server, sent)
        check_refused(by_bus, kept_by(bus))
        check_refused(by_mqtt, kept_here(file))
        check_told(file, bus=by_bus, devices=by_mqtt)
        check_counts(file, bus=by_bus, devices=by_mqtt)
