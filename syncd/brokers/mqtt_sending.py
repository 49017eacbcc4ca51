"""Publish CloudEvents to an MQTT broker: JSON (structured mode), QoS 1, not retained, over one kept connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from syncd.brokers.mqtt import MqttAddress, translated
from syncd.core.events import STRUCTURED

if TYPE_CHECKING:
    from syncd.brokers.mqtt_client import MqttClient


class MqttOutlet:
    """One broker that is published to; ``what`` names what is published, for errors."""

    def __init__(self, address: MqttAddress, *, what: str) -> None:
        self._address = address
        self._doing = f"publishing {what} at"
        self._client: MqttClient | None = None
        self._turn = asyncio.Lock()

    async def connect(self) -> None:
        """Connect, if it is not connected.

        Raises:
            DestinationError: any kind.
        """
        await self.send([])

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages (topic and payload), in order; return when the broker has acknowledged all of them.

        Raises:
            DestinationError: any kind; some may have been taken.
        """
        client = None
        try:
            client = await self._connected()
            await asyncio.gather(
                *(client.publish_confirmed(topic, body, content_type=STRUCTURED) for topic, body in messages)
            )
        except Exception as exc:
            await self._disconnect(client)
            raise translated(exc, doing=self._doing, address=self._address) from exc

    async def close(self) -> None:
        """Disconnect."""
        await self._disconnect(self._client)

    async def _connected(self) -> MqttClient:
        async with self._turn:
            if self._client is None:
                client = await self._address.open_client()
                await client.__aenter__()
                self._client = client
            return self._client

    async def _disconnect(self, client: MqttClient | None) -> None:
        """Leave a connection, unless another call has done so and opened a new one."""
        async with self._turn:
            if client is not None and client is self._client:
                self._client = None
                await client.leave()
