"""Reading the sources whole into the spool, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncd.errors import SourceNotReady
from syncd.sources.base import StoreSource
from syncd.sources.memory_cursors import MemoryCursors
from syncd.verification.spool import Spool

# A store in the middle of something is waited for this often and long.
SOURCE_TRIES = 10
SOURCE_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Store:
    """One store to read: the name of its source, and how to open it."""

    source: str
    open: Callable[[], StoreSource]


async def read_sources(stores: Sequence[Store], spool: Spool, tell: Callable[[int], None]) -> None:
    """Read all stores and seal the spool; ``tell`` is told how many readings there were, in the event loop."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def tell_from_thread(readings: int) -> None:
        loop.call_soon_threadsafe(tell, readings)

    reading = loop.run_in_executor(None, _spool_sources, stores, spool, tell_from_thread, stop)
    try:
        await asyncio.shield(reading)
    finally:
        stop.set()  # if this was cancelled, the thread ends at its next reading
        await asyncio.gather(reading, return_exceptions=True)


def _spool_sources(stores: Sequence[Store], spool: Spool, tell: Callable[[int], None], stop: threading.Event) -> None:
    count = 0
    for number, store in enumerate(stores):
        cursors = MemoryCursors()
        for attempt in range(SOURCE_TRIES):
            source = store.open()
            try:
                for reading in source.poll(cursors, full=True):
                    spool.take(number, reading)
                    cursors.commit(reading)
                    count += 1
                    tell(count)
                    if stop.is_set():
                        return
                break
            except SourceNotReady:
                if attempt == SOURCE_TRIES - 1:
                    raise
                time.sleep(SOURCE_WAIT_S)
            finally:
                source.close()
    spool.seal()
