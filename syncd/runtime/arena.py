"""Have all threads allocate from one arena of malloc.

glibc gives threads arenas of their own, and no other thread uses what was freed in one of them: with a thread for the
journal, some for files and some for a broker, that was 5 to 15 MiB of 80 (measured 2026-11). Python runs one of them at
a time, so they do not wait for each other.
"""

from __future__ import annotations

import os
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def use_one_arena() -> None:
    """Do so from now on, unless the environment says how many there are, or this is no glibc."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
