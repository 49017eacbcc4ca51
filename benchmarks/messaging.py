"""``messages-…``: messages a second through a source into the journal and on to a server, beside a bare receiver.

Each turn begins with a broker that holds all messages (a webhook's sender has written its requests), and what counts
lies between the first settled message and the last: no start, no connecting.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.message_feeds import Feed, MqttFeed, ServiceBusFeed, WebhookFeed, bodies, sending
from benchmarks.processes import SYNCD, Background, asked, cpu_s, null_server
from benchmarks.results import Row, in_turn, median, spread
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

ROUNDS = 3
COUNTS = {3: 10_000, 50: 5_000}  # messages of so many points
LOOK_S = 0.01
PATIENCE_S = 300.0
GOAL = 0.8
_TURNS = itertools.count(1)


@dataclass(frozen=True)
class Pace:
    """Messages a second, and the receiver's CPU for each."""

    per_s: float
    cpu_ms: float


@dataclass(frozen=True)
class Through:
    """What a daemon did: until its journal had all, and until the server had."""

    journal: Pace
    server: Pace


def service_bus(folder: Path) -> Iterator[Row]:
    """A queue, and one with sessions."""
    with ServiceBus(folder / "bus") as bus:
        yield from _rows(folder, "Service Bus, queue", ServiceBusFeed(bus, sessions=False))
        yield from _rows(folder, "Service Bus, 8 sessions", ServiceBusFeed(bus, sessions=True))


def mqtt(folder: Path) -> Iterator[Row]:
    """Both versions of the protocol, QoS 1."""
    kept = "autosave_interval 0\nautosave_on_changes false"
    with RunningMosquitto(folder / "mqtt", options=kept) as broker:
        for version in ("5", "3.1.1"):
            yield from _rows(folder, f"MQTT {version}", MqttFeed(broker, version=version))


def webhook(folder: Path) -> Iterator[Row]:
    """Signed as Standard Webhooks has it, over 64 connections."""
    yield from _rows(folder, "webhook", WebhookFeed())


def _rows(folder: Path, what: str, feed: Feed) -> Iterator[Row]:
    for points, count in COUNTS.items():
        turns = _Turns(folder, feed, count=count, points=points)
        pairs = in_turn(ROUNDS, turns.bare, turns.daemon)
        said = f"{what}, {count:,} messages of {points} points"
        for name, place in (("in the journal", "journal"), ("on the server", "server")):
            paces: list[tuple[Pace, Pace]] = [(bare, getattr(through, place)) for bare, through in pairs]
            yield _row(f"{said}: {name}", paces)


def _row(what: str, pairs: list[tuple[Pace, Pace]]) -> Row:
    ratios = [ours.per_s / bare.per_s for bare, ours in pairs]
    bare_per_s, our_per_s = (median(pair[at].per_s for pair in pairs) for at in (0, 1))
    bare_ms, our_ms = (median(pair[at].cpu_ms for pair in pairs) for at in (0, 1))
    return Row(
        f"{what}, of what a bare receiver takes",
        f"≥ {GOAL}",
        f"**{median(ratios):.2f}**: {our_per_s:,.0f} of {bare_per_s:,.0f} messages/s; "
        f"{our_ms:.2f} of {bare_ms:.2f} ms CPU a message",
        spread(ratios),
    )


class _Turns:
    """The two that are measured, each with the same messages under a name of its own."""

    def __init__(self, folder: Path, feed: Feed, *, count: int, points: int) -> None:
        self._folder = folder
        self._feed = feed
        self._count = count
        self._points = points
        self._bodies = bodies(count, points)

    def _filled(self) -> tuple[str, Path]:
        folder = self._folder / f"turn-{next(_TURNS)}"
        folder.mkdir(parents=True)
        self._feed.fill(folder.name, self._bodies)
        return folder.name, folder

    def bare(self) -> Pace:
        """Have all taken by a receiver that looks at nothing."""
        name, folder = self._filled()
        command = [sys.executable, "-m", "benchmarks.bare_receivers"]
        given = [self._feed.bare, str(self._count), self._feed.address, name]
        with Background([*command, *given], log=folder / "bare.log") as receiver:
            with sending(self._feed, receiver.line(), name):
                told = json.loads(receiver.line())
            receiver.wait()
        return Pace(told["messages"] / told["wall_s"], told["cpu_s"] / told["messages"] * 1000)

    def daemon(self) -> Through:
        """Have all taken by ``syncd run``."""
        name, folder = self._filled()
        state = folder / "state"
        config = folder / "syncd.toml"
        with null_server(folder / "server") as url:
            config.write_text(
                f'[daemon]\nstate_dir = "{state}"\nlog_format = "plain"\n'
                f'[[destinations]]\nname = "server"\nuri = "{url}"\n'
                f'[[sources]]\nname = "{name}"\n{self._feed.settings(name)}'
            )
            with (
                Background([*SYNCD, "run", "--config", str(config)], log=folder / "daemon.log") as daemon,
                self._sent_to(daemon, name),
            ):
                return self._watched(daemon.pid, state / "journal.db", url)

    @contextmanager
    def _sent_to(self, daemon: Background, name: str) -> Iterator[None]:
        if self._feed.http_port:
            _until(lambda: _answers(self._feed.http_port), daemon)
        with sending(self._feed, "", name):
            yield

    def _watched(self, pid: int, journal: Path, url: str) -> Through:
        stamps: list[tuple[int, float, float]] = []

        def look() -> int:
            taken = _taken(journal)
            if taken and (not stamps or taken > stamps[-1][0]):
                stamps.append((taken, time.perf_counter(), cpu_s(pid)))
            return taken

        _until(lambda: look() >= self._count)
        in_journal = _pace(stamps[0], stamps[-1])
        _until(lambda: asked(f"{url}/null/counts")["points"] >= self._count * self._points)
        return Through(in_journal, _pace(stamps[0], (self._count, time.perf_counter(), cpu_s(pid))))


def _pace(first: tuple[int, float, float], last: tuple[int, float, float]) -> Pace:
    messages, wall_s, used_s = (now - then for now, then in zip(last, first, strict=True))
    return Pace(messages / wall_s, used_s / messages * 1000)


def _taken(journal: Path) -> int:
    """Return how many messages a journal holds or has held."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as found:
        return int(found.execute("SELECT COALESCE(SUM(taken), 0) FROM message_count").fetchone()[0])
    return 0


def _answers(port: int) -> bool:
    with suppress(urllib.error.URLError, ConnectionError):
        return bool(asked(f"http://127.0.0.1:{port}/readyz")["ok"])
    return False


def _until(done: Callable[[], bool], needed: Background | None = None) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline_s or (needed is not None and not needed.is_running):
            raise RuntimeError("it did not come to its end")
        time.sleep(LOOK_S)
