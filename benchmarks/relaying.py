"""``relay`` and ``relay-memory``: what an edge sends through a broker, and what comes out of a gateway behind it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.live import SECONDS as LIVE_S
from benchmarks.live import into_real_server, latency_row
from benchmarks.processes import SYNCD, Background, asked, cpu_s, memory_mib, null_server, sync
from benchmarks.results import Row, in_turn, median, spread
from benchmarks.stores import make_file_store
from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

ROUNDS = 3
SENT = {"runs": 40, "metrics": 10, "steps": 1000}
SENT_POINTS = 400_000
PATIENCE_S = 300.0
LOOK_S = 0.01
# mosquitto else writes all that it holds again and again.
KEPT = "autosave_interval 0\nautosave_on_changes false"
_TURNS = itertools.count(1)


@dataclass(frozen=True)
class Sent:
    """What was sent: wall and CPU seconds; how many messages, and bytes of their bodies."""

    wall_s: float
    cpu_s: float
    messages: int = 0
    bytes: int = 0


class Between(ABC):
    """A broker. ``kind`` is how a bare sender calls it, ``address`` how it reaches it."""

    title: str
    kind: str

    @property
    @abstractmethod
    def address(self) -> str: ...

    @abstractmethod
    def queue(self, name: str) -> tuple[str, str]:
        """Have a queue; return the keys of who sends there and of who receives from there."""

    @abstractmethod
    def topic(self, name: str) -> str:
        """Return what a bare sender calls the queue."""

    @abstractmethod
    def count(self, name: str) -> int:
        """Return how many messages lie in a queue that is full (of MQTT: as many as in the same queue of another)."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def start(self) -> None: ...


class Bus(Between):
    """The stand-in of Service Bus; queues have sessions."""

    title, kind = "Service Bus", "service-bus"

    def __init__(self, bus: ServiceBus) -> None:
        self._bus = bus

    @property
    def address(self) -> str:
        return self._bus.connection_string

    def queue(self, name: str) -> tuple[str, str]:
        self._bus.queue(name, sessions=True)
        there = f'queue = "{name}"\nconnection_string = "{self.address}"\n'
        return f'via = "service-bus"\n{there}', f'kind = "service-bus"\n{there}'

    def topic(self, name: str) -> str:
        return name

    def count(self, name: str) -> int:
        return self._bus.count(name)

    def stop(self) -> None:
        self._bus.stop()

    def start(self) -> None:
        self._bus.start()


