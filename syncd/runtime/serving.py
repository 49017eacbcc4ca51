"""What the daemon's HTTP server serves: the journal as the commands show it, probes, metrics."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from syncd import __version__
from syncd.configuration.model import DaemonSettings
from syncd.core.events import EventFilter, cloud_event
from syncd.errors import JournalError
from syncd.http.counts import HttpCounts
from syncd.journal import outbox, run_reports
from syncd.journal.journal import Journal
from syncd.journal.report import JournalReport
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.journal_status import Viewpoint, status
from syncd.runtime.liveness import Liveness
from syncd.runtime.metrics import metrics_text
from syncd.runtime.pipeline import Pipeline
from syncd.runtime.run_listing import answering_destinations, run_as_json
from syncd.sources.webhook import WebhookSource

LOOK_S: Final = 1.0
STATUS_KEPT_S: Final = 1.0  # who asks more often gets the same answer
_WINDOW: Final = 500


def hooks_of(pipeline: Pipeline) -> dict[str, WebhookSource]:
    """Return the sources of messages that get theirs by HTTP, by name."""
    sources = (intake.source for intake in pipeline.message_intakes)
    return {source.name: source for source in sources if isinstance(source, WebhookSource)}


class Serving:
    """Serves one daemon; ``look_again_and_again`` must run for ``live`` to know."""

    def __init__(self, pipeline: Pipeline, *, daemon: DaemonSettings, liveness_window_s: float) -> None:
        self._pipeline = pipeline
        self._daemon = daemon
        self._liveness = Liveness(window_s=liveness_window_s)
        self._started_ms = wall_ms_now()
        self._status: tuple[float, Mapping[str, Any]] | None = None
        self._asking = asyncio.Lock()

    @property
    def _journal(self) -> Journal:
        return self._pipeline.journal.journal

    async def look_again_and_again(self) -> None:
        """Take note of whether the daemon moves, until cancelled."""
        while True:
            self._liveness.look(is_behind=self._pipeline.is_behind, settled=self._journal.settlements)
            await asyncio.sleep(LOOK_S)

    def live(self) -> str:
        """Say why the daemon is stuck, "" if it is not."""
        return self._liveness.problem

    def ready(self) -> str:
        """Say why nothing can be taken just now, "" if it can."""
        return "the disk is full" if self._pipeline.journal.disk_full else ""

    async def status(self) -> Mapping[str, Any]:
        """Return what ``syncd status --json`` prints."""
        async with self._asking:
            if self._status is None or time.monotonic() - self._status[0] > STATUS_KEPT_S:
                found = await asyncio.to_thread(self._ask_status)
                self._status = (time.monotonic(), found)
            return self._status[1]

    def _ask_status(self) -> dict[str, Any]:
        now_ms = wall_ms_now()
        limit = self._daemon.journal_max_bytes
        view = Viewpoint(now_ms=now_ms, started_ms=self._started_ms, journal_max_bytes=limit)
        place = {"running": True, "pid": os.getpid(), "started_ms": self._started_ms, "last_ran_ms": None}
        with self._open() as journal:
            told = status(view, journal)
        return {"schema": 1, "command": "status", "state_dir": str(self._daemon.state_dir), **place, **told}

    async def runs(self) -> Mapping[str, Any]:
        """Return what ``syncd runs --json`` prints."""
        async with self._asking:
            return await asyncio.to_thread(self._ask_runs)

    def _ask_runs(self) -> dict[str, Any]:
        with self._open() as journal:
            delivering = answering_destinations(journal, wall_ms_now())
            runs = [run_as_json(run, delivering) for run in run_reports.runs(journal)]
        place = {"state_dir": str(self._daemon.state_dir), "running": True}
        return {"schema": 1, "command": "runs", **place, "runs": runs}

    def _open(self) -> JournalReport:
        journal = JournalReport.open(self._daemon.state_dir)
        if journal is None:
            raise JournalError("it is not there", doing="reading the journal in", target=str(self._daemon.state_dir))
        return journal

    async def events(self, since: str, types: tuple[str, ...], limit: int) -> tuple[list[dict[str, Any]], str] | None:
        """Return events and how far that is; see ``Served``."""
        seq = outbox.event_seq(self._journal, since) if since else 0
        if seq is None:
            return None
        wanted = EventFilter(types=types)
        found: list[dict[str, Any]] = []
        while len(found) < limit and (events := outbox.events_after(self._journal, seq, _WINDOW)):
            seq, since = events[-1].seq, events[-1].id
            found += [cloud_event(event) for event in events if wanted.takes(event)]
            await asyncio.sleep(0)
        return found[:limit], since if len(found) < limit else found[limit - 1]["id"]

    async def metrics(self, http: HttpCounts) -> str:
        """Return all metrics in the text format of Prometheus, with those of the HTTP server."""
        hooks = {name: hook.counts for name, hook in hooks_of(self._pipeline).items()}
        return metrics_text(await self.status(), version=__version__, hooks=hooks, http=http)
