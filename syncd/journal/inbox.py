"""The inbox: takes what messages say into the journal, once each.

Rules
-----
1. The identity of an event and all that follows from it are committed in one transaction. A message is settled with its
   broker after that; delivered again, it is known.
2. What is said of a run becomes the same facts that a store's reading states, for every destination that is configured
   now: unlike a store, a message cannot be read again for one that joins later.
3. A run's head is stated when its start was heard of, or when it was waited for long enough: what cannot be changed on
   a server afterwards (experiment, start) is then known, even where messages overtake each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

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
    first_values,
    gather,
    heads,
    last_values,
    merge,
)
from syncd.core.messages.statements import (
    Artifact,
    Command,
    ForeignEvent,
    Ignored,
    KeptArtifact,
    KeptChunk,
    Relayed,
    RunStatement,
    Statement,
)
from syncd.core.metric_lines import pack
from syncd.core.relay.values import RelayedFacts
from syncd.core.source_tags import DEVICE, LAST_ACTIVITY
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal
from syncd.journal.relayed import REOPENED, RelayStep
from syncd.journal.silence import activity_text

log = structlog.get_logger(__name__)

IDENTITIES: Final = 1_000_000
IDENTITY_BYTES: Final = 120  # what one costs in the file, index included
IDENTITIES_MS: Final = 14 * 24 * 3600 * 1000  # the longest that Service Bus keeps a message by default
PRUNE_AFTER: Final = 1000
PRUNED_AT_ONCE: Final = 5000
FOREIGN_EVENTS: Final = 10_000
MOST_KNOWN: Final = 5000
STALE: Final = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event of a message. ``repeatable`` says that its identity is only its content, which may come twice.

    ``again`` says that the broker has handed it over before, ``elsewhere`` that this may have been to another syncd.
    """

    identity: str
    statement: Statement
    repeatable: bool = False
    again: bool = False
    elsewhere: bool = False


@dataclass(slots=True)
class Taken:
    """What became of events: the subjects that now wait, per destination id, and the commands that are to be obeyed.

    ``roots`` are the directories of the spool that are now in use.
    """

    waiting: Mapping[int, set[int]] = field(default_factory=dict)
    roots: set[str] = field(default_factory=set)
    commands: list[Command] = field(default_factory=list)
    taken: int = 0
    repeated: int = 0
    ignored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """How the messages of one source are kept.

    A run that names no experiment belongs to ``default_experiment``. Its head waits ``start_patience_ms`` for its
    start. After ``stale_after_ms`` of silence a run is marked, and taken to have ended as ``end_stale_as`` if that is
    set. ``most_identities`` are remembered.
    """

    default_experiment: str
    start_patience_ms: int = 2000
    stale_after_ms: int | None = None
    end_stale_as: RunStatus | None = None
    most_identities: int = IDENTITIES


