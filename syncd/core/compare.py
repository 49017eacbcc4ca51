"""Comparing what a source states with what a destination tells, as values; nothing is read here.

Rules
-----
1. A ``Difference`` is something that a faithful copy would not show; exit code 4. A ``Note`` is something that a server
   cannot hold as it is and that is held in the way agreed upon; worth saying, no difference.
2. A point is (timestamp, step, value) within its key, as in ``reconcile``: NaN equals NaN, -0.0 equals 0.0, an infinity
   equals the largest double. Points are compared as two sorted streams, so that a million of them need no memory.
3. What is in an overflow document with its whole value counts as held.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from operator import itemgetter
from typing import Literal

from syncd.core import source_tags
from syncd.core.facts import DatasetInput, SubjectKind

Kind = Literal["missing", "extra", "different", "twice", "unreadable"]
EXAMPLES = 3

PointIdentity = tuple[int, int, int, float]
"""(timestamp_ms, step, 1 for NaN, value); sorts the same way in Python and in SQLite."""

# Tags by which syncd marks its own runs. A source that was itself filled by syncd has them too; they cannot be copied.
_OWN_TAGS = (source_tags.SOURCE_RUN_ID, source_tags.SOURCE_MODEL_ID, source_tags.SOURCE)


@dataclass(frozen=True, slots=True)
class Place:
    """The experiment, run or model that a difference is in. ``destination_id`` is "" when it is not there."""

    source: str
    subject: SubjectKind
    id: str
    name: str
    destination_id: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    ``part`` says of what ("run", "status", "tag", "points", ...), ``key`` of which. A value is None where there is
    none. ``count`` is the number of points, otherwise 1.
    """

    kind: Kind
    part: str
    key: str = ""
    source_value: str | None = None
    destination_value: str | None = None
    count: int = 1
    examples: Sequence[str] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is as it should be, but not as a reader would expect."""

    part: str
    key: str
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison came to; ``in_overflow`` counts the values that only the overflow holds."""

    differences: Sequence[Difference] = ()
    notes: Sequence[Note] = ()
    in_overflow: int = 0


# -- heads --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunHead:
    """A run's own fields, times in ms since the epoch."""

    name: str
    status: str
    start_time_ms: int | None
    end_time_ms: int | None
    user_id: str


@dataclass(frozen=True, slots=True)
class ModelHead:
    """A logged model's own fields."""

    name: str
    model_type: str
    status: str


_PART_OF_FIELD = {
    "start_time_ms": "start time",
    "end_time_ms": "end time",
    "user_id": "user",
    "model_type": "type",
}


def compare_heads(wanted: RunHead | ModelHead, held: RunHead | ModelHead) -> list[Difference]:
    """Compare field by field; a time of 0 is the same as none (servers cannot hold one or the other)."""
    differences = []
    for part in fields(wanted):
        ours, theirs = getattr(wanted, part.name), getattr(held, part.name)
        if part.name.endswith("_ms"):
            ours, theirs = ours or None, theirs or None
        if ours != theirs:
            name = _PART_OF_FIELD.get(part.name, part.name)
            differences.append(Difference("different", name, "", _text_or_none(ours), _text_or_none(theirs)))
    return differences


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def compare_parents(
    wanted: str, held: str, *, is_in_source: bool, source_id_of_held: str, part: str = "parent"
) -> list[Difference]:
    """Compare the run that another one points at.

    Args:
        wanted: the source's id of it, "" for none.
        held: the destination's id, "" for none.
        is_in_source: whether the source has the run ``wanted``; if not, its id is kept as it is.
        source_id_of_held: the source run id that the destination's run ``held`` carries, "" for none.
        part: what to call it.
    """
    if not wanted and not held:
        return []
    if not wanted or not held:
        return [Difference("missing" if wanted else "extra", part, "", wanted or None, held or None)]
    if (source_id_of_held if is_in_source else held) == wanted:
        return []
    what = f"{held} is the run of {source_id_of_held}" if source_id_of_held else f"{held} is no run of this source"
    return [Difference("different", part, "", wanted, held, detail=what)]


# -- params and tags ----------------------------------------------------------------------------------------------


def compare_values(
    part: str, wanted: Mapping[str, str], held: Mapping[str, str], overflow: Mapping[str, str]
) -> Comparison:
    """Compare params or tags; ``overflow`` is the document of what the server could not hold."""
    differences: list[Difference] = []
    notes: list[Note] = []
    in_overflow = 0
    for key, value in wanted.items():
        if held.get(key) == value:
            if overflow.get(key, value) != value:
                notes.append(Note(part, key, "an older value is still in the overflow"))
        elif overflow.get(key) == value:
            in_overflow += 1
            if key in held:
                notes.append(Note(part, key, "the whole value is in the overflow, the run shows another one"))
        else:
            there = held.get(key, overflow.get(key))
            differences.append(Difference("missing" if there is None else "different", part, key, value, there))
    differences += _extras(part, wanted, held, overflow)
    return Comparison(differences, notes, in_overflow)


