"""Giving files back: what came here of a file whose other chunks are handed to another syncd is sent on to it.

Where several syncd share a queue with sessions, each session is read by one of them at a time, and it may change in the
middle of a file: one was killed, or silent. What is here of a file is then sent into the same session again, so that
whoever has it now, and be it this one, gets all of it. Rules:

1. A file is given back when nothing of it came for ``SILENCE_S``; each time it waits twice as long as before
   (``MOST_DOUBLINGS`` times), unless more of it was here than ever before. At a stop, which may be for good, and after
   a start it does not wait.
2. It is forgotten here once the broker has all of it, and if no more of it came meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from syncd.core.changes import Head
from syncd.core.facts import ExperimentSeen, SubjectKey
from syncd.core.relay.packing import Address, File, chunk, room_for_chunk
from syncd.core.relay.values import Parcel
from syncd.errors import DestinationError, JournalError, JournalFull, Rejected
from syncd.journal.partials import OpenFile, Partials
from syncd.runtime.clock import wall_ms_now

log = structlog.get_logger(__name__)
T = TypeVar("T")

LOOK_S: Final = 1.0
SILENCE_S: Final = 60.0
MOST_DOUBLINGS: Final = 10
RETRY_S: Final = 30.0
AT_STOP_S: Final = 10.0  # what takes longer waits here for the next start
# Below the 256 KB that the standard tier of Service Bus takes (learn.microsoft.com "service-bus-quotas", read 2026-11).
MESSAGE_BYTES: Final = 200_000
LEAST_CHUNK_BYTES: Final = 16_000  # whatever goes with it
EVER: Final = 1 << 62


class Sender(Protocol):
    """Sends parcels into sessions of the entity that a source receives from."""

    async def send(self, parcels: Sequence[Parcel], *, session: str) -> None:
        """Send parcels, in order; return when the broker has all of them."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class InThread(Protocol):
    """Calls something in the thread of the intake, alone."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...  # noqa: D102


class GivingBack:
    """Gives back the files of one source. ``problem`` records why that is not possible, "" when it is."""

    def __init__(
        self,
        partials: Partials,
        sender: Sender,
        *,
        wall_ms: Callable[[], int] = wall_ms_now,
    ) -> None:
        self._partials = partials
        self._sender = sender
        self._begun_ms = wall_ms()

    async def run(self, in_thread: InThread, problem: Callable[[str], Awaitable[None]]) -> None:
        """Give back what is due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._give_back(in_thread, heard_before_ms=self._begun_ms)
            except (DestinationError, JournalFull, OSError) as error:
                await problem(f"files cannot be given back to other daemons: {error}")
                await asyncio.sleep(RETRY_S)
            else:
                await problem("")

    async def close(self, in_thread: InThread) -> None:
        """Give back what is here, now that nothing more comes, and disconnect."""
        try:
            async with asyncio.timeout(AT_STOP_S):
                await self._give_back(in_thread, heard_before_ms=EVER)
        except (DestinationError, JournalError, OSError) as error:  # TimeoutError is one
            log.warning(
                "files that came in part stay here until the next start", error=str(error) or "it takes too long"
            )
        with contextlib.suppress(DestinationError):
            await self._sender.close()

    async def _give_back(self, in_thread: InThread, *, heard_before_ms: int) -> None:
        """Give back the files of which nothing came since then, or of which nothing came for long."""
        due = await in_thread(
            lambda: self._partials.silent(
                begun_ms=heard_before_ms, silence_ms=round(SILENCE_S * 1000), most_doublings=MOST_DOUBLINGS
            )
        )
        failure: OSError | Rejected | None = None
        for file in due:
            try:
                await self._give_one_back(file, in_thread)
            except (OSError, Rejected) as error:  # it is about this file alone
                failure = failure or error
        if failure is not None:
            raise failure

    async def _give_one_back(self, file: OpenFile, in_thread: InThread) -> None:
        parcels = _parcels(file)
        with contextlib.suppress(FileNotFoundError):  # it is whole by now; it is given back once more
            while (parcel := await asyncio.to_thread(next, parcels, None)) is not None:
                await self._sender.send([parcel], session=file.session)
            if await in_thread(lambda: self._partials.given_back(file)):
                log.info("a file that came in part was given back", path=file.path, subject=file.subject.id)


def _parcels(open_file: OpenFile) -> Iterator[Parcel]:
    """Yield what is here of a file as its sender would send it."""
    origin = open_file.origin
    address = Address(origin, open_file.subject, [_as_sent(head, open_file) for head in open_file.about])
    seq = open_file.order - origin.order(0)
    file = File(seq, open_file.path, open_file.size_bytes, open_file.digest)
    room = max(LEAST_CHUNK_BYTES, room_for_chunk(address, file, most_bytes=MESSAGE_BYTES))
    attempt = secrets.randbits(62)  # of no other: who has taken such a chunk before must take it again
    with (Path(open_file.root) / open_file.path).open("rb") as opened:
        for first, after in open_file.pieces:
            opened.seek(first)
            for offset in range(first, after, room):
                yield chunk(address, file, offset, opened.read(min(room, after - offset)), attempt=attempt)


def _as_sent(head: Head, file: OpenFile) -> Head:
    """Return a head with its experiment as the sender names it (``core.relay.reading`` names daemon and source too)."""

    def sent(key: SubjectKey) -> SubjectKey:
        return replace(key, store=key.store.removeprefix(file.origin.scope))

    if isinstance(head, ExperimentSeen):
        return replace(head, subject=sent(head.subject))
    return replace(head, experiment=sent(head.experiment))
