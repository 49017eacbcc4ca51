"""Telling: writes events into the outbox, inside the transaction of the change that they tell of.

Rules
-----
1. Everything here runs in the journal's open transaction: the change and its event are committed together, or neither.
2. What is worth telling is decided in ``core/occurrences.py``; here it is only found out what was before.
3. A run is told to be synced when nothing of it, nor of the logged models that it made, waits for a destination or was
   refused by it; once for each end, and once more after each later change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from syncd.core.changes import Head, decode_head, parse
from syncd.core.facts import TERMINAL_STATUSES, ExperimentSeen, ModelSeen, RunSeen
from syncd.core.occurrences import (
    Occurrence,
    Place,
    There,
    artifact_uploaded,
    dead_letter_added,
    destination_down,
    destination_up,
    message_refused,
    of_model,
    of_run,
    overflow_added,
    run_synced,
    synced_mark,
)
from syncd.core.overflow import INDEX, overflow_path
from syncd.errors import MessageRefused

Run = Callable[[str, Mapping[str, Any]], Any]
"""Runs a named statement in the open transaction."""

_TAKES_NOTHING = ("down", "auth")
_MOST_PLACES = 1000  # kept in memory


@dataclass(frozen=True, slots=True)
class _Told:
    """A subject on a destination, as the journal has it."""

    source: str
    source_id: int
    kind: str
    key: str
    head: Head | None
    deleted: bool
    changed_ms: int
    experiment_id: int | None
    parent_key: str
    there: There
    told: str
    sent: Mapping[str, int]


class Telling:
    """Tells of what the journal records. ``source`` is the events' own, "" for a journal that tells nothing."""

    def __init__(self, run: Run, *, source: str, wall_ms: Callable[[], int]) -> None:
        self._run = run
        self._source = source
        self._wall_ms = wall_ms
        self._places: dict[tuple[int, int | None], Place] = {}
        self.count = 0  # of events told so far

    @property
    def is_on(self) -> bool:
        """Whether anything is told at all."""
        return bool(self._source)

    def tell(self, occurrence: Occurrence) -> None:
        """Add an event to the outbox, unless the same one is there."""
        data = json.dumps(occurrence.data, ensure_ascii=False, separators=(",", ":"))
        event = {"id": occurrence.id, "type": occurrence.type, "source": self._source, "subject": occurrence.subject}
        self._run("add_event", {**event, "at_ms": self._wall_ms(), "data": data})
        self.count += 1

    # -- heads -----------------------------------------------------------------------------------------------------

    def head_before(self, subject_id: int) -> Head | None:
        """Return a subject's head before it is overwritten (always None where nothing is told)."""
        found = self._run("head_before", {"id": subject_id}).fetchone()[0] if self.is_on else None
        return None if found is None else decode_head(found)

    def head(self, source_id: int, experiment_id: int | None, before: Head | None, after: Head) -> None:
        """Tell what the head of a run or model says that is new."""
        if not self.is_on or before == after:
            return
        told: list[Occurrence] = []
        if isinstance(after, ExperimentSeen):
            self._places.clear()
        elif isinstance(after, RunSeen) and (before is None or isinstance(before, RunSeen)):
            told = of_run(self._place(source_id, experiment_id), before, after)
        elif isinstance(after, ModelSeen) and (before is None or isinstance(before, ModelSeen)):
            told = of_model(self._place(source_id, experiment_id), before, after)
        for occurrence in told:
            self.tell(occurrence)

    def _place(self, source_id: int, experiment_id: int | None) -> Place:
        known = self._places.get((source_id, experiment_id))
        if known is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            known = self._places[source_id, experiment_id] = self._find_place(source_id, experiment_id)
        return known

    def _find_place(self, source_id: int, experiment_id: int | None) -> Place:
        name = str(self._run("source_name", {"id": source_id}).fetchone()[0])
        key, head = "", None
        if experiment_id is not None:
            key, head = self._run("experiment_told", {"id": experiment_id}).fetchone()
        experiment = decode_head(head) if head is not None else None
        experiment_name = experiment.name if isinstance(experiment, ExperimentSeen) else ""
        return Place(source=name, experiment_id=key, experiment_name=experiment_name)

    # -- deliveries ------------------------------------------------------------------------------------------------

    def bodies(self, seqs: Iterable[int]) -> list[bytes]:
        """Return the bodies of changes before they are dropped (none where nothing is told)."""
        if not self.is_on:
            return []
        rows = (self._run("artifact_body", {"seq": seq}).fetchone() for seq in seqs)
        return [bytes(row[0]) for row in rows if row is not None]

    def settled(
        self,
        destination_id: int,
        subject_id: int,
        *,
        uploaded: Iterable[bytes],
        letters: Iterable[Mapping[str, Any]],
        whole: bool,
    ) -> None:
        """Tell what a settlement has brought.

        Args:
            destination_id: where.
            subject_id: whose.
            uploaded: the bodies of the artifacts that were sent.
            letters: the dead letters that were added.
            whole: whether something was settled, and all of it was sent or refused.
        """
        if not self.is_on:
            return
        keys = {"destination_id": destination_id, "subject_id": subject_id}
        files, refused = list(uploaded), list(letters)
        synced = whole and not self._run("is_outstanding", keys).fetchone()[0]
        if not (files or refused or synced):
            return
        subject = self._subject(keys)
        place = self._place_of(subject)
        for body in files:
            file = parse(body)
            told = {name: file[name] for name in ("path", "size_bytes", "mtime_ns")}
            self.tell(artifact_uploaded(place, subject.kind, subject.key, subject.there, **told))
        for letter in refused:
            about = (place, subject.kind, subject.key, subject.there, letter)
            self.tell(dead_letter_added(*about, at_ms=self._wall_ms()))
        if synced:
            self._tell_synced(destination_id, subject_id, subject)

    def overflowed(self, destination_id: int, subject_id: int, *, section: str, number: int, items: int) -> None:
        """Tell that a document or segment of what the destination cannot hold is there: of each section the first."""
        if not self.is_on or number != 1 or section == INDEX:
            return
        subject = self._subject({"destination_id": destination_id, "subject_id": subject_id})
        about = (self._place_of(subject), subject.kind, subject.key, subject.there)
        self.tell(overflow_added(*about, section=section, artifact=overflow_path(section, number), items=items))

    def _tell_synced(self, destination_id: int, subject_id: int, settled: _Told) -> None:
        """Tell that a run is synced if it is; ``settled`` is the run, or a model that it made."""
        run, run_id = settled, subject_id
        if settled.kind == "model" and settled.parent_key:
            found = self._run("run_by_key", {"source_id": settled.source_id, "key": settled.parent_key}).fetchone()
            if found is None:
                return
            run_id = int(found[0])
            keys = {"destination_id": destination_id, "subject_id": run_id}
            if self._run("is_outstanding", keys).fetchone()[0]:
                return
            run = self._subject(keys)
        head = run.head
        if not isinstance(head, RunSeen) or head.status not in TERMINAL_STATUSES or run.deleted:
            return
        models = {"destination_id": destination_id, "source_id": run.source_id, "key": run.key}
        if not run.there.remote_id or self._run("are_models_outstanding", models).fetchone()[0]:
            return
        mark = synced_mark(head)
        later_ms = settled.changed_ms if run.told == mark else None
        self.tell(run_synced(self._place_of(run), head, run.there, sent=run.sent, later_ms=later_ms))
        self._run("put_told", {"destination_id": destination_id, "subject_id": run_id, "told": mark})

    def _subject(self, keys: Mapping[str, int]) -> _Told:
        row = self._run("told_subject", keys).fetchone()
        source, source_id, kind, key, head, deleted, changed_ms, experiment_id, parent_key, *there = row
        name, uri, remote_id, told, points, artifacts, size_bytes = there
        return _Told(
            source,
            source_id,
            kind,
            key,
            decode_head(head) if head is not None else None,
            bool(deleted),
            changed_ms,
            experiment_id,
            parent_key,
            There(destination=name, uri=uri, remote_id=remote_id),
            told,
            {"points": points, "artifacts": artifacts, "bytes": size_bytes},
        )

    def _place_of(self, subject: _Told) -> Place:
        if subject.kind != "experiment":
            return self._place(subject.source_id, subject.experiment_id)
        name = subject.head.name if isinstance(subject.head, ExperimentSeen) else ""
        return Place(source=subject.source, experiment_id=subject.key, experiment_name=name)

    # -- messages --------------------------------------------------------------------------------------------------

    def refused(
        self, source_id: int, message_id: str, address: str, refusal: MessageRefused, *, letter: int | None, mark: str
    ) -> None:
        """Tell that a message is not taken: ``letter`` is its number here (None: its broker keeps it).

        ``mark`` tells it from other messages that the broker keeps; a letter is told once as it is.
        """
        if not self.is_on:
            return
        words = {"code": refusal.reason, "reason": str(refusal)}
        marks = (mark,) if letter is None else (letter, self._wall_ms())
        source = self._place(source_id, None).source
        self.tell(message_refused(source, message_id, address, **words, letter=letter, marks=marks))

    # -- destinations ----------------------------------------------------------------------------------------------

    def destination(self, destination_id: int, state: str, error: str = "") -> None:
        """Tell that a destination went down, or that one that was told to be down answers again."""
        if not self.is_on:
            return
        name, uri, told_down = self._run("destination_told", {"id": destination_id}).fetchone()
        down = state in _TAKES_NOTHING
        if down == bool(told_down):
            return
        there, at_ms = There(destination=name, uri=uri), self._wall_ms()
        self.tell(
            destination_down(there, state=state, error=error, at_ms=at_ms)
            if down
            else destination_up(there, at_ms=at_ms)
        )
        self._run("put_told_down", {"id": destination_id, "told_down": int(down)})
