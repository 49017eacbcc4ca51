"""AMQP 1.0 types, decoded so that encoding them again gives the same types (amqp-core-types-v1.0, section 1.6)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class UByte(int):
    """0 to 255."""


class UShort(int):
    """16 bits."""


class UInt(int):
    """32 bits."""


class ULong(int):
    """64 bits."""


class Byte(int):
    """8 bits, signed."""


class Short(int):
    """16 bits, signed."""


class Int(int):
    """32 bits, signed."""


class Timestamp(int):
    """Milliseconds since the epoch."""


class Float(float):
    """32 bits."""


class Char(int):
    """One character."""


class Symbol(str):
    """An ASCII name; compares equal to the text."""

    __slots__ = ()


class Array(list[Any]):
    """Values of one type."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor, which says what it is."""

    descriptor: Any
    value: Any


def decode(data: bytes | memoryview, at: int = 0) -> tuple[Any, int]:
    """Return the value that begins at that place, and where it ends."""
    code = data[at]
    if code == 0x00:
        descriptor, at = decode(data, at + 1)
        value, at = decode(data, at)
        return Described(descriptor, value), at
    return _decode_body(code, data, at + 1)


def _decode_body(code: int, data: bytes | memoryview, at: int) -> tuple[Any, int]:
    if code in _CONSTANTS:
        return _CONSTANTS[code](), at
    if code in _FIXED:
        layout, make = _FIXED[code]
        return make(layout.unpack_from(data, at)[0]), at + layout.size
    if code in _VARIABLE:
        layout, of_bytes = _VARIABLE[code]
        begin = at + layout.size
        end = begin + layout.unpack_from(data, at)[0]
        return of_bytes(bytes(data[begin:end])), end
    if code in (0xC0, 0xC1, 0xD0, 0xD1):
        return _decode_compound(code, data, at)
    if code in (0xE0, 0xF0):
        return _decode_array(code, data, at)
    raise ValueError(f"unknown AMQP constructor 0x{code:02x}")


def _decode_compound(code: int, data: bytes | memoryview, at: int) -> tuple[Any, int]:
    layout = struct.Struct(">BB" if code < 0xD0 else ">II")
    _, count = layout.unpack_from(data, at)
    at += layout.size
    items = []
    for _ in range(count):
        item, at = decode(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if code & 1 else items), at


def _decode_array(code: int, data: bytes | memoryview, at: int) -> tuple[Any, int]:
    layout = struct.Struct(">BB" if code == 0xE0 else ">II")
    _, count = layout.unpack_from(data, at)
    at += layout.size
    constructor = data[at]
    at += 1
    array = Array()
    for _ in range(count):
        item, at = _decode_body(constructor, data, at)
        array.append(item)
    return array, at


def encode(value: Any) -> bytes:
    """Return the value in AMQP's form; plain Python values get the type that is nearest."""
    for kind in type(value).__mro__:
        if kind in _ENCODERS:
            return _ENCODERS[kind](value)
    raise TypeError(type(value))


def _sized(short: int, long: int) -> Callable[[bytes], bytes]:
    def encode_sized(data: bytes) -> bytes:
        head = struct.pack(">BB", short, len(data)) if len(data) < 256 else struct.pack(">BI", long, len(data))
        return head + data

    return encode_sized


_binary, _text, _symbol = _sized(0xA0, 0xB0), _sized(0xA1, 0xB1), _sized(0xA3, 0xB3)


def _compound(short: int, items: list[Any]) -> bytes:
    body = b"".join(map(encode, items))
    if len(body) < 255 and len(items) < 256:
        return struct.pack(">BBB", short, len(body) + 1, len(items)) + body
    return struct.pack(">BII", short + 0x10, len(body) + 4, len(items)) + body


def _array(array: Array) -> bytes:
    if not array:
        return struct.pack(">BIIB", 0xF0, 5, 0, 0x40)
    for kind, (constructor, encode_item) in _ARRAY_ITEMS.items():
        if isinstance(array[0], kind):
            body = b"".join(map(encode_item, array))
            return struct.pack(">BIIB", 0xF0, 5 + len(body), len(array), constructor) + body
    raise TypeError(f"array of {type(array[0])}")


