"""What an event sink is: a service that takes CloudEvents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from syncd.core.events import Event


class EventSink(Protocol):
    """One address of one service. All methods may raise any DestinationError; none retries by itself."""

    async def send(self, events: Sequence[Event]) -> None:
        """Hand events over, in this order; return when the service has all of them.

        After Transient or OutcomeUnknown all of them are sent again. Rejected speaks of the events as a whole: they are
        then sent one by one. SinkGone says that none is wanted any more.
        """
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
