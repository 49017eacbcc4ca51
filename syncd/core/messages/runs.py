"""What messages say of one run, merged.

Rules
-----
1. ``merge`` is associative and idempotent, and commutative where no two messages give the same time: in whatever order
   they come, and however often, the same is known of the run in the end (tests/unit/test_message_runs.py).
2. The first word counts for what cannot change on a server: the experiment, the start, a param. The last word counts
   for what can: name, user, parent, end, a tag. First and last go by the time that a message gives, and of the same
   time (a second, often, and what is received together without a time) by the order in which messages come.
3. A run starts when its ``run.start`` says so, without one with its first message; it ends by ``run.end`` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import itemgetter
from typing import Any, Final, TypeVar

from syncd.core.facts import ExperimentSeen, RunSeen, RunStatus, SubjectKey
from syncd.core.messages.statements import (
    Artifact,
    InlineArtifact,
    LocalArtifact,
    RunEnded,
    RunLogged,
    RunStarted,
    RunStatement,
)
from syncd.core.source_tags import PARENT_RUN_ID

Stamped = tuple[int, str]  # when it was said (ms), and what
Said = TypeVar("Said", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What is known of a run's head. ``first_ms`` and ``last_ms`` are the times of its first and last message."""

    first_ms: int
    last_ms: int
    experiment: Stamped | None = None
    device: Stamped | None = None  # the first word: it is told once
    name: Stamped | None = None
    user_id: Stamped | None = None
    parent_run_id: Stamped | None = None
    started_ms: int | None = None
    end: tuple[int, int, str] | None = None  # when it was said (ms), end time (ms) and status

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps({name: getattr(self, name) for name in _STATE_FIELDS}, ensure_ascii=False)


_STATE_FIELDS: Final = tuple(one.name for one in fields(RunState))


def decode_state(text: str) -> RunState:
    """Return what ``RunState.encode`` wrote; before 2026-11-29 it did not say when the end was said."""
    known: Any = {key: tuple(one) if isinstance(one, list) else one for key, one in json.loads(text).items()}
    if known["end"] is not None and len(known["end"]) == 2:
        known["end"] = (known["end"][0], *known["end"])
    return RunState(**known)


def device_of(state: RunState | None) -> str:
    """Return whose run it is, "" where nothing has said that."""
    return state.device[1] if state is not None and state.device is not None else ""


def merge(one: RunState, other: RunState) -> RunState:
    """Return what is known when both are; ``other`` was heard later."""
    return RunState(
        first_ms=min(one.first_ms, other.first_ms),
        last_ms=max(one.last_ms, other.last_ms),
        experiment=_first(one.experiment, other.experiment),
        device=_first(one.device, other.device),
        name=_last(one.name, other.name),
        user_id=_last(one.user_id, other.user_id),
        parent_run_id=_last(one.parent_run_id, other.parent_run_id),
        started_ms=min((at for at in (one.started_ms, other.started_ms) if at is not None), default=None),
        end=_last(one.end, other.end),
    )


def _first(*said: Said | None) -> Said | None:
    """Return the first word of some in the order in which they were heard."""
    return min((one for one in said if one is not None), key=_time, default=None)


def _last(*said: Said | None) -> Said | None:
    """Return the last word of some in the order in which they were heard."""
    return max((one for one in reversed(said) if one is not None), key=_time, default=None)


_time: Final = itemgetter(0)


def state_of(statements: Sequence[RunStatement]) -> RunState:
    """Return what statements of one run, as they came, say of its head: what merging them one by one comes to."""
    starts = [one for one in statements if isinstance(one, RunStarted)]
    ends = [one for one in statements if isinstance(one, RunEnded)]
    times = [one.time_ms for one in statements]
    return RunState(
        first_ms=min(times),
        last_ms=max(times),
        experiment=_first(*((one.time_ms, one.experiment) for one in statements if one.experiment)),
        device=_first(*((one.time_ms, one.run.device) for one in statements if one.run.device)),
        name=_last(*((one.time_ms, one.run.name) for one in statements if one.run.name)),
        user_id=_last(*((one.time_ms, one.user_id) for one in starts if one.user_id)),
        parent_run_id=_last(*((one.time_ms, parent) for one in statements if (parent := _parent_of(one)))),
        started_ms=min((one.start_time_ms for one in starts), default=None),
        end=_last(*((one.time_ms, one.end_time_ms, one.status) for one in ends)),
    )