def _extras(
    part: str, wanted: Collection[str], held: Mapping[str, str], overflow: Mapping[str, str]
) -> list[Difference]:
    """Return what only the destination has, or only its overflow."""
    shown = [Difference("extra", part, key, None, value) for key, value in sorted(held.items()) if key not in wanted]
    return shown + [
        Difference("extra", part, key, None, value, detail="in the overflow")
        for key, value in sorted(overflow.items())
        if key not in wanted and key not in held
    ]


def compare_run_tags(
    wanted: Mapping[str, str], held: Mapping[str, str], overflow: Mapping[str, str], *, name: str
) -> Comparison:
    """Compare a run's tags but for the parent's, which ``compare_parents`` does.

    ``name`` is the name that the run should have there: servers keep it in the tag ``mlflow.runName`` too.
    """
    ours, theirs = without_own(wanted), _without_marks(held, wanted)
    for tags in (ours, theirs):
        tags.pop(source_tags.PARENT_RUN_ID, None)
    differences: list[Difference] = []
    notes: list[Note] = []
    name_wanted = ours.pop(source_tags.RUN_NAME, "")
    name_held = theirs.pop(source_tags.RUN_NAME, None)
    if name_held not in (None, name, name_wanted):
        differences.append(Difference("different", "tag", source_tags.RUN_NAME, name_wanted or name, name_held))
    elif name_held is None and name_wanted and overflow.get(source_tags.RUN_NAME) != name_wanted:
        differences.append(Difference("missing", "tag", source_tags.RUN_NAME, name_wanted))
    elif name_wanted and name_held == name != name_wanted:
        notes.append(
            Note("tag", source_tags.RUN_NAME, f"servers keep it equal to the name; here it is {name_wanted!r}")
        )
    kept = {key: value for key, value in overflow.items() if key != source_tags.RUN_NAME}
    rest = compare_values("tag", ours, theirs, kept)
    return Comparison([*differences, *rest.differences], [*notes, *rest.notes], rest.in_overflow)


def compare_model_tags(wanted: Mapping[str, str], held: Mapping[str, str], overflow: Mapping[str, str]) -> Comparison:
    """Compare a logged model's tags."""
    return compare_values("tag", without_own(wanted), _without_marks(held, wanted), overflow)


def compare_experiment_tags(
    wanted: Sequence[Mapping[str, str]], held: Mapping[str, str], *, key_length: int, value_length: int
) -> Comparison:
    """Compare the tags of an experiment with those of all stores that have one of that name.

    What only the destination has is a note: many stores share an experiment there (each has a "Default"), and the
    server's own web page adds tags to those that it shows.

    Args:
        wanted: for each store its tags.
        held: the destination's.
        key_length: the longest key that the server can hold, in characters.
        value_length: the longest value.
    """
    allowed: dict[str, list[str]] = {}
    for tags in wanted:
        for key, value in without_own(tags).items():
            allowed.setdefault(key, []).append(value)
    differences: list[Difference] = []
    notes: list[Note] = []
    for key, values in allowed.items():
        if held.get(key) in values:
            continue
        if key not in held and (len(key) > key_length or min(map(len, values)) > value_length):
            notes.append(Note("tag", key, f"longer than the server can hold: {min(map(len, values))} characters"))
            continue
        kind: Kind = "different" if key in held else "missing"
        differences.append(Difference(kind, "tag", key, values[0], held.get(key)))
    notes += [
        Note("tag", key, "only the server has it: set there, or by another store with an experiment of this name")
        for key in sorted(_without_marks(held, allowed))
        if key not in allowed
    ]
    return Comparison(differences, notes)


def without_own(tags: Mapping[str, str]) -> dict[str, str]:
    """Return a source's tags but for those by which syncd marks its own runs."""
    return {
        key: value for key, value in tags.items() if key not in _OWN_TAGS and not key.startswith(source_tags.OVERFLOW)
    }


def _without_marks(held: Mapping[str, str], wanted: Collection[str]) -> dict[str, str]:
    """Return a destination's tags but for the ``syncd.*`` that the source does not have."""
    return {
        key: value
        for key, value in without_own(held).items()
        if key in wanted or not key.startswith(source_tags.PREFIX)
    }


# -- inputs and links ---------------------------------------------------------------------------------------------


