"""Bindings: who a subject is on each destination, and which of those that were created are yet to be looked up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncd.core.facts import SubjectKey
from syncd.journal.journal import Journal
from syncd.journal.subjects import Subject


@dataclass(frozen=True, slots=True)
class Binding:
    """A subject's identity on a destination."""

    remote_id: str
    artifact_root: str
    adopted: bool
    appends: bool
    checked: bool = False
    bound_ms: int = 0


@dataclass(frozen=True, slots=True)
class CreatedSubject:
    """A run or model that this journal's daemon created; ``experiment_id`` is the destination's."""

    subject_id: int
    kind: str
    key: str
    remote_id: str
    experiment_id: str


def binding(journal: Journal, destination_id: int, subject_id: int) -> Binding | None:
    """Return the subject's identity on the destination, or None."""
    rows = journal._fetch("remote", {"destination_id": destination_id, "subject_id": subject_id})
    if not rows:
        return None
    remote_id, root, adopted, appends, checked, bound_ms = rows[0]
    return Binding(remote_id, root, bool(adopted), bool(appends), bool(checked), bound_ms)


def bind(journal: Journal, destination_id: int, subject_id: int, binding: Binding) -> None:
    """Record the subject's identity on the destination."""
    with journal._releasing("recording an identity"):
        journal._run(
            "bind",
            {
                "destination_id": destination_id,
                "subject_id": subject_id,
                "remote_id": binding.remote_id,
                "artifact_root": binding.artifact_root,
                "adopted": int(binding.adopted),
                "appends": int(binding.appends),
                "now_ms": journal._wall_ms(),
            },
        )


def unbound_keys(
    journal: Journal, destination_id: int, like: Subject, *, after: int = 0, limit: int = 20_000
) -> list[str]:
    """Return the ids of the runs or models beside this one that have no identity on the destination yet.

    Args:
        journal: the journal.
        destination_id: the destination.
        like: a subject of the same source, experiment and kind.
        after: the subject id behind which they are looked for.
        limit: how many to return at most.
    """
    parameters = {
        "destination_id": destination_id,
        "source_id": like.source_id,
        "experiment_id": like.experiment_id,
        "kind": like.key.kind,
        "after": after,
        "limit": limit,
    }
    return [row[0] for row in journal._fetch("unbound_keys", parameters)]


def is_key_bound(journal: Journal, destination_id: int, key: SubjectKey) -> bool:
    """Return whether the destination has a run or model with that id in the store, of whichever source."""
    parameters = {"destination_id": destination_id, "kind": key.kind, "key": key.id}
    return bool(journal._one("key_is_bound", parameters))


def unchecked(journal: Journal, destination_id: int, before_ms: int) -> list[CreatedSubject]:
    """Return the runs and models created there before that time and not yet looked up once more."""
    parameters = {"destination_id": destination_id, "before_ms": before_ms, "now_ms": journal._wall_ms()}
    return [CreatedSubject(*row) for row in journal._fetch("unchecked", parameters)]


def mark_checked(journal: Journal, destination_id: int, subjects: Iterable[int]) -> None:
    """Record that no second run of the same source exists there."""
    with journal._releasing("recording identities"):
        journal._many("mark_checked", [(destination_id, subject) for subject in subjects])


def bound_children(journal: Journal, destination_id: int, source_id: int, key: str) -> list[str]:
    """Return the remote ids of a run's children that are already on the destination."""
    parameters = {"destination_id": destination_id, "source_id": source_id, "key": key}
    return [row[0] for row in journal._fetch("bound_children", parameters)]


def runs_found_since(journal: Journal, since_ms: int) -> int:
    """Return how many runs got an identity since then that they had on a destination before."""
    return int(journal._one("runs_found_since", {"since_ms": since_ms}))


READS = frozenset({binding, bound_children, is_key_bound, unbound_keys, unchecked})
