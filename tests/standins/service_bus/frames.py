"""AMQP frames: a channel, a performative (an operation of the protocol with its fields), a payload."""

from __future__ import annotations

import asyncio
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from tests.standins.service_bus.codec import Array, Described, Symbol, UByte, ULong, decode, encode

AMQP, SASL = 0, 1
SASL_HEADER_ID = 3
MAX_FRAME_BYTES = 65536
_HEAD = struct.Struct(">IBBH")


class Op(IntEnum):
    """The performatives, by descriptor."""

    OPEN = 0x10
    BEGIN = 0x11
    ATTACH = 0x12
    FLOW = 0x13
    TRANSFER = 0x14
    DISPOSITION = 0x15
    DETACH = 0x16
    END = 0x17
    CLOSE = 0x18


class Outcome(IntEnum):
    """How a delivery ended, by descriptor."""

    ACCEPTED = 0x24
    REJECTED = 0x25
    RELEASED = 0x26
    MODIFIED = 0x27


class Frame(NamedTuple):
    """One frame; ``code`` is None for an empty one, which only keeps the connection alive."""

    channel: int
    code: int | None
    fields: list[Any]
    payload: bytes


def frame(channel: int, code: int | None = None, fields: list[Any] | None = None, payload: bytes = b"") -> bytes:
    """Return a frame as it goes over the wire; fields that are None at the end are left out."""
    body = b"" if code is None else _performative(code, fields or []) + payload
    return _HEAD.pack(8 + len(body), 2, AMQP, channel) + body


def sasl_frame(code: int, fields: list[Any]) -> bytes:
    """Return a frame of the handshake that comes before the protocol itself."""
    body = _performative(code, fields)
    return _HEAD.pack(8 + len(body), 2, SASL, 0) + body


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Return the next frame."""
    size, offset, _, channel = _HEAD.unpack(await reader.readexactly(8))
    body = (await reader.readexactly(size - 8))[offset * 4 - 8 :]
    if not body:
        return Frame(channel, None, [], b"")
    performative, end = decode(body)
    return Frame(channel, int(performative.descriptor), performative.value, body[end:])


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the protocol headers and let any SASL mechanism pass: tokens are shown later, to ``$cbs``."""
    header = await reader.readexactly(8)
    if header[4] == SASL_HEADER_ID:
        mechanisms = Array([Symbol("MSSBCBS"), Symbol("ANONYMOUS"), Symbol("EXTERNAL")])
        writer.write(header + sasl_frame(0x40, [mechanisms]))
        await read_frame(reader)
        writer.write(sasl_frame(0x44, [UByte(0)]))
        header = await reader.readexactly(8)
    writer.write(header)


def outcome(kind: Outcome, fields: list[Any] | None = None) -> Described:
    """Return a delivery's outcome."""
    return Described(ULong(kind), fields or [])


def error(condition: str, description: str) -> Described:
    """Return an error; azure-servicebus 7.15 waits for ever on one that has not all three fields."""
    return Described(ULong(0x1D), [Symbol(condition), description, {}])


def _performative(code: int, fields: list[Any]) -> bytes:
    while fields and fields[-1] is None:
        fields = fields[:-1]
    return encode(Described(ULong(code), list(fields)))
