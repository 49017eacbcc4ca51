"""How a run stands, through a relay: taken up again, deleted, left out, whichever of two gateways is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.stores import make_file_store
from syncd.cli.main import main
from syncd.core.changes import Again, Change, encode_head
from syncd.core.facts import ExperimentSeen, RunSeen, SubjectKey
from syncd.core.relay.packing import Address, pack
from tests.faults import oracle
from tests.faults.between import QUEUE, are_killed, edge, gateway, is_through, put, running, service_bus, state_of
from tests.faults.processes import wait_for
from tests.relaying import ORIGIN
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.service_bus.server import ServiceBus

EXPERIMENT = ExperimentSeen(SubjectKey("experiment", "7"), "standing", {})
RUN = RunSeen(SubjectKey("run", "a" * 32), EXPERIMENT.subject, "one", "RUNNING", 1_760_000_000_000, None)
Standing = tuple[str, int | None]
GOES_ON: Standing = ("RUNNING", None)


def ended(at_s: int) -> Standing:
    return ("FINISHED", 1_760_000_000_000 + at_s * 1000)


def tell(bus: ServiceBus, order: int, standing: Standing) -> None:
    """Have the queue say how the run stands."""
    status, end_ms = standing
    change = Change(order, "head", encode_head(replace(RUN, status=status, end_time_ms=end_ms)), 1, Again.NEW)  # type: ignore[arg-type]
    put(bus, [("s", one) for one in pack(Address(ORIGIN, RUN.subject, [RUN, EXPERIMENT]), [change], most_bytes=60_000)])


def there(server: RunningMlflow) -> Sequence[Standing]:
    runs = oracle.read_server(server, EXPERIMENT.name).runs.values()
    return [(run.status, run.end_ms) for run in runs]


@pytest.mark.timeout(120)
def test_the_latest_word_counts_whichever_gateway_brings_it(tmp_path: Path, mlflow_server: RunningMlflow) -> None:
    with service_bus(tmp_path / "bus") as (bus, _, receives):
        assert isinstance(bus, ServiceBus)
        one, other = (gateway(tmp_path, mlflow_server.url, receives, name=name) for name in ("one", "other"))

        def brings(config: Path, standing: Standing) -> None:
            with running([config]):
                wait_for("it is brought", lambda: bus.count(QUEUE) == 0 and is_through(state_of(config)))
            assert there(mlflow_server) == [standing]

        tell(bus, 1, GOES_ON)
        tell(bus, 2, ended(1))
        brings(one, ended(1))
        tell(bus, 3, GOES_ON)  # the other one has not heard of the end
        brings(other, GOES_ON)
        tell(bus, 4, ended(2))
        are_killed({"send UpdateRun:before": other})
        tell(bus, 5, GOES_ON)
        tell(bus, 6, ended(3))
        brings(one, ended(3))
        brings(other, ended(3))  # it comes back with an older end
        tell(bus, 7, GOES_ON)
        are_killed({"send UpdateRun:before": one})
        tell(bus, 8, ended(4))
        brings(other, ended(4))
        brings(one, ended(4))  # it comes back with an older beginning


def deleted(state: Path) -> int:
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        return int(journal.execute("SELECT COUNT(*) FROM subject WHERE deleted").fetchone()[0])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("on_delete", ["keep", "delete"])
def test_a_deletion_and_a_filter_go_through_a_relay(
    on_delete: str, tmp_path: Path, mlflow_server: RunningMlflow
) -> None:
    store = tmp_path / "stores"
    names = [f"{on_delete} {name}" for name in ("taken", "left out")]
    for number, name in enumerate(names):
        make_file_store(store / str(number), name=name, seed=len(name), runs=2, metrics=1, steps=3)
    wanted = 'max_message_bytes = "64KiB"\n[destinations.filters]\nexperiments = ["* taken"]\n'
    with service_bus(tmp_path / "bus") as (bus, sends, receives):
        assert isinstance(bus, ServiceBus)
        receiver = gateway(tmp_path, mlflow_server.url, f'{receives}on_delete = "{on_delete}"\n')
        sender = edge(tmp_path, store, sends, source='on_delete = "delete"\n', relay=wanted)

        def count() -> int:
            return len(oracle.read_server(mlflow_server, names[0]).runs)

        with running([receiver]):
            with running([sender]):
                wait_for("both runs", lambda: count() == 2 and is_through(state_of(receiver)), timeout_s=40)
            meta = next((store / "0").glob("*/*/meta.yaml"))
            meta.write_text(meta.read_text().replace("lifecycle_stage: active", "lifecycle_stage: deleted"))
            with running([sender]):  # which looks at all of it at a start, and at what is old not often later
                wait_for("it is told", lambda: deleted(state_of(receiver)) == 1, timeout_s=40)
            wait_for("it is done", lambda: is_through(state_of(receiver)), timeout_s=40)
            assert count() == {"keep": 2, "delete": 1}[on_delete]
    assert not oracle.read_server(mlflow_server, names[1]).runs
    assert main(["verify", str(store / "0"), "--against", mlflow_server.url]) == 0
