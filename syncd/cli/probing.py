"""Reach a destination, a broker or a sink once, for ``syncd validate`` and ``syncd doctor``."""

from __future__ import annotations

from syncd.configuration import (
    DestinationSettings,
    MessageSourceSettings,
    MqttBroker,
    RelaySettings,
    SinkSettings,
    WebhookSettings,
)


async def probe_message_source(settings: MessageSourceSettings) -> str:
    """Reach a broker with its credentials and say in a few words what was found; nothing is received.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    from syncd.runtime.broker_probe import probe_broker

    if isinstance(settings, WebhookSettings):
        return f"POST /hooks/{settings.name} when syncd runs"
    return await probe_broker(settings)


async def probe_sink(settings: SinkSettings) -> str:
    """Reach a sink and say in a few words what was found; no event is sent.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    from syncd.runtime import sink_probe

    return await sink_probe.probe_sink(settings)


async def probe_destination(settings: DestinationSettings | RelaySettings) -> str:
    """Reach a destination with its credentials and say in a few words what it is.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    if isinstance(settings, RelaySettings):
        return await _probe_relay(settings)
    from syncd.runtime.assembly import open_doors

    destination, _ = await open_doors(settings)
    try:
        facts = await destination.probe()
    finally:
        await destination.close()
    if settings.workspace is not None:
        return f"Azure Machine Learning, {'logged models' if facts.logged_models else 'no logged models'}"
    abilities = [
        "logged models" if facts.logged_models else "no logged models",
        "proxied artifacts" if facts.proxied_artifacts else "direct artifacts",
    ]
    return ", ".join([f"MLflow {facts.version}" if facts.version else "version unknown", *abilities])


async def _probe_relay(settings: RelaySettings) -> str:
    from syncd.runtime.broker_assembly import mqtt_address
    from syncd.runtime.broker_probe import probe_mqtt
    from syncd.runtime.relay_assembly import open_relay

    if isinstance(settings.broker, MqttBroker):
        return await probe_mqtt(mqtt_address(settings.broker, name=settings.name))
    outlet = open_relay(settings, daemon="")
    try:
        takes_bytes = await outlet.probe()
    finally:
        await outlet.close()
    return "a relay" + (f", messages of at most {takes_bytes} bytes" if takes_bytes is not None else "")
