"""Reach a sink once, for ``syncd validate``: no event is sent, and a daemon that runs is not disturbed."""

from __future__ import annotations

from collections.abc import Mapping

from syncd.brokers.service_bus_sending import ServiceBusOutlet
from syncd.configuration.broker_settings import MqttSinkSettings, ServiceBusSinkSettings
from syncd.configuration.model import SinkSettings
from syncd.configuration.sink_settings import EventGridSinkSettings, WebhookSinkSettings
from syncd.errors import DestinationError, Rejected
from syncd.rest.answers import shown_url
from syncd.rest.client import Deadlines, RestClient
from syncd.runtime.broker_assembly import mqtt_address, service_bus_address
from syncd.runtime.broker_probe import probe_mqtt
from syncd.runtime.sink_assembly import event_grid_auth


class _AnyAnswer(RestClient):
    """Any answer will do: who takes events need not know what is asked here."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        return Rejected(str(status), status=status, doing=doing, target=target)


async def probe_sink(settings: SinkSettings) -> str:
    """Connect, and say in a few words to what.

    Raises:
        DestinationError: it does not answer, or refuses; nothing is tried again.
    """
    match settings:
        case MqttSinkSettings():
            return await probe_mqtt(mqtt_address(settings.broker, name=settings.name))
        case ServiceBusSinkSettings():
            address = service_bus_address(settings.entity)
            outlet = ServiceBusOutlet(address, what="events")
            try:
                await outlet.most_bytes()
            finally:
                await outlet.close()
            return f"{address} can be sent to"
        case WebhookSinkSettings():
            return await _probe_http(settings.url, settings)
        case EventGridSinkSettings():
            auth = event_grid_auth(settings)
            if auth is not None:
                await auth.token(False)  # raises where it cannot sign in
            return await _probe_http(settings.endpoint, settings)


async def _probe_http(url: str, settings: WebhookSinkSettings | EventGridSinkSettings) -> str:
    """Ask what may be done at an address, which changes nothing there."""
    ca_file = str(settings.ca_file) if settings.ca_file is not None else None
    async with _AnyAnswer(url, ca_file=ca_file, deadlines=Deadlines.within(settings.timeout_s)) as client:
        try:
            await client.exchange("OPTIONS", url, doing="reaching")
        except Rejected as error:
            if error.status >= 500:
                raise
    return f"{shown_url(url)} answers; whether it takes events is seen when syncd runs"
