"""The planner: cuts what waits into requests within a destination's limits, and cuts refused ones smaller.

Rules
-----
1. Nothing is dropped: every item of the input is in exactly one batch or in the overflow.
2. No batch is over a limit, except that a single item is never cut.
3. A point knows the change it came from, so that a change is settled when its last point is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from syncd.core.changes import Change
from syncd.core.limits import Limits

# What a log-batch body costs besides its items: names, braces, a run id. Taken off batch_bytes.
ENVELOPE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Points:
    """Some points of one change, in wire form."""

    seq: int
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """Points for one log-batch request."""

    parts: tuple[Points, ...]

    @property
    def count(self) -> int:
        """The number of points."""
        return sum(len(part.lines) for part in self.parts)

    @property
    def lines(self) -> list[bytes]:
        """All points in order."""
        return [line for part in self.parts for line in part.lines]

    def halves(self) -> tuple[MetricBatch, MetricBatch]:
        """Return the two halves of a batch of at least two points."""
        return self._slice(0, self.count // 2), self._slice(self.count // 2, self.count)

    def divide(self, belongs: Callable[[bytes], bool]) -> tuple[MetricBatch, MetricBatch]:
        """Return the batch of the points for which ``belongs`` holds, and the batch of the others."""
        inside = (Points(part.seq, [line for line in part.lines if belongs(line)]) for part in self.parts)
        outside = (Points(part.seq, [line for line in part.lines if not belongs(line)]) for part in self.parts)
        return (
            MetricBatch(tuple(part for part in inside if part.lines)),
            MetricBatch(tuple(part for part in outside if part.lines)),
        )

    def _slice(self, start: int, stop: int) -> MetricBatch:
        parts, at = [], 0
        for part in self.parts:
            lines = part.lines[max(start - at, 0) : max(stop - at, 0)]
            if lines:
                parts.append(Points(part.seq, lines))
            at += len(part.lines)
        return MetricBatch(tuple(parts))


def cut_points(points: Iterable[Points], limits: Limits) -> Iterator[MetricBatch]:
    """Yield batches of at most ``batch_metrics`` points and ``batch_bytes`` bytes, in the order of the input."""
    most = min(limits.batch_metrics, limits.batch_items)
    room_bytes = limits.batch_bytes - ENVELOPE_BYTES
    parts: list[Points] = []
    count = size = 0
    for part in points:
        start = 0
        while start < len(part.lines):
            taken, taken_bytes = _fitting(part.lines, start, most - count, room_bytes - size, empty=count == 0)
            if taken:
                whole = start == 0 and taken == len(part.lines)
                parts.append(part if whole else Points(part.seq, part.lines[start : start + taken]))
                start, count, size = start + taken, count + taken, size + taken_bytes
            if start < len(part.lines):
                yield MetricBatch(tuple(parts))
                parts, count, size = [], 0, 0
    if parts:
        yield MetricBatch(tuple(parts))


def _fitting(lines: Sequence[bytes], start: int, room: int, room_bytes: int, *, empty: bool) -> tuple[int, int]:
    """Return how many lines from ``start`` fit and their bytes; at least one into an empty batch."""
    wanted = lines[start : start + room]
    size = sum(map(len, wanted)) + len(wanted)
    if size <= room_bytes:
        return len(wanted), size
    count = size = 0
    for line in wanted:
        if size + len(line) + 1 > room_bytes:
            break
        size += len(line) + 1
        count += 1
    if count == 0 and empty:
        return 1, len(lines[start]) + 1
    return count, size


def points_of(changes: Iterable[Change]) -> Iterator[Points]:
    """Return the points of metric changes."""
    for change in changes:
        yield Points(change.seq, change.body.split(b"\n"))


class Countdown:
    """Counts the points of changes down as their batches arrive; tells which changes are complete."""

    def __init__(self) -> None:
        self._left: Counter[int] = Counter()

    def expect(self, part: Points) -> None:
        """Add points that will be sent."""
        self._left[part.seq] += len(part.lines)

    def arrived(self, batch: MetricBatch) -> list[int]:
        """Take a batch off; return the changes of which nothing is left."""
        complete = []
        for part in batch.parts:
            self._left[part.seq] -= len(part.lines)
            if self._left[part.seq] == 0:
                del self._left[part.seq]
                complete.append(part.seq)
        return complete


@dataclass(frozen=True, slots=True)
class Fit:
    """Params or tags divided into what fits the destination and what goes to the overflow."""

    fits: Mapping[str, str]
    over: Mapping[str, str]


def fit_values(
    values: Mapping[str, str], *, key_length: int, value_length: int, room: int | None, known: Iterable[str] = ()
) -> Fit:
    """Divide values by the destination's limits.

    Args:
        values: what is to be set.
        key_length: the longest key in characters.
        value_length: the longest value in characters.
        room: how many distinct keys the run may have in all; None for any number.
        known: keys that the run already has there.
    """
    fits: dict[str, str] = {}
    over: dict[str, str] = {}
    present = set(known)
    for key, value in values.items():
        too_many = room is not None and key not in present and len(present) >= room
        if len(key) > key_length or len(value) > value_length or too_many:
            over[key] = value
        else:
            fits[key] = value
            present.add(key)
    return Fit(fits, over)


def cut_values(values: Mapping[str, str], *, most: int, limits: Limits) -> Iterator[dict[str, str]]:
    """Yield the values in groups of at most ``most`` that keep a request within ``batch_bytes``."""
    group: dict[str, str] = {}
    size = 0
    for key, value in values.items():
        # JSON may escape each character into six bytes; an estimate that is never too small.
        cost = 32 + 6 * len(key) + 6 * len(value)
        if group and (len(group) >= most or size + cost > limits.batch_bytes - ENVELOPE_BYTES):
            yield group
            group, size = {}, 0
        group[key] = value
        size += cost
    if group:
        yield group
