"""Artifacts that change, vanish, or are no regular files, while a real server takes them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import oracle
from tests.faults.conftest import Case
from tests.faults.pipelines import Synced, deliver

SIZE_BYTES = 4_000_000
# One second's worth goes out at once; the rest of the file takes three more.
SLOWLY = {"bwlimit_bytes_s": 1_000_000}


def artifacts_of_child(case: Case) -> Path:
    child = case.run_named("child")
    [folder] = [path for path in case.folder.rglob(f"{child.id}/artifacts") if path.is_dir()]
    return folder


async def while_it_is_sent(case: Case, act: Callable[[], None]) -> tuple[Synced, set[bytes]]:
    """Sync slowly; act once the server has begun to take the file. Return also what it ever showed under its name."""
    shown: set[bytes] = set()

    async def later() -> None:
        await asyncio.sleep(1.5)
        act()

    async def look() -> None:
        while True:
            await asyncio.sleep(0.05)
            for path in (case.server.folder / "artifacts").rglob("big.bin"):
                if path.stat().st_mtime >= begun_s:
                    content = path.read_bytes()
                    shown.add(bytes(sorted(set(content))) + str(len(content)).encode())

    begun_s = time.time()
    looking = asyncio.create_task(look())
    async with asyncio.TaskGroup() as group:
        sync = group.create_task(deliver(case.database, case.server.url, case.state, settings=SLOWLY))
        group.create_task(later())
    await asyncio.sleep(0.2)
    looking.cancel()
    return sync.result(), shown


async def test_a_file_that_is_rewritten_while_it_is_sent_arrives_as_it_is_in_the_end(case: Case) -> None:
    big = artifacts_of_child(case) / "big.bin"
    big.write_bytes(b"a" * SIZE_BYTES)

    def rewrite() -> None:
        big.write_bytes(b"b" * (SIZE_BYTES + 1))

    done, shown = await while_it_is_sent(case, rewrite)
    assert shown == {b"b%d" % (SIZE_BYTES + 1)}
    assert (done.code, done.faults, done.totals["dead_letters"]) == (0, [], 0)
    case.check()


async def test_a_file_that_is_removed_while_it_is_sent_is_not_kept_by_half(case: Case) -> None:
    big = artifacts_of_child(case) / "big.bin"
    big.write_bytes(b"a" * SIZE_BYTES)
    done, shown = await while_it_is_sent(case, big.unlink)
    assert shown == set()
    assert (done.code, done.faults) == (0, [])
    case.check()


async def test_what_is_no_regular_file_inside_the_run_is_never_opened(case: Case, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not of this run")
    folder = artifacts_of_child(case)
    (folder / "link.txt").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe")
    done = await deliver(case.database, case.server.url, case.state)
    assert (done.code, done.faults) == (0, [])
    runs = oracle.read_server(case.server, case.experiment).runs.values()
    held = {path for run in runs for path in oracle.digests(run.folder)}
    assert not {path for path in held if path.startswith(("link", "pipe"))}
    assert "plain.txt" in held
    assert done.totals["dead_letters"] == 0
