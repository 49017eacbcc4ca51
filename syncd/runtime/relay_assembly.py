"""Makes a relay's outlet and its lanes from settings."""

from __future__ import annotations

import socket

from syncd.configuration.broker_settings import MqttBroker
from syncd.configuration.relay_settings import RelaySettings
from syncd.destinations.relay.base import ENVELOPE_BYTES, RelayOutlet
from syncd.destinations.relay.mqtt import MqttRelay
from syncd.destinations.relay.service_bus import ServiceBusRelay
from syncd.errors import Transient
from syncd.runtime.bandwidth import throttle_of
from syncd.runtime.broker_assembly import mqtt_address, service_bus_address
from syncd.runtime.channel import Supply
from syncd.runtime.relay_channel import LEAST_BYTES, RelayChannel
from syncd.runtime.relay_lane import RelayLanes


def open_relay(settings: RelaySettings, *, daemon: str) -> RelayOutlet:
    """Return the outlet that the settings name; nothing is connected yet."""
    if isinstance(settings.broker, MqttBroker):
        address = mqtt_address(settings.broker, name=f"{settings.name}-relay")
        return MqttRelay(address, settings.topic.replace("{daemon}", daemon))
    return ServiceBusRelay(service_bus_address(settings.broker), links=settings.max_concurrency)


class RelayWay:
    """A relay; a ``Way``. ``daemon`` is this daemon's name, "" for the host's."""

    def __init__(self, settings: RelaySettings, *, daemon: str) -> None:
        self._settings = settings
        self._daemon = daemon or socket.gethostname()
        self._outlet = open_relay(settings, daemon=self._daemon)
        self._most_bytes = settings.max_message_bytes - ENVELOPE_BYTES

    async def probe(self) -> str:
        """Reach the broker; see ``Way``."""
        found = await self._outlet.probe()
        if found is not None and found < LEAST_BYTES:
            text = f"the broker takes messages of {found + ENVELOPE_BYTES} bytes at most"
            hint = f"have it take {LEAST_BYTES + ENVELOPE_BYTES} bytes or more"
            raise Transient(text, doing="relaying to", target=self._settings.name, hint=hint)
        if found is not None:
            self._most_bytes = min(self._most_bytes, found)
        return ""

    def lanes(self, supply: Supply) -> RelayLanes:
        """Return what makes lanes to it; see ``Way``."""
        channel = RelayChannel(
            **supply.named(),
            outlet=self._outlet,
            daemon=self._daemon,
            journal_identity=supply.journal.journal.identity,
            most_bytes=self._most_bytes,
            sessions=self._settings.sessions,
            throttle=throttle_of(self._settings.bwlimit_bytes_s),
        )
        return RelayLanes(channel)

    async def close(self) -> None:
        """Close all connections."""
        await self._outlet.close()
