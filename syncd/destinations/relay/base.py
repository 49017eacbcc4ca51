"""What a relay's outlet is: a queue or topic that takes parcels."""

from __future__ import annotations

from typing import Final, Protocol

from syncd.core.relay.values import Parcel

# What a message's topic and properties, and those of the batch that it travels in, may take.
ENVELOPE_BYTES: Final = 4 * 1024


class RelayOutlet(Protocol):
    """One queue or topic. All methods may raise any DestinationError; none retries by itself."""

    async def probe(self) -> int | None:
        """Connect; return how many bytes a parcel's body may have, None if the broker does not tell."""
        ...

    async def send(self, parcel: Parcel, *, session: str) -> None:
        """Hand a parcel over; return when the broker has it.

        After Transient or OutcomeUnknown it is sent again. Rejected means that it is too large.
        """
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
