"""Reconciling: what of the pending changes a destination already holds.

Used where sending twice would show: on a store that appends points, after an answer was lost, and for a run that was
found on the destination instead of created. A point is (key, timestamp, step, value); NaN equals NaN. A value that
an SQL store cannot hold (an infinity) is there as the largest double.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping

Point = tuple[float, int, int]
NAN_KEY = "nan"


def normal(value: float) -> float | str:
    """Return a value that compares equal to what a destination gives back for it."""
    if math.isnan(value):
        return NAN_KEY
    if math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    return value


def point_key(value: float, timestamp_ms: int, step: int) -> tuple[float | str, int, int]:
    """Return a point's identity within its metric key."""
    return normal(value), timestamp_ms, step


def parse_line(line: bytes) -> tuple[str, float, int, int]:
    """Return (key, value, timestamp_ms, step) of a point in wire form."""
    point = json.loads(line)
    return point["key"], float(point["value"]), int(point["timestamp"]), int(point["step"])


def by_key(lines: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Group points in wire form by their metric key."""
    groups: dict[str, list[bytes]] = {}
    for line in lines:
        groups.setdefault(parse_line(line)[0], []).append(line)
    return groups


def changed_values(wanted: Mapping[str, str], held: Mapping[str, str]) -> dict[str, str]:
    """Return the params or tags that the destination does not hold with that value."""
    return {key: value for key, value in wanted.items() if held.get(key) != value}
