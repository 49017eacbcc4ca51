"""Brokers under one door for the contract tests: what a test asks of each, whatever it speaks."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from syncd.brokers.service_bus import ServiceBusAddress
from syncd.sources.messages import Message, MessageSource
from syncd.sources.mqtt import MqttSource
from syncd.sources.service_bus import ServiceBusSource
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.ports import free_port
from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.server import ServiceBus

USER, PASSWORD = "syncd", "secret"
MEGABYTE = 1_000_000


class BrokerUnderTest(ABC):
    """One broker with places of its own to send to (a queue, a topic)."""

    has_properties = True
    has_dead_letters = False
    keeps_order = True

    @abstractmethod
    async def place(self) -> str:
        """Return a new place; what is sent there is kept until a source comes."""

    @abstractmethod
    def source(self, place: str) -> MessageSource:
        """Return a source of a place; several of one place are one daemon, restarted."""

    @abstractmethod
    async def send(
        self, place: str, bodies: Sequence[bytes], *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send messages of one session."""

    @abstractmethod
    def source_with_wrong_password(self, place: str) -> MessageSource:
        """Return a source whose credentials the broker refuses, for its first connection at least."""

    @abstractmethod
    def source_of_nothing(self) -> MessageSource:
        """Return a source of a broker that is not there."""

    @abstractmethod
    def kill(self) -> None:
        """End the broker at once."""

    @abstractmethod
    def start(self) -> None:
        """Start it again; it has kept its messages."""


class ServiceBusUnderTest(BrokerUnderTest):
    """The stand-in of Service Bus with the real client."""

    has_dead_letters = True

    def __init__(self, folder: Path, *, sessions: bool) -> None:
        self.bus = ServiceBus(folder, max_message_bytes=2 * MEGABYTE)
        self._sessions = sessions
        self.keeps_order = sessions  # without, what is given back comes as it is given back
        self.start()

    async def place(self) -> str:
        return self.bus.queue(f"queue-{uuid.uuid4().hex}", sessions=self._sessions)

    def source(self, place: str) -> ServiceBusSource:
        address = ServiceBusAddress(connection_string=self.bus.connection_string, queue=place)
        return ServiceBusSource("bus", address, max_sessions=2)

    async def send(
        self, place: str, bodies: Sequence[bytes], *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        session = "run-1" if self._sessions else ""
        self.bus.put(place, bodies, session=session, content_type=content_type, properties=dict(headers or {}))

    def source_with_wrong_password(self, place: str) -> ServiceBusSource:
        self.bus.fault(Fault.BAD_TOKEN)
        return self.source(place)

    def source_of_nothing(self) -> ServiceBusSource:
        nowhere = self.bus.connection_string.replace(str(self.bus.port), str(free_port()))
        return ServiceBusSource("bus", ServiceBusAddress(connection_string=nowhere, queue="q"))

    def kill(self) -> None:
        self.bus.kill()

    def start(self) -> None:
        self.bus.start()


class MosquittoUnderTest(BrokerUnderTest):
    """A real mosquitto with a password."""

    def __init__(self, folder: Path, *, version_5: bool, options: str = "") -> None:
        self.broker = RunningMosquitto(folder, users={USER: PASSWORD}, options=options)
        self.has_properties = version_5
        self._version_5 = version_5
        self.start()

    def address(self, client_id: str, *, port: int = 0, password: str = PASSWORD) -> MqttAddress:
        return MqttAddress(
            host=self.broker.host,
            port=port or self.broker.port,
            client_id=client_id,
            version_5=self._version_5,
            username=USER,
            password=password,
        )

    async def place(self) -> str:
        device = uuid.uuid4().hex
        topic = f"syncd/{device}/run-1/metrics"
        client = await open_client(self.address(device), session_expiry_s=600)
        async with client:
            await client.subscribe_to([topic])
        return topic

    def source(self, place: str) -> MqttSource:
        return MqttSource("devices", self.address(place.split("/")[1]), [place], session_expiry_s=600)

    async def send(
        self, place: str, bodies: Sequence[bytes], *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        properties = None
        if self._version_5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = list((headers or {}).items())
            if content_type:
                properties.ContentType = content_type
        async with aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            username=USER,
            password=PASSWORD,
            protocol=aiomqtt.ProtocolVersion.V5 if self._version_5 else aiomqtt.ProtocolVersion.V311,
        ) as client:
            for body in bodies:
                await client.publish(place, body, qos=1, properties=properties)

    def source_with_wrong_password(self, place: str) -> MqttSource:
        return MqttSource("devices", self.address("stranger", password="wrong"), [place], session_expiry_s=600)

    def source_of_nothing(self) -> MqttSource:
        return MqttSource("devices", self.address("nobody", port=free_port()), ["#"], session_expiry_s=600)

    def kill(self) -> None:
        self.broker.kill()

    def start(self) -> None:
        self.broker.start()


async def received(source: MessageSource, count: int) -> list[Message]:
    """Return so many messages, however many calls it takes."""
    found: list[Message] = []
    while len(found) < count:
        found += await source.receive(most=100, most_bytes=10 * MEGABYTE)
    return found
