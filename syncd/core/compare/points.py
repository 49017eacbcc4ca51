"""Comparing points: of a run as two sorted streams, of a logged model as two collections.

A side tells a point with its value as it is there; points are told apart by their identity, in which an infinity is the
largest double. Of points in ascending order the identities are in ascending order, too, so sides are sorted as told.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from syncd.core.compare.findings import Comparison, Difference, Kind, Note

EXAMPLES = 3

ToldPoint = tuple[int, int, int, float]
"""(timestamp_ms, step, 1 for NaN, value); sorts the same way in Python and in SQLite."""

PointIdentity = tuple[int, int, int, float]
"""A ``ToldPoint`` whose value is finite."""


def told_point(value: float, timestamp_ms: int, step: int) -> ToldPoint:
    """Return a point as it is told; all NaNs are one, and so are both zeros."""
    if math.isnan(value):
        return timestamp_ms, step, 1, 0.0
    return timestamp_ms, step, 0, value + 0.0  # turns -0.0 into 0.0


def point_identity(told: ToldPoint) -> PointIdentity:
    """Return what a point is told apart by."""
    timestamp_ms, step, is_nan, value = told
    return (timestamp_ms, step, is_nan, math.copysign(sys.float_info.max, value)) if math.isinf(value) else told


def point_text(told: ToldPoint) -> str:
    """Return a point for people."""
    timestamp_ms, step, is_nan, value = told
    return f"{'nan' if is_nan else repr(value)} at step {step}, {timestamp_ms} ms"


@dataclass(slots=True)
class _Tally:
    """A number of points and the first few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, told: ToldPoint, more: str = "") -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(point_text(told) + more)

    @property
    def text(self) -> str:
        return "; ".join(self.examples)


# -- of a run -----------------------------------------------------------------------------------------------------


def compare_points(
    key: str, wanted: Iterable[tuple[ToldPoint, bool]], held: Iterable[ToldPoint]
) -> tuple[int, Comparison]:
    """Compare the points of one key.

    Args:
        key: the metric.
        wanted: the source's points in ascending order. One that is marked false need not be there, but may. One that
            is repeated stands for values that differ only to the source (-0.0 and 0.0) and may be there as often.
        held: the destination's points in ascending order, repeated ones repeatedly.

    Returns:
        How many distinct points had to be there, and what was found.
    """
    missing, extra, twice, infinite = _Tally(), _Tally(), _Tally(), _Tally()
    compared = 0
    for identity, (required, optional, is_infinite), (there, is_infinite_there) in _merged(wanted, held):
        compared += bool(required)
        if there == 0:
            if required:
                missing.add(identity)
        elif not required and not optional:
            extra.add(identity)
        elif there > max(1, required):
            twice.add(identity, f", {there} times")
        if there and is_infinite and not is_infinite_there:
            infinite.add(_infinite(identity))
    differences: list[Difference] = []
    if missing.count:
        differences.append(Difference("missing", "points", key, missing.text, None, missing.count, missing.examples))
    if extra.count:
        differences.append(Difference("extra", "points", key, None, extra.text, extra.count, extra.examples))
    if twice.count:
        differences.append(Difference("twice", "points", key, None, twice.text, twice.count, twice.examples))
    return compared, Comparison(differences, _infinity_notes("points", key, infinite))


_Wanted = tuple[int, int, bool]
"""How often a point must be there, how often it may be, and whether the source tells an infinity."""

_Held = tuple[int, bool]
"""How often a point is there, and whether the destination tells an infinity."""


def _merged(
    wanted: Iterable[tuple[ToldPoint, bool]], held: Iterable[ToldPoint]
) -> Iterator[tuple[PointIdentity, _Wanted, _Held]]:
    """Yield each point with what both sides have of it."""
    ours, theirs = _wanted_groups(wanted), _held_groups(held)
    our, their = next(ours, None), next(theirs, None)
    while our is not None or their is not None:
        if their is None or (our is not None and our[0] < their[0]):
            assert our is not None
            yield *our, (0, False)
            our = next(ours, None)
        elif our is None or their[0] < our[0]:
            yield their[0], (0, 0, False), their[1]
            their = next(theirs, None)
        else:
            yield *our, their[1]
            our, their = next(ours, None), next(theirs, None)


def _wanted_groups(wanted: Iterable[tuple[ToldPoint, bool]]) -> Iterator[tuple[PointIdentity, _Wanted]]:
    for identity, group in groupby(wanted, key=lambda point: point_identity(point[0])):
        required = optional = 0
        is_infinite = False
        for told, is_required in group:
            is_infinite = is_infinite or math.isinf(told[3])
            if is_required:
                required += 1
            else:
                optional += 1
        yield identity, (required, optional, is_infinite)


