"""Settings of what speaks with a broker: sources of messages and sinks of events. Values, as in ``model``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from syncd.azure.sign_in import SignIn
from syncd.configuration.message_settings import MessageOptions
from syncd.configuration.secret import Secret
from syncd.configuration.sink_settings import SinkOptions

MqttProtocol = Literal["5", "3.1.1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusEntity:
    """A queue, a topic, or a topic's subscription of one namespace.

    Either ``connection_string`` or ``fully_qualified_namespace`` with ``sign_in``; either ``queue`` or ``topic``.
    ``subscription`` is "" where the topic is sent to.
    """

    connection_string: Secret | None = None
    fully_qualified_namespace: str = ""
    sign_in: SignIn | None = None
    queue: str = ""
    topic: str = ""
    subscription: str = ""

    @property
    def host(self) -> str:
        """The namespace's host, and its port if one is written."""
        if self.connection_string is None:
            return self.fully_qualified_namespace
        return connection_parts(self.connection_string).get("endpoint", "").removeprefix("sb://").strip("/")


def connection_parts(connection_string: Secret) -> dict[str, str]:
    """Return what a connection string of Service Bus says, by names in lower case."""
    parts = dict(part.partition("=")[::2] for part in connection_string.reveal().strip().rstrip(";").split(";"))
    return {key.strip().lower(): value.strip() for key, value in parts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttBroker:
    """A broker and how to connect to it; ``client_id`` "" is made from the host's and the source's name.

    The client's certificate and key are PEM files; both or none.
    """

    host: str
    port: int = 1883
    protocol: MqttProtocol = "5"
    tls: bool = False
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    username: str | None = None
    password: Secret | None = None
    client_id: str = ""
    keepalive_s: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusSourceSettings(MessageOptions):
    """Messages of a queue or subscription; where it has sessions, at most ``max_sessions`` are read side by side."""

    kind: ClassVar[str] = "service-bus"
    broker_keeps_refused: ClassVar[bool] = True
    entity: ServiceBusEntity
    max_sessions: int = 8

    @property
    def is_shared(self) -> bool:
        """Whether other daemons may be handed messages about the same runs: always, where several read."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSourceSettings(MessageOptions):
    """Messages of topics; ``topics`` are filters, with wildcards, or shared (``$share/GROUP/FILTER``).

    The broker keeps messages for this client for ``session_expiry_s`` while it is away (MQTT 5; in 3.1.1 the broker
    decides).
    """

    kind: ClassVar[str] = "mqtt"
    broker: MqttBroker
    topics: tuple[str, ...]
    session_expiry_s: float = 7 * 24 * 3600.0

    @property
    def is_shared(self) -> bool:
        """Whether other daemons may be handed messages about the same runs: where a subscription is shared."""
        return any(topic.startswith("$share/") for topic in self.topics)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusSinkSettings(SinkOptions):
    """Events to a queue or topic."""

    kind: ClassVar[str] = "service-bus"
    entity: ServiceBusEntity


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSinkSettings(SinkOptions):
    """Events to a topic; ``topic`` may hold ``{type}`` (without "dev.syncd.") and ``{run}`` ("-" for no run)."""

    kind: ClassVar[str] = "mqtt"
    broker: MqttBroker
    topic: str = "syncd/events/{type}/{run}"
