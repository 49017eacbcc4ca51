"""Metrics of a message as points in wire form (see ``syncd.core.facts``, rule 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from syncd.core.messages.times import milliseconds_of
from syncd.core.metric_lines import wire_value
from syncd.core.wrong import Wrong, found_text, pointer

Metrics = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class BadPoint(Exception):
    """A point is none; ``wrong`` says where below the metrics and why."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def lines_of(metrics: Metrics, *, timestamp_ms: int, step: int) -> tuple[bytes, int]:
    """Return the points of a valid ``metrics`` field, joined by newlines, and their number.

    Args:
        metrics: names and values, or points with ``key``, ``value`` and their own ``timestamp`` and ``step``.
        timestamp_ms: of points that have none of their own.
        step: likewise.

    Raises:
        BadPoint: what a schema cannot say: a time that is none, a number beyond a double.
    """
    if isinstance(metrics, Mapping):
        lines = [_line(key, value, timestamp_ms, step, place=(key,)) for key, value in metrics.items()]
    else:
        lines = [_point(point, timestamp_ms, step, index) for index, point in enumerate(metrics)]
    return b"\n".join(lines), len(lines)


def _point(point: Mapping[str, Any], timestamp_ms: int, step: int, index: int) -> bytes:
    own = point.get("timestamp")
    if own is not None:
        try:
            timestamp_ms = milliseconds_of(own)
        except ValueError:
            raise BadPoint(bad_time(own).below(index, "timestamp")) from None
    return _line(point["key"], point["value"], timestamp_ms, int(point.get("step", step)), place=(index, "value"))


def _line(key: str, value: float | str, timestamp_ms: int, step: int, *, place: tuple[str | int, ...]) -> bytes:
    try:
        text = wire_value(float(value) if isinstance(value, str) else value)
    except OverflowError:
        raise BadPoint(Wrong(pointer(place), "expected a number that a double can hold")) from None
    name = json.dumps(key, ensure_ascii=False).encode()
    return b'{"key":%s,"value":%s,"timestamp":%d,"step":%d}' % (name, text, timestamp_ms, step)


def bad_time(value: Any) -> Wrong:
    """Return what is wrong with a value that is no time."""
    return Wrong("", f'expected milliseconds since 1970 or "2026-01-02T03:04:05Z", found {found_text(value)}')
