"""Makes event sinks from settings: the only place that knows every one of them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from syncd.azure.clouds import authority_of_host
from syncd.azure.credentials import Credentials
from syncd.configuration.model import SinkSettings
from syncd.configuration.sink_settings import EventGridSinkSettings, WebhookSinkSettings
from syncd.core.webhook_signature import key_of
from syncd.rest.client import BearerAuth
from syncd.runtime.broker_assembly import open_broker_sink
from syncd.sinks.base import EventSink
from syncd.sinks.event_grid import SCOPE, EventGridSink
from syncd.sinks.webhook import WebhookSink


def open_sink(settings: SinkSettings) -> EventSink:
    """Return the sink that the settings name; nothing is sent yet."""
    match settings:
        case WebhookSinkSettings():
            return WebhookSink(
                settings.url,
                keys=[key_of(secret.reveal()) for secret in settings.secrets],
                ca_file=_text(settings.ca_file),
                timeout_s=settings.timeout_s,
            )
        case EventGridSinkSettings():
            return _open_event_grid(settings)
        case _:
            return open_broker_sink(settings)


def events_together(settings: SinkSettings) -> int:
    """Return how many events a sink is handed at most at a time: those that it takes in one request."""
    return 1 if isinstance(settings, WebhookSinkSettings) else 64


def _open_event_grid(settings: EventGridSinkSettings) -> EventGridSink:
    key = settings.key.reveal() if settings.key is not None else ""
    return EventGridSink(
        settings.endpoint,
        key=key,
        auth=event_grid_auth(settings),
        ca_file=_text(settings.ca_file),
        timeout_s=settings.timeout_s,
    )


def event_grid_auth(settings: EventGridSinkSettings) -> BearerAuth | None:
    """Return how a sink signs in, None where it has a key."""
    if settings.sign_in is None:
        return None
    authority_host, ca_file = authority_of_host(urlsplit(settings.endpoint).hostname or ""), _text(settings.ca_file)
    return BearerAuth(Credentials(settings.sign_in, authority_host=authority_host, ca_file=ca_file).provider(SCOPE))


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