def _parent_of(statement: RunStatement) -> str:
    """Return the id of the run that a statement names as the parent, by its field or by MLflow's tag; "" for none."""
    if isinstance(statement, RunEnded):
        return ""
    named = statement.parent_run_id if isinstance(statement, RunStarted) else ""
    return named or statement.tags.get(PARENT_RUN_ID, "")


def heads(run_id: str, state: RunState, *, default_experiment: str) -> tuple[ExperimentSeen, RunSeen]:
    """Return the facts that state a run and its experiment."""
    experiment = state.experiment[1] if state.experiment else default_experiment
    key = SubjectKey("experiment", experiment)
    status: RunStatus = state.end[2] if state.end else "RUNNING"  # type: ignore[assignment]
    run = RunSeen(
        subject=SubjectKey("run", run_id),
        experiment=key,
        name=state.name[1] if state.name else "",
        status=status,
        start_time_ms=state.first_ms if state.started_ms is None else state.started_ms,
        end_time_ms=state.end[1] if state.end else None,
        user_id=state.user_id[1] if state.user_id else "",
        parent_run_id=state.parent_run_id[1] if state.parent_run_id else "",
    )
    return ExperimentSeen(key, experiment, {}), run


# -- params, tags and artifacts ------------------------------------------------------------------------------------


def first_values(known: Mapping[str, Stamped], said: Mapping[str, Stamped]) -> dict[str, Stamped]:
    """Return the params that are new, or were said before what is known of them."""
    return {key: one for key, one in said.items() if key not in known or one[0] < known[key][0]}


def last_values(known: Mapping[str, Stamped], said: Mapping[str, Stamped]) -> dict[str, Stamped]:
    """Return the tags or artifacts that are new, or were said after what is known of them, and heard later."""
    return {key: one for key, one in said.items() if key not in known or _overtakes(one, known[key])}


def _overtakes(one: Stamped, known: Stamped) -> bool:
    return one[0] > known[0] or (one[0] == known[0] and one[1] != known[1])


# -- several statements together -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Gathered:
    """What several statements say of one run. ``points`` are pieces of lines with their number.

    ``artifact_stamps`` have a digest for a value; ``artifacts`` are those that the stamps speak of, by path.
    """

    state: RunState
    points: list[tuple[bytes, int]] = field(default_factory=list)
    params: dict[str, Stamped] = field(default_factory=dict)
    tags: dict[str, Stamped] = field(default_factory=dict)
    artifact_stamps: dict[str, Stamped] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)


def gather(statements: Iterable[RunStatement]) -> dict[str, Gathered]:
    """Return what statements say, by the run's id."""
    by_run: dict[str, list[RunStatement]] = {}
    for statement in statements:
        by_run.setdefault(statement.run.id, []).append(statement)
    return {run_id: _gathered(of_run) for run_id, of_run in by_run.items()}


def _gathered(statements: Sequence[RunStatement]) -> Gathered:
    found = Gathered(state_of(statements))
    for statement in statements:
        at_ms = statement.time_ms
        if not isinstance(statement, RunEnded):
            if statement.params:
                params = {key: (at_ms, value) for key, value in statement.params.items()}
                found.params.update(first_values(found.params, params))
            if statement.tags:
                tags = {key: (at_ms, value) for key, value in statement.tags.items()}
                found.tags.update(last_values(found.tags, tags))
        if isinstance(statement, RunStarted) and statement.parent_run_id:
            found.tags.update(last_values(found.tags, {PARENT_RUN_ID: (at_ms, statement.parent_run_id)}))
        if isinstance(statement, RunLogged):
            if statement.count:
                found.points.append((statement.lines, statement.count))
            for artifact in statement.artifacts:
                stamp = (at_ms, _digest(artifact))
                if last_values(found.artifact_stamps, {artifact.path: stamp}):
                    found.artifact_stamps[artifact.path] = stamp
                    found.artifacts[artifact.path] = artifact
    return found


def _digest(artifact: Artifact) -> str:
    match artifact:
        case InlineArtifact():
            return hashlib.sha256(artifact.content).hexdigest()
        case LocalArtifact():
            return artifact.root
        case _:
            return artifact.digest
