"""From a message of azure-servicebus to one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from syncd.sources.messages import Message

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.amqp import AmqpAnnotatedMessage

# Annotations of the service: milliseconds since the epoch, and the number in the entity.
ENQUEUED_TIME: Final = b"x-opt-enqueued-time"
SEQUENCE_NUMBER: Final = b"x-opt-sequence-number"


def message_of(found: ServiceBusReceivedMessage, *, address: str, handle: object) -> Message:
    """Return the message; ``address`` is the entity it came from, ``handle`` what settles it.

    The AMQP message is read itself: the properties of ``found`` look at all fields again for each of theirs.
    """
    raw = found.raw_amqp_message
    properties, annotations = raw.properties, raw.annotations or {}
    return Message(
        id=_text(getattr(properties, "message_id", None)),
        body=_body(raw),
        content_type=_text(getattr(properties, "content_type", None)),
        headers=_headers(raw.application_properties) if raw.application_properties else {},
        address=address,
        session=_text(getattr(properties, "group_id", None)),
        sent_ms=annotations.get(ENQUEUED_TIME),
        deliveries=(getattr(raw.header, "delivery_count", None) or 0) + 1,
        packet=annotations.get(SEQUENCE_NUMBER, 0),
        handle=handle,
    )


def _body(raw: AmqpAnnotatedMessage) -> bytes:
    """Return the body's bytes; other clients may send a text as an AMQP value instead of as data."""
    from azure.servicebus.amqp import AmqpMessageBodyType

    body = raw.body
    if raw.body_type is AmqpMessageBodyType.DATA:
        return body if isinstance(body, bytes) else b"".join(body)
    return body if isinstance(body, bytes) else str(body).encode()


def _headers(properties: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(name).lower(): _text(value) for name, value in properties.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
