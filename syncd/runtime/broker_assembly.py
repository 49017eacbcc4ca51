"""Makes sources and sinks of brokers from settings. The libraries of a broker are imported when it is reached."""

from __future__ import annotations

import socket

from syncd.azure.clouds import authority_of_host
from syncd.azure.credentials import Credentials
from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.service_bus import ServiceBusAddress
from syncd.configuration.broker_settings import (
    MqttBroker,
    MqttSinkSettings,
    MqttSourceSettings,
    ServiceBusEntity,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
)
from syncd.sinks.base import EventSink
from syncd.sinks.mqtt import MqttSink
from syncd.sinks.service_bus import ServiceBusSink
from syncd.sources.messages import MessageSource
from syncd.sources.mqtt import MqttSource
from syncd.sources.service_bus import ServiceBusReturn, ServiceBusSource


def open_broker_source(settings: ServiceBusSourceSettings | MqttSourceSettings) -> MessageSource:
    """Return the source that the settings name; nothing is connected yet."""
    if isinstance(settings, ServiceBusSourceSettings):
        address = service_bus_address(settings.entity)
        return ServiceBusSource(settings.name, address, max_sessions=settings.max_sessions, relayed=settings.relay)
    return MqttSource(
        settings.name,
        mqtt_address(settings.broker, name=settings.name),
        settings.topics,
        session_expiry_s=settings.session_expiry_s,
    )


def open_broker_return(settings: ServiceBusSourceSettings | MqttSourceSettings) -> ServiceBusReturn | None:
    """Return what sends into the entity that a source receives from; None where that is never wanted."""
    if isinstance(settings, ServiceBusSourceSettings) and settings.relay:
        return ServiceBusReturn(service_bus_address(settings.entity))
    return None


def open_broker_sink(settings: ServiceBusSinkSettings | MqttSinkSettings) -> EventSink:
    """Return the sink that the settings name; nothing is connected yet."""
    if isinstance(settings, ServiceBusSinkSettings):
        return ServiceBusSink(service_bus_address(settings.entity))
    return MqttSink(mqtt_address(settings.broker, name=f"{settings.name}-events"), settings.topic)


def service_bus_address(entity: ServiceBusEntity) -> ServiceBusAddress:
    """Return where an entity is and how to sign in there."""
    credential = None
    if entity.sign_in is not None:
        authority_host = authority_of_host(entity.fully_qualified_namespace)
        credential = Credentials(entity.sign_in, authority_host=authority_host)
    return ServiceBusAddress(
        connection_string=entity.connection_string.reveal() if entity.connection_string else "",
        namespace=entity.fully_qualified_namespace,
        credential=credential,
        queue=entity.queue,
        topic=entity.topic,
        subscription=entity.subscription,
    )


def mqtt_address(broker: MqttBroker, *, name: str) -> MqttAddress:
    """Return where a broker is and as whom to connect; the session belongs to this host and the configured name."""
    return MqttAddress(
        host=broker.host,
        port=broker.port,
        client_id=broker.client_id or f"syncd-{socket.gethostname()}-{name}",
        version_5=broker.protocol == "5",
        tls=broker.tls,
        ca_file=broker.ca_file,
        client_certificate=broker.client_certificate,
        client_key=broker.client_key,
        username=broker.username,
        password=broker.password.reveal() if broker.password else None,
        keepalive_s=broker.keepalive_s,
    )
