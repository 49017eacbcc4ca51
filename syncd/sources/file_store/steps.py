"""What the parts of this source hand to each other: steps, which the source batches into readings.

Rules
-----
1. A step's facts and cursors belong together; the source may join steps into one reading but never splits one.
2. ``committed`` runs after the reading that holds the step was committed, and only then may memory change.
3. Cursors are compact JSON. A cursor that cannot be read back counts as none: the files are read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from syncd.core.facts import Fact, MetricsLogged, ProblemFound, Reading, SubjectKey
from syncd.sources.base import Cursors

READING_BYTES = 4 * 1024 * 1024
BATCH_BYTES = 1024 * 1024
_FACT_BYTES = 300  # a rough weight of a small fact

State = dict[str, Any]


@dataclass(slots=True)
class Step:
    """Facts with the cursors that are true once they are committed."""

    facts: list[Fact] = field(default_factory=list)
    cursors: dict[str, bytes | None] = field(default_factory=dict)
    committed: Callable[[], None] | None = None

    def weight_bytes(self) -> int:
        """Estimate what the step adds to a reading."""
        weight = sum(len(cursor) for cursor in self.cursors.values() if cursor)
        for fact in self.facts:
            weight += _FACT_BYTES + (len(fact.lines) if isinstance(fact, MetricsLogged) else 0)
        return weight


class Batch:
    """Joins steps until they make a reading of decent size."""

    def __init__(self) -> None:
        self._facts: list[Fact] = []
        self._cursors: dict[str, bytes | None] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._weight_bytes = 0

    def readings(self, steps: Iterable[Step]) -> Iterator[Reading]:
        """Yield readings; being advanced means that the last one was committed."""
        for step in steps:
            weight = step.weight_bytes()
            if self._weight_bytes and self._weight_bytes + weight > READING_BYTES:
                yield from self._flush()
            self._facts += step.facts
            self._cursors.update(step.cursors)
            if step.committed:
                self._callbacks.append(step.committed)
            self._weight_bytes += weight
            if self._weight_bytes >= BATCH_BYTES:
                yield from self._flush()
        yield from self._flush()

    def _flush(self) -> Iterator[Reading]:
        facts, cursors, callbacks = self._facts, self._cursors, self._callbacks
        self._facts, self._cursors, self._callbacks, self._weight_bytes = [], {}, [], 0
        if facts or cursors:
            yield Reading(facts, cursors)
        for callback in callbacks:
            callback()


def load_state(cursors: Cursors, key: str) -> State:
    """Return a cursor's JSON object; empty when there is none or it cannot be read back."""
    raw = cursors.load(key)
    if raw is None:
        return {}
    try:
        state = json.loads(raw)
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def dump_state(state: State) -> bytes:
    """Render a cursor; keys of ``state`` may hold undecodable file names (lone surrogates)."""
    return json.dumps(state, separators=(",", ":")).encode("ascii")


def problem_changes(
    before: Mapping[str, str], now: Mapping[str, str], *, subject: SubjectKey | None = None
) -> list[Fact]:
    """Return the facts that state new problems and withdraw those that are gone."""
    stated: list[Fact] = [
        ProblemFound(where, what, subject) for where, what in now.items() if before.get(where) != what
    ]
    stated += [ProblemFound(where, "", subject) for where in before if where not in now]
    return stated
