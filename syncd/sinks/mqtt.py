"""Publish events to an MQTT broker, each as one message: CloudEvents in JSON (structured mode), QoS 1, not retained.

Rules
-----
1. ``send`` returns when the broker has acknowledged every event. MQTT 5 tells what it does not allow; 3.1.1 does not.
2. The topic's placeholders are filled in with "+", "#" and "/" replaced: an id cannot lead to another topic; and
   with control characters replaced, for which mosquitto ends the connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_sending import MqttOutlet
from syncd.core.events import Event, encode_structured

NO_RUN: Final = "-"
_NOT_IN_A_LEVEL: Final = re.compile(r"[+#/\x00-\x1f\x7f-\x9f]")


class MqttSink:
    """One topic, or one for each type and run; an ``EventSink``."""

    def __init__(self, address: MqttAddress, topic: str) -> None:
        self._outlet = MqttOutlet(address, what="events")
        self._topic = topic

    async def send(self, events: Sequence[Event]) -> None:
        """Publish events (see ``EventSink``)."""
        await self._outlet.send([(topic_of(self._topic, one), encode_structured(one)) for one in events])

    async def close(self) -> None:
        """Disconnect."""
        await self._outlet.close()


def topic_of(pattern: str, event: Event) -> str:
    """Return the topic of an event."""
    named = {"{type}": event.short_type, "{run}": event.run_id or NO_RUN}
    return re.sub(r"\{type\}|\{run\}", lambda match: _NOT_IN_A_LEVEL.sub("-", named[match.group()]), pattern)
