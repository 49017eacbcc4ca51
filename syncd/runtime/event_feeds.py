"""The feeds of all sinks, and the outbox's bounds: what the daemon runs beside the pipeline to tell what happened."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from syncd.configuration.model import DaemonSettings, SinkSettings
from syncd.core.events import EventFilter
from syncd.journal import outbox
from syncd.journal.journal import Journal
from syncd.runtime.event_feed import EventFeed
from syncd.runtime.journal_thread import JournalThread

log = structlog.get_logger(__name__)

PRUNE_INTERVAL_S: Final = 60.0
# Events that wait for a sink take a quarter of journal_max_bytes at most: 450 bytes were measured for one with its
# index, and some have long texts.
_EVENT_BYTES: Final = 1024
_SHARE: Final = 4


class EventFeeds:
    """One feed for each sink. Use: ``start`` in a task group, then cancel the tasks; at last ``close``."""

    def __init__(self, journal: Journal, *, daemon: DaemonSettings, sinks: Sequence[SinkSettings]) -> None:
        outbox.register_sinks(journal, {one.name: one.begin == "beginning" for one in sinks})
        self._journal = JournalThread(journal)
        self._kept = daemon.events_kept
        self._most = max(daemon.events_kept, daemon.journal_max_bytes // _SHARE // _EVENT_BYTES)
        self.feeds = [self._feed(one) for one in sinks]

    def _feed(self, settings: SinkSettings) -> EventFeed:
        from syncd.runtime.sink_assembly import events_together, open_sink  # MiB that only a daemon with sinks needs

        return EventFeed(
            settings.name,
            open_sink(settings),
            journal=self._journal,
            wanted=EventFilter(types=settings.types, experiments=settings.experiments),
            together=events_together(settings),
        )

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start one task for each sink, and one that keeps the outbox within its bounds."""
        loop = asyncio.get_running_loop()

        def told() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._notify)

        self._journal.journal.on_told = told
        feeds = [group.create_task(feed.run(), name=f"feed {feed.name}") for feed in self.feeds]
        return [*feeds, group.create_task(self._prune_again_and_again(), name="prune the outbox")]

    def _notify(self) -> None:
        for feed in self.feeds:
            feed.notify()

    async def _prune_again_and_again(self) -> None:
        while True:
            lost = await self._journal.do(outbox.prune, kept=self._kept, most=self._most)
            for sink, count in lost.items():
                log.warning("a sink was away for too long: its oldest events were dropped", sink=sink, dropped=count)
            await asyncio.sleep(PRUNE_INTERVAL_S)

    async def drained(self) -> None:
        """Wait until every sink has everything that was told."""
        for feed in self.feeds:
            await feed.idle()

    async def close(self) -> None:
        """Disconnect all sinks."""
        self._journal.journal.on_told = None
        for feed in self.feeds:
            await feed.close()
        self._journal.close()
