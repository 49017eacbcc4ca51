"""Comparing the fields of a run or model, and the run that it points at."""

from __future__ import annotations

from dataclasses import dataclass, fields

from syncd.core.compare.findings import Difference


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
