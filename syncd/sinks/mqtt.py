"""Publish events to an MQTT broker, each as one message: CloudEvents in JSON (structured mode), QoS 1, not retained.

Rules
-----
1. ``send`` returns when the broker has acknowledged every event. MQTT 5 tells what it does not allow; 3.1.1 does not.
2. The topic's placeholders are filled in with "+", "#" and "/" replaced: an id cannot lead to another topic.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from syncd.brokers.mqtt import MqttAddress, translated
from syncd.core.events import STRUCTURED, Event, encode_structured

if TYPE_CHECKING:
    from syncd.brokers.mqtt_client import MqttClient

NO_RUN: Final = "-"
_NOT_IN_A_LEVEL: Final = re.compile(r"[+#/\0]")


class MqttSink:
    """One topic, or one for each type and run; an ``EventSink``. The connection is kept open."""

    def __init__(self, address: MqttAddress, topic: str) -> None:
        self._address = address
        self._topic = topic
        self._client: MqttClient | None = None
        self._turn = asyncio.Lock()

    async def send(self, events: Sequence[Event]) -> None:
        """Publish events (see ``EventSink``)."""
        async with self._turn:
            try:
                client = await self._connected()
                await asyncio.gather(
                    *(
                        client.publish_confirmed(
                            topic_of(self._topic, event), encode_structured(event), content_type=STRUCTURED
                        )
                        for event in events
                    )
                )
            except Exception as exc:
                await self._disconnect()
                raise translated(exc, doing="publishing events at", address=self._address) from exc

    async def close(self) -> None:
        """Disconnect."""
        async with self._turn:
            await self._disconnect()

    async def _connected(self) -> MqttClient:
        if self._client is None:
            client = await self._address.open_client()
            await client.__aenter__()
            self._client = client
        return self._client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.leave()


def topic_of(pattern: str, event: Event) -> str:
    """Return the topic of an event."""
    named = {"{type}": event.short_type, "{run}": event.run_id or NO_RUN}
    return re.sub(r"\{type\}|\{run\}", lambda match: _NOT_IN_A_LEVEL.sub("-", named[match.group()]), pattern)
