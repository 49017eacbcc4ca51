"""Send messages to a Service Bus queue or topic, in batches as large as the service takes.

Rules
-----
1. The link is kept open: opening one takes half a second. After an error that is not about a message it is closed, and
   the next call opens another one.
2. A batch holds messages of one session: a partitioned entity takes no other. It is taken as a whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from syncd.brokers.service_bus import ServiceBusAddress, translated
from syncd.core.events import STRUCTURED
from syncd.errors import Rejected

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.aio import ServiceBusClient, ServiceBusSender


class ServiceBusOutlet:
    """One queue or topic that is sent to; ``what`` names what is sent, for errors."""

    def __init__(self, address: ServiceBusAddress, *, what: str) -> None:
        self._address = address
        self._doing = f"sending {what} to"
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._turn = asyncio.Lock()

    async def send(self, groups: Iterable[Sequence[ServiceBusMessage]]) -> None:
        """Send groups of messages, each of one session; return when the broker has all of them.

        Raises:
            DestinationError: any kind; those before may have been taken.
        """
        async with self._turn:
            try:
                sender = self._open()
                for group in groups:
                    await _send_batches(sender, group)
            except Exception as exc:
                error = translated(exc, doing=self._doing, address=self._address)
                if not isinstance(error, Rejected):
                    await self._close()
                raise error from exc

    async def most_bytes(self) -> int:
        """Return how large a batch may be, as the service has said when the link was opened.

        Raises:
            DestinationError: any kind.
        """
        async with self._turn:
            try:
                return (await self._open().create_message_batch()).max_size_in_bytes
            except Exception as exc:
                await self._close()
                raise translated(exc, doing="connecting to", address=self._address) from exc

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


def cloud_event_message(body: bytes, *, message_id: str, session: str, subject: str | None = None) -> ServiceBusMessage:
    """Return a message that holds a CloudEvent in JSON (structured mode)."""
    from azure.servicebus import ServiceBusMessage

    return ServiceBusMessage(body, content_type=STRUCTURED, message_id=message_id, session_id=session, subject=subject)


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
