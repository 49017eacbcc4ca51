"""Comparing what a run is linked to: dataset inputs, and logged models that it used or made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from syncd.core.compare.findings import Comparison, Difference, Note
from syncd.core.facts import DatasetInput


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


def compare_output_steps(wanted: Mapping[str, int], held: Iterable[tuple[str | None, int | None]]) -> list[Difference]:
    """Compare the steps at which a run made its models, where both sides tell them.

    Args:
        wanted: the step of each model by its source id.
        held: for each linked model of the destination the source id that it carries and the step; None for none.
    """
    return [
        Difference("different", "model output step", model, str(wanted[model]), str(step))
        for model, step in held
        if model is not None and model in wanted and step not in (None, wanted[model])
    ]
