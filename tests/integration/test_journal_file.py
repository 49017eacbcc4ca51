"""The journal's file: who holds it, what a crash leaves, damage, a full disk."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.core.changes import Section
from syncd.core.facts import Reading
from syncd.errors import JournalFull, JournalLocked, JournalNewer
from syncd.journal import committing, deliveries, participants, subjects
from syncd.journal.database import FILE_NAME, RESERVE_NAME
from syncd.journal.deliveries import Delivered
from syncd.journal.journal import Journal
from syncd.journal.report import JournalReport
from syncd.journal.state_lock import StateLock, running_pid
from tests.journal_filling import commit, experiment, head, points, run_id, tags
from tests.mounting import can_mount

HOLD = """
import sys, time
from pathlib import Path
from syncd.journal.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the state directory ``state``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def filled(state_dir: Path, *, commits: int = 12, steps: int = 300) -> None:
    """Write one commit after another: commit n states ``steps`` points and the cursor n."""
    journal = Journal.open(state_dir)
    source = participants.register_source(journal, "local")
    audience = participants.register_destinations(journal, {"a": "http://a"})["a"].audience
    commit(journal, source, audience, experiment(), head(1))
    for number in range(commits):
        facts = points(1, range(number * steps, (number + 1) * steps))
        commit(journal, source, audience, facts, **{"r/metrics": str(number).encode()})
    journal.close()


def whole_commits(journal: Journal) -> int:
    """Return how many commits the journal holds, having checked that facts, deliveries and cursors agree."""
    source = participants.register_source(journal, "local")
    rows = participants.register_destinations(journal, {"a": "http://a"})
    cursor = committing.JournalCursors(journal, source, rows["a"].audience).load("r/metrics")
    known = subjects.find_subject(journal, source, "run", head(1).subject.id)
    if known is None:
        assert cursor is None
        return 0
    changes = deliveries.pending(journal, rows["a"].id, known, Section.METRICS)
    assert len(changes) == (0 if cursor is None else int(cursor) + 1)
    return len(changes)


# ---------------------------------------------------------------- who holds it


def test_a_held_directory_names_the_process_that_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert running_pid(tmp_path / "state") == holder.pid
    with pytest.raises(JournalLocked, match=str(holder.pid)) as caught:
        Journal.open(tmp_path / "state")
    assert caught.value.pid == holder.pid
    assert str(tmp_path / "state") in str(caught.value)


