"""The inbox: takes what messages say into the journal, once each.

Rules
-----
1. The identity of an event and all that follows from it are committed in one transaction. A message is settled with its
   broker after that; delivered again, it is known.
2. What is said of a run becomes the same facts that a store's reading states, for every destination that is configured
   now: unlike a store, a message cannot be read again for one that joins later. How, ``message_runs`` and ``relayed``
   say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from syncd.core.facts import (
    ProblemFound,
    RunStatus,
)
from syncd.core.messages.statements import (
    Command,
    ForeignEvent,
    Ignored,
    KeptChunk,
    Relayed,
    RunStatement,
    Statement,
)
from syncd.core.relay.values import RelayedFacts
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal
from syncd.journal.message_runs import KnownRuns, RunStep
from syncd.journal.relayed import RelayStep

log = structlog.get_logger(__name__)

IDENTITIES: Final = 1_000_000
IDENTITY_BYTES: Final = 120  # what one costs in the file, index included
IDENTITIES_MS: Final = 14 * 24 * 3600 * 1000  # the longest that Service Bus keeps a message by default
PRUNE_AFTER: Final = 1000
PRUNED_AT_ONCE: Final = 5000
FOREIGN_EVENTS: Final = 10_000
# What so many others have followed, and what was known for so long when the last of them came, has been settled. Both:
# one message may have any number of events, and the clock may have jumped.
MOST_UNSETTLED: Final = 1000
UNSETTLED_MS: Final = 10 * 60 * 1000
EVER: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event of a message. ``repeatable`` says that its identity is only its content, which may come twice.

    ``again`` says that the broker has handed it over before, ``elsewhere`` that this may have been to another syncd.
    ``returns`` says that other events have its identity once it is settled.
    """

    identity: str
    statement: Statement
    repeatable: bool = False
    again: bool = False
    elsewhere: bool = False
    returns: bool = False


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
        self._known = KnownRuns()
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
            taken.waiting = self._intake(lambda facts: self._add(facts, new, taken.roots))
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

    def tick(self, *, listening_ms: int) -> Mapping[int, set[int]]:
        """State runs whose start was waited for long enough, and mark those that have been silent for too long.

        ``listening_ms`` is for how long messages could be received without a break: who does not listen hears nothing.

        Raises:
            JournalFull: nothing was committed.
        """
        settings, now_ms = self._settings, self.journal._wall_ms()
        unstated = self._runs("unstated_runs", now_ms - settings.start_patience_ms)
        silent: list[int] = []
        if settings.stale_after_ms is not None and listening_ms >= settings.stale_after_ms:
            silent = self._runs("silent_runs", now_ms - settings.stale_after_ms)
        if not unstated and not silent:
            return {}

        def add(facts: FactIntake) -> None:
            runs = self._runs_in(facts, set())
            for subject_id in unstated:
                runs.state(subject_id)
            for subject_id in silent:
                runs.mark_stale(subject_id, settings.end_stale_as)

        with self._transaction("stating runs"):
            return self._intake(add)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        try:
            with self.journal._transaction(doing):
                yield
        except BaseException:
            self._known.forget()  # what was stated may not have been committed
            raise

    def _runs(self, name: str, before_ms: int) -> list[int]:
        times = {"before_ms": before_ms, "now_ms": self.journal._wall_ms()}
        rows = self.journal._fetch(name, {"source_id": self.source_id, **times})
        return [row[0] for row in rows]

    def _intake(self, add: Callable[[FactIntake], None]) -> dict[int, set[int]]:
        """Have facts added for every destination; return the subjects that now wait for each."""
        destinations = [row[0] for row in self.journal._run("active_destinations").fetchall()]
        self._known.bound()
        facts = FactIntake(self.journal, self.source_id, destinations, first_reading=False, ids=self._known.subjects)
        add(facts)
        return dict.fromkeys(destinations, facts.subjects)

    def _add(self, facts: FactIntake, told: Iterable[Told], roots: set[str]) -> None:
        """Add the statements of runs and of another syncd."""
        statements: dict[bool, list[RunStatement]] = {True: [], False: []}  # what comes again was sent before
        relay = RelayStep(self.journal, facts, self.source_id, roots)
        for one in told:
            match one.statement:
                case RelayedFacts() | KeptChunk():
                    relay.take(one.statement, again=one.elsewhere)
                case Command() | ForeignEvent() | Ignored() | Relayed():
                    pass
                case _:
                    statements[one.elsewhere].append(one.statement)
        relay.flush()
        runs = self._runs_in(facts, roots)
        for elsewhere, said in statements.items():
            runs.take(said, again=elsewhere)

    def _runs_in(self, facts: FactIntake, roots: set[str]) -> RunStep:
        return RunStep(
            self.journal,
            facts,
            self.source_id,
            self._known,
            roots,
            default_experiment=self._settings.default_experiment,
            start_patience_ms=self._settings.start_patience_ms,
        )

    def _new(self, told: Sequence[Told], taken: Taken) -> list[Told]:
        """Remember the identities of events, and return the events that were not known."""
        digests = [b"" if isinstance(one.statement, KeptChunk) else _digest(one.identity) for one in told]
        [before] = self.journal._run("newest_in_inbox").fetchone()
        unseen = self._remember(dict.fromkeys(digest for digest in digests if digest), after=before)
        pairs = zip(told, digests, strict=True)
        returned = {digest: one.again for one, digest in pairs if one.returns and digest not in unseen}
        if returned:
            self._forget_settled(returned, up_to=before)
            unseen = self._remember(returned, after=before)
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

    def _forget_settled(self, returned: Mapping[bytes, bool], *, up_to: int) -> None:
        """Forget identities that other events have by now; what comes ``again`` may be one of not long ago."""
        last = {"source_id": self.source_id, "up_to": up_to}
        last_seq, last_ms = self.journal._run("last_of_source", last).fetchone()
        of_old = (last_seq - MOST_UNSETTLED, last_ms - UNSETTLED_MS)
        bounds = ((digest, *(of_old if again else (up_to, EVER))) for digest, again in returned.items())
        self.journal._many("forget_identity", [(self.source_id, *bound) for bound in bounds])

    def _remember(self, digests: Collection[bytes], *, after: int) -> set[bytes]:
        """Add identities to the inbox; return those that were not there when ``after`` was the last one."""
        now_ms = self.journal._wall_ms()
        self.journal._many("add_to_inbox", [(self.source_id, digest, now_ms) for digest in digests])
        return {row[0] for row in self.journal._run("inbox_after", {"seq": after})}

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
