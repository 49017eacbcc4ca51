"""Send messages into the entity that a source receives from: to a subscription by way of its topic."""

from __future__ import annotations

from collections.abc import Sequence

from syncd.brokers.service_bus import ServiceBusAddress
from syncd.brokers.service_bus_sending import ServiceBusOutlet, cloud_event_message
from syncd.core.relay.values import Parcel


class ServiceBusReturn:
    """One queue, or one topic; a ``Sender`` of ``runtime.giving_back``. It needs the right to send."""

    def __init__(self, address: ServiceBusAddress) -> None:
        self._outlet = ServiceBusOutlet(address, what="files that came in part")

    async def send(self, parcels: Sequence[Parcel], *, session: str) -> None:
        """Send parcels, in order; return when the broker has all of them."""
        await self._outlet.send(
            [[cloud_event_message(one.body, message_id=one.id, session=session) for one in parcels]]
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._outlet.close()
