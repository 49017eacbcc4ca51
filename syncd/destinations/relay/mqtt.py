"""Parcels to one topic of an MQTT broker, each as one message: QoS 1, not retained, in order over one connection."""

from __future__ import annotations

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_sending import MqttOutlet
from syncd.core.relay.values import Parcel
from syncd.destinations.relay.base import ENVELOPE_BYTES


class MqttRelay:
    """One topic; a ``RelayOutlet``. MQTT knows no sessions: who subscribes gets all; it is sent when somebody does."""

    def __init__(self, address: MqttAddress, topic: str) -> None:
        self._outlet = MqttOutlet(address, what="what is relayed", to_somebody=True)
        self._topic = topic

    async def probe(self) -> int | None:
        """Connect (see ``RelayOutlet``)."""
        most_bytes = await self._outlet.most_bytes()
        return None if most_bytes is None else most_bytes - ENVELOPE_BYTES

    async def send(self, parcel: Parcel, *, session: str) -> None:
        """Hand a parcel over (see ``RelayOutlet``)."""
        await self._outlet.send([(self._topic, parcel.body)])

    async def close(self) -> None:
        """Disconnect."""
        await self._outlet.close()
