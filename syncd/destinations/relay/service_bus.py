"""Parcels to a Service Bus queue or topic, each as one message.

Rules
-----
1. ``message_id`` is the parcel's id, so an entity with duplicate detection drops what is sent again.
2. A session's parcels go over one link, one after another; several links work side by side.
"""

from __future__ import annotations

import zlib

from syncd.brokers.service_bus import ServiceBusAddress
from syncd.brokers.service_bus_sending import ServiceBusOutlet, cloud_event_message
from syncd.core.relay.values import Parcel
from syncd.destinations.relay.base import ENVELOPE_BYTES


class ServiceBusRelay:
    """One queue or topic over ``links`` links; a ``RelayOutlet``."""

    def __init__(self, address: ServiceBusAddress, *, links: int) -> None:
        self._links = [ServiceBusOutlet(address, what="what is relayed") for _ in range(links)]

    async def probe(self) -> int:
        """Open a link (see ``RelayOutlet``)."""
        return await self._links[0].most_bytes() - ENVELOPE_BYTES

    async def send(self, parcel: Parcel, *, session: str) -> None:
        """Hand a parcel over (see ``RelayOutlet``)."""
        message = cloud_event_message(parcel.body, message_id=parcel.id, session=session, subject="dev.syncd.relay")
        await self._links[zlib.crc32(session.encode()) % len(self._links)].send([[message]])

    async def close(self) -> None:
        """Disconnect."""
        for link in self._links:
            await link.close()
