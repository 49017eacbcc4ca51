"""Send events to a Service Bus queue or topic, each as one message: CloudEvents in JSON (structured mode).

Rules
-----
1. ``message_id`` is the event's id, so an entity with duplicate detection drops what is sent again.
2. ``session_id`` is the run's id, of one longer than the service takes its SHA-256: where the receiving entity has
   sessions, each run stays in order; elsewhere it is not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from syncd.brokers.service_bus import ServiceBusAddress
from syncd.brokers.service_bus_sending import ServiceBusOutlet, cloud_event_message
from syncd.core.events import Event, encode_structured

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage

# What is about no run.
NO_RUN: Final = "-"
# learn.microsoft.com "service-bus-quotas" (read 2026-11); azure-servicebus 7.15 raises ValueError beyond.
LONGEST_SESSION: Final = 128


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
        session = _session_of(event)
        message = cloud_event_message(
            encode_structured(event), message_id=event.id, session=session, subject=event.type
        )
        sessions.setdefault(session, []).append(message)
    return sessions.values()


def _session_of(event: Event) -> str:
    run_id = event.run_id or NO_RUN
    return run_id if len(run_id) <= LONGEST_SESSION else hashlib.sha256(run_id.encode()).hexdigest()
