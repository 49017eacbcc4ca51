"""A broker that takes smaller messages than its relay was told: what can be cut is; the rest is a letter, not lost."""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.stores import make_file_store
from syncd.cli.main import main
from tests.faults.between import QUEUE, edge, gateway, is_through, queue
from tests.faults.processes import daemon, wait_for, waiting
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus

LIMIT_BYTES = 24_000
# No entity of Service Bus takes less than 256 KiB; "premium" ones take more.
MOST_BYTES, ENTITY_BYTES = 1024 * 1024, 256 * 1024
GIANT = "giant"


@dataclass
class Narrow:
    """A broker that takes little from ``narrow`` on, until ``widen``."""

    broker: ServiceBus | RunningMosquitto
    sends: str
    receives: str
    few: str

    def narrow(self) -> None:
        self._limit(self.few)

    def widen(self) -> None:
        self._limit("")

    def _limit(self, few: str) -> None:
        self.broker.stop()
        if isinstance(self.broker, RunningMosquitto):
            self.broker.options = few
        else:
            self.broker.max_message_bytes = int(few or MOST_BYTES)
        self.broker.start()


@contextmanager
def narrow(kind: str, folder: Path) -> Iterator[Narrow]:
    if kind == "service-bus":
        with ServiceBus(folder, max_message_bytes=MOST_BYTES) as bus:
            there = queue(bus, QUEUE)
            yield Narrow(bus, f'via = "service-bus"\n{there}', f'kind = "service-bus"\n{there}', str(ENTITY_BYTES))
    else:
        with RunningMosquitto(folder) as broker:
            there = f'host = "{broker.host}"\nport = {broker.port}\n'
            receives = f'kind = "mqtt"\ntopics = ["syncd/relay/#"]\n{there}'
            yield Narrow(broker, f'via = "mqtt"\n{there}', receives, f"{kind} {LIMIT_BYTES}")


def write(store: Path, name: str) -> None:
    """Write a run with a file, and with a tag that neither can be cut nor becomes much smaller when it is packed.

    It is under way: the edge may have read it before the tag is there.
    """
    seed = zlib.crc32(name.encode())
    [run] = make_file_store(
        store, name=name, seed=seed, runs=1, metrics=2, steps=3000, files=1, file_bytes=700_000, status=1
    )
    folder = next(store.glob(f"*/{run}"))
    written = store.with_name(GIANT)
    written.write_text(base64.b64encode(random.Random(1).randbytes(400_000)).decode())
    written.rename(folder / "tags" / GIANT)  # whole at once: of a part there would be a letter too


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["service-bus", "message_size_limit", "max_packet_size"])
def test_what_a_broker_finds_too_large_is_cut_or_kept_as_a_letter(
    kind: str, tmp_path: Path, mlflow_server: RunningMlflow
) -> None:
    store, state = tmp_path / "store", tmp_path / "edge-state"
    store.mkdir()
    with narrow(kind, tmp_path / "broker") as there:
        sender = edge(tmp_path, store, there.sends, relay='max_message_bytes = "1MiB"\n')
        with daemon(gateway(tmp_path, mlflow_server.url, there.receives)):
            with daemon(sender) as running:
                wait_for("the edge runs", lambda: "the destination answers" in running.text())
                there.narrow()
                write(store, kind)
                wait_for("a letter", lambda: waiting(state)["dead_letter"] == 1 and is_through(state))
            assert main(["verify", str(store), "--against", mlflow_server.url]) == 4
            there.widen()
            assert main(["dlq", "retry", "--all", "--state-dir", str(state)]) == 0
            with daemon(sender):
                wait_for(
                    "nothing waits", lambda: waiting(state)["dead_letter"] == 0 and is_through(state), timeout_s=40.0
                )
                arrived = ["verify", str(store), "--against", mlflow_server.url]
                wait_for("all is there", lambda: main(arrived) == 0)
