"""The feed of one sink: brings it every event that it wants, in order, however long that takes.

Rules
-----
1. The cursor moves only after the sink has answered; who is killed in between sends the same events once more.
2. Nothing else waits for a feed: it reads the outbox, and what a dead sink holds up is its own events.
3. An event that the sink refuses for good becomes a letter with its words, and the next goes on. A 500 that comes for
   one event while the next one is taken is such a refusal; while nothing is taken, it is an outage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from syncd.core.events import Event, EventFilter
from syncd.errors import DestinationError, JournalError, Rejected, SinkGone, Transient
from syncd.journal import outbox
from syncd.journal.outbox import Refusal
from syncd.runtime.courier import Courier, DestinationState
from syncd.runtime.journal_thread import JournalThread
from syncd.sinks.base import EventSink

log = structlog.get_logger(__name__)

WINDOW: Final = 256
LOOK_S: Final = 2.0
AFTER_FAULT_S: Final = 30.0
# An event that the sink answers with 500 this often and for so long may be the cause itself: the next one tells.
SUSPECT_FAULTS: Final = 4
SUSPECT_AFTER_S: Final = 20.0


class EventFeed:
    """Feeds one sink for as long as ``run`` runs; ``together`` events are handed over at most at a time."""

    def __init__(
        self, name: str, sink: EventSink, *, journal: JournalThread, wanted: EventFilter, together: int = 64
    ) -> None:
        self.name = name
        self._sink = sink
        self._journal = journal
        self._wanted = wanted
        self._together = together
        self._told = asyncio.Event()
        self._idle = asyncio.Event()
        self.courier = Courier(name, most=1, on_state=self._record)

    def notify(self) -> None:
        """Take note that something was told. Call it in the event loop."""
        self._idle.clear()
        self._told.set()

    async def idle(self) -> None:
        """Wait until the sink has everything that was told."""
        await self._idle.wait()

    async def run(self) -> None:
        """Feed until cancelled.

        Raises:
            JournalError: the journal cannot be used.
        """
        while True:
            try:
                await self._feed()
            except JournalError:
                raise
            except SinkGone as error:
                log.error("the sink wants no more events; none is sent until syncd starts again", sink=self.name)
                await self._journal.do(outbox.sink_trouble, self.name, "gone", str(error))
                await asyncio.Event().wait()
            except Exception as exc:
                log.exception("feeding a sink failed unexpectedly; it is tried again", sink=self.name)
                fault = f"failed unexpectedly: {type(exc).__name__}: {exc}"
                await self._journal.do(outbox.sink_trouble, self.name, "down", fault)
                await asyncio.sleep(AFTER_FAULT_S)

    async def close(self) -> None:
        """Disconnect the sink."""
        await self._sink.close()

    async def _feed(self) -> None:
        while True:
            self._told.clear()
            await self._retry_letters()
            cursor = await self._journal.do(outbox.sink_cursor, self.name)
            events = await self._journal.do(outbox.events_after, cursor, WINDOW)
            if events:
                self._idle.clear()
                await self._send(events)
                continue
            if not self._told.is_set():
                self._idle.set()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._told.wait()
            except TimeoutError:
                continue

    async def _send(self, events: Sequence[Event]) -> None:
        """Hand over what is wanted of the events and move the cursor behind all of them."""
        wanted = [event for event in events if self._wanted.takes(event)]
        while wanted:
            together = wanted[: self._together]
            try:
                await self._hand_over(together)
            except Rejected as error:
                if len(together) > 1:
                    log.info("the sink refuses events; they are sent one by one", sink=self.name, error=str(error))
                    await self._one_by_one(together)
                else:
                    await self._bury(together[0], error)
            else:
                await self._move(together[-1].seq, sent=len(together))
            cursor = await self._journal.do(outbox.sink_cursor, self.name)  # what was dropped meanwhile is behind it
            wanted = [event for event in wanted[self._together :] if event.seq > cursor]
        await self._move(events[-1].seq)

    async def _one_by_one(self, events: Sequence[Event]) -> None:
        """Send events alone that were refused together."""
        for event in events:
            error = await self._refusal_of(event)
            if error is None:
                await self._move(event.seq, sent=1)
            else:
                await self._bury(event, error)

    async def _bury(self, event: Event, error: Rejected) -> None:
        log.warning("the sink refuses an event", sink=self.name, id=event.id, error=str(error))
        await self._move(event.seq, refused=[(event, _words(error))])

    async def _refusal_of(self, event: Event) -> Rejected | None:
        """Send one event; return why it is refused, None if it is taken."""
        try:
            await self._hand_over([event])
        except Rejected as error:
            return error
        return None

    async def _hand_over(self, events: Sequence[Event]) -> None:
        """Send events until they are answered; raise Rejected or SinkGone."""
        suspicion = _Suspicion()

        async def attempt() -> None:
            try:
                await self._sink.send(events)
            except Transient as error:
                if error.server_fault and suspicion.grows() and (len(events) > 1 or await self._takes_another(events)):
                    raise Rejected(str(error), code="SERVER_FAULT", status=500) from error
                raise

        await self.courier.call(attempt)

    async def _takes_another(self, events: Sequence[Event]) -> bool:
        """Whether the sink takes the next event that it wants; that one comes once more in its turn."""
        after = events[-1].seq or await self._journal.do(outbox.sink_cursor, self.name)
        following = await self._journal.do(outbox.events_after, after, WINDOW)
        other = next((event for event in following if self._wanted.takes(event)), None)
        if other is None:
            return False
        try:
            await self._sink.send([other])
        except DestinationError:
            return False
        return True

    async def _retry_letters(self) -> None:
        """Send once more what ``syncd dlq retry`` has put back."""
        for letter in await self._journal.do(outbox.letters_to_retry, self.name, WINDOW):
            error = await self._refusal_of(letter.event)
            refusal = _words(error) if error is not None else None
            await self._journal.do(outbox.settle_letter, self.name, letter.id, refusal)

    async def _move(self, cursor: int, *, sent: int = 0, refused: Sequence[tuple[Event, Refusal]] = ()) -> None:
        await self._journal.do(outbox.move_sink, self.name, cursor, sent=sent, refused=refused)

    async def _record(self, state: DestinationState) -> None:
        if state.name == "up":
            await self._journal.do(outbox.sink_up, self.name)
        else:
            await self._journal.do(outbox.sink_trouble, self.name, state.name, state.error)


class _Suspicion:
    """Counts the server's faults for the same events."""

    def __init__(self) -> None:
        self._faults = 0
        self._since_s = time.monotonic()

    def grows(self) -> bool:
        """Take note of a fault; return whether it is time to ask whether the events are its cause."""
        self._faults += 1
        return self._faults >= SUSPECT_FAULTS and time.monotonic() - self._since_s >= SUSPECT_AFTER_S


def _words(error: Rejected) -> Refusal:
    return Refusal(reason=str(error), code=error.code, status=error.status)
