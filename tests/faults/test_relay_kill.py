"""``kill -9`` at every stage between two syncd: what was begun is finished by the next start, once.

The server stores every point that it is sent once more, so that one that came twice would show.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.stores import make_file_store
from syncd.cli.main import main
from syncd.core.relay.values import Parcel
from tests.faults import oracle
from tests.faults.between import (
    QUEUE,
    are_killed,
    edge,
    gateway,
    is_through,
    partial_bytes,
    put,
    queue,
    running,
    service_bus,
    state_of,
)
from tests.faults.processes import wait_for
from tests.relaying import ORIGIN, families, relayed
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.service_bus.server import ServiceBus

# Two parcels of points and three chunks a run.
SMALL_MESSAGES = 'max_message_bytes = "16KiB"\n'
OF_A_STORE = {"runs": 1, "metrics": 2, "steps": 250, "params": 3, "files": 1, "file_bytes": 25_000}
AT_THE_EDGE = [
    "journal.commit:after",
    "relay.probe:after",
    "journal.bind:after",
    "journal.mark_attempted:before",
    "journal.mark_attempted:after",
    "relay.cut:after",
    "relay.file:after",
    "artifact.pieces:after:2",
    "relay.send:before",
    "relay.send:before:3",
    "relay.send:after",
    "relay.send:after:3",
    "journal.settle:before",
    "journal.settle:before:3",
    "journal.settle:after",
    "relay.heads:before",
    "relay.heads:after",
]
AT_THE_GATEWAY = [
    "bus.receive:after",
    "inbox.take:before",
    "inbox.take:after",
    "inbox.take:after:2",
    "bus.complete:after",
    "partials.write:after:2",
    "partials.keep:after",
    "partials.ended:after",
    "journal.bind:after",
    "journal.mark_attempted:after",
    "destination.create:after",
    "destination.upload:after",
    "send LogBatch of points:after",
    "send UpdateRun:after",
    "journal.settle:before",
    "journal.settle:after:3",
    "spool.tidy:after",
]
GIVING_BACK = ["return.send:after", "partials.given_back:before", "partials.given_back:after"]


def store(folder: Path, name: str) -> Path:
    """Write a store of one experiment, of that name, with one run that has ended."""
    make_file_store(folder / name, name=name, seed=zlib.crc32(name.encode()), **OF_A_STORE)
    return folder / name


def told(store: Path) -> list[tuple[str, Parcel]]:
    """Return what an edge sends of a store, in order, with the session of each."""
    sessions = families(store)
    of = relayed(store, origin=replace(ORIGIN, source=store.name), most_bytes=12_000, chunk_bytes=9_000)
    return [(sessions[key], parcel) for key, parcels in of.items() for parcel in parcels]


def differences(stores: Sequence[Path], server: RunningMlflow) -> list[str]:
    return [
        f"{one.name}: {text}"
        for one in stores
        for text in oracle.differences(oracle.read_store(one, one.name), oracle.read_server(server, one.name))
    ]


def check(stores: Sequence[Path], server: RunningMlflow) -> None:
    """Hold what the server has against the stores, by an oracle of its own and by ``verify``."""
    found = differences(stores, server)
    assert not found, "\n".join(found[:20])
    assert main(["verify", *map(str, stores), "--against", server.url]) == 0


@pytest.mark.timeout(240)
def test_what_a_killed_edge_has_begun_arrives_whole_and_once(tmp_path: Path, file_server: RunningMlflow) -> None:
    with service_bus(tmp_path / "bus") as (bus, sends, receives):
        receiver = gateway(tmp_path, file_server.url, receives)
        stores = [store(tmp_path / "stores", f"edge-{number}") for number, _ in enumerate(AT_THE_EDGE)]
        edges = [edge(tmp_path, one, sends, relay=SMALL_MESSAGES, name=one.name) for one in stores]
        with running([receiver]):
            are_killed(dict(zip(AT_THE_EDGE, edges, strict=True)))
            with running(edges):
                wait_for("all is there", lambda: not differences(stores, file_server))
                wait_for("nothing waits", lambda: all(is_through(state_of(one)) for one in edges))
            wait_for("nothing waits", lambda: bus.count(QUEUE) == 0 and is_through(state_of(receiver)))
    check(stores, file_server)


@pytest.mark.timeout(240)
def test_what_a_killed_gateway_has_begun_arrives_whole_and_once(tmp_path: Path, file_server: RunningMlflow) -> None:
    points = [*AT_THE_GATEWAY, *GIVING_BACK]
    stores = [store(tmp_path / "stores", f"gateway-{number}") for number, _ in enumerate(points)]
    with ServiceBus(tmp_path / "bus") as bus:
        queues = [f"queue{number}" for number, _ in enumerate(points)]
        gateways = [
            gateway(tmp_path, file_server.url, f'kind = "service-bus"\n{queue(bus, name)}', name=name)
            for name in queues
        ]
        late: list[tuple[str, list[tuple[str, Parcel]]]] = []
        for point, one, name in zip(points, stores, queues, strict=True):
            parcels = told(one)
            held = 2 if point in GIVING_BACK else 0  # a chunk of the file, and the end of the run
            put(bus, parcels[: len(parcels) - held], name=name)
            late.append((name, parcels[len(parcels) - held :]))
        giving_back = gateways[len(AT_THE_GATEWAY) :]
        with running(giving_back):
            wait_for("files in part", lambda: all(partial_bytes(state_of(one)) for one in giving_back))
        are_killed(dict(zip(points, gateways, strict=True)))
        for name, parcels in late:
            put(bus, parcels, name=name)

        def all_is_through() -> bool:
            states = [state_of(one) for one in gateways]
            return not any(map(bus.count, queues)) and all(is_through(one) and not partial_bytes(one) for one in states)

        with running(gateways):
            wait_for("all is through", all_is_through)
        assert [bus.dead_letters(name) for name in queues] == [[] for _ in queues]
    check(stores, file_server)
