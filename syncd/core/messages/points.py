"""Metrics of a message as points in wire form (see ``syncd.core.facts``, rule 4)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from syncd.core.messages.times import milliseconds_of
from syncd.core.messages.wrong import Wrong, found_text, pointer
from syncd.core.metric_lines import INT64_MAX, INT64_MIN, SAFE_INTEGER, wire_value

Metrics = Mapping[str, Any] | Sequence[Mapping[str, Any]]

LONGEST_KEY: Final = 1000  # as syncd/schemas/messages/log.json has it
_FIELDS: Final = ("key", "value", "timestamp", "step")
_FIELDS_OF: Final = itemgetter(*_FIELDS)


class BadPoint(Exception):
    """A point is none; ``wrong`` says where below the metrics and why."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def regular_lines(metrics: Any) -> tuple[bytes, int] | None:
    """Return what ``lines_of`` does for a list of whole and ordinary points that nobody has checked yet.

    None for anything else, right or wrong: it goes the way of the schema and of ``lines_of``. Messages of many points
    are mostly such lists, and looking at each field of each point by itself takes ten times as long.
    """
    if type(metrics) is not list or set(map(type, metrics)) != {dict} or set(map(len, metrics)) != {len(_FIELDS)}:
        return None
    try:
        keys, values, timestamps, steps = zip(*map(_FIELDS_OF, metrics), strict=True)
        if not (_are_names(keys) and _are_numbers(values) and _are_int64(timestamps) and _are_int64(steps)):
            return None
    except (KeyError, OverflowError):  # of a double
        return None
    heads = {key: f'{{"key":{json.dumps(key, ensure_ascii=False)},"value":' for key in set(keys)}
    parts = ["", "", ',"timestamp":', "", ',"step":', "", "}\n"] * len(metrics)
    parts[0::7] = [heads[key] for key in keys]
    parts[1::7] = map(repr, values)
    parts[3::7] = map(str, timestamps)
    parts[5::7] = map(str, steps)
    parts[-1] = "}"
    return "".join(parts).encode(), len(metrics)


def _are_names(keys: Sequence[Any]) -> bool:
    return set(map(type, keys)) == {str} and all(0 < len(key) <= LONGEST_KEY for key in set(keys))


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether the ``repr`` of each is what ``wire_value`` says of it."""
    types = set(map(type, values))
    if not types <= {int, float} or not all(map(math.isfinite, values)):
        return False
    return int not in types or (min(values) > -SAFE_INTEGER and max(values) < SAFE_INTEGER)


def _are_int64(values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {int} and min(values) >= INT64_MIN and max(values) <= INT64_MAX


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
