"""Parcels to one topic of an MQTT broker, each as one message: QoS 1, not retained, in order over one connection."""

from __future__ import annotations

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_sending import MqttOutlet
from syncd.core.relay.values import Parcel


class MqttRelay:
    """One topic; a ``RelayOutlet``. MQTT knows no sessions: who subscribes gets all."""

    def __init__(self, address: MqttAddress, topic: str) -> None:
        self._outlet = MqttOutlet(address, what="what is relayed")
        self._topic = topic

    async def probe(self) -> None:
        """Connect (see ``RelayOutlet``)."""
        await self._outlet.connect()

    async def send(self, parcel: Parcel, *, session: str) -> None:
        """Hand a parcel over (see ``RelayOutlet``)."""
        await self._outlet.send([(self._topic, parcel.body)])

    async def close(self) -> None:
        """Disconnect."""
        await self._outlet.close()
