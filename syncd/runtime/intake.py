"""Intake: reads one source for one audience and commits what it states; uploaders are then told.

The source is read in a thread, since file systems may be slow. Readings are committed in groups: large enough that an
fsync is shared, and at the latest after a tenth of a second. When the journal is full, or its disk, intake waits; it
never drops, because what is not committed is simply stated again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge

import structlog

from syncd.core.facts import TERMINAL_STATUSES, MetricsLogged, ProblemFound, Reading, RunSeen
from syncd.errors import JournalError, JournalFull, SourceError, SourceNotReady
from syncd.journal import committing, deliveries
from syncd.journal.journal import Journal
from syncd.journal.silence import mark_silent_runs
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.rests import Rests
from syncd.runtime.uploader import LONG_AGO_S
from syncd.runtime.watcher import Watcher
from syncd.sources.base import Cursors, StoreSource

log = structlog.get_logger(__name__)

GROUP_BYTES = 1024 * 1024
GROUP_S = 0.1
ROOM_CHECK_S = 0.5
FULL_RETRY_S = 2.0
SOURCE_RETRY_S = 5.0
FAULT_RETRY_S = 30.0
# With a working watcher the periodic look at active runs is only its safety net.
WATCHED_POLL_S = 5.0
# Looking takes at most this part of the processor's time, however large the store.
LOOK_SHARE = 0.002
ECHO_S = 2.5
# Silent runs are looked for so many times in the time after which they are.
STALE_LOOKS = 10
FACT_COST_BYTES = 200

Announce = Callable[[Mapping[int, Collection[int]], float], None]


class Stopped(Exception):
    """Intake was told to stop while it waited for room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSettings:
    """How often a source is looked at, and how large the journal may grow.

    A run that goes on and was silent for ``stale_after_s`` is marked (None: never).
    """

    poll_interval_s: float = 1.0
    reconcile_interval_s: float = 300.0
    watch: bool = True
    stale_after_s: float | None = None
    journal_max_bytes: int = 2 * 1024**3


