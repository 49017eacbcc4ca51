"""Comparing params and tags of runs, models and experiments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from syncd.core import source_tags
from syncd.core.compare.findings import Comparison, Difference, Kind, Note


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
    differences += extras(part, wanted, held, overflow)
    return Comparison(differences, notes, in_overflow)


def extras(
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
        key: value
        for key, value in tags.items()
        if key not in source_tags.MARKS and not key.startswith(source_tags.OVERFLOW)
    }


def _without_marks(held: Mapping[str, str], wanted: Collection[str]) -> dict[str, str]:
    """Return a destination's tags but for the ``syncd.*`` that the source does not have."""
    return {
        key: value
        for key, value in without_own(held).items()
        if key in wanted or not key.startswith(source_tags.PREFIX)
    }
