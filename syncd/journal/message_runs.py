"""Takes what messages say of runs into the journal, inside one open transaction (``inbox``).

Rules
-----
1. A run's head is stated when its start was heard of, or when it was waited for long enough: what cannot be changed on
   a server afterwards (experiment, start) is then known, even where messages overtake each other.
2. What counts of the params, tags, files and heads that were said of a run (``core/messages/runs.py``) is kept; what is
   said later becomes a fact only if it changes that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from syncd.core.facts import (
    ArtifactSeen,
    MetricsLogged,
    ParamsLogged,
    ProblemFound,
    RunStatus,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.core.messages.runs import (
    Gathered,
    RunState,
    Stamped,
    decode_state,
    device_of,
    first_values,
    gather,
    heads,
    last_values,
    merge,
)
from syncd.core.messages.statements import Artifact, KeptArtifact, RunStatement
from syncd.core.metric_lines import pack
from syncd.core.source_tags import DEVICE, LAST_ACTIVITY
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal
from syncd.journal.relayed import REOPENED
from syncd.journal.silence import activity_text

MOST_KNOWN: Final = 5000
STALE: Final = "stale"


@dataclass(slots=True)
class _Heard:
    """What the journal holds of a run that messages speak of (``message_run``)."""

    state: RunState
    stated: bool
    stale: str
    seen_ms: int


@dataclass(slots=True)
class KnownRuns:
    """What this process knows to be in the journal, so that it need not be asked: of so many subjects and no more."""

    experiments: set[str] = field(default_factory=set)  # stated by this process
    subjects: dict[SubjectKey, int] = field(default_factory=dict)
    runs: dict[int, _Heard] = field(default_factory=dict)

    def bound(self) -> None:
        """Forget it all if it is much."""
        if max(len(self.experiments), len(self.subjects), len(self.runs)) > MOST_KNOWN:
            self.forget()

    def forget(self) -> None:
        """Forget it all: it may not have been committed."""
        self.experiments.clear()
        self.subjects.clear()
        self.runs.clear()


class RunStep:
    """Adds what messages say of runs.

    A run that names no experiment belongs to ``default_experiment``. Its head waits ``start_patience_ms`` for its
    start. ``roots`` gets the directories of the spool that are now in use.
    """

    def __init__(
        self,
        journal: Journal,
        facts: FactIntake,
        source_id: int,
        known: KnownRuns,
        roots: set[str],
        *,
        default_experiment: str,
        start_patience_ms: int,
    ) -> None:
        self._journal = journal
        self._facts = facts
        self._source_id = source_id
        self._known = known
        self._roots = roots
        self._default_experiment = default_experiment
        self._start_patience_ms = start_patience_ms

    def take(self, statements: Iterable[RunStatement], *, again: bool) -> None:
        """Add statements about runs; ``again`` says that their points may have been sent before."""
        for run_id, found in gather(statements).items():
            self._add(SubjectKey("run", run_id), found, again=again)

    def _add(self, run: SubjectKey, found: Gathered, *, again: bool) -> None:
        subject_id = self._facts.id_of(run)
        params = self._newer(subject_id, "param", found.params, first_values, run)
        if params:
            self._facts.add(ParamsLogged(run, params))
        tags = self._newer(subject_id, "tag", found.tags, last_values, run)
        if tags:
            self._facts.add(TagsSet(run, tags))
        for lines, count in pack(found.points):
            self._facts.add(MetricsLogged(run, lines, count, again))
        for path in self._newer(subject_id, "artifact", found.artifact_stamps, last_values, run):
            self._add_artifact(subject_id, run, found.artifacts[path])
        self._merge(subject_id, run, found.state)

    def _newer(
        self,
        subject_id: int,
        section: str,
        said: Mapping[str, Stamped],
        newer: Callable[[Mapping[str, Stamped], Mapping[str, Stamped]], dict[str, Stamped]],
        run: SubjectKey,
    ) -> dict[str, str]:
        """Record and return what of the values counts, given what was said before."""
        known: dict[str, Stamped] = {}
        for key in said:
            place = {"subject_id": subject_id, "section": section, "key": key}
            row = self._journal._run("message_value", place).fetchone()
            if row is not None:
                known[key] = (row[0], row[1])
                if section == "param" and row[1] != said[key][1]:
                    self._facts.add(_two_values(run, key, known[key], said[key]))
        counts = newer(known, said)
        for key, (time_ms, value) in counts.items():
            self._journal._run("put_message_value", (subject_id, section, key, time_ms, value))
        return {key: value for key, (_, value) in counts.items()}

    def _add_artifact(self, subject_id: int, run: SubjectKey, artifact: Artifact) -> None:
        assert isinstance(artifact, KeptArtifact)
        seen = ArtifactSeen(run, artifact.path, artifact.root, artifact.size_bytes, artifact.mtime_ns)
        seq = self._facts.add(seen)
        if artifact.spooled:
            self._journal._run("add_spooled", (artifact.root, subject_id, seq, artifact.size_bytes, artifact.digest))
            self._roots.add(artifact.root)

    # -- heads -----------------------------------------------------------------------------------------------------

    def _merge(self, subject_id: int, run: SubjectKey, said: RunState) -> None:
        before, now_ms = self._heard(subject_id), self._journal._wall_ms()
        state = said if before is None else merge(before.state, said)
        waited = before is not None and not 0 <= now_ms - before.seen_ms < self._start_patience_ms
        ready = (before is not None and before.stated) or waited or state.started_ms is not None
        if ready:
            self._state(run, before.state if before is not None and before.stated else None, state)
        if before is not None and before.stale:
            self._facts.add(TagsDeleted(run, [LAST_ACTIVITY]))
            if before.stale != STALE:
                self._journal._run("put_relayed", (subject_id, "head", b"", now_ms, REOPENED))
            self._facts.add(heads(run.id, state, default_experiment=self._default_experiment)[1])
        parameters = {
            "subject_id": subject_id,
            "source_id": self._source_id,
            "state": state.encode(),
            "stated": int(ready),
            "ended": int(state.end is not None),
            "now_ms": now_ms,
        }
        self._journal._run("put_message_run", parameters)
        seen_ms = now_ms if before is None else before.seen_ms
        self._known.runs[subject_id] = _Heard(state, stated=ready, stale="", seen_ms=seen_ms)

    def _heard(self, subject_id: int) -> _Heard | None:
        known = self._known.runs.get(subject_id)
        if known is not None:
            return known
        row = self._journal._run("message_run", {"subject_id": subject_id}).fetchone()
        if row is None:
            return None
        state, stated, stale, seen_ms = row
        return _Heard(decode_state(state), bool(stated), stale, seen_ms)

    def _state(self, run: SubjectKey, before: RunState | None, state: RunState) -> None:
        """State a run's head, and whose it is, if that is new or has changed."""
        device = device_of(state)
        if device and device != device_of(before):
            self._facts.add(TagsSet(run, {DEVICE: device}))
        experiment, head = heads(run.id, state, default_experiment=self._default_experiment)
        old = heads(run.id, before, default_experiment=self._default_experiment)[1] if before else None
        if head == old:
            return
        if old is not None and old.experiment != head.experiment:
            self._facts.add(_two_experiments(run, old.experiment.id, head.experiment.id))
        if experiment.name not in self._known.experiments:
            self._facts.add(experiment)
            self._known.experiments.add(experiment.name)
        self._facts.add(head)

    def state(self, subject_id: int) -> None:
        """State a run whose start has not been heard of."""
        run, heard = self._run_heard(subject_id)
        self._state(run, None, heard.state)
        self._journal._run("mark_stated", {"subject_id": subject_id})
        self._known.runs.pop(subject_id, None)

    def mark_stale(self, subject_id: int, end_as: RunStatus | None) -> None:
        """Say when a silent run was last heard of, and that it has ended if that is wanted."""
        run, heard = self._run_heard(subject_id)
        state = heard.state
        self._facts.add(TagsSet(run, {LAST_ACTIVITY: activity_text(state.last_ms)}))
        if end_as is not None:
            self._facts.add(
                heads(
                    run.id,
                    replace(state, end=(state.last_ms, state.last_ms, end_as)),
                    default_experiment=self._default_experiment,
                )[1]
            )
        self._journal._run("mark_stale", {"subject_id": subject_id, "stale": end_as or STALE})
        self._known.runs.pop(subject_id, None)

    def _run_heard(self, subject_id: int) -> tuple[SubjectKey, _Heard]:
        [key] = self._journal._run("run_key", {"subject_id": subject_id}).fetchone()
        heard = self._heard(subject_id)
        assert heard is not None, "a run that messages have spoken of"
        return SubjectKey("run", key), heard


def _two_values(run: SubjectKey, key: str, known: Stamped, said: Stamped) -> ProblemFound:
    first, second = (known, said) if known[0] <= said[0] else (said, known)
    what = f"messages say two values; {first[1][:100]!r} counts, which was said before {second[1][:100]!r}"
    return ProblemFound(f"run {run.id}, param {key}", what, run)


def _two_experiments(run: SubjectKey, created_in: str, named: str) -> ProblemFound:
    what = f"it was created in experiment {created_in!r} before a message named {named!r}; it stays there"
    return ProblemFound(f"run {run.id}, experiment", what, run)
