"""One open receiver of azure-servicebus, and the batch of messages it has in hand.

Rules
-----
1. A link asks for messages when it has none in hand, or when somebody waits for more: so a daemon that cannot go on
   takes no more than it can hold, and the library's buffer holds nothing whose lock nobody renews.
2. What is in hand is kept locked until it is settled.
3. A message whose lock is lost is out of hand: it is delivered again, to whoever comes. That is no error.
4. Receiving, renewing and settling take turns. The library reads its one socket for each of them, and where two read
   at once, one waits in vain for what the other has read (0.2 s each time, seen with 7.15).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from syncd.brokers.service_bus import ServiceBusAddress, is_lost_message, is_lost_session, translated
from syncd.errors import DestinationError, MessageRefused
from syncd.sources.messages import Message
from syncd.sources.service_bus.reading import message_of

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

# Clocks differ: a lock is renewed early, however late it seems to end.
RENEW_AT_LATEST_S: Final = 10.0
RENEW_AT_ONCE_S: Final = 0.1
MOST_BATCHES: Final = 4
BUFFERED_S: Final = 0.02
SOON_S: Final = 0.1
FILLED_IN_A_ROW: Final = 5
BATCH_BYTES: Final = 512 * 1024

# learn.microsoft.com "service-bus-dead-letter-queues" (read 2026-11): both texts may have so many characters.
DEAD_LETTER_CHARACTERS: Final = 4096

Settle = Callable[[int], Awaitable[None]]


class SessionLost(Exception):
    """The lock of the link's session is lost; its messages are delivered again, to who gets the session next."""


