"""Two gateways on one queue with sessions, one of them ends in the middle of a file: all arrives, once."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from syncd.cli.main import main
from tests.awkward import build_awkward_store
from tests.faults.between import QUEUE, partial_bytes, put
from tests.faults.processes import daemon, wait_for, waiting
from tests.relaying import families, relayed
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.service_bus.server import ServiceBus


def config(folder: Path, bus: ServiceBus, server: RunningMlflow) -> Path:
    folder.mkdir()
    file = folder / "syncd.toml"
    file.write_text(
        f'[daemon]\nname = "{folder.name}"\nstate_dir = "{folder}/state"\nlog_format = "json"\n'
        f'[[sources]]\nname = "edges"\nkind = "service-bus"\nqueue = "{QUEUE}"\nrelay = true\nmax_sessions = 3\n'
        f'connection_string = "{bus.connection_string}"\n'
        f'[[destinations]]\nname = "d"\nuri = "{server.url}"\n'
    )
    return file


def runs_of(state: Path) -> int:
    with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True, timeout=30)) as journal:
        return int(
            journal.execute(
                "SELECT COUNT(*) FROM remote r JOIN subject s ON s.id = r.subject_id WHERE s.kind = 'run'"
            ).fetchone()[0]
        )


@pytest.mark.timeout(420)
@pytest.mark.parametrize("end", ["killed, and started again", "stopped for good"])
def test_gateways_share_a_queue_and_one_of_them_ends_in_the_middle_of_a_file(tmp_path: Path, end: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    build_awkward_store(store, "mlruns", big_artifact_bytes=3_000_000)
    sessions = families(store)
    told = relayed(store)
    parcels = [(sessions[key], parcel) for key, of in told.items() for parcel in of]
    largest = max(told, key=lambda key: len(told[key]))
    half = next(at for at, (_, parcel) in enumerate(parcels) if parcel is told[largest][len(told[largest]) // 2])
    with ServiceBus(tmp_path / "bus") as bus, RunningMlflow(tmp_path / "server") as server, ExitStack() as again:
        bus.queue(QUEUE, sessions=True, lock_s=5.0)
        files = [config(tmp_path / name, bus, server) for name in ("one", "other")]
        states = [file.parent / "state" for file in files]
        put(bus, parcels[:half])
        with daemon(files[0]) as one, daemon(files[1]) as other:
            wait_for("a file in the middle", lambda: any(map(partial_bytes, states)) and bus.count(QUEUE) == 0)
            ended = 0 if partial_bytes(states[0]) else 1
            process = (one, other)[ended]
            if end == "stopped for good":
                wait_for("nothing else waits", lambda: waiting(states[ended])["delivery"] == 0)
                assert process.terminate() == 0
                assert partial_bytes(states[ended]) == 0
            else:
                process.kill()
            put(bus, parcels[half:])
            wait_for("the other one took the rest", lambda: bus.count(QUEUE) == 0)
            if end != "stopped for good":
                process = again.enter_context(daemon(files[ended]))
            wait_for("nothing is open", lambda: bus.count(QUEUE) == 0 and not any(map(partial_bytes, states)))
            wait_for("nothing waits", lambda: not any(waiting(state)["delivery"] for state in states))
            assert "a file that came in part was given back" in process.text()
            assert main(["verify", str(store), "--against", server.url]) == 0
        assert all(map(runs_of, states))
        assert bus.dead_letters(QUEUE) == []
