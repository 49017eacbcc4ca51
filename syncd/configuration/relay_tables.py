"""Read a [[destinations]] table of kind ``relay`` (rules: see ``tables``)."""

from __future__ import annotations

import re
from typing import Final

from syncd.configuration.broker_settings import MqttBroker, ServiceBusEntity
from syncd.configuration.broker_tables import read_broker, read_entity
from syncd.configuration.filter_tables import read_filter
from syncd.configuration.reading import Table
from syncd.configuration.relay_settings import RelaySettings

VIA: Final = ("service-bus", "mqtt")
# Below this an artifact's name and path may leave no room for its bytes.
LEAST_MESSAGE_BYTES: Final = 16 * 1024


def read_relay(table: Table) -> RelaySettings | None:
    """Return the settings of a relay, None if it is not said by which broker (a problem is noted)."""
    table.has("kind")
    if table.has("uri"):
        table.refuse("uri", "a relay has no uri, but a broker", f"via = {' or '.join(map(repr, VIA))}")
    via = table.choice("via", VIA, "")
    if not table.has("via"):
        table.refuse("via", "a relay goes by a broker", f"via = {' or '.join(map(repr, VIA))}")
    if via not in VIA:
        for key in table.content:
            table.has(key)
        return None
    default = RelaySettings(name="", broker=ServiceBusEntity())
    broker: ServiceBusEntity | MqttBroker
    if via == "mqtt":
        broker, topic = read_broker(table), _read_topic(table, default.topic)
    else:
        broker, topic = read_entity(table, receives=False), default.topic
    settings = RelaySettings(
        name=table.name(),
        broker=broker,
        topic=topic,
        max_message_bytes=table.size_bytes("max_message_bytes", default.max_message_bytes),
        sessions=table.integer("sessions", default.sessions, minimum=1) if via == "service-bus" else default.sessions,
        max_concurrency=table.integer("max_concurrency", default.max_concurrency, minimum=1),
        bwlimit_bytes_s=table.size_bytes("bwlimit", 0) if table.has("bwlimit") else None,
        filter=read_filter(table.table("filters")),
    )
    if settings.max_message_bytes < LEAST_MESSAGE_BYTES:
        table.refuse("max_message_bytes", f"expected at least {LEAST_MESSAGE_BYTES // 1024}KiB")
    table.refuse_unknown_keys(of=f"a relay via {via}")
    return settings


def _read_topic(table: Table, default: str) -> str:
    topic = table.text("topic", default)
    if re.search(r"[{}+#\0]", topic.replace("{daemon}", "")):
        table.refuse("topic", "expected a topic without wildcards", "the placeholder is {daemon}")
    return topic
