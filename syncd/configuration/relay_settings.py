"""Settings of a relay: a destination that is a broker, behind which another syncd receives. Values, as in ``model``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from syncd.configuration.broker_settings import MqttBroker, ServiceBusEntity
from syncd.core.filters import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Everything of the sources to a queue or topic; ``topic`` is used with MQTT only and may hold ``{daemon}``.

    No message is larger than ``max_message_bytes``. What belongs together stays in one of ``sessions`` sessions (of
    Service Bus). At most ``max_concurrency`` calls are under way at once.
    """

    kind: ClassVar[str] = "relay"
    name: str
    broker: ServiceBusEntity | MqttBroker
    topic: str = "syncd/relay/{daemon}"
    max_message_bytes: int = 256 * 1024
    sessions: int = 64
    max_concurrency: int = 6
    bwlimit_bytes_s: int | None = None
    filter: Filter = field(default_factory=Filter)

    @property
    def uri(self) -> str:
        """What tells this broker and entity from others; no credential is in it."""
        if isinstance(self.broker, MqttBroker):
            return f"{'mqtts' if self.broker.tls else 'mqtt'}://{self.broker.host}:{self.broker.port}/{self.topic}"
        return f"sb://{self.broker.host}/{self.broker.queue or self.broker.topic}"
