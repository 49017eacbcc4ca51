"""Message intake: receives from one source, commits, and settles what was committed; uploaders are then told.

Rules
-----
1. A message is completed only after the journal has committed all that it says; what is between is delivered again, and
   known by its identity. A message that is refused is dead-lettered: on its broker, or in the journal where the broker
   has no place for it.
2. Receiving, committing and settling go side by side: while one batch is settled the next is committed, and the source
   receives the one after that. They are settled in the order in which they were committed, and no more than one waits.
3. When the journal is full, or its disk, nothing is received and what is held is kept; it is committed when there is
   space.
4. No message can end the intake: one that fails for a reason nobody foresaw is refused with that reason.
5. A source that cannot be reached is tried again for ever; one that refuses the credentials more slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from syncd.errors import DestinationError, JournalError, JournalFull, MessageRefused
from syncd.journal.inbox import Inbox, Taken
from syncd.journal.partials import Partials
from syncd.journal.refused_messages import KeptMessage, RefusedMessages
from syncd.journal.spool import Spool
from syncd.runtime.backoff import Backoff
from syncd.runtime.clock import Jumps, wall_ms_now
from syncd.runtime.giving_back import GivingBack
from syncd.runtime.message_batch import Committed, ignored_types_of, whole_of
from syncd.runtime.message_reading import MessageReader, Read
from syncd.runtime.rests import Rests
from syncd.sources.messages import Message, MessageSource

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH_MESSAGES: Final = 1000
BATCH_BYTES: Final = 1024 * 1024  # packed, of a relay: unpacked it is several times as much
ROOM_CHECK_S: Final = 0.5
FULL_RETRY_S: Final = 2.0
TICK_S: Final = 1.0
AT_STOP_S: Final = 5.0  # what takes longer comes again
MOST_WARNED_TYPES: Final = 100
GIVING_BACK: Final = ", giving back"

Announce = Callable[[Mapping[int, Collection[int]]], None]


class Obey(Protocol):
    """Does what a command wants, once it is committed. Called in the event loop."""

    def __call__(self, name: str, arguments: Mapping[str, str]) -> None: ...  # noqa: D102


class MessageIntake:
    """Follows one source of messages."""

    def __init__(
        self,
        *,
        source: MessageSource,
        reader: MessageReader,
        inbox: Inbox,
        spool: Spool,
        partials: Partials,
        giving_back: GivingBack | None = None,
        refused: RefusedMessages,
        rests: Rests,
        journal_max_bytes: int,
        announce: Announce,
        obey: Obey,
        wall_ms: Callable[[], int] = wall_ms_now,
    ) -> None:
        self.name = source.name
        self.source = source
        self.paused = ""
        self.error = ""
        self._giving_back_error = ""
        self._reader = reader
        self._inbox = inbox
        self._spool = spool
        self._partials = partials
        self._giving_back = giving_back
        self._refused = refused
        self._rests = rests
        self._journal_max_bytes = journal_max_bytes
        self._announce = announce
        self._obey = obey
        self._wall_ms = wall_ms
        self._thread = asyncio.Lock()
        self._unsettled: deque[Committed] = deque()  # in the order in which they were committed
        self._used_bytes = 0  # as the last commit left it, and of that files that came in part:
        self._partial_bytes = 0
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Follow the source until cancelled.

        Raises:
            JournalError: the journal cannot be used (in an ExceptionGroup).
        """
        for where in ("", GIVING_BACK):
            await self._note("", where)  # what the last daemon noted may hold no more
        committed: asyncio.Queue[Committed] = asyncio.Queue(maxsize=1)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive_and_commit(committed), name=f"receive {self.name}")
                tasks.create_task(self._settle_all(committed), name=f"settle {self.name}")
                tasks.create_task(self._tick(), name=f"tick {self.name}")
                if self._giving_back is not None:
                    giving_back = self._giving_back.run(self._in_thread, self._record_giving_back)
                    tasks.create_task(giving_back, name=f"give back {self.name}")
        finally:
            await self._settle_the_rest()

    async def close(self) -> None:
        """Disconnect; what is held is delivered again."""
        with contextlib.suppress(DestinationError):
            await self.source.close()
        if self._giving_back is not None:
            await self._giving_back.close(self._in_thread)

    # -- receiving -------------------------------------------------------------------------------------------------

    async def _receive_and_commit(self, committed: asyncio.Queue[Committed]) -> None:
        backoff = Backoff()
        while True:
            if self._rests.is_resting("source", self.name):
                await self._rest(committed)
            await self._room()
            try:
                messages = await self._rests.awake("source", self.name, self._receive)
            except DestinationError as error:
                await self._record(str(error))
                await asyncio.sleep(backoff.next_s(error))
            except Exception as exc:
                log.exception("receiving failed unexpectedly", source=self.name)
                await self._record(f"receiving failed unexpectedly: {type(exc).__name__}: {exc}")
                await asyncio.sleep(backoff.next_s(exc))
            else:
                if messages is None:
                    continue
                await self._record("")
                if messages:
                    backoff = Backoff()
                    for part in await self._commit(messages):
                        self._follow_up(part)
                        await committed.put(part)
                else:
                    backoff.note_connected()

    def _receive(self) -> Awaitable[Sequence[Message]]:
        return self.source.receive(most=BATCH_MESSAGES, most_bytes=BATCH_BYTES)

    async def _rest(self, committed: asyncio.Queue[Committed]) -> None:
        """Give back what is not committed, so that others may have it, and wait until the source is resumed."""
        await committed.join()
        with contextlib.suppress(DestinationError):
            await self.source.close()
        await self._rests.over("source", self.name)

    async def _room(self) -> None:
        """Wait until the journal has room."""
        while self._used_bytes > self._journal_max_bytes and not self._only_receiving_frees():
            limit = self._journal_max_bytes
            self._pause(f"the journal holds {self._used_bytes} bytes, journal_max_bytes is {limit}")
            await asyncio.sleep(ROOM_CHECK_S)
            self._used_bytes = await self._in_thread(self._measure)
        self._go_on()

    def _only_receiving_frees(self) -> bool:
        """Whether what is here is for the most part files of which the rest must come before they can be sent."""
        return self._used_bytes - self._partial_bytes < self._journal_max_bytes // 2

    def _measure(self) -> int:
        self._partial_bytes = self._partials.used_bytes()
        return self._inbox.journal.used_bytes() + self._spool.used_bytes() + self._partial_bytes

    def _pause(self, why: str) -> None:
        if not self.paused:
            log.warning("receiving pauses; what was taken is still sent", source=self.name, reason=why)
        self.paused = why

    def _go_on(self) -> None:
        if self.paused:
            log.info("receiving goes on", source=self.name)
        self.paused = ""

    async def _record(self, error: str) -> None:
        """Keep, for ``syncd status``, why the source cannot be received from; "" when it can."""
        if error == self.error:
            return
        self.error = error
        if error:
            log.error("cannot receive; it is tried again", source=self.name, error=error)
        else:
            log.info("messages are received again", source=self.name)
        await self._note(error)

    async def _note(self, error: str, where: str = "") -> None:
        with contextlib.suppress(JournalFull):  # it is in the log at least
            await self._in_thread(lambda: self._inbox.problem(f"source {self.name}{where}", error))

    async def _record_giving_back(self, error: str) -> None:
        """Keep, for ``syncd status``, why files cannot be given back; "" when they can."""
        if error == self._giving_back_error:
            return
        self._giving_back_error = error
        if error:
            log.error("files cannot be given back; it is tried again", source=self.name, error=error)
        await self._note(error, GIVING_BACK)

    # -- committing ------------------------------------------------------------------------------------------------

    async def _commit(self, messages: Sequence[Message]) -> list[Committed]:
        """Commit a batch; if it cannot be, for a reason nobody foresaw, message by message."""
        try:
            return [await self._noted(partial(self._take, messages))]
        except JournalError:
            raise
        except Exception:
            log.exception("a batch failed unexpectedly; its messages are taken one by one", source=self.name)
            return [await self._noted(partial(self._take_or_refuse, message)) for message in messages]

    async def _noted(self, take: Callable[[], Committed]) -> Committed:
        """Note, in the thread that commits it, that something is to be settled."""

        def work() -> Committed:
            self._unsettled.append(take())
            return self._unsettled[-1]

        return await self._patiently(work)

    async def _patiently(self, work: Callable[[], T]) -> T:
        """Do something with the journal, however long its disk is full."""
        while True:
            try:
                result = await self._in_thread(work)
            except JournalFull as error:
                self._pause(f"the disk is full: {error}")
                await asyncio.sleep(FULL_RETRY_S)
            else:
                if self.paused:
                    self._inbox.journal.refill_reserve()
                return result

    def _follow_up(self, committed: Committed) -> None:
        self._announce(committed.taken.waiting)
        for command in committed.taken.commands:
            log.info("a command was taken", source=self.name, command=command.name, arguments=dict(command.arguments))
            self._obey(command.name, command.arguments)
        for message, refusal in committed.refused:
            about = {"source": self.name, "id": message.id, "address": message.address}
            log.warning("a message is refused", **about, reason=str(refusal))
        for type_ in committed.ignored_types - self._warned:
            if len(self._warned) < MOST_WARNED_TYPES:
                self._warned.add(type_)
                log.warning("messages of this type are ignored; this is said once", source=self.name, type=type_)

    async def _settle_all(self, committed: asyncio.Queue[Committed]) -> None:
        while True:
            await self._settle(await committed.get())
            self._unsettled.popleft()
            committed.task_done()

    async def _settle_the_rest(self) -> None:
        """Settle what is committed at a stop: what has no identity would come again as if it were new."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_STOP_S):
                while self._unsettled:
                    await self._settle(self._unsettled.popleft())

    async def _settle(self, committed: Committed) -> None:
        try:
            if committed.complete:
                await self.source.complete(committed.complete)
            if committed.refused:
                await self.source.refuse(committed.refused)
        except DestinationError as error:
            log.info("messages could not be settled; they come again and are known", source=self.name, error=str(error))

    async def _tick(self) -> None:
        since_s, jumps = time.monotonic(), Jumps(self._wall_ms)
        while True:
            await asyncio.sleep(TICK_S)
            if not self._listens or jumps.seen():
                since_s = time.monotonic()
            listening_ms = round(1000 * (time.monotonic() - since_s))
            waiting = await self._patiently(partial(self._inbox.tick, listening_ms=listening_ms))
            self._announce(waiting)
            with contextlib.suppress(JournalFull):
                await self._in_thread(self._spool.tidy)
                if self._listens:
                    await self._in_thread(self._partials.expire)
            for message in await self._in_thread(self._refused.to_retry):
                self._follow_up(await self._patiently(lambda message=message: self._retry(message)))  # type: ignore[misc]

    @property
    def _listens(self) -> bool:
        """Whether messages can be received just now, as far as is known."""
        return not (self.error or self.paused or self._rests.is_resting("source", self.name))

    # -- in the thread ---------------------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Call something in a thread, one call at a time; it is waited for even if this is cancelled."""
        async with self._thread:
            calling = asyncio.get_running_loop().run_in_executor(None, work)
            try:
                return await asyncio.shield(calling)
            except asyncio.CancelledError:
                await asyncio.gather(calling, return_exceptions=True)
                raise

    def _take_or_refuse(self, message: Message) -> Committed:
        """Commit a message, or that it is refused as nobody foresaw."""
        try:
            return self._take([message])
        except JournalError:
            raise
        except Exception as exc:
            log.exception("a message failed unexpectedly", source=self.name, id=message.id)
            refusal = _unexpected(exc)
            self._keep_refused([(whole_of(message), refusal)], together=False)
            return Committed(Taken(), refused=[(message, refusal)])

    def _take(self, messages: Sequence[Message]) -> Committed:
        """Commit a batch as a whole, and what is refused of it: a message without an identity is not taken twice."""
        now_ms = self._wall_ms()
        reads: list[Read] = []
        refused: list[tuple[Message, MessageRefused]] = []
        kept: list[tuple[KeptMessage, MessageRefused]] = []
        try:
            for message in messages:
                read = self._reader.read(
                    message,
                    deliveries=message.deliveries,
                    packet=message.packet,
                    packet_returns=message.packet_returns,
                    now_ms=now_ms,
                    session=message.session,
                )
                reads.append(read)
                if read.refusal is not None:
                    refused.append((message, read.refusal))
                    kept.append((whole_of(message, in_part=bool(read.told)), read.refusal))
            told = [one for read in reads for one in read.told]
            taken = self._inbox.take(told, refused=len(refused), beside=lambda: self._keep_refused(kept))
        except BaseException:
            self._spool.discard([kept for read in reads for kept in read.kept])
            self._partials.abandon()
            raise
        self._partials.committed()
        self._spool.discard([kept for read in reads for kept in read.kept if kept.root not in taken.roots])
        self._used_bytes = self._measure()
        complete = [message for message, read in zip(messages, reads, strict=True) if read.refusal is None]
        return Committed(taken, complete, refused, ignored_types=ignored_types_of(reads))

    def _keep_refused(self, refused: Sequence[tuple[KeptMessage, MessageRefused]], *, together: bool = True) -> None:
        """Keep and tell of what is refused, ``together`` with what else a transaction commits that is open."""
        if not refused:
            return
        keep = self._refused.keep_within if together else self._refused.keep
        gone = keep(refused)
        if gone:
            log.error("too many refused messages: the oldest were given up", source=self.name, messages=gone)

    def _retry(self, message: KeptMessage) -> Committed:
        """Take a message that was refused before and that somebody wants to have tried again."""
        read = Read()
        try:
            deliveries = 2 if message.in_part else 1
            read = self._reader.read(message, deliveries=deliveries, packet=message.packet, now_ms=self._wall_ms())
            tried = partial(self._refused.tried, message.number, read.refusal, in_part=bool(read.told))
            taken = self._inbox.take(read.told, beside=tried)
        except Exception as exc:
            self._spool.discard(read.kept)
            self._partials.abandon()
            if isinstance(exc, JournalError):
                raise
            log.exception("a message failed unexpectedly", source=self.name, id=message.id)
            self._refused.refused_again(message.number, _unexpected(exc))
            return Committed(Taken())
        self._partials.committed()
        self._spool.discard([kept for kept in read.kept if kept.root not in taken.roots])
        return Committed(taken, ignored_types=ignored_types_of([read]))


def _unexpected(exc: Exception) -> MessageRefused:
    """Return the refusal of a message that failed for a reason nobody foresaw."""
    return MessageRefused(f"{type(exc).__name__}: {exc}", reason="Unexpected")
