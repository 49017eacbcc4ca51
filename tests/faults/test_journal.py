"""The journal damaged, full, copied in the middle of its work, or met by a clock that jumps."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from syncd.journal import committing, database
from syncd.runtime import intake, journal_thread
from tests.faults import oracle
from tests.faults.conftest import Case
from tests.faults.pipelines import open_pipeline
from tests.faults.processes import daemon, forked_sync, sync, syncd, wait_for, write_config
from tests.mounting import can_mount

# -- damage ------------------------------------------------------------------------------------------------------------


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "magic": lambda path: _flip(path, 3),
    "schema page": lambda path: _flip(path, 105),
    "page headers": lambda path: [_flip(path, page * 8192) for page in range(1, path.stat().st_size // 8192)],
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 77]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(random.Random(3).randbytes(100_000)),
    "newer": lambda path: _newer(path),
    "gone": lambda path: path.unlink(),
}


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 999")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("appending", [False, True], ids=["sql", "appending"])
def test_a_damaged_journal_is_put_aside_and_rebuilt(case: Case, file_case: Case, damage: str, appending: bool) -> None:
    chosen = file_case if appending else case
    assert chosen.killed_sync("send LogBatch of points:after:2") is not None
    journal = chosen.state / "journal.db"
    with closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    DAMAGE[damage](journal)
    kept = journal.read_bytes() if journal.exists() else b""
    ended = chosen.sync()
    assert ended.code == 0, ended
    chosen.check()
    aside = [path for path in chosen.state.glob("journal.db.unusable-*") if not path.name.endswith(("-wal", "-shm"))]
    if damage not in ("empty", "gone"):
        assert [path.read_bytes() for path in aside] == [kept]


def test_a_damaged_journal_is_said_aloud(case: Case) -> None:
    case.state.mkdir()
    (case.state / "journal.db").write_bytes(b"garbage" * 1000)
    ended = syncd("sync", str(case.database), "--to", case.server.url, "--state-dir", str(case.state))
    assert ended.code == 0
    assert "put aside" in ended.err
    assert "journal.db.unusable-" in ended.err


def test_two_journals_put_aside_in_one_second_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        database.quarantine(path, "20260101T000000Z")
    assert {kept.read_bytes() for kept in tmp_path.iterdir()} == {b"first", b"second"}


# -- copied in the middle: what a power loss leaves is a prefix of the synced writes --------------------------------


def test_a_journal_copied_at_any_moment_goes_on_from_there(case: Case) -> None:
    """The database and its -wal are copied as they are while sync works; each copy then finishes the work, once."""
    process = forked_sync(case.database, case.server.url, case.state)
    copies = []
    while process.poll() is None:
        copy = case.folder / f"copy{len(copies)}"
        copy.mkdir()
        for name in ("journal.db-wal", "journal.db"):  # the -wal first: what it lacks is lost, as unsynced writes are
            if (case.state / name).exists():
                shutil.copyfile(case.state / name, copy / name)
        copies.append(copy)
        time.sleep(0.03)
    assert process.wait() == 0
    chosen = copies[:: max(1, len(copies) // 4)]
    for copy in chosen:
        _drop_tail(copy / "journal.db-wal")
        assert sync(case.database, case.server.url, copy).code == 0
        case.check()
    assert len(chosen) >= 3


def _drop_tail(wal: Path) -> None:
    """Cut the last, unsynced part of a -wal off inside a frame."""
    if wal.exists() and wal.stat().st_size > 10_000:
        with wal.open("r+b") as file:
            file.truncate(wal.stat().st_size - 5_000)


# -- full --------------------------------------------------------------------------------------------------------------


async def test_a_full_disk_pauses_reading_and_resumes_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit of pages stands for the disk: it answers SQLITE_FULL as a full file system does."""
    monkeypatch.setattr(intake, "FULL_RETRY_S", 0.2)
    monkeypatch.setattr(journal_thread, "FULL_RETRY_S", 0.2)
    pipeline = open_pipeline(case.database, case.server.url, case.state)
    connection = pipeline.journal.journal._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    try:
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            tasks = [*pipeline.start_uploading(group), *pipeline.start_following(group)]
            while not pipeline.intakes[0].paused:  # noqa: ASYNC110 - set by the source's thread
                await asyncio.sleep(0.05)
            assert "full" in pipeline.intakes[0].paused
            await asyncio.sleep(0.5)
            assert pipeline.intakes[0].paused
            connection.execute("PRAGMA max_page_count = 1000000")
            while case.differences():  # noqa: ASYNC110 - the server's doing
                await asyncio.sleep(0.2)
            assert not pipeline.intakes[0].paused
            for task in tasks:
                task.cancel()
    finally:
        await pipeline.close()
    case.check()