class Intake:
    """Reads one source for one audience.

    ``announce`` is called in the event loop with the subjects that now wait, per destination id, and with the time
    (monotonic s) at which a change was heard of, or what waits began to be read; ``LONG_AGO_S`` where a run has ended:
    no more comes of it that could travel with it.
    """

    def __init__(
        self,
        *,
        name: str,
        open_source: Callable[[], StoreSource],
        journal: Journal,
        source_id: int,
        audience: int,
        settings: IntakeSettings,
        announce: Announce,
        rests: Rests,
    ) -> None:
        self.name = name
        self.source_id = source_id
        self.paused = ""
        self.error = ""
        self._open_source = open_source
        self._source = open_source()
        self._journal = journal
        self._audience = audience
        self._settings = settings
        self._announce = announce
        self._rests = rests
        self._stop = threading.Event()
        self._look_wholly = asyncio.Event()
        self._first = True
        self._follows = False
        self._wholly_read_up_to: int | None = None
        self._commits = 0
        self._took_s = 0.0

    def look_wholly(self) -> None:
        """Ask for a look at everything soon. Call it in the event loop."""
        self._look_wholly.set()

    @property
    def wants_look(self) -> bool:
        """Whether a look at everything was asked for and has not begun."""
        return self._look_wholly.is_set()

    def begin_look(self) -> None:
        """Take note that the look that was asked for begins."""
        self._look_wholly.clear()

    def is_yet_to_read(self, seq: int) -> bool:
        """Whether what was in the source when it stated that change may not be read yet.

        Who reads once does not read again for that, nor waits for a source that cannot be read.
        """
        if self._wholly_read_up_to is None:
            return True
        return self._follows and seq > self._wholly_read_up_to

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    async def read_once(self, *, full: bool = True) -> bool:
        """Read what is new, of everything or of what goes on; return whether there was anything.

        Raises:
            SourceError: the store cannot be read.
        """
        before = self._commits
        try:
            await self._read(full=full, changed=None, seen_s=time.monotonic())
        finally:
            self._wholly_read_up_to = self._wholly_read_up_to or 0
        return self._commits > before

    async def run(self) -> None:
        """Follow the source until cancelled."""
        self._follows = True
        next_whole_s = next_look_s = next_mark_s = time.monotonic()
        echo = Echo()
        with Watcher() as watcher:
            hint: set[str] = set()
            while True:
                until_s = min(next_look_s, next_whole_s, echo.due_s)
                heard = await self._hint(watcher, until_s=until_s, at_once=bool(hint))
                seen_s = watcher.heard_s if heard else time.monotonic()
                hint |= heard
                await self._rests.over("source", self.name)
                now_s = time.monotonic()
                whole = self.wants_look or now_s >= next_whole_s
                look = whole or now_s >= next_look_s
                self.begin_look()
                echo.heard(hint, now_s)
                changed = None if look else hint | echo.take(now_s)
                took_s = await self._read_patiently(full=whole, changed=changed, seen_s=seen_s)
                if whole:
                    next_whole_s = now_s + max(self._settings.reconcile_interval_s, took_s / LOOK_SHARE)
                if look:
                    next_look_s = now_s + self._look_interval_s(watcher, 0.0 if whole else took_s)
                if look and self._settings.stale_after_s is not None and now_s >= next_mark_s:
                    next_mark_s = now_s + self._settings.stale_after_s / STALE_LOOKS
                    await self._mark_silent_runs(self._settings.stale_after_s)
                # What was written before its directory was watched is looked for at once.
                hint = set()
                if self._settings.watch and (look or watcher.directory_made):
                    hint = watcher.watch(self._source.watch_paths())

    def _look_interval_s(self, watcher: Watcher, took_s: float) -> float:
        watched = self._settings.watch and watcher.works
        return max(self._settings.poll_interval_s, WATCHED_POLL_S if watched else 0.0, took_s / LOOK_SHARE)

    async def _hint(self, watcher: Watcher, *, until_s: float, at_once: bool) -> set[str]:
        """Wait for a change that the watcher sees, for a wish to look wholly, or until a time; return what changed."""
        if at_once:
            return set()
        change = asyncio.create_task(watcher.changed())
        wish = asyncio.create_task(self._look_wholly.wait())
        try:
            timeout_s = max(0.0, until_s - time.monotonic())
            await asyncio.wait((change, wish), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return change.result() if change.done() else set()
        finally:
            for task in (change, wish):
                task.cancel()
            await asyncio.gather(change, wish, return_exceptions=True)

    async def _read_patiently(self, *, full: bool, changed: Collection[str] | None, seen_s: float) -> float:
        """Read; a source that cannot be read just now is tried again later. Return the processor's seconds it took."""
        try:
            await self._read(full=full, changed=changed, seen_s=seen_s)
        except SourceNotReady as error:
            log.info("the source is not ready; it is read again soon", source=self.name, reason=str(error))
            await asyncio.sleep(self._settings.poll_interval_s)
            self._look_wholly.set()
        except SourceError as error:
            await self._record(str(error))
            await asyncio.sleep(SOURCE_RETRY_S)
            self._look_wholly.set()
        except JournalError:
            raise
        except Exception as exc:
            log.exception("reading failed unexpectedly", source=self.name)
            await self._record(f"reading failed unexpectedly: {type(exc).__name__}: {exc}")
            await asyncio.sleep(FAULT_RETRY_S)
            self._look_wholly.set()
        else:
            await self._record("")
        return self._took_s

    async def _mark_silent_runs(self, stale_after_s: float) -> None:
        before_ms = wall_ms_now() - round(stale_after_s * 1000)
        with contextlib.suppress(JournalFull):  # they are marked when there is room
            waiting = await asyncio.to_thread(mark_silent_runs, self._journal, self.source_id, before_ms=before_ms)
            self._announce(waiting, time.monotonic())

    async def _record(self, error: str) -> None:
        """Keep, for ``syncd status``, why the source cannot be read; "" when it can."""
        if error == self.error:
            return
        self.error = error
        if error:
            log.error("the source cannot be read; it is tried again", source=self.name, error=error)
        else:
            log.info("the source is read again", source=self.name)
        problem = Reading([ProblemFound(f"source {self.name}", error)])
        with contextlib.suppress(JournalFull):  # it is in the log and in `error` at least
            await asyncio.to_thread(committing.commit, self._journal, self.source_id, self._audience, [problem])

    async def _read(self, *, full: bool, changed: Collection[str] | None, seen_s: float) -> None:
        loop = asyncio.get_running_loop()
        newest = await asyncio.to_thread(deliveries.newest_change, self._journal) if full else 0
        reading = loop.run_in_executor(None, self._poll, loop, full, changed, seen_s)
        try:
            await asyncio.shield(reading)
        except BaseException:
            self._stop.set()  # if this was cancelled, the thread ends at its next step
            await asyncio.gather(reading, return_exceptions=True)
            self._stop.clear()
            # What the source believes to be committed may not be: it begins again from the committed cursors.
            self._source.close()
            self._source = self._open_source()
            raise
        if full:
            self._first = False
            self._wholly_read_up_to = newest

    # -- in the source's thread ------------------------------------------------------------------------------------

    def _poll(
        self, loop: asyncio.AbstractEventLoop, full: bool, changed: Collection[str] | None, seen_s: float
    ) -> None:
        forgotten = committing.forgotten(self._journal)
        cursors = GroupCursors(committing.JournalCursors(self._journal, self.source_id, self._audience))
        group: list[Reading] = []
        size_bytes = 0
        ended = False
        begun_s, begun_thread_s = time.monotonic(), time.thread_time()
        for reading in self._source.poll(cursors, full=full, changed=changed):
            if self._stop.is_set():
                raise Stopped("told to stop")
            group.append(reading)
            cursors.add(reading)
            ended = ended or (not full and _ends_a_run(reading))
            size_bytes += _cost_bytes(reading)
            if size_bytes >= GROUP_BYTES or time.monotonic() - begun_s >= GROUP_S:
                self._commit(loop, group, forgotten, seen_s)
                cursors.clear()
                group, size_bytes = [], 0
                begun_s = seen_s = time.monotonic()
        if group:  # the last: what was read of a run is whole only now
            self._commit(loop, group, forgotten, LONG_AGO_S if ended else seen_s)
        self._took_s = time.thread_time() - begun_thread_s

    def _commit(self, loop: asyncio.AbstractEventLoop, group: list[Reading], forgotten: int, seen_s: float) -> None:
        self._wait_for_room()
        while True:
            try:
                waiting = committing.commit(
                    self._journal,
                    self.source_id,
                    self._audience,
                    group,
                    first_reading=self._first,
                    forgotten_before=forgotten,
                )
                break
            except JournalFull as error:
                self._pause(f"the disk is full: {error}", FULL_RETRY_S)
        if self.paused:
            log.info("reading goes on", source=self.name)
            self.paused = ""
            self._journal.refill_reserve()
        self._commits += 1
        loop.call_soon_threadsafe(self._announce, waiting, seen_s)

    def _wait_for_room(self) -> None:
        while (used := self._journal.used_bytes()) > self._settings.journal_max_bytes:
            limit = self._settings.journal_max_bytes
            self._pause(f"the journal holds {used} bytes, journal_max_bytes is {limit}", ROOM_CHECK_S)

    def _pause(self, why: str, seconds: float) -> None:
        if not self.paused:
            log.warning("reading pauses; what was read is still sent", source=self.name, reason=why)
        self.paused = why
        if self._stop.wait(seconds):
            raise Stopped(why)


class Echo:
    """Repeats hints once, a little later: a source leaves files alone that changed less than two seconds ago."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self.due_s = float("inf")

    def heard(self, paths: Collection[str], now_s: float) -> None:
        """Take note of a hint."""
        if paths and not self._paths:
            self.due_s = now_s + ECHO_S
        self._paths.update(paths)

    def take(self, now_s: float) -> set[str]:
        """Return what is to be repeated now."""
        if now_s < self.due_s:
            return set()
        paths, self._paths, self.due_s = self._paths, set(), float("inf")
        return paths


class GroupCursors:
    """Committed cursors, with those of the group that is about to be committed laid over them.

    So a source that goes on reading sees the cursors of all that it has stated. Should the commit fail, the source
    is opened anew and begins from what is committed.
    """

    def __init__(self, committed: Cursors) -> None:
        self._committed = committed
        self._group: dict[str, bytes | None] = {}

    def add(self, reading: Reading) -> None:
        """Lay a reading's cursors over."""
        self._group.update(reading.cursors)

    def clear(self) -> None:
        """Forget the group: it is committed."""
        self._group.clear()

    def load(self, key: str) -> bytes | None:
        """Return the cursor of that key, or None."""
        return self._group[key] if key in self._group else self._committed.load(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in order."""
        group = dict(self._group)  # as it is now: it may be committed before the last key is asked for
        own = sorted(key for key, value in group.items() if value is not None and key.startswith(prefix))
        yield from merge((key for key in self._committed.keys(prefix) if key not in group), own)


def _ends_a_run(reading: Reading) -> bool:
    return any(isinstance(fact, RunSeen) and fact.status in TERMINAL_STATUSES for fact in reading.facts)


def _cost_bytes(reading: Reading) -> int:
    return sum(len(fact.lines) if isinstance(fact, MetricsLogged) else FACT_COST_BYTES for fact in reading.facts) + sum(
        len(value or b"") for value in reading.cursors.values()
    )
