"""Send events to a Service Bus queue or topic, each as one message: CloudEvents in JSON (structured mode).

Rules
-----
1. ``message_id`` is the event's id, so an entity with duplicate detection drops what is sent again.
2. ``session_id`` is the run's id: where the receiving entity has sessions, each run stays in order; elsewhere it is
   not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from syncd.brokers.service_bus import ServiceBusAddress
from syncd.brokers.service_bus_sending import ServiceBusOutlet, cloud_event_message
from syncd.core.events import Event, encode_structured

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage

# What is about no run.
NO_RUN: Final = "-"


class ServiceBusSink:
    """One queue or topic; an ``EventSink``."""

    def __init__(self, address: ServiceBusAddress) -> None:
        self._outlet = ServiceBusOutlet(address, what="events")

    async def send(self, events: Sequence[Event]) -> None:
        """Hand events over (see ``EventSink``)."""
        await self._outlet.send(_by_session(events))

    async def close(self) -> None:
        """Disconnect."""
        await self._outlet.close()


def _by_session(events: Sequence[Event]) -> Collection[Sequence[ServiceBusMessage]]:
    sessions: dict[str, list[ServiceBusMessage]] = {}
    for event in events:
        session = event.run_id or NO_RUN
        message = cloud_event_message(
            encode_structured(event), message_id=event.id, session=session, subject=event.type
        )
        sessions.setdefault(session, []).append(message)
    return sessions.values()