def test_a_full_file_system_pauses_reading_and_resumes_alone(case: Case, tmp_path: Path) -> None:
    """The state directory is a tmpfs of 12 MiB in the daemon's own mount namespace; a file fills it and goes."""
    can_mount("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt")
    state = tmp_path / "small"
    state.mkdir()
    config = write_config(tmp_path / "a.toml", state=state, url=case.server.url, stores=[case.database])
    script = f'mount -t tmpfs -o size=12m none "{state}" && exec "$@"'
    with daemon(config, under=["unshare", "-rm", "sh", "-c", script, "sh"]) as running:
        inside = Path(f"/proc/{running.pid}/root{state}")
        wait_for("the first delivery", lambda: not case.differences())
        (inside / "reserve").unlink()  # the file below takes its place, too
        with (inside / "filler").open("wb", buffering=0) as filler:
            filled = _fill(filler)
        assert filled > 1_000_000
        with closing(sqlite3.connect(case.database)) as db, db:
            run = db.execute("SELECT run_uuid FROM runs WHERE name = 'still running'").fetchone()[0]
            db.executemany(
                "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES ('more', ?, ?, ?, ?, 0)",
                [(i / 3, 1_760_000_000_000 + i, i, run) for i in range(30_000)],
            )
        wait_for("the pause", lambda: "reading pauses" in running.text() or "disk is full" in running.text())
        assert running.process.poll() is None
        (inside / "filler").unlink()
        wait_for("all is delivered", lambda: not case.differences(), every_s=1)
        assert running.terminate() == 0


def _fill(file) -> int:  # type: ignore[no-untyped-def]
    size = 0
    try:
        while True:
            size += file.write(b"x" * 4096)
    except OSError:
        return size


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000, -3_000], ids=["back", "ahead", "a little back"])
async def test_a_jump_of_the_clock_holds_nothing_up(case: Case, monkeypatch: pytest.MonkeyPatch, jump_ms: int) -> None:
    """The wall clock jumps while runs wait for a model of theirs that is not in the store."""
    from syncd.runtime import lane, uploader
    from syncd.runtime.one_shot import sync_once

    with closing(sqlite3.connect(case.database)) as db, db:
        db.execute("DELETE FROM logged_models")
        db.execute("DELETE FROM logged_model_metrics")
    shift_ms = [0]
    real = time.time_ns

    def wall_ms() -> int:
        return real() // 1_000_000 + shift_ms[0]

    pipeline = open_pipeline(case.database, case.server.url, case.state)
    pipeline.journal.journal._wall_ms = wall_ms
    for made in (uploader.Uploader, lane.ServerLanes):
        monkeypatch.setitem(made.__init__.__kwdefaults__, "wall_ms", wall_ms)
    original = committing.commit

    def commit(*arguments: object, **options: object) -> object:
        result = original(*arguments, **options)  # type: ignore[arg-type]
        shift_ms[0] = jump_ms
        return result

    monkeypatch.setattr(committing, "commit", commit)
    try:
        async with asyncio.timeout(200):
            await sync_once(pipeline, patience_s=120.0)
        assert pipeline.totals().dead_letters == 1  # the link to the model
    finally:
        await pipeline.close()
    there = oracle.read_server(case.server, case.experiment)
    assert {run.status for run in there.runs.values()} == {"FINISHED", "FAILED", "RUNNING"}
