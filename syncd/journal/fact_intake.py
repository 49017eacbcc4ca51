"""Adds facts to the journal inside an open transaction: their subjects, and one delivery for each destination.

Rules
-----
1. A fact becomes one change, and from then on a delivery of it waits for each destination (``deliveries``).
2. What a subject is by now (its head, its tags, whether it is deleted) is kept beside the changes that said so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from syncd.core.changes import Again, Encoded, Head, encode, encode_head, parse
from syncd.core.facts import (
    ExperimentSeen,
    Fact,
    MetricsLogged,
    ModelSeen,
    ProblemFound,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.journal.journal import Journal

# Filters and rules look at no more of a tag's value than this many characters.
LONGEST_TAG = 1000


class FactIntake:
    """Adds facts inside one open transaction of the journal.

    ``ids`` are subjects of the source that are known already; those that are found are added to it.
    """

    def __init__(
        self,
        journal: Journal,
        source_id: int,
        destinations: Sequence[int],
        *,
        first_reading: bool,
        ids: dict[SubjectKey, int] | None = None,
    ) -> None:
        self._journal = journal
        self._source_id = source_id
        self._destinations = destinations
        self._first_reading = first_reading
        self._ids = {} if ids is None else ids
        self.subjects: set[int] = set()

    def add(self, fact: Fact) -> int:
        """Add a fact; return the number of its change (0: it is none)."""
        if isinstance(fact, ProblemFound):
            self._add_problem(fact)
            return 0
        subject_id = self.id_of(fact.subject)
        if isinstance(fact, RunSeen | ModelSeen | ExperimentSeen):
            self._put_head(subject_id, fact)
        elif isinstance(fact, SubjectDeleted):
            self._journal._run("mark_deleted", {"id": subject_id, "now_ms": self._journal._wall_ms()})
        else:
            self._journal._run("touch_subject", {"id": subject_id, "now_ms": self._journal._wall_ms()})
            if isinstance(fact, TagsSet | TagsDeleted):
                self._merge_tags(subject_id, fact)
        self.subjects.add(subject_id)
        return self._add_change(subject_id, encode(fact), self._again(fact))

    def refer(self, head: Head) -> None:
        """Put the head of a subject that has none yet into the journal; nothing is delivered for it."""
        subject_id = self.id_of(head.subject)
        if not self._journal._run("is_described", {"id": subject_id}).fetchone()[0]:
            self._put_head(subject_id, head)

    def _merge_tags(self, subject_id: int, fact: TagsSet | TagsDeleted) -> None:
        tags = parse(self._journal._run("tags", {"id": subject_id}).fetchone()[0].encode())
        if isinstance(fact, TagsSet):
            tags.update({key: value[:LONGEST_TAG] for key, value in fact.tags.items()})
        else:
            for key in fact.keys:
                tags.pop(key, None)
        self._journal._run("put_tags", {"id": subject_id, "tags": json.dumps(tags)})

    def _again(self, fact: Fact) -> Again:
        if isinstance(fact, MetricsLogged) and fact.again:
            return Again.RESTATED
        return Again.FIRST_READING if self._first_reading else Again.NEW

    def id_of(self, key: SubjectKey) -> int:
        """Return the subject of that key, adding it if it is new."""
        known = self._ids.get(key)
        if known is not None:
            return known
        parameters = {
            "source_id": self._source_id,
            "kind": key.kind,
            "key": key.id,
            "store": key.store if key.kind == "experiment" else "",
            "now_ms": self._journal._wall_ms(),
        }
        self._journal._run("add_subject", parameters)
        found = int(self._journal._run("subject_id", parameters).fetchone()[0])
        self._ids[key] = found
        return found

    def _put_head(self, subject_id: int, head: Head) -> None:
        experiment_id = None if isinstance(head, ExperimentSeen) else self.id_of(head.experiment)
        before = self._journal._telling.head_before(subject_id)
        parent = {"run": "parent_run_id", "model": "source_run_id"}.get(head.subject.kind)
        self._journal._run(
            "put_head",
            {
                "id": subject_id,
                "head": encode_head(head),
                "experiment_id": experiment_id,
                "parent_key": getattr(head, parent) if parent else "",
                "now_ms": self._journal._wall_ms(),
            },
        )
        self._journal._telling.head(self._source_id, experiment_id, before, head)

    def _add_change(self, subject_id: int, encoded: Encoded, again: Again) -> int:
        cursor = self._journal._run(
            "add_change",
            {
                "subject_id": subject_id,
                "section": int(encoded.section),
                "kind": encoded.kind,
                "body": encoded.body,
                "items": encoded.items,
                "size_bytes": encoded.size_bytes,
                "again": int(again),
                "now_ms": self._journal._wall_ms(),
            },
        )
        for destination_id in self._destinations:
            self._journal._run("add_delivery", (destination_id, subject_id, int(encoded.section), cursor.lastrowid))
        return int(cursor.lastrowid)

    def _add_problem(self, problem: ProblemFound) -> None:
        parameters = {
            "source_id": self._source_id,
            "location": problem.where,
            "what": problem.what,
            "subject_id": self.id_of(problem.subject) if problem.subject else None,
            "now_ms": self._journal._wall_ms(),
        }
        self._journal._run("put_problem" if problem.what else "drop_problem", parameters)
