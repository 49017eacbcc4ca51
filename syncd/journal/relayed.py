"""Takes what another syncd says into the journal, inside one open transaction (``inbox``).

Rules
-----
1. Of two words about the same thing (a param, a tag, a head, a file) the later one counts, in whatever order and
   however often they come: the orders of the latest are kept (``relayed``).
2. What a message only refers to gets a head if it has none, and no delivery: its own messages may come here or to
   another syncd.
3. Points that were told by another journal of the same syncd before may be there already.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

from syncd.core.changes import Head
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    MetricsLogged,
    ModelSeen,
    ParamsLogged,
    ProblemFound,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.core.messages.statements import KeptChunk, RelayStatement
from syncd.core.metric_lines import pack
from syncd.core.relay.values import RelayedFact, RelayedFacts
from syncd.core.source_tags import RELAY_ORDER
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal

REOPENED: Final = "reopened"


class RelayStep:
    """Adds what another syncd says; ``flush`` must be called at the end.

    ``roots`` gets the directories of the spool that are now in use.
    """

    def __init__(self, journal: Journal, facts: FactIntake, source_id: int, roots: set[str]) -> None:
        self._journal = journal
        self._facts = facts
        self._source_id = source_id
        self._roots = roots
        self._points: defaultdict[tuple[SubjectKey, bool], list[tuple[bytes, int]]] = defaultdict(list)

    def take(self, statement: RelayStatement, *, again: bool) -> None:
        """Add a statement; ``again`` says that another syncd may have been handed it before."""
        if isinstance(statement, RelayedFacts):
            self._take_facts(statement, again=again)
        else:
            self._take_chunk(statement)

    def flush(self) -> None:
        """Add the points of all statements: those of one subject are few changes."""
        for (subject, again), pieces in self._points.items():
            for lines, count in pack(pieces):
                self._facts.add(MetricsLogged(subject, lines, count, again))
        self._points.clear()

    # -- facts -----------------------------------------------------------------------------------------------------

    def _take_facts(self, message: RelayedFacts, *, again: bool) -> None:
        subject_id = self._facts.id_of(message.subject)
        says_head = any(isinstance(one.fact, RunSeen | ModelSeen | ExperimentSeen) for one in message.facts)
        self._refer(head for head in message.about if not (says_head and head.subject == message.subject))
        again = again or self._is_of_another_journal(subject_id, message.origin.journal)
        for one in message.facts:
            self._add(subject_id, one, again=again)

    def _refer(self, about: Iterable[Head]) -> None:
        for head in about:
            # How a run stands, its own messages say, when all that comes before has been told.
            self._facts.refer(replace(head, status="RUNNING", end_time_ms=None) if isinstance(head, RunSeen) else head)

    def _is_of_another_journal(self, subject_id: int, journal: str) -> bool:
        self._journal._run("add_relayed_journal", {"subject_id": subject_id, "journal": journal})
        first = self._journal._run("relayed", {"subject_id": subject_id, "section": "journal"}).fetchone()[0]
        return bool(first != journal)

    def _add(self, subject_id: int, relayed: RelayedFact, *, again: bool) -> None:
        fact, order = relayed.fact, relayed.order
        match fact:
            case MetricsLogged():
                self._points[fact.subject, fact.again or again].append((fact.lines, fact.count))
            case ParamsLogged():
                if params := self._newer(subject_id, "param", fact.params, order):
                    self._facts.add(replace(fact, params=params))
            case TagsSet():
                said = {key: tag for key, tag in fact.tags.items() if key != RELAY_ORDER}  # of a gateway's own server
                if tags := self._newer(subject_id, "tag", said, order):
                    self._facts.add(replace(fact, tags=tags))
            case TagsDeleted():
                if keys := self._newer(subject_id, "tag", dict.fromkeys(fact.keys, ""), order):
                    self._facts.add(replace(fact, keys=list(keys)))
            case RunSeen() | ModelSeen() | ExperimentSeen() | SubjectDeleted():
                if self._put(subject_id, "head", "", order, ""):
                    self._facts.add(fact)
            case _:
                self._facts.add(fact)

    def _newer(self, subject_id: int, section: str, said: Mapping[str, str], order: int) -> dict[str, str]:
        return {key: value for key, value in said.items() if self._put(subject_id, section, key, order, "")}

    def _put(self, subject_id: int, section: str, key: str, order: int, value: str) -> bool:
        """Record a word; return whether it counts: nothing later is known."""
        row = (subject_id, section, key.encode("utf-8", "surrogatepass"), order, value)
        return bool(self._journal._run("put_relayed", row).rowcount)

    # -- artifacts -------------------------------------------------------------------------------------------------

    def _take_chunk(self, kept: KeptChunk) -> None:
        chunk = kept.chunk
        subject_id = self._facts.id_of(chunk.subject)
        self._refer(chunk.about)
        if kept.outcome == "part":
            self._put_partial(kept)
            return
        self._journal._run("drop_partial", self._place(kept))
        if kept.outcome == "broken":
            what = f"what came of it is not what its SHA-256 {chunk.digest} says; it is taken when it is sent again"
            self._facts.add(ProblemFound(_where(kept), what, chunk.subject))
            return
        self._put(subject_id, "artifact", chunk.path, chunk.order, chunk.digest)
        if kept.whole is not None:
            whole = kept.whole
            self._facts.add(ProblemFound(_where(kept), ""))
            seq = self._facts.add(ArtifactSeen(chunk.subject, chunk.path, whole.root, whole.size_bytes, whole.mtime_ns))
            self._journal._run("add_spooled", (whole.root, subject_id, seq, whole.size_bytes, whole.digest))
            self._roots.add(whole.root)

    def _place(self, kept: KeptChunk) -> dict[str, object]:
        subject = kept.chunk.subject
        return {"source_id": self._source_id, "kind": subject.kind, "key": subject.id, "path": kept.chunk.path}

    def _put_partial(self, kept: KeptChunk) -> None:
        chunk = kept.chunk
        values = {
            "place": chunk.order,
            "digest": chunk.digest,
            "size_bytes": chunk.size_bytes,
            "root": kept.root,
            "pieces": json.dumps(list(kept.pieces)),
            "held_bytes": _held_bytes(kept.pieces),
            "session": kept.session,
            "origin": json.dumps(asdict(chunk.origin)),
            "about": json.dumps([asdict(head) for head in chunk.about]),
            "now_ms": self._journal._wall_ms(),
        }
        self._journal._run("put_partial", {**self._place(kept), **values})


def is_reopened(journal: Journal, subject_id: int) -> bool:
    """Return whether messages were heard of a run after it was taken to have ended for its silence."""
    return bool(journal._one("relayed", {"subject_id": subject_id, "section": "head"}) == REOPENED)


def is_ended_for_silence(journal: Journal, subject_id: int) -> bool:
    """Return whether a run is taken to have ended because no message was heard of it."""
    return bool(journal._one("stale_as", {"subject_id": subject_id}) not in (None, "", "stale"))


def order_of_head(journal: Journal, subject_id: int) -> int | None:
    """Return the order of the latest word about how a subject stands; None if it is not relayed."""
    order: int | None = journal._one("order_of_head", {"subject_id": subject_id})
    return order


def _held_bytes(pieces: Sequence[tuple[int, int]]) -> int:
    return sum(after - first for first, after in pieces)


def _where(kept: KeptChunk) -> str:
    return f"{kept.chunk.subject.kind} {kept.chunk.subject.id}, artifact {kept.chunk.path}"
