"""Times in messages: milliseconds since 1970 as a whole number, or RFC 3339 text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from syncd.core.metric_lines import INT64_MAX, INT64_MIN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_CHARACTERS = 64


def milliseconds_of(value: object) -> int:
    """Return ms since the epoch, UTC; what is finer than a millisecond is cut.

    Raises:
        ValueError: it is no time with a date and an offset, or beyond 64 bits.
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("not a time")
        if not INT64_MIN <= value <= INT64_MAX:
            raise ValueError("a number of milliseconds beyond 64 bits")
        return int(value)
    if len(value) > _MOST_CHARACTERS:
        raise ValueError("not a time")
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError("a time without an offset from UTC")
    return (at - _EPOCH) // timedelta(milliseconds=1)
