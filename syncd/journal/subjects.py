"""Subjects: the experiments, runs and models of the sources, as they are by now (``fact_intake`` keeps them so)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from syncd.core.changes import Head, decode_head, parse
from syncd.core.facts import SubjectKey
from syncd.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class Subject:
    """An experiment, run or model of a source. ``head`` is None until its *Seen fact was read."""

    id: int
    source_id: int
    key: SubjectKey
    head: Head | None
    experiment_id: int | None
    parent_key: str
    deleted: bool
    changed_ms: int
    tags: Mapping[str, str]


def subject(journal: Journal, subject_id: int) -> Subject:
    """Return a subject."""
    row = journal._fetch("subject", {"id": subject_id})[0]
    id_, source_id, kind, key, store, head, experiment_id, parent_key, deleted, changed_ms, tags = row
    return Subject(
        id_,
        source_id,
        SubjectKey(kind, key, store),
        decode_head(head) if head is not None else None,
        experiment_id,
        parent_key,
        bool(deleted),
        changed_ms,
        parse(tags.encode()),
    )


def find_subject(journal: Journal, source_id: int, kind: str, key: str) -> int | None:
    """Return the subject id of a run or model that was seen, by its id in the store."""
    found = journal._one(f"{kind}_by_key", {"source_id": source_id, "key": key})
    return int(found) if found is not None else None


READS = frozenset({find_subject, subject})