class Mqtt(Between):
    """mosquitto, with MQTT 5."""

    title, kind = "MQTT 5", "mqtt"

    def __init__(self, broker: RunningMosquitto, *, messages: int = 1) -> None:
        self._broker = broker
        self.messages = messages

    @property
    def address(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    def queue(self, name: str) -> tuple[str, str]:
        there = f'host = "{self._broker.host}"\nport = {self._broker.port}\n'
        receives = f'kind = "mqtt"\n{there}topics = ["{self.topic(name)}"]\nclient_id = "{name}"\n'
        asyncio.run(self._keep_a_session(name))
        return f'via = "mqtt"\n{there}topic = "{self.topic(name)}"\n', receives

    async def _keep_a_session(self, name: str) -> None:
        receiver = MqttAddress(host=self._broker.host, port=self._broker.port, client_id=name)
        async with await open_client(receiver, session_expiry_s=3600) as client:
            await client.subscribe_to([self.topic(name)])

    def topic(self, name: str) -> str:
        return f"syncd/relay/{name}"

    def count(self, name: str) -> int:
        return self.messages

    def stop(self) -> None:
        self._broker.stop()

    def start(self) -> None:
        self._broker.start()


def relay(folder: Path) -> Iterator[Row]:
    """Sending, all the way, and live; each through both brokers."""
    store = folder / "mlruns"
    make_file_store(store, **SENT)
    with ServiceBus(folder / "bus") as bus, RunningMosquitto(folder / "mqtt", options=KEPT) as broker:
        messages = 0
        for between in (Bus(bus), Mqtt(broker)):
            if isinstance(between, Mqtt):
                between.messages = messages
            turns = _Turns(folder, between, store)
            yield from _sending_rows(between, in_turn(ROUNDS, turns.lane, turns.bare))
            messages = turns.sent.messages
            pairs = in_turn(ROUNDS, turns.through, turns.direct)
            ratios = [direct / through for through, direct in pairs]
            through_s, direct_s = (median(pair[at] for pair in pairs) for at in (0, 1))
            yield Row(
                f"{between.title}: {SENT_POINTS:,} points, edge to gateway to a server that accepts all, of what "
                "`syncd sync` does",
                "",
                f"**{median(ratios):.2f}**: {SENT_POINTS / through_s:,.0f} of {SENT_POINTS / direct_s:,.0f} points/s",
                spread(ratios),
            )
            followed = into_real_server(folder / f"live-{between.kind}", turns.following)
            what = f"{between.title}: FileStore, 1 run × 20 points/s, until it is in a real server's database"
            yield latency_row(what, followed, 20 * LIVE_S)


def _sending_rows(between: Between, pairs: list[tuple[Sent, Sent]]) -> Iterator[Row]:
    ratios = [bare.wall_s / ours.wall_s for ours, bare in pairs]
    ours_s, cpus_s = median(ours.wall_s for ours, _ in pairs), median(ours.cpu_s for ours, _ in pairs)
    bare_s, bare_cpu_s = (median(getattr(bare, name) for _, bare in pairs) for name in ("wall_s", "cpu_s"))
    messages, size_bytes = pairs[0][0].messages, pairs[0][0].bytes
    yield Row(
        f"{between.title}: {SENT_POINTS:,} points packed and sent by an edge, a second of its CPU",
        "≥ 100,000",
        f"**{SENT_POINTS / cpus_s:,.0f}**; {SENT_POINTS / ours_s:,.0f} a second",
        spread([SENT_POINTS / ours.cpu_s for ours, _ in pairs], "{:,.0f}"),
    )
    yield Row(
        f"&nbsp; in {messages:,} messages of {size_bytes / messages / 1024:.0f} KiB, of what a bare sender does",
        "",
        f"{median(ratios):.2f}; CPU {cpus_s:.2f} of {bare_cpu_s:.2f} s, wall {ours_s:.2f} of {bare_s:.2f} s",
        spread(ratios),
    )


class _Turns:
    """What is measured, through one broker."""

    def __init__(self, folder: Path, between: Between, store: Path) -> None:
        self._folder = folder
        self._between = between
        self._store = store
        self.sent = Sent(0, 0)

    def _begin(self) -> tuple[str, Path]:
        folder = self._folder / f"turn-{next(_TURNS)}"
        folder.mkdir()
        return folder.name, folder

    def lane(self) -> Sent:
        """Have an edge send what its journal holds: the broker is away until that is all."""
        name, folder = self._begin()
        sends, _ = self._between.queue(name)
        self._between.stop()
        journal = folder / "edge" / "journal.db"
        with edge(folder, [self._store], sends) as sender:
            until(lambda: _points(journal, "delivery d JOIN change c ON c.seq = d.seq", "items") >= SENT_POINTS)
            self._between.start()
            stamps: list[tuple[float, float, int]] = []

            def look() -> bool:
                points = _points(journal, "progress", "points")
                if points and (not stamps or points > stamps[-1][2]):
                    stamps.append((time.perf_counter(), cpu_s(sender.pid), points))
                return points >= SENT_POINTS

            until(look)
            (first_s, first_cpu_s, before), (last_s, last_cpu_s, after) = stamps[0], stamps[-1]
            part = SENT_POINTS / (after - before)
            size_bytes = _points(journal, "progress", "bytes")
            messages = self._between.count(name)
        self.sent = Sent((last_s - first_s) * part, (last_cpu_s - first_cpu_s) * part, messages, size_bytes)
        return self.sent

    def bare(self) -> Sent:
        """Have a bare sender send as many bytes, in messages of that size."""
        name, folder = self._begin()
        self._between.queue(name)
        told = self.sent if self.sent.messages else self.lane()
        given = [self._between.address, self._between.topic(name), str(told.messages), str(told.bytes // told.messages)]
        command = [sys.executable, "-m", "benchmarks.bare_senders", self._between.kind, *given]
        with Background(command, log=folder / "bare.log") as sender:
            took = json.loads(sender.line())
            sender.wait()
        return Sent(took["wall_s"], took["cpu_s"])

    def through(self) -> float:
        """Bring all from an edge to a server; return the seconds."""
        _, folder = self._begin()
        with null_server(folder / "server") as url:
            begun_s = time.perf_counter()
            with self.following(folder, [self._store], url):
                until(lambda: asked(f"{url}/null/counts")["points"] >= SENT_POINTS)
                return time.perf_counter() - begun_s

    def direct(self) -> float:
        """The same by ``syncd sync``."""
        _, folder = self._begin()
        with null_server(folder / "server") as url:
            return sync(self._store, url, folder).wall_s

    @contextmanager
    def following(self, folder: Path, stores: Sequence[Path], url: str) -> Iterator[Background]:
        """Run an edge that follows stores and a gateway before a server; yields the edge."""
        folder.mkdir(parents=True, exist_ok=True)
        sends, receives = self._between.queue(f"queue-{next(_TURNS)}")
        with gateway(folder, receives, url), edge(folder, stores, sends) as sender:
            yield sender


def relay_memory(folder: Path) -> Iterator[Row]:
    """The largest RSS of either side, of one file and of one run's points; each through both brokers."""
    shapes = {"one file of 1 GiB": (10, 1024), "one run of 1,000,000 points": (100_000, 0)}
    stores = {}
    for number, (what, (steps, file_mib)) in enumerate(shapes.items()):
        stores[what] = store = folder / f"store-{number}"
        [run] = make_file_store(store, runs=1, metrics=10, steps=steps)
        if file_mib:
            with next(store.glob(f"*/{run}/artifacts")).joinpath("large.bin").open("wb") as file:
                file.writelines(os.urandom(1 << 20) for _ in range(file_mib))
    with ServiceBus(folder / "bus") as bus, RunningMosquitto(folder / "mqtt", options=KEPT) as broker:
        for between, (what, (steps, file_mib)) in itertools.product((Bus(bus), Mqtt(broker)), shapes.items()):
            sizes, took_s = _memory(folder, between, stores[what], points=steps * 10, files=int(file_mib > 0))
            yield Row(
                f"{between.title}: largest RSS of edge and gateway, {what}",
                "≤ 80 MiB",
                f"**{sizes[0]:.0f} and {sizes[1]:.0f} MiB**",
                f"{took_s:.0f} s",
            )


def _memory(folder: Path, between: Between, store: Path, *, points: int, files: int) -> tuple[list[float], float]:
    """Return the largest RSS of edge and gateway in MiB, and the seconds until all had arrived."""
    name = f"memory-{next(_TURNS)}"
    sends, receives = between.queue(name)
    with null_server(folder / name / "server") as url, ExitStack() as running:
        begun_s = time.perf_counter()
        receiver = running.enter_context(gateway(folder / name, receives, url))
        sender = running.enter_context(edge(folder / name, [store], sends))

        def arrived() -> bool:
            counts = asked(f"{url}/null/counts")
            return bool(counts["points"] >= points and counts["artifact_files"] >= files)

        until(arrived)
        return [memory_mib(one.pid, "VmHWM") for one in (sender, receiver)], time.perf_counter() - begun_s


def edge(folder: Path, stores: Sequence[Path], sends: str) -> Background:
    """Start an edge that relays stores."""
    sources = "".join(
        f'[[sources]]\nname = "s{number}"\nkind = "mlruns"\npath = "{one}"\n' for number, one in enumerate(stores)
    )
    return _daemon(folder, "edge", f'{sources}[[destinations]]\nname = "up"\nkind = "relay"\n{sends}')


def gateway(folder: Path, receives: str, url: str) -> Background:
    """Start a gateway before a server."""
    source = f'[[sources]]\nname = "edges"\nrelay = true\n{receives}'
    return _daemon(folder, "gateway", f'{source}[[destinations]]\nname = "server"\nuri = "{url}"\n')


def _daemon(folder: Path, name: str, rest: str) -> Background:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{name}.toml"
    config.write_text(f'[daemon]\nname = "{name}"\nstate_dir = "{folder / name}"\nlog_format = "plain"\n{rest}')
    return Background([*SYNCD, "run", "--config", str(config)], log=folder / f"{name}.log")


def _points(journal: Path, table: str, column: str) -> int:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as found:
        return int(found.execute(f"SELECT COALESCE(SUM({column}), 0) FROM {table}").fetchone()[0])
    return 0


def until(done: Callable[[], bool]) -> None:
    """Wait for something."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline_s:
            raise RuntimeError("it did not come to its end")
        time.sleep(LOOK_S)
