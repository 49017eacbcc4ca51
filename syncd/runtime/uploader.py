"""The uploader: keeps one destination supplied. It decides which subject gets a lane and when; lanes do the rest.

Rules
-----
1. A subject that has something to deliver is in ``_due`` (with the time from which it may start) or has a lane.
2. A subject has at most one lane, so its passes never overlap.
3. A subject's first point waits ``flush_interval_s`` at most, so that what is written close together travels together;
   what comes with a run's end does not wait.
4. A pass that fails for a reason nobody foresaw is recorded and tried again later; the other subjects go on.
5. What failed or was refused has few lanes, so that many of the kind do not hold up the rest.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator

import structlog

from syncd.errors import AuthFailed, JournalError
from syncd.journal import deliveries
from syncd.journal.journal import Journal
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.lanes import HELD_LOOK_S, Lanes, Outcome

log = structlog.get_logger(__name__)

LONG_AGO_S = -math.inf
LANES = 8
LANES_FOR_HELD_UP = 2
AFTER_FAULT_S = 30.0
AFTER_REFUSAL_S = 60.0
LOOK_FOR_RETRIES_S = 2.0
LOOK_FOR_TWINS_S = 2.0
# Where a run waits for that look until its points are sent.
LOOK_SOON_FOR_TWINS_S = 0.5


class Uploader:
    """Delivers everything that waits for one destination, for as long as ``run`` runs."""

    def __init__(
        self,
        lanes: Lanes,
        *,
        flush_interval_s: float,
        wall_ms: Callable[[], int] = wall_ms_now,
    ) -> None:
        self.lanes = lanes
        self.channel = lanes.supply
        self._flush_interval_s = flush_interval_s
        self._wall_ms = wall_ms
        self._due: dict[int, float] = {}
        self._running: set[int] = set()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._settling = asyncio.Lock()
        self._lane_ended = asyncio.Event()
        self.faults: dict[int, str] = {}
        self._gathering: set[int] = set()  # points that make a segment later, and what is held: news have it looked at
        self._held: set[int] = set()  # may be wanted soon
        self._unmoved: set[int] = set()  # what waits for another fact, which may never come

    def look(self) -> None:
        """Take note that the destination may have begun to rest, or ceased to. Call it in the event loop."""
        self._idle.clear()
        self._changed.set()

    def notify(self, subjects: Iterable[int], *, since_s: float | None = None) -> None:
        """Take note that these subjects have something to deliver. Call it in the event loop.

        ``since_s`` is when it was heard of (monotonic s; None: now): gathering and reading are part of the interval.
        ``LONG_AGO_S`` has them sent at once, also those that were to wait for more.
        """
        due_s = (time.monotonic() if since_s is None else since_s) + self._flush_interval_s
        for subject in subjects:
            if subject in self._gathering:
                self._gathering.discard(subject)
                self._held.discard(subject)
                self._due.pop(subject, None)
            if since_s == LONG_AGO_S and subject not in self.faults:
                self._due[subject] = due_s
            self._due.setdefault(subject, due_s)
        self._idle.clear()
        self._changed.set()

    async def idle(self) -> None:
        """Have everything sent now, and wait until nothing waits for this destination but what is to stay."""
        self.channel.hurries = True
        for subject in self._gathering & self._due.keys():
            self._due[subject] = time.monotonic()
        self._changed.set()
        await self._idle.wait()

    @property
    def is_behind(self) -> bool:
        """Whether something waits that could be delivered now: it neither rests, nor keeps failing by itself."""
        if not self._running and self.channel.rests():
            return False
        return bool(self._running or self._due.keys() - self.faults.keys() - self._unmoved)

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            JournalError: the journal cannot be used (in an ExceptionGroup).
        """
        await self._look_for_waiting()
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._look_for_retries())
            lanes.create_task(self._look_for_twins())
            while True:
                self._changed.clear()
                wait_s = self._start_lanes(lanes)
                if not self._running and (self.channel.rests() or not self._due.keys() - self._staying()):
                    self._idle.set()
                await self._wait(wait_s)

    def _staying(self) -> set[int]:
        """Return what stays in the journal where nothing more is to come: it keeps failing, or may be wanted soon."""
        return self._held | self.faults.keys()

    def _start_lanes(self, lanes: asyncio.TaskGroup) -> float | None:
        """Start what is due and has room; return the seconds until the next one is due, None for none."""
        if self.channel.rests():
            return None
        now_s = time.monotonic()
        while len(self._running) < LANES:
            subject = next((one for one, due_s in self._startable() if due_s <= now_s), None)
            if subject is None:
                next_s = min((due_s for _, due_s in self._startable()), default=None)
                return None if next_s is None else max(0.0, next_s - now_s)
            del self._due[subject]
            self._gathering.discard(subject)
            self._running.add(subject)
            lanes.create_task(self._run_lane(subject), name=f"lane {self.channel.name} {subject}")
        return None

    def _startable(self) -> Iterator[tuple[int, float]]:
        """Yield what has no lane and may have one, with the time from which it may."""
        no_more_held_up = len(self._running & self.faults.keys()) >= LANES_FOR_HELD_UP
        for one, due_s in self._due.items():
            if one not in self._running and not (no_more_held_up and one in self.faults):
                yield one, due_s

    async def _wait(self, wait_s: float | None) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _run_lane(self, subject: int) -> None:
        try:
            lane = self.lanes.lane(subject)
            outcome = await lane.run()
            await self._overcome(subject)
            self._unmoved.discard(subject)
            self._held.discard(subject)
            if outcome is Outcome.LATER:
                later_s = 0.0 if self.channel.hurries and lane.gathers else lane.later_s
                self._due.setdefault(subject, time.monotonic() + later_s)
                if lane.gathers:
                    self._gathering.add(subject)
                if not lane.has_moved:
                    self._unmoved.add(subject)
            elif outcome is Outcome.HELD:
                self._due.setdefault(subject, time.monotonic() + HELD_LOOK_S)
                for noted in (self._gathering, self._unmoved, self._held):
                    noted.add(subject)
        except JournalError:
            raise
        except AuthFailed as error:
            if subject not in self.faults:
                log.warning("not permitted; it is tried again later", subject=subject, error=str(error))
            await self._set_aside(subject, f"not permitted there, is tried again: {error}", AFTER_REFUSAL_S)
        except Exception as exc:  # a task's boundary: recorded, and this subject waits while the others go on
            log.exception("a pass failed unexpectedly; it is tried again", subject=subject)
            fault = f"failed unexpectedly, is tried again: {type(exc).__name__}: {exc}"
            await self._set_aside(subject, fault, AFTER_FAULT_S)
        finally:
            self._running.discard(subject)
            self._lane_ended.set()
            self._changed.set()

    async def _overcome(self, subject: int) -> None:
        """Take back what ``_set_aside`` has noted, unless the pass has noted something else since."""
        fault = self.faults.pop(subject, None)
        if fault and await self.channel.journal.do(deliveries.note_of, self.channel.id, subject) == fault:
            await self.channel.journal.do(deliveries.note, self.channel.id, subject, "")

    async def _set_aside(self, subject: int, fault: str, seconds: float) -> None:
        self.faults[subject] = fault
        await self.channel.journal.do(deliveries.note, self.channel.id, subject, fault)
        self._due[subject] = time.monotonic() + seconds

    async def _look_for_waiting(self) -> None:
        waiting = await self.channel.journal.do(deliveries.waiting_subjects, self.channel.id)
        self.notify(waiting)

    async def _look_for_twins(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SOON_FOR_TWINS_S if self.channel.shared else LOOK_FOR_TWINS_S)
            try:
                await self.settle_twins(self._wall_ms() - round(1000 * self.lanes.twins_after_s))
            except JournalError:
                raise
            except Exception:
                log.exception("looking for twins failed; it is tried again")

    async def settle_twins(self, before_ms: int) -> bool:
        """Give way where another daemon has created the same run; return whether that was so anywhere."""
        async with self._settling:
            lost = await self.lanes.twins(before_ms)
            for subject, other in lost:
                await self._without_lane(subject)
                try:
                    await self.lanes.give_way(subject, other)
                finally:
                    self._running.discard(subject)
                    self.notify([subject])
        return bool(lost)

    async def _without_lane(self, subject: int) -> None:
        """Wait until the subject has no lane, and keep it from getting one (rule 2)."""
        while subject in self._running:
            self._lane_ended.clear()
            await self._lane_ended.wait()
        self._running.add(subject)

    async def _look_for_retries(self) -> None:
        """Notice what another process has put back (``syncd dlq retry``)."""
        known = await self.channel.journal.do(Journal.data_version)
        while True:
            await asyncio.sleep(LOOK_FOR_RETRIES_S)
            seen = await self.channel.journal.do(Journal.data_version)
            if seen != known:
                known = seen
                await self._look_for_waiting()