class Inbox:
    """Takes the messages of one source into a journal. Its methods are called from one thread at a time."""

    def __init__(self, journal: Journal, source_id: int, settings: InboxSettings) -> None:
        self.journal = journal
        self.source_id = source_id
        self._settings = settings
        self._known = _Known()
        self._since_pruning = 0

    def take(self, told: Sequence[Told], *, refused: int = 0, beside: Callable[[], None] | None = None) -> Taken:
        """Commit what messages say; ``refused`` messages are counted beside.

        Artifacts must have been kept (``KeptArtifact``); those of an event that is known are not looked at. ``beside``
        is called in the same transaction.

        Raises:
            JournalFull: nothing was committed; take the same again later.
        """
        with self._transaction("committing messages"):
            taken = Taken()
            new = self._new(told, taken)
            for one in new:
                self._note(one.statement, taken)
            taken.waiting = self._intake(lambda step: step.take(new, taken.roots))
            self._count(taken, refused)
            self._prune(len(new))
            if beside is not None:
                beside()
        return taken

    def problem(self, where: str, what: str) -> None:
        """Record a problem of the source, or withdraw it ("").

        Raises:
            JournalFull: it was not recorded.
        """
        with self.journal._transaction("recording a problem"):
            FactIntake(self.journal, self.source_id, [], first_reading=False).add(ProblemFound(where, what))

    def tick(self) -> Mapping[int, set[int]]:
        """State runs whose start was waited for long enough, and mark those that have been silent for too long.

        Raises:
            JournalFull: nothing was committed.
        """
        settings, now_ms = self._settings, self.journal._wall_ms()
        unstated = self._runs("unstated_runs", now_ms - settings.start_patience_ms)
        silent = self._runs("silent_runs", now_ms - settings.stale_after_ms) if settings.stale_after_ms else []
        if not unstated and not silent:
            return {}

        def step(runs: _Step) -> None:
            for subject_id in unstated:
                runs.state(subject_id)
            for subject_id in silent:
                runs.mark_stale(subject_id, settings.end_stale_as)

        with self._transaction("stating runs"):
            return self._intake(step)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        try:
            with self.journal._transaction(doing):
                yield
        except BaseException:
            self._known.forget()  # what was stated may not have been committed
            raise

    def _runs(self, name: str, before_ms: int) -> list[int]:
        rows = self.journal._fetch(name, {"source_id": self.source_id, "before_ms": before_ms})
        return [row[0] for row in rows]

    def _intake(self, step: Callable[[_Step], None]) -> dict[int, set[int]]:
        destinations = [row[0] for row in self.journal._run("active_destinations").fetchall()]
        if self._known.is_much:
            self._known.forget()
        facts = FactIntake(self.journal, self.source_id, destinations, first_reading=False, ids=self._known.subjects)
        step(_Step(self.journal, facts, self.source_id, self._settings, self._known))
        return dict.fromkeys(destinations, facts.subjects)

    def _new(self, told: Sequence[Told], taken: Taken) -> list[Told]:
        """Remember the identities of events, and return the events that were not known."""
        digests = [b"" if isinstance(one.statement, KeptChunk) else _digest(one.identity) for one in told]
        unseen = self._remember(dict.fromkeys(digest for digest in digests if digest))
        new = []
        for one, digest in zip(told, digests, strict=True):
            if isinstance(one.statement, KeptChunk):  # what is there of its file says whether it is known
                known = one.statement.outcome == "known"
            elif digest in unseen:
                known = False
                unseen.discard(digest)  # it may come a second time in one batch
            else:
                known = not one.repeatable or one.again
            if known:
                taken.repeated += 1
            else:
                new.append(one)
        return new

    def _remember(self, digests: Collection[bytes]) -> set[bytes]:
        """Add identities to the inbox; return those that were not there."""
        now_ms = self.journal._wall_ms()
        [before] = self.journal._run("newest_in_inbox").fetchone()
        self.journal._many("add_to_inbox", [(self.source_id, digest, now_ms) for digest in digests])
        return {row[0] for row in self.journal._run("inbox_after", {"seq": before})}

    def _note(self, statement: Statement, taken: Taken) -> None:
        match statement:
            case Ignored():
                taken.ignored += 1
                return
            case Command():
                if self._obey(statement):
                    taken.commands.append(statement)
            case ForeignEvent():
                self._add_foreign_event(statement)
        taken.taken += 1

    def _obey(self, command: Command) -> bool:
        """Record what a command wants to last; it was permitted before. Return whether it counts: it may be too old.

        A time that is still to come would have every other command wait for it: it is that of arrival.
        """
        if command.name not in ("pause", "resume"):
            return True
        [(kind, name)] = command.arguments.items()
        now_ms = self.journal._wall_ms()
        wanted = {"kind": kind, "name": name, "resting": int(command.name == "pause")}
        times = {"now_ms": now_ms, "said_ms": min(command.time_ms, now_ms)}
        [source] = self.journal._run("source_name", {"id": self.source_id}).fetchone()
        counts = bool(self.journal._run("put_pause", {**wanted, **times, "source": source}).rowcount)
        if not counts:
            log.warning("a command changes nothing: a newer one came before it", command=command.name, **{kind: name})
        return counts

    def _add_foreign_event(self, event: ForeignEvent) -> None:
        self.journal._run(
            "add_foreign_event",
            {
                "source_id": self.source_id,
                "name": event.name,
                "time_ms": event.time_ms,
                "service": event.source,
                "subject": event.subject,
                "data": json.dumps(event.data),
                "now_ms": self.journal._wall_ms(),
            },
        )
        self.journal._run("prune_foreign_events", {"most": FOREIGN_EVENTS})

    def _count(self, taken: Taken, refused: int) -> None:
        counts = {"taken": taken.taken, "repeated": taken.repeated, "ignored": taken.ignored, "refused": refused}
        now_ms = self.journal._wall_ms()
        self.journal._run("count_messages", {"source_id": self.source_id, "now_ms": now_ms, **counts})

    def _prune(self, added: int) -> None:
        self._since_pruning += added
        if self._since_pruning < PRUNE_AFTER:
            return
        self._since_pruning = 0
        oldest_ms = self.journal._wall_ms() - IDENTITIES_MS
        bounds = {"most": self._settings.most_identities, "slice": PRUNED_AT_ONCE, "oldest_ms": oldest_ms}
        self.journal._run("prune_inbox", bounds)