class Link:
    """An open receiver. ``most`` is the largest batch it asks for.

    ``receive``, ``hand_free`` and ``hand_empty`` raise Transient, AuthFailed or SessionLost when the link is of no use
    any more.
    """

    def __init__(self, receiver: ServiceBusReceiver, *, address: ServiceBusAddress, most: int) -> None:
        self.session = receiver.session.session_id if receiver.session else ""
        self._receiver = receiver
        self._address = address
        self._most = most
        self._ask = 1
        self._large_bytes = 1  # how large messages are that came lately
        self._filled = 0  # so many times in a row as many came as were asked for
        self._hand: dict[int, ServiceBusReceivedMessage] = {}
        self._wanted = False
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._renewal_due_s = 0.0
        self._broken: DestinationError | SessionLost | None = None
        if receiver.session:
            self._plan_renewal([receiver.session.locked_until_utc])

    async def receive(self, wait_s: float) -> Sequence[Message]:
        """Return the messages that come in that time, none if none come; they are in hand then."""
        if (self.session or self._hand) and time.monotonic() >= self._renewal_due_s:
            await self._renew()
        async with self._turn:
            begun_s = time.monotonic()
            try:
                found = await self._receiver.receive_messages(self._ask, max_wait_time=wait_s)
            except Exception as exc:
                raise self._failure(exc, "receiving from") from exc
            waited_s = time.monotonic() - begun_s
        messages = [message_of(one, address=self._address.path, handle=self) for one in found]
        self._large_bytes = max([self._large_bytes // 2, 1, *(len(message.body) for message in messages)])
        self._ask = self._next_ask(messages, waited_s=waited_s)
        self._hand |= {message.packet: one for message, one in zip(messages, found, strict=True)}
        self._wanted = self._wanted and not found
        if found and not self.session:
            self._plan_renewal(one.locked_until_utc for one in self._hand.values())
        return messages

    def _next_ask(self, messages: Sequence[Message], *, waited_s: float) -> int:
        """Ask for one after a lull, so that it comes at once: the library waits 0.2 s for the rest of a batch.

        Ask for more when it is not the first one after that, and it lay here already (a session's are sent ahead), else
        when it came soon, or when as many as were asked for came some times in a row: the broker may be far away.
        """
        if len(messages) < self._ask:
            self._filled = 0
            return 1
        self._filled += 1
        soon = waited_s <= (BUFFERED_S if self.session else SOON_S)
        if self._filled == 1 or not (soon or (self._filled >= FILLED_IN_A_ROW and not self.session)):
            return self._ask
        return min(4 * self._ask, self._batch)

    @property
    def _batch(self) -> int:
        """The most to ask for: all may be as large as the largest one lately."""
        return max(1, min(self._most, BATCH_BYTES // self._large_bytes))

    def want(self) -> None:
        """Have it ask for more although it has messages in hand."""
        self._wanted = True
        self._changed.set()

    @property
    def holds_any(self) -> bool:
        """Whether it has messages in hand."""
        return bool(self._hand)

    @property
    def flows(self) -> bool:
        """Whether it asks for several at once."""
        return self._ask > 1

    def _may_ask(self) -> bool:
        return not self._hand or (self._wanted and len(self._hand) < MOST_BATCHES * self._batch)

    async def hand_free(self) -> None:
        """Wait until it may ask for more, and keep locked what it has in hand meanwhile."""
        await self._hold_until(self._may_ask)

    async def hand_empty(self) -> None:
        """Wait until all is settled, and keep it locked until then."""
        await self._hold_until(lambda: not self._hand)

    async def _hold_until(self, done: Callable[[], bool]) -> None:
        while self._broken is None and not done():
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, self._renewal_due_s - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                await self._renew()
        if self._broken is not None:
            raise self._broken

    # -- settling --------------------------------------------------------------------------------------------------

    async def complete(self, messages: Iterable[Message]) -> None:
        """Take messages off the broker."""
        await self._settle(_numbers(messages), lambda number: self._receiver.complete_message(self._hand[number]))

    async def abandon(self, messages: Iterable[Message]) -> None:
        """Give messages back."""
        await self._settle(_numbers(messages), lambda number: self._receiver.abandon_message(self._hand[number]))

    async def close(self) -> None:
        """Give back what is in hand, if that is still possible, and close the receiver.

        Of a session all is given back by closing, and not counted as delivered (learn.microsoft.com
        "message-sessions", read 2026-11).
        """
        if self._broken is None and self._hand and not self.session:
            async with self._turn:
                held = list(self._hand.values())
                await asyncio.gather(*map(self._receiver.abandon_message, held), return_exceptions=True)
        self._hand.clear()
        self._changed.set()
        await self._receiver.close()

    async def dead_letter(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Move messages to the dead-letter queue, with words cut to what the broker keeps."""
        refusals = {message.packet: refusal for message, refusal in refused}

        async def settle(number: int) -> None:
            await self._receiver.dead_letter_message(
                self._hand[number],
                reason=refusals[number].reason[:DEAD_LETTER_CHARACTERS],
                error_description=str(refusals[number])[:DEAD_LETTER_CHARACTERS],
            )

        await self._settle(refusals, settle)

    async def _settle(self, numbers: Iterable[int], settle: Settle) -> None:
        """Settle what is in hand, all at once: each waits for its answer."""
        numbers = [number for number in numbers if self._holds(number)]
        if not numbers:
            return
        async with self._turn:
            held = [number for number in numbers if number in self._hand]
            answers = await asyncio.gather(*(settle(number) for number in held), return_exceptions=True)
            for number, answer in zip(held, answers, strict=True):
                self._drop(number)
                if isinstance(answer, Exception) and not is_lost_message(answer):
                    self._failure(answer, "settling messages of")
                    self._changed.set()

    def _holds(self, number: int) -> bool:
        return number in self._hand and self._broken is None

    def _failure(self, exc: Exception, doing: str) -> DestinationError | SessionLost:
        """Take note that the link is of no use any more, and return why."""
        lost = is_lost_session(exc)
        self._broken = SessionLost() if lost else translated(exc, doing=doing, address=self._address)
        return self._broken

    def _drop(self, number: int) -> None:
        self._hand.pop(number, None)
        if not self._hand:
            self._changed.set()

    # -- locks -----------------------------------------------------------------------------------------------------

    def _plan_renewal(self, ends: Iterable[datetime | None]) -> None:
        """Renew when half of the time is over that is left of the first lock to end."""
        now = datetime.now(UTC)
        left_s = min(((end - now).total_seconds() for end in ends if end is not None), default=RENEW_AT_LATEST_S)
        wait_s = min(max(left_s / 2, RENEW_AT_ONCE_S), RENEW_AT_LATEST_S)
        self._renewal_due_s = time.monotonic() + wait_s

    async def _renew(self) -> None:
        try:
            if self.session:
                async with self._turn:
                    self._plan_renewal([await self._receiver.session.renew_lock()])
            else:
                self._plan_renewal([await self._renew_one(number) for number in list(self._hand)])
        except Exception as exc:
            raise self._failure(exc, "renewing the locks of") from exc

    async def _renew_one(self, number: int) -> datetime | None:
        async with self._turn:
            if number not in self._hand:
                return None
            try:
                return await self._receiver.renew_message_lock(self._hand[number])
            except Exception as exc:
                if not is_lost_message(exc):
                    raise
                self._drop(number)
                return None


def _numbers(messages: Iterable[Message]) -> list[int]:
    return [message.packet for message in messages]