def _held_groups(held: Iterable[ToldPoint]) -> Iterator[tuple[PointIdentity, _Held]]:
    for identity, group in groupby(held, key=point_identity):
        there = 0
        is_infinite = False
        for told in group:
            there += 1
            is_infinite = is_infinite or math.isinf(told[3])
        yield identity, (there, is_infinite)


def _infinite(identity: PointIdentity) -> ToldPoint:
    timestamp_ms, step, is_nan, value = identity
    return timestamp_ms, step, is_nan, math.copysign(math.inf, value)


def _infinity_notes(part: str, key: str, infinite: _Tally) -> list[Note]:
    """Say of infinities that an SQL store cannot hold them (MLflow 3.15; measured 2026-11)."""
    if not infinite.count:
        return []
    what = "1 infinity is" if infinite.count == 1 else f"{infinite.count} infinities are"
    more = "; ..." if infinite.count > len(infinite.examples) else ""
    return [Note(part, key, f"{what} held as the largest double, ±1.797e308: {infinite.text}{more}")]


# -- of a logged model --------------------------------------------------------------------------------------------


ModelPoint = tuple[str, str, ToldPoint]
"""(key, source id of the run that logged it, the point)."""


def compare_model_points(
    wanted: Collection[ModelPoint], held: Collection[ModelPoint], *, latest_only: bool
) -> Comparison:
    """Compare the points of a logged model, as far as the server tells them.

    Args:
        wanted: the source's.
        held: the destination's.
        latest_only: the server (a FileStore) tells only the last point of each series.
    """
    ours, theirs = _identities(wanted), _identities(held)
    infinite = (_told_infinite(wanted) - _told_infinite(held)) & theirs
    zeroed = {point for point in ours - theirs if point[2][2] and _zeroed(point) in theirs}
    theirs = (theirs - ({_zeroed(point) for point in zeroed} - ours)) | zeroed
    missing = ours - theirs
    notes = [Note("model points", key, "the server tells a NaN of a model as 0.0") for key, _, _ in sorted(zeroed)]
    for key, group in groupby(sorted(infinite), key=itemgetter(0)):
        tally = _Tally()
        for _, run, identity in group:
            tally.add(_infinite(identity), f", of run {run}")
        notes += _infinity_notes("model points", key, tally)
    if latest_only:
        hidden = _hidden(missing, ours & theirs)
        missing -= hidden
        if hidden:
            notes.append(Note("model points", "", f"{len(hidden)} were not compared: the server tells the last only"))
    differences = [
        *_model_point_differences("missing", missing),
        *_model_point_differences("extra", theirs - ours),
    ]
    return Comparison(differences, notes)


def _identities(points: Iterable[ModelPoint]) -> set[ModelPoint]:
    return {(key, run, point_identity(told)) for key, run, told in points}


def _told_infinite(points: Iterable[ModelPoint]) -> set[ModelPoint]:
    """Return the identities of the points that are told as infinities."""
    return _identities(point for point in points if math.isinf(point[2][3]))


def _zeroed(point: ModelPoint) -> ModelPoint:
    """Return what an SQL server tells of a NaN on a model: it keeps no mark of it (3.15, 3.17; measured 2026-11)."""
    key, run, (timestamp_ms, step, _, _) = point
    return key, run, (timestamp_ms, step, 0, 0.0)


def _hidden(missing: Iterable[ModelPoint], told: Iterable[ModelPoint]) -> set[ModelPoint]:
    """Return the missing points that a server which tells only a metric's last point may have."""
    last: dict[str, tuple[int, int]] = {}
    for key, _, (timestamp_ms, step, _, _) in told:
        last[key] = max(last.get(key, (step, timestamp_ms)), (step, timestamp_ms))
    return {point for point in missing if point[0] in last and (point[2][1], point[2][0]) <= last[point[0]]}


def _model_point_differences(kind: Kind, points: Iterable[ModelPoint]) -> list[Difference]:
    differences = []
    for key, group in groupby(sorted(points), key=itemgetter(0)):
        tally = _Tally()
        for _, run, identity in group:
            tally.add(identity, f", of run {run}")
        ours, theirs = (tally.text, None) if kind == "missing" else (None, tally.text)
        differences.append(Difference(kind, "model points", key, ours, theirs, tally.count, tally.examples))
    return differences