def _digest(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(slots=True)
class _Heard:
    """What the journal holds of a run that messages speak of (``message_run``)."""

    state: RunState
    stated: bool
    stale: str
    seen_ms: int


@dataclass(slots=True)
class _Known:
    """What this process knows to be in the journal, so that it need not be asked: of so many subjects and no more."""

    experiments: set[str] = field(default_factory=set)  # stated by this process
    subjects: dict[SubjectKey, int] = field(default_factory=dict)
    runs: dict[int, _Heard] = field(default_factory=dict)

    @property
    def is_much(self) -> bool:
        return max(len(self.experiments), len(self.subjects), len(self.runs)) > MOST_KNOWN

    def forget(self) -> None:
        self.experiments.clear()
        self.subjects.clear()
        self.runs.clear()


class _Step:
    """Adds what is said of runs inside one open transaction."""

    def __init__(
        self, journal: Journal, facts: FactIntake, source_id: int, settings: InboxSettings, known: _Known
    ) -> None:
        self._journal = journal
        self._facts = facts
        self._source_id = source_id
        self._settings = settings
        self._known = known

    def take(self, told: Iterable[Told], roots: set[str]) -> None:
        """Add the statements about runs; points that may have been sent before are marked.

        ``roots`` gets the directories of the spool that are now in use.
        """
        runs: dict[bool, list[RunStatement]] = {True: [], False: []}  # what comes again was sent before
        relay = RelayStep(self._journal, self._facts, self._source_id, roots)
        for one in told:
            match one.statement:
                case RelayedFacts() | KeptChunk():
                    relay.take(one.statement, again=one.elsewhere)
                case Command() | ForeignEvent() | Ignored() | Relayed():
                    pass
                case _:
                    runs[one.elsewhere].append(one.statement)
        relay.flush()
        for elsewhere, statements in runs.items():
            for run_id, found in gather(statements).items():
                self._add(SubjectKey("run", run_id), found, roots, again=elsewhere)

    def _add(self, run: SubjectKey, found: Gathered, roots: set[str], *, again: bool) -> None:
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
            self._add_artifact(subject_id, run, found.artifacts[path], roots)
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

    def _add_artifact(self, subject_id: int, run: SubjectKey, artifact: Artifact, roots: set[str]) -> None:
        assert isinstance(artifact, KeptArtifact)
        seen = ArtifactSeen(run, artifact.path, artifact.root, artifact.size_bytes, artifact.mtime_ns)
        seq = self._facts.add(seen)
        if artifact.spooled:
            self._journal._run("add_spooled", (artifact.root, subject_id, seq, artifact.size_bytes, artifact.digest))
            roots.add(artifact.root)

    # -- heads -----------------------------------------------------------------------------------------------------

    def _merge(self, subject_id: int, run: SubjectKey, said: RunState) -> None:
        before, now_ms = self._heard(subject_id), self._journal._wall_ms()
        state = said if before is None else merge(before.state, said)
        waited = before is not None and now_ms - before.seen_ms >= self._settings.start_patience_ms
        ready = (before is not None and before.stated) or waited or state.started_ms is not None
        if ready:
            self._state(run, before.state if before is not None and before.stated else None, state)
        if before is not None and before.stale:
            self._facts.add(TagsDeleted(run, [LAST_ACTIVITY]))
            if before.stale != STALE:
                self._journal._run("put_relayed", (subject_id, "head", b"", now_ms, REOPENED))
            self._facts.add(heads(run.id, state, default_experiment=self._settings.default_experiment)[1])
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
        device = _device_of(state)
        if device and device != _device_of(before):
            self._facts.add(TagsSet(run, {DEVICE: device}))
        experiment, head = heads(run.id, state, default_experiment=self._settings.default_experiment)
        old = heads(run.id, before, default_experiment=self._settings.default_experiment)[1] if before else None
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
                    default_experiment=self._settings.default_experiment,
                )[1]
            )
        self._journal._run("mark_stale", {"subject_id": subject_id, "stale": end_as or STALE})
        self._known.runs.pop(subject_id, None)

    def _run_heard(self, subject_id: int) -> tuple[SubjectKey, _Heard]:
        [key] = self._journal._run("run_key", {"subject_id": subject_id}).fetchone()
        heard = self._heard(subject_id)
        assert heard is not None, "a run that messages have spoken of"
        return SubjectKey("run", key), heard


def _device_of(state: RunState | None) -> str:
    return state.device[1] if state is not None and state.device is not None else ""


def _two_values(run: SubjectKey, key: str, known: Stamped, said: Stamped) -> ProblemFound:
    first, second = (known, said) if known[0] <= said[0] else (said, known)
    what = f"messages say two values; {first[1][:100]!r} counts, which was said before {second[1][:100]!r}"
    return ProblemFound(f"run {run.id}, param {key}", what, run)


def _two_experiments(run: SubjectKey, created_in: str, named: str) -> ProblemFound:
    what = f"it was created in experiment {created_in!r} before a message named {named!r}; it stays there"
    return ProblemFound(f"run {run.id}, experiment", what, run)
