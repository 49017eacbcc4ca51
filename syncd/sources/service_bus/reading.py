"""From a message of azure-servicebus to one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncd.sources.messages import Message

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage

    from syncd.sources.service_bus.links import Link


@dataclass(frozen=True, slots=True)
class Handle:
    """What settles a message: the link that has it in hand, and its number there."""

    link: Link
    number: int


def message_of(found: ServiceBusReceivedMessage, *, address: str, link: Link) -> Message:
    """Return the message; ``address`` is the entity it came from."""
    return Message(
        id=found.message_id or "",
        body=_body(found),
        content_type=_text(found.content_type),
        headers=_headers(found.application_properties or {}),
        address=address,
        session=found.session_id or "",
        sent_ms=_milliseconds(found.enqueued_time_utc),
        deliveries=(found.delivery_count or 0) + 1,
        handle=Handle(link, found.sequence_number or 0),
    )


def _body(found: ServiceBusReceivedMessage) -> bytes:
    """Return the body's bytes; other clients may send a text as an AMQP value instead of as data."""
    from azure.servicebus.amqp import AmqpMessageBodyType

    if found.body_type is AmqpMessageBodyType.DATA:
        return found.body if isinstance(found.body, bytes) else b"".join(found.body)
    return found.body if isinstance(found.body, bytes) else str(found.body).encode()


def _headers(properties: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(name).lower(): _text(value) for name, value in properties.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _milliseconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp() * 1000) if moment is not None else None