def _packed(layout: str, code: int) -> Callable[[Any], bytes]:
    packer = struct.Struct(layout)
    return lambda value: packer.pack(code, value)


def _uint(value: int) -> bytes:
    if value == 0:
        return b"\x43"
    return struct.pack(">BB", 0x52, value) if value < 256 else struct.pack(">BI", 0x70, value)


def _ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    return struct.pack(">BB", 0x53, value) if value < 256 else struct.pack(">BQ", 0x80, value)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\x40",
    bool: lambda value: b"\x41" if value else b"\x42",
    Described: lambda value: b"\x00" + encode(value.descriptor) + encode(value.value),
    UByte: _packed(">BB", 0x50),
    UShort: _packed(">BH", 0x60),
    UInt: _uint,
    ULong: _ulong,
    Byte: _packed(">Bb", 0x51),
    Short: _packed(">Bh", 0x61),
    Int: _packed(">Bi", 0x71),
    Timestamp: _packed(">Bq", 0x83),
    Char: _packed(">BI", 0x73),
    int: _packed(">Bq", 0x81),
    Float: _packed(">Bf", 0x72),
    float: _packed(">Bd", 0x82),
    uuid.UUID: lambda value: b"\x98" + value.bytes,
    bytes: _binary,
    bytearray: lambda value: _binary(bytes(value)),
    Symbol: lambda value: _symbol(value.encode("ascii")),
    str: lambda value: _text(value.encode()),
    Array: _array,
    dict: lambda value: _compound(0xC1, [part for pair in value.items() for part in pair]),
    list: lambda value: _compound(0xC0, value) if value else b"\x45",
}

_ARRAY_ITEMS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    Symbol: (0xB3, lambda item: struct.pack(">I", len(item)) + item.encode("ascii")),
    Timestamp: (0x83, struct.Struct(">q").pack),
    uuid.UUID: (0x98, lambda item: item.bytes),
    int: (0x81, struct.Struct(">q").pack),
}

_CONSTANTS: dict[int, Callable[[], Any]] = {
    0x40: lambda: None,
    0x41: lambda: True,
    0x42: lambda: False,
    0x43: lambda: UInt(0),
    0x44: lambda: ULong(0),
    0x45: list,
}

_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any]]] = {
    0x50: (struct.Struct(">B"), UByte),
    0x51: (struct.Struct(">b"), Byte),
    0x52: (struct.Struct(">B"), UInt),
    0x53: (struct.Struct(">B"), ULong),
    0x54: (struct.Struct(">b"), Int),
    0x55: (struct.Struct(">b"), int),
    0x56: (struct.Struct(">?"), bool),
    0x60: (struct.Struct(">H"), UShort),
    0x61: (struct.Struct(">h"), Short),
    0x70: (struct.Struct(">I"), UInt),
    0x71: (struct.Struct(">i"), Int),
    0x72: (struct.Struct(">f"), Float),
    0x73: (struct.Struct(">I"), Char),
    0x80: (struct.Struct(">Q"), ULong),
    0x81: (struct.Struct(">q"), int),
    0x82: (struct.Struct(">d"), float),
    0x83: (struct.Struct(">q"), Timestamp),
    0x98: (struct.Struct(">16s"), lambda data: uuid.UUID(bytes=data)),
}

_VARIABLE: dict[int, tuple[struct.Struct, Callable[[bytes], Any]]] = {
    0xA0: (struct.Struct(">B"), bytes),
    0xA1: (struct.Struct(">B"), lambda data: data.decode()),
    0xA3: (struct.Struct(">B"), lambda data: Symbol(data.decode("ascii"))),
    0xB0: (struct.Struct(">I"), bytes),
    0xB1: (struct.Struct(">I"), lambda data: data.decode()),
    0xB3: (struct.Struct(">I"), lambda data: Symbol(data.decode("ascii"))),
}
