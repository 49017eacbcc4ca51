"""A relay at run time, and how its parcels are sent: side by side, and settled in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from syncd.core.relay.values import Parcel
from syncd.destinations.relay.base import RelayOutlet
from syncd.errors import Rejected
from syncd.rest.streaming import Throttle
from syncd.runtime.channel import Supply
from syncd.runtime.lanes import one_error

log = structlog.get_logger(__name__)

# A message of this size that is refused is not refused for its size.
LEAST_BYTES = 8 * 1024


@dataclass(slots=True, kw_only=True)
class RelayChannel(Supply):
    """A broker: its outlet, who sends (``daemon``, and the journal's id and when it was made), and how much at once.

    No parcel is larger than ``most_bytes``, which becomes less where the broker refuses one for its size.
    """

    outlet: RelayOutlet
    daemon: str
    journal_identity: tuple[str, int]
    most_bytes: int
    sessions: int
    throttle: Throttle | None = None

    async def send(self, parcel: Parcel, *, session: str) -> None:
        """Bring a parcel to the broker, however long it takes.

        Raises:
            Rejected: the broker does not take it.
        """
        if self.throttle is not None:
            await self.throttle(len(parcel.body))
        await self.courier.call(lambda: self.outlet.send(parcel, session=session))

    def shrink(self, refused: Parcel, error: Rejected) -> bool:
        """Make parcels smaller after one was refused; return whether that may help."""
        if len(refused.body) <= LEAST_BYTES:
            return False
        smaller = max(LEAST_BYTES, len(refused.body) // 2)
        if smaller < self.most_bytes:
            log.warning("the broker takes smaller messages only", destination=self.name, now=smaller, error=str(error))
            self.most_bytes = smaller
        return True


class Shrunk(Exception):
    """A parcel was too large for the broker; what it told is to be cut anew, into smaller ones."""


class Convoy:
    """Sends parcels of one subject, so many side by side; use it as a context, which waits for all of them.

    A parcel counts as arrived when it and all before it have been taken: then what it completes may be settled.
    """

    def __init__(self, channel: RelayChannel, session: str, places: asyncio.Semaphore) -> None:
        self._channel = channel
        self._session = session
        self._places = places
        self._tasks = asyncio.TaskGroup()
        self._before: asyncio.Event | None = None

    async def __aenter__(self) -> Convoy:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        async with one_error():
            await self._tasks.__aexit__(kind, error, None)

    async def send(self, parcel: Parcel, arrived: Callable[[Parcel], Awaitable[None]] | None = None) -> None:
        """Begin to send a parcel as soon as there is a place for it.

        The context ends with Shrunk if it has to be smaller, and with Rejected if the broker does not take it at all.
        """
        await self._places.acquire()
        before, self._before = self._before, asyncio.Event()
        self._tasks.create_task(self._send(parcel, arrived, before, self._before))

    async def _send(
        self,
        parcel: Parcel,
        arrived: Callable[[Parcel], Awaitable[None]] | None,
        before: asyncio.Event | None,
        this: asyncio.Event,
    ) -> None:
        try:
            await self._channel.send(parcel, session=self._session)
        except Rejected as error:
            if self._channel.shrink(parcel, error):
                raise Shrunk from error
            raise
        finally:
            self._places.release()
        if before is not None:
            await before.wait()
        if arrived is not None:
            await arrived(parcel)
        this.set()
