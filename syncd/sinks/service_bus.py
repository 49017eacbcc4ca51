"""Send events to a Service Bus queue or topic, each as one message: CloudEvents in JSON (structured mode).

Rules
-----
1. ``message_id`` is the event's id, so an entity with duplicate detection drops what is sent again.
2. ``session_id`` is the run's id: where the receiving entity has sessions, each run stays in order; elsewhere it is
   not looked at.
3. Events travel in batches as large as the service takes, each of one session: a partitioned entity takes no other. A
   batch is taken as a whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from syncd.brokers.service_bus import ServiceBusAddress, translated
from syncd.core.events import STRUCTURED, Event, encode_structured
from syncd.errors import Rejected

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

# What is about no run.
NO_RUN: Final = "-"


class ServiceBusSink:
    """One queue or topic; an ``EventSink``. The link is kept open (opening one takes half a second)."""

    def __init__(self, address: ServiceBusAddress) -> None:
        self._address = address
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._turn = asyncio.Lock()

    async def send(self, events: Sequence[Event]) -> None:
        """Hand events over (see ``EventSink``)."""
        async with self._turn:
            try:
                sender = self._open()
                for of_session in _by_session(events):
                    await _send_batches(sender, of_session)
            except Exception as exc:
                error = translated(exc, doing="sending events to", address=self._address)
                if not isinstance(error, Rejected):
                    await self._close()
                raise error from exc

    async def close(self) -> None:
        """Disconnect."""
        async with self._turn:
            await self._close()

    def _open(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = self._address.open_client()
            if self._address.queue:
                self._sender = self._client.get_queue_sender(self._address.queue)
            else:
                self._sender = self._client.get_topic_sender(self._address.topic)
        return self._sender

    async def _close(self) -> None:
        client, self._client, self._sender = self._client, None, None
        if client is not None:
            await client.close()


async def _send_batches(sender: ServiceBusSender, messages: Sequence[ServiceBusMessage]) -> None:
    batch = await sender.create_message_batch()
    for message in messages:
        try:
            batch.add_message(message)
        except ValueError:  # the batch is full; what is too large for any is refused below
            await sender.send_messages(batch)
            batch = await sender.create_message_batch()
            batch.add_message(message)
    await sender.send_messages(batch)


def _by_session(events: Sequence[Event]) -> Collection[Sequence[ServiceBusMessage]]:
    from azure.servicebus import ServiceBusMessage

    sessions: dict[str, list[ServiceBusMessage]] = {}
    for event in events:
        session = event.run_id or NO_RUN
        message = ServiceBusMessage(
            encode_structured(event),
            content_type=STRUCTURED,
            message_id=event.id,
            session_id=session,
            subject=event.type,
        )
        sessions.setdefault(session, []).append(message)
    return sessions.values()
