"""Two syncd with a broker between them: the brokers, and the configuration of either side."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from syncd.core.relay.values import Parcel
from tests.faults.processes import wait_for, waiting
from tests.standins.forks import Forked
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

QUEUE = "relay"
KILLED = -signal.SIGKILL
Between = tuple[ServiceBus | RunningMosquitto, str, str]
SMALL_MESSAGES = 'max_message_bytes = "64KiB"\n'


@contextmanager
def service_bus(folder: Path) -> Iterator[Between]:
    """Yield a broker, how an edge sends to a queue of it with sessions, and how a gateway receives from there."""
    with ServiceBus(folder) as bus:
        there = queue(bus, QUEUE)
        yield bus, f'via = "service-bus"\n{there}', f'kind = "service-bus"\n{there}'
        assert bus.dead_letters(QUEUE) == []


def queue(bus: ServiceBus, name: str) -> str:
    """Have a queue with sessions; return the keys that name it."""
    bus.queue(name, sessions=True, lock_s=5.0)
    return f'queue = "{name}"\nconnection_string = "{bus.connection_string}"\n'


@contextmanager
def mqtt(folder: Path) -> Iterator[Between]:
    """Yield a broker, how an edge publishes there, and how a gateway subscribes."""
    with RunningMosquitto(folder) as broker:
        there = f'host = "{broker.host}"\nport = {broker.port}\n'
        yield broker, f'via = "mqtt"\n{there}', f'kind = "mqtt"\ntopics = ["syncd/relay/#"]\n{there}'


def edge(
    folder: Path, store: Path, sends: str, *, source: str = "", relay: str = SMALL_MESSAGES, name: str = "edge"
) -> Path:
    """Write the configuration of who sends a store, with further keys of the source and the relay."""
    file = folder / f"{name}.toml"
    file.write_text(
        f'[daemon]\nname = "{name}"\nstate_dir = "{folder}/{name}-state"\nlog_format = "json"\n'
        f'[[sources]]\nname = "local"\nkind = "mlruns"\npath = "{store}"\n{source}'
        f'[[destinations]]\nname = "up"\nkind = "relay"\n{sends}{relay}'
    )
    return file


def gateway(folder: Path, url: str, receives: str, *, name: str = "gateway") -> Path:
    """Write the configuration of who receives and brings it to a server; ``receives`` are keys of the source."""
    file = folder / f"{name}.toml"
    file.write_text(
        f'[daemon]\nname = "{name}"\nstate_dir = "{folder}/{name}-state"\nlog_format = "json"\n'
        f'[[sources]]\nname = "edges"\nrelay = true\n{receives}'
        f'[[destinations]]\nname = "d"\nuri = "{url}"\n'
    )
    return file


def put(bus: ServiceBus, parcels: Iterable[tuple[str, Parcel]], *, name: str = QUEUE) -> None:
    """Have parcels in a queue, each with its session."""
    for session, parcel in parcels:
        bus.put(name, [parcel.body], message_id=parcel.id, session=session)


def partial_bytes(state: Path) -> int:
    """Return how much a gateway has of files of which not all has come."""
    if not (state / "spool").exists():  # it is made when the journal is
        return 0
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        return int(journal.execute("SELECT COALESCE(SUM(held_bytes), 0) FROM partial").fetchone()[0])


def is_through(state: Path) -> bool:
    """Return whether a daemon has begun and nothing waits in it."""
    return (state / "journal.db").exists() and not waiting(state)["delivery"]


@contextmanager
def forked(config: Path, point: str = "") -> Iterator[Forked]:
    """Run a daemon in a fork, which spares it the imports; it is killed at the end if it is still there."""
    command = ["run", "--config", str(config)]
    process = Forked("tests.faults.failpoints:run", point, command, log=config.with_suffix(".log"))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def are_killed(daemons: Mapping[str, Path]) -> None:
    """Run daemons, each up to its failpoint."""
    with ExitStack() as running:
        started = {point: running.enter_context(forked(config, point)) for point, config in daemons.items()}
        with suppress(AssertionError):
            wait_for("all", lambda: all(one.poll() is not None for one in started.values()), timeout_s=60.0)
        codes = {point: one.poll() for point, one in started.items()}
    assert codes == dict.fromkeys(daemons, KILLED)


@contextmanager
def running(configs: Iterable[Path]) -> Iterator[None]:
    """Run daemons in forks."""
    with ExitStack() as started:
        for config in configs:
            started.enter_context(forked(config))
        yield


def state_of(config: Path) -> Path:
    """Return the state directory of a configuration that was written here."""
    return config.with_name(f"{config.stem}-state")