def compare_datasets(wanted: Sequence[DatasetInput], held: Sequence[DatasetInput]) -> Comparison:
    """Compare dataset inputs by name and digest.

    Of several inputs with one name and digest MLflow servers keep the first: its tags within a run, its source,
    schema and profile within an experiment. So a difference in tags, source or profile alone is a note.
    """
    ours, theirs = _by_identity(wanted), _by_identity(held)
    differences: list[Difference] = []
    notes: list[Note] = []
    for identity, variants in ours.items():
        key = " ".join(identity)
        found = theirs.get(identity, [])
        if not found:
            differences.append(Difference("missing", "dataset", key, variants[0].source))
            continue
        if len(found) > len(variants):
            differences.append(Difference("twice", "dataset", key, count=len(found)))
        if any(variant not in found for variant in variants):
            _tell_dataset(key, variants, found[0], differences, notes)
    differences += [
        Difference("extra", "dataset", " ".join(identity), None, theirs[identity][0].source)
        for identity in sorted(theirs.keys() - ours.keys())
    ]
    return Comparison(differences, notes)


def _tell_dataset(
    key: str,
    variants: Sequence[DatasetInput],
    found: DatasetInput,
    differences: list[Difference],
    notes: list[Note],
) -> None:
    first_wins = f"the server keeps the first of several inputs of this name and digest; %s of {len(variants)} differs"
    if found in variants:
        notes.append(Note("dataset", key, first_wins % "another"))
        return

    def others(*names: str) -> list[str]:
        return [name for name in names if getattr(found, name) not in [getattr(ours, name) for ours in variants]]

    differences += [
        Difference("different", f"dataset {name}", key, getattr(variants[0], name), getattr(found, name))
        for name in others("source_type", "schema")
    ]
    notes += [
        Note("dataset", key, f"the server keeps the first it was given: it has another {name}")
        for name in others("tags", "source", "profile")
    ]


def _by_identity(datasets: Iterable[DatasetInput]) -> dict[tuple[str, str], list[DatasetInput]]:
    groups: dict[tuple[str, str], list[DatasetInput]] = {}
    for dataset in datasets:
        groups.setdefault((dataset.name, dataset.digest), []).append(dataset)
    return groups


def compare_links(
    part: str, wanted: Collection[str], held: Mapping[str, str | None], present: Collection[str]
) -> list[Difference]:
    """Compare links from a run to logged models.

    Args:
        part: "model input" or "model output".
        wanted: source ids of the models.
        held: for each linked model of the destination the source id that it carries, None for none.
        present: source ids of the models that are on the destination.
    """
    there = {source_id for source_id in held.values() if source_id is not None}
    missing = [
        Difference("missing", part, model, detail="" if model in present else "the model is not on the destination")
        for model in dict.fromkeys(wanted)
        if model not in there
    ]
    extra = [
        Difference("extra", part, source_id or remote_id, None, remote_id)
        for remote_id, source_id in held.items()
        if source_id not in wanted
    ]
    return missing + extra


# -- points -------------------------------------------------------------------------------------------------------


def point_identity(value: float, timestamp_ms: int, step: int) -> PointIdentity:
    """Return what a point is told apart by."""
    if math.isnan(value):
        return timestamp_ms, step, 1, 0.0
    if math.isinf(value):
        return timestamp_ms, step, 0, math.copysign(sys.float_info.max, value)
    return timestamp_ms, step, 0, value + 0.0  # turns -0.0 into 0.0


def point_text(identity: PointIdentity) -> str:
    """Return a point for people."""
    timestamp_ms, step, is_nan, value = identity
    return f"{'nan' if is_nan else repr(value)} at step {step}, {timestamp_ms} ms"


