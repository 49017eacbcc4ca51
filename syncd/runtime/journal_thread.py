"""The journal for the event loop: one thread does the loop's calls, so that an fsync never holds the loop up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from syncd.errors import JournalFull
from syncd.journal import bindings, deliveries, outbox, overflow, subjects
from syncd.journal.journal import Journal

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)

FULL_RETRY_S = 2.0
# These never wait for a commit or an fsync and take some ten microseconds: a thread would cost more.
READS = bindings.READS | deliveries.READS | outbox.READS | overflow.READS | subjects.READS


class JournalThread:
    """Calls the functions of a journal in a thread of its own."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.disk_full = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def do(self, method: Callable[Concatenate[Journal, P], T], /, *arguments: P.args, **options: P.kwargs) -> T:
        """Call ``method(journal, ...)`` and return its result; what only reads is called at once.

        When the disk is full the call waits and is made again: what was delivered is recorded as soon as it can be.

        Raises:
            JournalError: as the method does, but for JournalFull.
        """
        if method in READS:
            return method(self.journal, *arguments, **options)
        while True:
            try:
                result = await asyncio.get_running_loop().run_in_executor(
                    self._executor, lambda: method(self.journal, *arguments, **options)
                )
            except JournalFull as error:
                if not self.disk_full:
                    log.error("the disk is full; what was delivered is recorded when there is space", error=str(error))
                self.disk_full = True
                await asyncio.sleep(FULL_RETRY_S)
            else:
                self.disk_full = False
                return result

    def close(self) -> None:
        """Wait for the call under way and end the thread."""
        self._executor.shutdown(wait=True)
