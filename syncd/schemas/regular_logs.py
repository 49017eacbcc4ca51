"""Read the usual log messages at once: parsed, checked and rendered in one pass over the bytes each.

Rules
-----
1. What is read here is what ``check`` and ``core.messages`` make of the same bytes (tests/unit/test_regular_logs.py).
   Whatever else comes, right or wrong, is None here, and they say what it is or what is wrong with it.
2. The bounds are those of ``messages/log.json``. Nothing is nested deeper than these types are.

msgspec takes a tenth of the time that json, the schema and Python take for 3 points, and a sixth for 50 (measured
2026-11). Only who reads messages imports it: it takes 1 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec import UNSET, DecodeError, Meta, Struct, UnsetType, to_builtins
from msgspec.json import Decoder, Encoder

from syncd.core.messages.envelopes import (
    LOG_TYPE,
    LONGEST_ATTRIBUTE,
    MOST_EVENTS,
    CheckedLog,
    Envelope,
    Regular,
    cloud_event_identity,
)
from syncd.core.messages.times import milliseconds_of
from syncd.core.metric_lines import INT64_MAX, INT64_MIN, SAFE_INTEGER

T = TypeVar("T")

_Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
_Whole = Annotated[int, Meta(gt=-SAFE_INTEGER, lt=SAFE_INTEGER)]  # the rest is no whole number in wire form
_Value = _Whole | float | Literal["NaN", "Infinity", "-Infinity"]
_Name = Annotated[str, Meta(min_length=1, max_length=1000)]
_Text256 = Annotated[str, Meta(min_length=1, max_length=256)]
_Text250 = Annotated[str, Meta(min_length=1, max_length=250)]
_Texts = Annotated[dict[_Name, str], Meta(max_length=10_000)]
_Attribute = Annotated[str, Meta(min_length=1, max_length=LONGEST_ATTRIBUTE)]


class _Point(Struct, forbid_unknown_fields=True, gc=False):
    """One point; its fields are in the order of the wire form."""

    key: _Name
    value: _Value
    timestamp: _Int64 | UnsetType = UNSET
    step: _Int64 | UnsetType = UNSET


class _Run(Struct, forbid_unknown_fields=True, omit_defaults=True):
    id: _Text256
    name: _Text250 | UnsetType = UNSET


class RegularLog(Struct, CheckedLog, forbid_unknown_fields=True):
    """The data of one ``dev.syncd.log``."""

    run: _Text256 | _Run | UnsetType = UNSET
    device: _Text256 | UnsetType = UNSET
    experiment: _Text250 | UnsetType = UNSET
    metrics: dict[_Name, _Value] | list[_Point] | UnsetType = UNSET
    step: _Int64 | UnsetType = UNSET
    timestamp: _Int64 | UnsetType = UNSET
    params: _Texts | UnsetType = UNSET
    tags: _Texts | UnsetType = UNSET

    def fields(self) -> dict[str, Any]:
        """Return what it holds beside its metrics."""
        found = {name: value for name in _BESIDE_METRICS if (value := getattr(self, name)) is not UNSET}
        if isinstance(self.run, _Run):
            found["run"] = to_builtins(self.run)
        return found

    def lines(self, *, timestamp_ms: int, step: int) -> tuple[bytes, int]:
        """Return its points in wire form, joined by newlines, and their number."""
        metrics = self.metrics
        if metrics is UNSET or not metrics:
            return b"", 0
        if isinstance(metrics, dict):
            metrics = [_Point(key, value, timestamp_ms, step) for key, value in metrics.items()]
        else:
            for point in metrics:
                if point.timestamp is UNSET:
                    point.timestamp = timestamp_ms
                if point.step is UNSET:
                    point.step = step
        return _LINES.encode_lines(metrics)[:-1], len(metrics)


_BESIDE_METRICS: Final = tuple(name for name in RegularLog.__struct_fields__ if name != "metrics")


class _Event(Struct, forbid_unknown_fields=True):
    specversion: Literal["1.0"]
    type: Literal["dev.syncd.log"]
    source: _Attribute
    id: _Attribute
    data: RegularLog
    subject: Annotated[str, Meta(max_length=LONGEST_ATTRIBUTE)] = ""
    time: str | UnsetType = UNSET
    datacontenttype: Literal["application/json"] | UnsetType = UNSET


_LOG: Final = Decoder(RegularLog)
_EVENT: Final = Decoder(_Event)
_EVENTS: Final = Decoder(Annotated[list[_Event], Meta(min_length=1, max_length=MOST_EVENTS)])
_LINES: Final = Encoder()


def regular_log(body: bytes) -> RegularLog | None:
    """Return the data of a ``dev.syncd.log``, of which the body is all."""
    return _read(_LOG.decode, body)


def regular_events(body: bytes) -> list[Envelope] | None:
    """Return the events of a body that holds one CloudEvent, or several, each a ``dev.syncd.log``."""
    if body[:1] == b"[":
        events = _read(_EVENTS.decode, body)
    else:
        event = _read(_EVENT.decode, body)
        events = None if event is None else [event]
    try:
        return None if events is None else [_envelope(event) for event in events]
    except ValueError:  # a time that is none
        return None


def _read(decode: Callable[[bytes], T], body: bytes) -> T | None:
    try:
        return decode(body)
    except (DecodeError, UnicodeDecodeError):
        return None


def _envelope(event: _Event) -> Envelope:
    return Envelope(
        type=LOG_TYPE,
        source=event.source,
        identity=cloud_event_identity(event.source, event.id),
        subject=event.subject,
        time_ms=None if event.time is UNSET else milliseconds_of(event.time),
        data=event.data,
        place=("data",),
    )


REGULAR: Final = Regular(log=regular_log, events=regular_events)