def test_kill_9_frees_the_directory(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert running_pid(tmp_path / "state") == 0
    for was_abandoned in (True, False):
        journal = Journal.open(tmp_path / "state")
        assert journal.was_abandoned is was_abandoned
        journal.close()


def test_nobody_runs_where_there_is_nothing(tmp_path: Path) -> None:
    assert running_pid(tmp_path / "none") == 0
    Journal.open(tmp_path).close()
    assert running_pid(tmp_path) == 0


def test_looking_who_runs_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as running_pid does for an instant
    threading.Timer(0.06, os.close, [looking]).start()
    lock = StateLock(tmp_path)
    lock.acquire()
    assert running_pid(tmp_path) == os.getpid()
    lock.release()


# ---------------------------------------------------------------- what a crash leaves


def test_what_a_power_cut_leaves_at_any_byte_of_the_log_is_a_whole_number_of_commits(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    filled(state_dir, commits=1)
    journal = Journal.open(state_dir)
    source = participants.register_source(journal, "local")
    audience = participants.register_destinations(journal, {"a": "http://a"})["a"].audience
    for number in range(1, 12):
        facts = points(1, range(number * 300, number * 300 + 300))
        commit(journal, source, audience, facts, **{"r/metrics": str(number).encode()})
    log = (state_dir / f"{FILE_NAME}-wal").read_bytes()
    main = (state_dir / FILE_NAME).read_bytes()
    journal.close()
    assert len(log) > 100_000
    generator = random.Random(7)
    seen = set()
    for length in [0, len(log), *(generator.randrange(len(log)) for _ in range(40))]:
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / FILE_NAME).write_bytes(main)
        (copy / f"{FILE_NAME}-wal").write_bytes(log[:length])
        again = Journal.open(copy)
        assert again.rebuilt_from is None
        seen.add(whole_commits(again))
        again.close()
        shutil.rmtree(copy)
    assert {1, 12} <= seen
    assert len(seen) > 4


def test_a_transaction_that_was_under_way_leaves_nothing_of_itself(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    filled(state_dir, commits=2)
    journal = Journal.open(state_dir)
    source = participants.register_source(journal, "local")
    audience = participants.register_destinations(journal, {"a": "http://a"})["a"].audience
    copies = []

    def readings() -> Iterator[Reading]:
        for number in range(2, 10):  # each larger than the page cache, so that much is in the log before the commit
            yield Reading([tags(1, big=os.urandom(1024).hex() * 1024), points(1, [number])], {"r/metrics": b"9"})
            copies.append(tmp_path / f"copy{number}")
            copies[-1].mkdir()
            for name in (FILE_NAME, f"{FILE_NAME}-wal"):
                shutil.copy(state_dir / name, copies[-1] / name)

    committing.commit(journal, source, audience, readings())
    journal.close()
    assert (copies[-1] / f"{FILE_NAME}-wal").stat().st_size > 5_000_000
    for copy in copies:
        again = Journal.open(copy)
        assert again.rebuilt_from is None
        assert whole_commits(again) == 2
        again.close()


COMMIT_FOR_EVER = """
import sys
from pathlib import Path
from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.core.changes import Section
from syncd.journal import deliveries, participants
from syncd.journal.deliveries import Delivered
from syncd.journal.journal import Journal
from tests.journal_filling import commit, experiment, head, points, run_id
journal = Journal.open(Path(sys.argv[1]))
source = participants.register_source(journal, "local")
there = participants.register_destinations(journal, {"a": "http://a"})["a"]
commit(journal, source, there.audience, experiment(), head(1))
run = run_id(journal, source, 1)
for number in range(100_000):
    commit(journal, source, there.audience, points(1, [number]), **{"r/metrics": str(number).encode()})
    print("committed", number, flush=True)
    if number % 2:
        seqs = [change.seq for change in deliveries.pending(journal, there.id, run, Section.METRICS)]
        done = [(Section.METRICS, seq) for seq in seqs]
        deliveries.settle(journal, there.id, run, done, delivered=Delivered(points=len(done)))
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    generator = random.Random(11)
    for attempt in range(5):
        state_dir = tmp_path / str(attempt)
        command = [sys.executable, "-c", COMMIT_FOR_EVER, str(state_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "committed 0\n"
            time.sleep(generator.random() * 0.3)
            process.kill()
            acknowledged = int(process.stdout.read().rpartition("committed ")[2].split("\n")[0] or 0)
        journal = Journal.open(state_dir)
        source = participants.register_source(journal, "local")
        there = participants.register_destinations(journal, {"a": "http://a"})["a"]
        cursor = committing.JournalCursors(journal, source, there.audience).load("r/metrics")
        assert cursor is not None
        assert int(cursor) >= acknowledged
        sums = deliveries.sums(journal, there.id)
        assert sums["points"] + sums["points_waiting"] == int(cursor) + 1
        journal.close()


# ---------------------------------------------------------------- damage


def put_aside(state_dir: Path) -> list[str]:
    return sorted(path.name for path in state_dir.iterdir() if ".unusable-" in path.name)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 8192 * 8192 + 100)


def wrong_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for page in range(4, len(content) // 8192):
        content[page * 8192 : page * 8192 + 16] = bytes(byte ^ 0xFF for byte in content[page * 8192 : page * 8192 + 16])
    path.write_bytes(content)


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO message_count (source_id, last_ms) VALUES (1, 0)")  # a source that sent none yet
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [garbage, cut_off, wrong_pages, newer])
def test_a_journal_that_cannot_be_used_is_put_aside_whole_and_begun_anew(tmp_path: Path, damage: object) -> None:
    filled(tmp_path)
    damage(tmp_path / FILE_NAME)  # type: ignore[operator]
    before = (tmp_path / FILE_NAME).read_bytes()
    journal = Journal.open(tmp_path)
    assert journal.rebuilt_from is not None
    assert journal.rebuilt_from.read_bytes() == before
    assert whole_commits(journal) == 0
    journal.close()
    assert put_aside(tmp_path)[0] == journal.rebuilt_from.name
    again = Journal.open(tmp_path)
    assert again.rebuilt_from is None
    again.close()


@pytest.mark.parametrize("known", [True, False], ids=["its tables are known", "they are not"])
def test_a_newer_journal_that_took_messages_is_refused_and_left_as_it_is(tmp_path: Path, known: bool) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        if known:
            connection.execute("INSERT INTO inbox (source_id, digest, at_ms) VALUES (1, x'00', 0)")
        else:
            connection.execute("ALTER TABLE inbox RENAME TO taken_messages")
    newer(tmp_path / FILE_NAME)
    before = (tmp_path / FILE_NAME).read_bytes()
    for opening in (Journal.open, JournalReport.open):
        with pytest.raises(JournalNewer, match=r"version 999 is newer.*run the newer syncd"):
            opening(tmp_path)
    assert exit_code_of(JournalNewer("", replaceable=False, target="")) == ExitCode.CONFIGURATION
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert put_aside(tmp_path) == []


def test_no_flipped_byte_ends_in_anything_but_a_whole_or_a_new_journal(tmp_path: Path) -> None:
    filled(tmp_path / "state", commits=3, steps=50)
    content = (tmp_path / "state" / FILE_NAME).read_bytes()
    generator = random.Random(3)
    places = [*range(16, 100, 7), *(generator.randrange(len(content)) for _ in range(60))]
    rebuilt = 0
    for place in places:
        copy = tmp_path / "copy"
        copy.mkdir()
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        (copy / FILE_NAME).write_bytes(damaged)
        journal = Journal.open(copy)
        rebuilt += journal.rebuilt_from is not None
        participants.register_source(journal, "another")
        journal.close()
        shutil.rmtree(copy)
    assert 0 < rebuilt < len(places)


def test_a_journal_found_damaged_in_use_is_put_aside_on_demand_with_its_log(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(b"what is left of a log")
    journal = Journal.open(tmp_path, condemned=True)
    assert journal.rebuilt_from is not None
    kept = journal.rebuilt_from.with_name(f"{journal.rebuilt_from.name}-wal")
    assert kept.read_bytes() == b"what is left of a log"
    assert whole_commits(journal) == 0
    journal.close()


def test_two_journals_put_aside_in_the_same_second_are_both_kept(tmp_path: Path) -> None:
    for content in (b"first" * 1000, b"second" * 1000):
        (tmp_path / FILE_NAME).write_bytes(content)
        Journal.open(tmp_path, wall_ms=lambda: 1_790_000_000_000).close()
    kept = {(tmp_path / name).read_bytes()[:6] for name in put_aside(tmp_path)}
    assert {b"firstf", b"second"} <= kept


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MiB, half of which the reserve takes."""
    place = tmp_path / "disk"
    place.mkdir()
    can_mount("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_refuses_intake_whole_and_still_lets_deliveries_be_recorded(small_disk: Path) -> None:
    journal = Journal.open(small_disk)
    source = participants.register_source(journal, "local")
    there = participants.register_destinations(journal, {"a": "http://a"})["a"]
    commit(journal, source, there.audience, experiment(), head(1))
    run = run_id(journal, source, 1)
    committed = commit_until_full(journal, source, there.audience)
    assert committed > 3
    assert committing.JournalCursors(journal, source, there.audience).load("r/metrics") == str(committed - 1).encode()
    assert deliveries.sums(journal, there.id)["points_waiting"] == committed * 1000
    assert not journal.refill_reserve() or (small_disk / RESERVE_NAME).exists()

    while changes := deliveries.pending(journal, there.id, run, Section.METRICS):
        for change in changes:
            settle_patiently(journal, there.id, run, change.seq)
    assert deliveries.sums(journal, there.id)["points"] == committed * 1000
    commit(journal, source, there.audience, points(1, [1]))
    journal.close()
    again = Journal.open(small_disk)
    assert again.rebuilt_from is None
    assert deliveries.sums(again, there.id)["points_waiting"] == 1
    again.close()


def commit_until_full(journal: Journal, source: int, audience: int) -> int:
    for number in range(1000):
        facts = points(1, range(number * 1000, number * 1000 + 1000))
        try:
            commit(journal, source, audience, facts, **{"r/metrics": str(number).encode()})
        except JournalFull:
            return number
    return pytest.fail("the disk never became full")


def settle_patiently(journal: Journal, destination_id: int, run: int, seq: int) -> None:
    """Settle as the daemon does: what fails for want of space is tried again."""
    for _ in range(3):
        try:
            deliveries.settle(journal, destination_id, run, [(Section.METRICS, seq)], delivered=Delivered(points=1000))
        except JournalFull:
            continue
        return
    pytest.fail("there was no space to record a delivery, reserve or not")
