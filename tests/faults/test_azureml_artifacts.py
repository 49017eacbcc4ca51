"""A large artifact on its way into a workspace, and what may go wrong there: each is caused, and the bytes compared."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import Ended, sync_arguments, syncd, wait_for
from tests.standins.azureml import Fault, RunningWorkspace, Shelf

BLOCKS = 6
BLOCK_BYTES = 8 << 20
SIZE = (BLOCKS - 1) * BLOCK_BYTES + 12345


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path / "workspace") as running:
        for name, value in running.place.client_environment().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one run, of one large artifact and some small ones."""
    run = tmp_path / "store" / "0" / ("a" * 32)
    (run / "artifacts").mkdir(parents=True)
    (run.parent / "meta.yaml").write_text("experiment_id: '0'\nname: one\nlifecycle_stage: active\n")
    (run / "meta.yaml").write_text(
        f"run_id: {run.name}\nrun_name: first\nexperiment_id: '0'\nstatus: 3\nstart_time: 1700000000000\n"
        "end_time: 1700000001000\nlifecycle_stage: active\nuser_id: someone\n"
    )
    (run / "artifacts" / "large.bin").write_bytes(random.Random(1).randbytes(SIZE))
    for number in range(5):
        (run / "artifacts" / f"small-{number}.txt").write_text(f"number {number}")
    return tmp_path / "store"


def sync(store: Path, url: str, state: Path) -> Ended:
    """Run ``syncd sync`` in a process of its own: aiohttp reads SSL_CERT_FILE when it is imported."""
    return syncd(*sync_arguments(store, url, state))


def check(workspace: RunningWorkspace, store: Path) -> None:
    [run] = workspace.state.tracking.runs
    sent = {path.name: path.read_bytes() for path in (store / "0" / ("a" * 32) / "artifacts").iterdir()}
    assert {name: workspace.state.artifacts.bytes_of(Shelf.of_run(run), name) for name in sent} == sent
    assert workspace.state.tracking.runs[run].status == "FINISHED"


def sent_blocks(workspace: RunningWorkspace) -> int:
    return len([asked for asked in workspace.state.log.of("blob/put-block") if asked.status == 201])


def once_blocks_are_there(workspace: RunningWorkspace, count: int, do: Callable[[], None]) -> threading.Thread:
    """Do something in a thread as soon as so many blocks have come."""

    def wait() -> None:
        wait_for("blocks", lambda: sent_blocks(workspace) >= count, every_s=0.01)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_killed_process_leaves_its_blocks_to_the_next(
    workspace: RunningWorkspace, store: Path, tmp_path: Path
) -> None:
    workspace.state.faults.latency_s = 0.2
    arguments = sync_arguments(store, workspace.place.tracking_uri, tmp_path / "state")
    process = subprocess.Popen([sys.executable, "-m", "syncd.cli.main", *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_for("blocks", lambda: sent_blocks(workspace) >= 3, timeout_s=120, every_s=0.01)
    finally:
        process.kill()
        process.wait()
    workspace.state.faults.latency_s = 0.0
    [blob] = [blob for name, blob in workspace.state.blobs.blobs.items() if name.endswith("large.bin")]
    there = len(blob.staged)
    assert 3 <= there < BLOCKS
    assert blob.committed is None
    workspace.state.log.clear()
    done = sync(store, workspace.place.tracking_uri, tmp_path / "state")
    assert done.code == 0, done.err
    assert sent_blocks(workspace) == BLOCKS - there
    check(workspace, store)


def test_addresses_that_run_out_under_way_are_renewed(workspace: RunningWorkspace, store: Path, tmp_path: Path) -> None:
    thread = once_blocks_are_there(workspace, 2, workspace.state.access.expire_all)
    done = sync(store, workspace.place.tracking_uri, tmp_path / "state")
    thread.join()
    assert done.code == 0, done.err
    check(workspace, store)
    assert [asked for asked in workspace.state.log.of("blob") if asked.status == 403]
    assert len(workspace.state.log.of("artifacts/write")) >= 1


def test_lost_answers_of_every_step_leave_one_whole_artifact(
    workspace: RunningWorkspace, store: Path, tmp_path: Path
) -> None:
    kinds = ("artifacts/batch/metadata", "blob/put-block", "blob/put-block-list", "blob/put", "blob/head")
    for kind in kinds:
        workspace.state.faults.lose_answer(kind)
    done = sync(store, workspace.place.tracking_uri, tmp_path / "state")
    assert done.code == 0, done.err
    check(workspace, store)
    assert sent_blocks(workspace) <= BLOCKS
    assert not [fault for fault in workspace.state.faults.pending if fault.kind != "blob/head"]


def test_a_busy_storage_is_waited_for_and_nothing_is_sent_twice(
    workspace: RunningWorkspace, store: Path, tmp_path: Path
) -> None:
    workspace.state.faults.throttle_next(6, kind="blob", retry_after_s=0.1)
    workspace.state.faults.add(Fault("fail", "blob/put-block", times=3, status=500))
    workspace.state.faults.add(Fault("drop", "blob/put-block", times=2))
    done = sync(store, workspace.place.tracking_uri, tmp_path / "state")
    assert done.code == 0, done.err
    check(workspace, store)
    assert sent_blocks(workspace) == BLOCKS


def test_a_file_that_changes_under_way_arrives_as_it_is_in_the_end(
    workspace: RunningWorkspace, store: Path, tmp_path: Path
) -> None:
    large = store / "0" / ("a" * 32) / "artifacts" / "large.bin"
    workspace.state.faults.latency_s = 0.1

    def change() -> None:
        with large.open("r+b") as file:
            file.write(b"changed")
        workspace.state.faults.latency_s = 0.0

    thread = once_blocks_are_there(workspace, 1, change)
    done = sync(store, workspace.place.tracking_uri, tmp_path / "state")
    thread.join()
    assert done.code == 0, done.err
    check(workspace, store)
    assert len(workspace.state.log.of("blob/put-block-list")) == 1