@dataclass(slots=True)
class _Tally:
    """A number of points and the first few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, identity: PointIdentity, more: str = "") -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(point_text(identity) + more)


def compare_points(
    key: str, wanted: Iterable[tuple[PointIdentity, bool]], held: Iterable[PointIdentity]
) -> tuple[int, list[Difference]]:
    """Compare the points of one key.

    Args:
        key: the metric.
        wanted: the source's points in ascending order. One that is marked false need not be there, but may. One that
            is repeated stands for values that differ only to the source (-0.0 and 0.0) and may be there as often.
        held: the destination's points in ascending order, repeated ones repeatedly.

    Returns:
        How many distinct points had to be there, and the differences.
    """
    missing, extra, twice = _Tally(), _Tally(), _Tally()
    compared = 0
    for identity, required, optional, there in _merged(wanted, held):
        compared += bool(required)
        if there == 0:
            if required:
                missing.add(identity)
        elif not required and not optional:
            extra.add(identity)
        elif there > max(1, required):
            twice.add(identity, f", {there} times")
    differences: list[Difference] = []
    if missing.count:
        text = "; ".join(missing.examples)
        differences.append(Difference("missing", "points", key, text, None, missing.count, missing.examples))
    if extra.count:
        text = "; ".join(extra.examples)
        differences.append(Difference("extra", "points", key, None, text, extra.count, extra.examples))
    if twice.count:
        text = "; ".join(twice.examples)
        differences.append(Difference("twice", "points", key, None, text, twice.count, twice.examples))
    return compared, differences


def _merged(
    wanted: Iterable[tuple[PointIdentity, bool]], held: Iterable[PointIdentity]
) -> Iterator[tuple[PointIdentity, int, int, int]]:
    """Yield each point with how often it is required, optional and held."""
    ours = _counted(wanted)
    theirs = ((identity, sum(1 for _ in group)) for identity, group in groupby(held))
    our, their = next(ours, None), next(theirs, None)
    while our is not None or their is not None:
        if their is None or (our is not None and our[0] < their[0]):
            assert our is not None
            yield *our, 0
            our = next(ours, None)
        elif our is None or their[0] < our[0]:
            yield their[0], 0, 0, their[1]
            their = next(theirs, None)
        else:
            yield *our, their[1]
            our, their = next(ours, None), next(theirs, None)


def _counted(wanted: Iterable[tuple[PointIdentity, bool]]) -> Iterator[tuple[PointIdentity, int, int]]:
    for identity, group in groupby(wanted, key=itemgetter(0)):
        required = optional = 0
        for _, is_required in group:
            if is_required:
                required += 1
            else:
                optional += 1
        yield identity, required, optional


ModelPoint = tuple[str, str, PointIdentity]
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
    ours, theirs = set(wanted), set(held)
    zeroed = {point for point in ours - theirs if point[2][2] and _zeroed(point) in theirs}
    theirs = (theirs - ({_zeroed(point) for point in zeroed} - ours)) | zeroed
    missing = ours - theirs
    notes = [Note("model points", key, "the server tells a NaN of a model as 0.0") for key, _, _ in sorted(zeroed)]
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
        text = "; ".join(tally.examples)
        ours, theirs = (text, None) if kind == "missing" else (None, text)
        differences.append(Difference(kind, "model points", key, ours, theirs, tally.count, tally.examples))
    return differences


# -- artifacts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PathComparison:
    """What two listings come to: differences, and the (path, path there) whose bytes are still to be compared."""

    differences: Sequence[Difference]
    to_read: Sequence[tuple[str, str]]
    in_overflow: int


def compare_paths(
    wanted: Mapping[str, int], held: Mapping[str, int | None], stored: Mapping[str, str]
) -> PathComparison:
    """Compare two listings of artifacts.

    Args:
        wanted: size in bytes of each of the source's paths.
        held: size of each of the destination's; None where the server does not say.
        stored: for names that the server cannot hold, the path in the overflow where the bytes are.
    """
    differences: list[Difference] = []
    to_read: list[tuple[str, str]] = []
    in_overflow = 0
    for path, size_bytes in wanted.items():
        there = path
        if path not in held and path in stored:
            there = stored[path]
            in_overflow += there in held
        if there not in held:
            differences.append(Difference("missing", "artifact", path, f"{size_bytes} bytes"))
        elif held[there] not in (None, size_bytes):
            sizes = f"{size_bytes} bytes", f"{held[there]} bytes"
            differences.append(Difference("different", "artifact", path, *sizes))
        else:
            to_read.append((path, there))
    shown = {path: f"{size_bytes} bytes" for path, size_bytes in held.items() if not is_overflow(path)}
    differences += _extras("artifact", wanted, shown, stored)
    return PathComparison(differences, to_read, in_overflow)


def is_overflow(path: str) -> bool:
    """Whether an artifact's path lies where syncd keeps what the server cannot hold."""
    return path.startswith(source_tags.OVERFLOW_FOLDER + "/")


# -- for people ---------------------------------------------------------------------------------------------------


def shown_pair(ours: str | None, theirs: str | None, *, width: int = 120) -> tuple[str, str]:
    """Return two values on one line each, cut to ``width`` around the first character in which they differ."""
    if ours is None or theirs is None:
        return _shown(ours, 0, width), _shown(theirs, 0, width)
    same = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    start = 0 if max(len(ours), len(theirs)) <= width or same < width // 2 else same - width // 4
    return _shown(ours, start, width), _shown(theirs, start, width)


def _shown(value: str | None, start: int, width: int) -> str:
    if value is None:
        return "none"
    line = value[start : start + width]
    text = line if line.isprintable() and line else repr(line)
    cut = f"… ({len(value)} characters)" if len(value) > start + width else ""
    return ("…" if start else "") + text + cut
