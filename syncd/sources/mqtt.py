"""Receive from an MQTT broker: QoS 1, a session that the broker keeps, acknowledged when the journal has it.

Rules
-----
1. A message is acknowledged when it is completed, and in the order in which messages came (MQTT 5, section 4.6): one
   that is completed early waits for those before it.
2. What is not acknowledged is sent again with the next connection, so a lost connection loses nothing.
3. MQTT has no dead letters and no way to give a message back: ``refuse`` acknowledges, ``release`` keeps the message
   here for the next ``receive``.
4. Retained messages are acknowledged and left out: they are old, and would come again with each connection.
5. Once ``HELD_BYTES`` are held here and not acknowledged, no more is read: the broker has to wait.
6. Publications with QoS 0 come without a promise. They are dropped, and the log says so, beyond ``QOS_0_BYTES`` in
   waiting: nothing else bounds them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from syncd.brokers.ending import end
from syncd.brokers.mqtt import MqttAddress, translated
from syncd.errors import DestinationError, MessageRefused
from syncd.sources.messages import Message

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

    from syncd.brokers.mqtt_client import MqttClient

log = structlog.get_logger(__name__)

HELD_BYTES: Final = 16 * 1024 * 1024
QOS_0_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Receipt:
    """One message that came over a connection; ``settled`` once it may be acknowledged."""

    connection: Connection
    message: MQTTMessage
    settled: bool = False


class Connection:
    """What came over one connection and is not acknowledged yet, in order."""

    def __init__(self) -> None:
        self.client: MqttClient | None = None
        self._receipts: deque[Receipt] = deque()
        self._held_bytes = 0

    def received(self, message: MQTTMessage) -> Receipt:
        """Note a message down."""
        receipt = Receipt(self, message)
        self._receipts.append(receipt)
        self._held_bytes += len(message.payload)
        if self.client is not None and self._held_bytes >= HELD_BYTES:
            self.client.pause_reading()
        return receipt

    def settle(self, receipt: Receipt) -> None:
        """Acknowledge a message, once all before it are."""
        receipt.settled = True
        while self.client is not None and self._receipts and self._receipts[0].settled:
            message = self._receipts.popleft().message
            self.client.acknowledge(message)
            self._held_bytes -= len(message.payload)
        if self.client is not None and self._held_bytes < HELD_BYTES:
            self.client.resume_reading()

    def lost(self) -> None:
        """Take note that the connection has ended."""
        self.client = None
        self._receipts.clear()


class MqttSource:
    """Topics of one broker; a ``MessageSource``. ``topics`` are filters, shared ones as ``$share/GROUP/FILTER``."""

    def __init__(self, name: str, address: MqttAddress, topics: Sequence[str], *, session_expiry_s: float) -> None:
        self.name = name
        self._address = address
        self._topics = topics
        self._session_expiry_s = session_expiry_s
        self._reading: asyncio.Task[None] | None = None
        self._client: MqttClient | None = None
        self._arrived: deque[Message] = deque()
        self._qos_0_bytes = 0
        self._failure: DestinationError | None = None
        self._was_lost = self._is_back = False  # whether a failure was told, and since then a connection made
        self._news = asyncio.Event()

    # -- the door --------------------------------------------------------------------------------------------------

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages (see ``MessageSource``)."""
        while not self._arrived:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                self._was_lost, self._is_back = True, False
                raise failure
            if self._is_back:
                break
            if self._reading is None:
                self._reading = asyncio.create_task(self._read(), name=f"receive {self.name}")
                self._reading.add_done_callback(self._ended)
            await self._news.wait()
            self._news.clear()
        self._is_back = False
        return self._take(most, most_bytes)

    async def complete(self, messages: Sequence[Message]) -> None:
        """Acknowledge messages; those of a connection that is lost come again."""
        for message in messages:
            if isinstance(message.handle, Receipt):
                message.handle.connection.settle(message.handle)

    async def refuse(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Acknowledge messages: MQTT has no dead letters."""
        await self.complete([message for message, _ in refused])

    async def release(self, messages: Sequence[Message]) -> None:
        """Keep messages for the next ``receive``."""
        self._arrived.extendleft(reversed(messages))
        self._qos_0_bytes += sum(_qos_0_bytes(message) for message in messages)

    async def close(self) -> None:
        """Disconnect; what is not acknowledged is sent again to who connects next."""
        if self._client is not None:
            await self._client.flush()
        if self._reading is not None:
            await end([self._reading])

    def _take(self, most: int, most_bytes: int) -> list[Message]:
        taken: list[Message] = []
        size_bytes = 0
        while self._arrived and len(taken) < most and size_bytes < most_bytes:
            taken.append(self._arrived.popleft())
            size_bytes += len(taken[-1].body)
            self._qos_0_bytes -= _qos_0_bytes(taken[-1])
        return taken

    # -- the connection --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        from syncd.brokers.mqtt_client import open_client

        connection = Connection()
        client = await open_client(
            self._address,
            session_expiry_s=self._session_expiry_s,
            arrived=lambda message: self._take_in(message, connection),
        )
        # Messages may have come, and been settled, before it is known to be connected.
        connection.client = self._client = client
        try:
            async with client:
                await client.subscribe_to(self._topics)
                self._is_back, self._was_lost = self._was_lost, False
                self._news.set()
                await client.until_disconnected()
        finally:
            self._client = None
            connection.lost()
            # They come again: what is kept here as well would be counted twice.
            self._arrived = deque(message for message in self._arrived if message.handle is None)

    def _take_in(self, message: MQTTMessage, connection: Connection) -> None:
        receipt = connection.received(message) if message.qos else None
        if message.retain:
            if receipt is not None:
                connection.settle(receipt)
            return
        found = message_of(message, receipt)
        if receipt is None and self._qos_0_bytes + len(found.body) > QOS_0_BYTES:
            log.warning("a message of QoS 0 is dropped: too many wait", source=self.name, topic=found.address)
            return
        self._qos_0_bytes += _qos_0_bytes(found)
        self._arrived.append(found)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Keep why the connection ended for the next ``receive``."""
        self._reading = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failure = translated(error, doing="receiving from", address=self._address)
        self._news.set()


def message_of(message: MQTTMessage, receipt: Receipt | None) -> Message:
    """Return the message; MQTT 5's user properties are its headers. How often it was sent, only "again" says."""
    properties = message.properties
    headers = {name.lower(): value for name, value in getattr(properties, "UserProperty", ())}
    return Message(
        id="",
        body=bytes(message.payload),
        content_type=getattr(properties, "ContentType", ""),
        headers=headers,
        address=message.topic,
        deliveries=2 if message.dup else 1,
        packet=message.mid,
        packet_returns=True,
        handle=receipt,
    )


def _qos_0_bytes(message: Message) -> int:
    return len(message.body) if message.handle is None else 0
