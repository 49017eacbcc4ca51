"""Publish CloudEvents to an MQTT broker: JSON (structured mode), QoS 1, not retained, over one kept connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from syncd.brokers.mqtt import NO_SUBSCRIBERS, MqttAddress, Refused, translated
from syncd.core.events import STRUCTURED
from syncd.errors import DestinationError, Transient

if TYPE_CHECKING:
    from syncd.brokers.mqtt_client import MqttClient


class MqttOutlet:
    """One broker that is published to; ``what`` names what is published, for errors.

    With ``to_somebody`` nothing counts as sent that nobody has subscribed to, as far as the broker tells (MQTT 5).
    """

    def __init__(self, address: MqttAddress, *, what: str, to_somebody: bool = False) -> None:
        self._address = address
        self._to_somebody = to_somebody
        self._doing = f"publishing {what} at"
        self._client: MqttClient | None = None
        self._turn = asyncio.Lock()

    async def most_bytes(self) -> int | None:
        """Return how large a packet may be, None if the broker does not tell.

        Raises:
            DestinationError: any kind.
        """
        try:
            return (await self._connected()).most_bytes
        except Exception as exc:
            raise translated(exc, doing=self._doing, address=self._address) from exc

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages (topic and payload), in order; return when the broker has acknowledged all of them.

        Raises:
            DestinationError: any kind; some may have been taken.
        """
        client: MqttClient | None = None
        try:
            client = await self._connected()
            await asyncio.gather(*(self._publish(client, topic, body) for topic, body in messages))
        except Exception as exc:
            error = translated(exc, doing=self._doing, address=self._address)
            if client is not None and (client.is_lost or not isinstance(exc, Refused | DestinationError)):
                await self._disconnect(client)
            raise error from exc

    async def _publish(self, client: MqttClient, topic: str, body: bytes) -> None:
        answer = await client.publish_confirmed(topic, body, content_type=STRUCTURED)
        if self._to_somebody and answer == NO_SUBSCRIBERS:
            hint = "start the syncd that receives there; from then on the broker keeps what comes for it"
            text = f"nobody has subscribed to {topic}"
            raise Transient(text, doing=self._doing, target=str(self._address), hint=hint)

    async def close(self) -> None:
        """Disconnect."""
        await self._disconnect(self._client)

    async def _connected(self) -> MqttClient:
        from syncd.brokers.mqtt_client import open_client

        async with self._turn:
            if self._client is None:
                client = await open_client(self._address)
                await client.__aenter__()
                self._client = client
            return self._client

    async def _disconnect(self, client: MqttClient | None) -> None:
        """Leave a connection, unless another call has done so and opened a new one."""
        async with self._turn:
            if client is not None and client is self._client:
                self._client = None
                await client.leave()
