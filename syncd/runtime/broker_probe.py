"""Reach the broker of a message source once, for ``syncd validate``: nothing is received, no session is taken over."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt import translated as mqtt_error
from syncd.brokers.service_bus import ServiceBusAddress
from syncd.brokers.service_bus import translated as service_bus_error
from syncd.configuration.broker_settings import MqttSourceSettings, ServiceBusSourceSettings
from syncd.runtime.broker_assembly import mqtt_address, service_bus_address


async def probe_broker(settings: ServiceBusSourceSettings | MqttSourceSettings) -> str:
    """Connect, and say in a few words to what.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    if isinstance(settings, ServiceBusSourceSettings):
        return await _probe_service_bus(service_bus_address(settings.entity), needs_sessions=settings.relay)
    return await probe_mqtt(mqtt_address(settings.broker, name=settings.name))


async def _probe_service_bus(address: ServiceBusAddress, *, needs_sessions: bool) -> str:
    """Open a link to the entity's dead letters, or to a session that nobody sends to.

    Who may receive there may receive, and no message is disturbed.
    """
    from azure.servicebus import ServiceBusSubQueue

    options: dict[str, Any] = {"sub_queue": ServiceBusSubQueue.DEAD_LETTER}
    if needs_sessions:
        options = {"session_id": f"syncd-validate-{uuid.uuid4().hex}"}
    try:
        async with address.open_client() as client:
            if address.queue:
                receiver = client.get_queue_receiver(address.queue, **options)
            else:
                receiver = client.get_subscription_receiver(address.topic, address.subscription, **options)
            async with receiver:
                return f"{address} can be received from"
    except Exception as exc:
        raise service_bus_error(exc, doing="connecting to", address=address) from exc


async def probe_mqtt(address: MqttAddress) -> str:
    """Connect as another client: the daemon's own session stays as it is, and so does the daemon's connection.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    from syncd.brokers.mqtt_client import open_client

    other = replace(address, client_id=f"{address.client_id}-validate")
    try:
        async with await open_client(other):
            return f"{address} answers; whether it allows the topics is seen when syncd runs"
    except Exception as exc:
        raise mqtt_error(exc, doing="connecting to", address=address) from exc
