"""A message's sections, and what the service adds to them when it delivers it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from tests.standins.service_bus.codec import Described, Symbol, Timestamp, UInt, ULong, decode, encode

BATCH_FORMAT = 0x80013700  # a transfer whose data sections are messages of their own


class Part(IntEnum):
    """Sections, by descriptor."""

    HEADER = 0x70
    DELIVERY_ANNOTATIONS = 0x71
    ANNOTATIONS = 0x72
    PROPERTIES = 0x73
    APPLICATION_PROPERTIES = 0x74
    DATA = 0x75
    SEQUENCE = 0x76
    VALUE = 0x77
    FOOTER = 0x78


_BODY = (Part.DATA, Part.SEQUENCE, Part.VALUE, Part.FOOTER)


def split(payload: bytes) -> list[tuple[int, Any, bytes]]:
    """Return the sections as (descriptor, value, bytes)."""
    at, sections = 0, []
    while at < len(payload):
        value, end = decode(payload, at)
        sections.append((int(value.descriptor), value.value, payload[at:end]))
        at = end
    return sections


def section(part: Part, value: Any) -> bytes:
    """Return one section."""
    return encode(Described(ULong(part), value))


def unpack_batch(payload: bytes, message_format: int) -> list[bytes]:
    """Return the messages of a transfer."""
    if message_format != BATCH_FORMAT:
        return [payload]
    return [bytes(value) for part, value, _ in split(payload) if part == Part.DATA]


def value_of(payload: bytes, part: Part) -> Any:
    """Return the value of the first such section, None if there is none."""
    return next((value for found, value, _ in split(payload) if found == part), None)


def compose(
    body: bytes,
    *,
    message_id: str = "",
    session: str = "",
    content_type: str = "",
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """Return a message as a client would send it."""
    fields = [message_id or None, None, None, None, None, None, Symbol(content_type) if content_type else None]
    fields += [None, None, None, session or None]
    extra = section(Part.APPLICATION_PROPERTIES, dict(properties)) if properties else b""
    return section(Part.PROPERTIES, fields) + extra + section(Part.DATA, body)


@dataclass(slots=True)
class Stored:
    """One message of an entity.

    It is *ready* while ``holder`` is None, else locked by that receiver under ``token`` until ``locked_until_s``.
    ``failures`` counts deliveries that were not settled; ``dead_letter`` holds reason and description in a dead-letter
    queue, ``origin`` the entity it was in before.
    """

    number: int
    payload: bytes
    enqueued_s: float = field(default_factory=time.time)
    failures: int = 0
    dead_letter: tuple[str, str] | None = None
    origin: str = ""
    id: str = ""
    session: str | None = None
    holder: object = None
    token: uuid.UUID = field(default_factory=uuid.uuid4)
    locked_until_s: float = 0.0

    def __post_init__(self) -> None:
        properties = value_of(self.payload, Part.PROPERTIES) or []
        self.id = str(properties[0] or "") if properties else ""
        self.session = properties[10] if len(properties) > 10 else None

    def delivered(self) -> bytes:
        """Return the message with the service's own annotations."""
        sections = split(self.payload)
        values = {part: value for part, value, _ in sections}
        header = (list(values.get(Part.HEADER) or []) + [None] * 5)[:5]
        header[4] = UInt(self.failures)
        annotations = {**(values.get(Part.ANNOTATIONS) or {}), **self._annotations()}
        application = dict(values.get(Part.APPLICATION_PROPERTIES) or {})
        if self.dead_letter is not None:
            application["DeadLetterReason"], application["DeadLetterErrorDescription"] = self.dead_letter
        head = section(Part.HEADER, header) + section(Part.ANNOTATIONS, annotations)
        properties = b"".join(raw for part, _, raw in sections if part == Part.PROPERTIES)
        extra = section(Part.APPLICATION_PROPERTIES, application) if application else b""
        return head + properties + extra + b"".join(raw for part, _, raw in sections if part in _BODY)

    def _annotations(self) -> dict[Symbol, Any]:
        found = {
            Symbol("x-opt-sequence-number"): self.number,
            Symbol("x-opt-enqueue-sequence-number"): self.number,
            Symbol("x-opt-enqueued-time"): Timestamp(self.enqueued_s * 1000),
            Symbol("x-opt-locked-until"): Timestamp(self.locked_until_s * 1000),
        }
        if self.origin:
            found[Symbol("x-opt-deadletter-source")] = self.origin
        return found

    def body(self) -> bytes:
        """Return the data sections joined."""
        return b"".join(bytes(value) for part, value, _ in split(self.payload) if part == Part.DATA)

    def text_properties(self) -> dict[str, str]:
        """Return the application properties as texts, for tests that look."""
        return {
            str(name): str(value) for name, value in (value_of(self.payload, Part.APPLICATION_PROPERTIES) or {}).items()
        }

    def content_type(self) -> str:
        """Return the content type of the properties."""
        properties = value_of(self.payload, Part.PROPERTIES) or []
        return str(properties[6] or "") if len(properties) > 6 else ""
