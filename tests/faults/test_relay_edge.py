"""A store behind one syncd, a server behind another, a broker between them: ``verify`` finds nothing, whatever dies."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from syncd.cli.main import main
from tests.awkward import build_awkward_store
from tests.faults.between import edge, gateway, mqtt, service_bus
from tests.faults.processes import daemon, wait_for, waiting
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.server import ServiceBus


def end_suddenly(broker: ServiceBus | RunningMosquitto) -> None:
    """Kill a broker; mosquitto only stops, since a kill makes it lose what it has acknowledged a moment ago."""
    if isinstance(broker, RunningMosquitto):
        broker.stop()
    else:
        broker.kill()


def subjects(state: Path) -> int:
    if not (state / "spool").exists():  # it is made when the journal is
        return 0
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        return int(journal.execute("SELECT COUNT(*) FROM subject").fetchone()[0])


def are_through(*states: Path) -> bool:
    return all((state / "journal.db").exists() and not waiting(state)["delivery"] for state in states)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("broker", [service_bus, mqtt], ids=["service-bus", "mqtt"])
def test_a_store_goes_through_a_broker_whole_and_once(broker, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store = tmp_path / "store"
    store.mkdir()
    build_awkward_store(store, "mlruns", big_artifact_bytes=1_000_000)
    edge_state, gateway_state = tmp_path / "edge-state", tmp_path / "gateway-state"
    with broker(tmp_path / "broker") as (between, sends, receives), RunningMlflow(tmp_path / "server") as server:
        files = edge(tmp_path, store, sends), gateway(tmp_path, server.url, receives)
        assert main(["validate", "--config", str(files[0])]) == 0
        with daemon(files[1]):
            with daemon(files[0]) as sender:
                wait_for("something is under way", lambda: (edge_state / "journal.db").exists())
                sender.kill()
            with daemon(files[0]):
                wait_for("the gateway has some", lambda: subjects(gateway_state) > 2)
                end_suddenly(between)
                between.start()
                wait_for("the broker has all", lambda: are_through(edge_state))
                wait_for("it is there", lambda: main(["verify", str(store), "--against", server.url]) == 0)
            shutil.rmtree(edge_state)
            with daemon(files[0]):
                wait_for("all was sent again", lambda: are_through(edge_state))
                wait_for("nothing waits", lambda: are_through(gateway_state))
        assert main(["verify", str(store), "--against", server.url]) == 0
