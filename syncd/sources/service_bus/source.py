"""Receive from a Service Bus queue or subscription, with sessions where it has them.

Rules
-----
1. Links are kept open (opening one takes half a second) and read in tasks of their own, so that a ``receive`` that is
   cancelled loses nothing that has arrived. Closing one takes as long, beside the opening of the next.
2. Where the entity requires sessions, at most ``max_sessions`` links hold one session each. A session that is silent
   is given back: after ``SILENT_S`` if another link has looked for a session in vain for ``LOOKED_S``, else after
   ``CROWDED_S``, since another session may wait. For the same reason one that is never silent is, after ``HELD_S``;
   what the library had of it already goes back uncounted.
3. A link that fails ends; ``receive`` says why, and the next ``receive`` opens another one.
4. What is settled on a link that has failed meanwhile is delivered again: the same as a lost lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from syncd.brokers.ending import end
from syncd.brokers.service_bus import ServiceBusAddress, translated
from syncd.errors import DestinationError, MessageRefused
from syncd.sources.messages import Message
from syncd.sources.service_bus.links import Link, SessionLost

if TYPE_CHECKING:
    from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

log = structlog.get_logger(__name__)

BATCH: Final = 250
# The library keeps as much of a session in its buffer, for each of the sessions; a relay's are large, often 256 KB.
SESSION_BATCH: Final = 32
RELAYED_BATCH: Final = 8
WAIT_S: Final = 5.0
SESSION_WAIT_S: Final = 0.5
# What is in hand can be settled only between two waits (rule 4 of ``links``), so after a lull they are short. Where
# messages flow they end by themselves; cut off, the rest of a batch comes while others are settled, which takes long.
HOLDING_WAIT_S: Final = 0.02
CROWDED_S: Final = 0.4
HELD_S: Final = 20.0
SILENT_S: Final = 30.0
LOOKED_S: Final = 1.0
# How long the service looks for a session before it answers that there is none; less than ``TRY_S``.
ACCEPT_S: Final = 25
ANSWER_S: Final = 1  # where nothing is known yet but that the service did not answer
CLOSING_S: Final = 1.0
# So many links look for a session at once: each of them polls its connection.
ACCEPTING: Final = 4


class ServiceBusSource:
    """One queue or subscription; a ``MessageSource``.

    Whether it has sessions is found out by trying. What is ``relayed`` cannot be received without them, and is large.
    """

    def __init__(self, name: str, address: ServiceBusAddress, *, max_sessions: int = 8, relayed: bool = False) -> None:
        self.name = name
        self.address = address
        self._max_sessions = max_sessions
        self._has_sessions = relayed
        self._session_batch = RELAYED_BATCH if relayed else SESSION_BATCH
        self._client: ServiceBusClient | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._open_links: set[Link] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.Semaphore(ACCEPTING)
        # Since when without a session found; infinity: it has yet to give its session back.
        self._looking: dict[asyncio.Task[Any] | None, float] = {}
        self._arrived: deque[Message] = deque()
        self._failure: DestinationError | None = None
        self._was_lost = self._is_back = False  # whether a failure was told, and since then a link opened
        self._news = asyncio.Event()

    # -- the door --------------------------------------------------------------------------------------------------

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages (see ``MessageSource``)."""
        while True:
            arrived = self._take(most, most_bytes)
            if not arrived and self._failure is not None:
                failure, self._failure = self._failure, None
                self._was_lost, self._is_back = True, False
                raise failure
            self._have_links()
            for link in self._open_links:
                link.want()  # and while these are taken in, more may come
            if arrived or self._is_back:
                self._is_back = False
                return arrived
            await self._news.wait()
            self._news.clear()

    async def complete(self, messages: Sequence[Message]) -> None:
        """Settle messages (see ``MessageSource``)."""
        await asyncio.gather(*(link.complete(of_link) for link, of_link in _by_link(messages).items()))

    async def refuse(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Dead-letter messages with reason and description."""
        by_link: defaultdict[Link, list[tuple[Message, MessageRefused]]] = defaultdict(list)
        for message, refusal in refused:
            by_link[_link_of(message)].append((message, refusal))
        await asyncio.gather(*(link.dead_letter(of_link) for link, of_link in by_link.items()))

    async def release(self, messages: Sequence[Message]) -> None:
        """Give messages back unread."""
        for link, of_link in _by_link(messages).items():
            await link.abandon(of_link)

    async def close(self) -> None:
        """Give everything back and disconnect."""
        await end(self._links)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSING_S)
        await end(self._closing)
        self._arrived.clear()
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _take(self, most: int, most_bytes: int) -> list[Message]:
        taken: list[Message] = []
        size_bytes = 0
        while self._arrived and len(taken) < most and size_bytes < most_bytes:
            taken.append(self._arrived.popleft())
            size_bytes += len(taken[-1].body)
        return taken

    # -- links -----------------------------------------------------------------------------------------------------

    def _have_links(self) -> None:
        while len(self._links) < (self._max_sessions if self._has_sessions else 1):
            task = asyncio.create_task(self._follow(), name=f"receive {self.name}")
            self._links.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Keep why a link failed for the next ``receive``."""
        self._links.discard(task)
        self._looking.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failure = translated(error, doing="receiving from", address=self.address)
        self._news.set()

    async def _follow(self) -> None:
        """Read one link after another, each until it has nothing more to give, or fails."""
        if not self._has_sessions:
            async with self._open(most=BATCH) as link:
                if link is not None:
                    await self._read(link)
            self._has_sessions = True
            self._news.set()  # there may be more links now
        while True:
            await self._follow_session()

    async def _follow_session(self) -> None:
        from azure.servicebus import NEXT_AVAILABLE_SESSION

        accept_s, most = ANSWER_S if self._was_lost else ACCEPT_S, self._session_batch
        options = {"session_id": NEXT_AVAILABLE_SESSION, "max_wait_time": accept_s, "prefetch_count": most - 1}
        async with self._open(most=most, **options) as link:
            if link is not None:
                with contextlib.suppress(SessionLost):
                    await self._read(link)

    async def _read(self, link: Link) -> None:
        """Hand over what a link receives; return when its session is to be given back."""
        begun_s = heard_s = time.monotonic()
        while not link.session or not self._is_silent(time.monotonic() - heard_s):
            # One at a time, and only while all have a session: else two daemons that could hold all sessions would take
            # them from each other again and again.
            if link.session and time.monotonic() - begun_s > HELD_S and not self._looking:
                self._looking[asyncio.current_task()] = math.inf
                await link.hand_empty()
                return
            messages = await link.receive(_wait_s(link))
            if messages:
                self._arrived.extend(messages)
                self._news.set()
                heard_s = time.monotonic()
            if link.holds_any:
                await link.hand_free()
                heard_s = time.monotonic()

    def _is_silent(self, silence_s: float) -> bool:
        now_s = time.monotonic()
        in_vain = any(now_s - since_s >= LOOKED_S for since_s in self._looking.values())
        return silence_s > (SILENT_S if in_vain else CROWDED_S)

    @contextlib.asynccontextmanager
    async def _open(self, *, most: int, **options: Any) -> AsyncIterator[Link | None]:
        """Open a link; None if there is no session that nobody holds, or if a link without one is not possible."""
        receiver = self._receiver(**options)
        try:
            async with self._accepting:
                link = Link(receiver, address=self.address, most=most) if await self._opened(receiver) else None
            self._answered()
        except BaseException:
            await receiver.close()
            raise
        if link is not None:
            self._open_links.add(link)
        try:
            yield link
        finally:
            if link is not None:
                self._open_links.discard(link)
            self._close(link or receiver)

    def _answered(self) -> None:
        """Take note that the broker can be reached."""
        if self._was_lost:
            self._is_back, self._was_lost = True, False
            self._news.set()

    def _close(self, link: Link | ServiceBusReceiver) -> None:
        closing = asyncio.create_task(link.close(), name=f"close a link of {self.name}")
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and closing.exception() is not None:
            log.info("a link was not closed in order", source=self.name, error=str(closing.exception()))

    async def _opened(self, receiver: ServiceBusReceiver) -> bool:
        """Open; return whether that is possible: there is a session, or the entity has none."""
        from azure.servicebus import exceptions

        task = asyncio.current_task()
        self._looking[task] = min(self._looking.get(task, math.inf), time.monotonic())
        try:
            await receiver.__aenter__()
        except exceptions.OperationTimeoutError:
            if self._has_sessions:
                return False
            raise
        except exceptions.ServiceBusError as exc:
            if not self._has_sessions and REQUIRES_SESSIONS in str(exc):
                return False
            raise
        self._looking.pop(task, None)
        return True

    def _receiver(self, **options: Any) -> ServiceBusReceiver:
        if self._client is None:
            self._client = self.address.open_client()
        if self.address.queue:
            return self._client.get_queue_receiver(self.address.queue, **options)
        return self._client.get_subscription_receiver(self.address.topic, self.address.subscription, **options)


# The service's words for a link without a session to an entity that has them (amqp:not-allowed).
REQUIRES_SESSIONS: Final = "requires sessions"


def _wait_s(link: Link) -> float:
    if link.holds_any and not link.flows:
        return HOLDING_WAIT_S
    return SESSION_WAIT_S if link.session or link.holds_any else WAIT_S


def _by_link(messages: Sequence[Message]) -> dict[Link, list[Message]]:
    found: defaultdict[Link, list[Message]] = defaultdict(list)
    for message in messages:
        found[_link_of(message)].append(message)
    return found


def _link_of(message: Message) -> Link:
    assert isinstance(message.handle, Link), "a message of another source"
    return message.handle
