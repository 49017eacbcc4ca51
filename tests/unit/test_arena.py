"""One arena of malloc for all threads: seen in a process of its own, by glibc's own account."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
from syncd.runtime.arena import use_one_arena

use_one_arena()
together = threading.Barrier(4)

def work():
    together.wait()
    kept = [bytes(50_000) for _ in range(10)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.parametrize(("said", "arenas"), [({}, {1}), ({"MALLOC_ARENA_MAX": "4"}, {2, 3, 4})])
def test_threads_share_one_arena_unless_the_environment_says_otherwise(
    tmp_path: Path, said: dict[str, str], arenas: set[int]
) -> None:
    account = tmp_path / "malloc.xml"
    others = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    subprocess.run([sys.executable, "-c", PROGRAM, str(account)], env={**others, **said}, check=True, timeout=60)
    assert account.read_text().count("<heap nr=") in arenas
