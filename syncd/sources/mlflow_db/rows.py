"""Turn rows into facts: pure functions over what the queries returned.

Rules
-----
1. A subject (run or model) is read whole into a snapshot. ``against`` compares it with the state that was committed
   for it and returns what is new, with the new state; nothing else remembers what was stated.
2. A state is small JSON: digests by key, so that a vanished tag can be named without keeping its value.
3. SQLite columns hold what a writer put there, whatever their declared type: everything is converted, nothing trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from syncd.core.facts import (
    TERMINAL_STATUSES,
    DatasetInput,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    RunSeen,
    RunStatus,
    SubjectKey,
    SubjectKind,
    TagsDeleted,
    TagsSet,
)
from syncd.core.metric_lines import SEGMENT_LINES

Row = Sequence[Any]
RUN_STATUSES: dict[str, RunStatus] = {
    "RUNNING": "RUNNING",
    "SCHEDULED": "SCHEDULED",
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "KILLED": "KILLED",
    "1": "RUNNING",  # the numbers of MLflow's RunStatus, met in stores that were filled by hand
    "2": "SCHEDULED",
    "3": "FINISHED",
    "4": "FAILED",
    "5": "KILLED",
}
MODEL_STATUSES = {"0": "UNSPECIFIED", "1": "PENDING", "2": "READY", "3": "FAILED"}  # LoggedModelStatus.to_int
LIVE_RUNS = frozenset({"RUNNING", "SCHEDULED"})


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run as it is now."""

    head: RunSeen
    alive: bool
    artifact_uri: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: Sequence[DatasetInput] = ()
    model_inputs: Sequence[str] = ()
    model_outputs: Sequence[tuple[str, int]] = ()

    @property
    def subject(self) -> SubjectKey:
        """The run."""
        return self.head.subject

    @property
    def experiment_id(self) -> str:
        """Id of the experiment it is in."""
        return self.head.experiment.id

    @property
    def lasting(self) -> bool:
        """True while the run has not ended."""
        return self.alive and self.head.status not in TERMINAL_STATUSES

    @property
    def last_time_ms(self) -> int:
        """When it ended, or started."""
        return self.head.end_time_ms or self.head.start_time_ms or 0

    @property
    def weight(self) -> int:
        """About how many characters its facts hold."""
        inputs = sum(len(data.source) + len(data.schema) + len(data.profile) for data in self.datasets)
        return _weight(self.params) + _weight(self.tags) + inputs

    def against(self, state: bytes | None) -> tuple[list[Fact], bytes]:
        """Return what is new against the committed state, and the new state."""
        old = _load(state)
        params_now, tags_now = _digests(self.params), _digests(self.tags)
        new = {
            "h": digest(_key(self.head)),
            "p": params_now,
            "t": tags_now,
            "d": [digest(_key(dataset)) for dataset in self.datasets],
            "m": sorted(self.model_inputs),
            "o": sorted(f"{model}@{step}" for model, step in self.model_outputs),
        }
        facts: list[Fact] = []
        if old.get("h") != new["h"]:
            facts.append(self.head)
        if params := _news(self.params, params_now, old.get("p", {})):
            facts.append(ParamsLogged(self.subject, params))
        if tags := _news(self.tags, tags_now, old.get("t", {})):
            facts.append(TagsSet(self.subject, tags))
        if gone := sorted(set(old.get("t", {})) - set(self.tags)):
            facts.append(TagsDeleted(self.subject, gone))
        facts += self._links(old, new)
        return facts, _dump(new)

    def _links(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Fact]:
        known, used, made = set(old.get("d", ())), set(old.get("m", ())), set(old.get("o", ()))
        datasets = [data for data, mark in zip(self.datasets, new["d"], strict=True) if mark not in known]
        inputs = [model for model in self.model_inputs if model not in used]
        outputs = [(model, step) for model, step in self.model_outputs if f"{model}@{step}" not in made]
        facts: list[Fact] = []
        if datasets or inputs:
            facts.append(InputsLogged(self.subject, datasets, inputs))
        if outputs:
            facts.append(OutputsLogged(self.subject, outputs))
        return facts


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A logged model as it is now."""

    head: ModelSeen
    alive: bool
    artifact_uri: str
    updated_ms: int

    @property
    def subject(self) -> SubjectKey:
        """The model."""
        return self.head.subject

    @property
    def experiment_id(self) -> str:
        """Id of the experiment it is in."""
        return self.head.experiment.id

    @property
    def lasting(self) -> bool:
        """True while it is being made."""
        return self.alive and self.head.status == "PENDING"

    @property
    def last_time_ms(self) -> int:
        """When it was last updated."""
        return self.updated_ms

    @property
    def weight(self) -> int:
        """About how many characters its fact holds."""
        return _weight(self.head.params) + _weight(self.head.tags)

    def against(self, state: bytes | None) -> tuple[list[Fact], bytes]:
        """Return what is new against the committed state, and the new state."""
        new = _dump({"h": digest(_key(self.head))})
        return ([] if new == state else [self.head]), new


Snapshot = RunSnapshot | ModelSnapshot


def segments(kind: SubjectKind, rows: Iterable[Row], stated: frozenset[str], *, again: bool) -> list[Fact]:
    """Return the rows' points in order, as segments of one subject each; only those of the subjects in ``stated``."""
    lines: dict[Any, list[str]] = {}
    heads: dict[Any, str] = {}
    for row in rows:
        _, subject_id, key, value, timestamp, step, is_nan, *more = row
        own = lines.get(subject_id)
        if own is None:
            own = lines[subject_id] = []
        head = heads.get(key)
        if head is None:
            head = heads[key] = f'{{"key":{json.dumps(text(key), ensure_ascii=False)},"value":'
        if is_nan or type(value) is not float or value - value != 0.0:  # NaN, infinite, or no number
            value = _wire_value(value, bool(is_nan))
        if type(timestamp) is not int or type(step) is not int:
            timestamp, step = number(timestamp) or 0, number(step) or 0
        tail = _model_tail(subject_id, *more) if more else ""
        own.append(f'{head}{value},"timestamp":{timestamp},"step":{step}{tail}}}')
    return [
        MetricsLogged(SubjectKey(kind, text(subject_id)), "\n".join(part).encode(), len(part), again)
        for subject_id, own in lines.items()
        if text(subject_id) in stated
        for part in (own[i : i + SEGMENT_LINES] for i in range(0, len(own), SEGMENT_LINES))
    ]


def _model_tail(model_id: Any, run_id: Any, dataset_name: Any, dataset_digest: Any) -> str:
    more = {"model_id": model_id, "run_id": run_id, "dataset_name": dataset_name, "dataset_digest": dataset_digest}
    fields = {name: text(value) for name, value in more.items() if value}
    return "," + json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:-1]


def _wire_value(value: Any, is_nan: bool) -> str:
    if is_nan or value is None:
        return '"NaN"'
    try:
        as_float = float(value)
    except (TypeError, ValueError):
        return '"NaN"'  # a text in the value column: there is no number to bring over
    if math.isnan(as_float):
        return '"NaN"'
    if math.isinf(as_float):
        return '"Infinity"' if as_float > 0 else '"-Infinity"'
    return repr(as_float)


def run_snapshot(
    row: Row,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    datasets: Sequence[DatasetInput],
    links: Sequence[tuple[str, str, int]],
) -> RunSnapshot:
    """Build a run from a row of ``queries.RUNS`` and what belongs to it."""
    run_id, name, experiment_id, user, status, start, end, artifact_uri, stage, found, experiment_stage = row
    head = RunSeen(
        subject=SubjectKey("run", text(run_id)),
        experiment=SubjectKey("experiment", text(experiment_id)),
        name=text(name) or tags.get("mlflow.runName", ""),
        status=RUN_STATUSES.get(text(status).upper(), "FINISHED" if end else "RUNNING"),
        start_time_ms=number(start),
        end_time_ms=number(end),
        user_id=text(user),
        parent_run_id=tags.get("mlflow.parentRunId", ""),
    )
    return RunSnapshot(
        head=head,
        alive=stage != "deleted" and found is not None and experiment_stage != "deleted",
        artifact_uri=text(artifact_uri),
        params=params,
        tags=tags,
        datasets=datasets,
        model_inputs=[model for kind, model, _ in links if kind == "RUN_INPUT"],
        model_outputs=[(model, step) for kind, model, step in links if kind == "RUN_OUTPUT"],
    )


def model_snapshot(row: Row, params: Mapping[str, str], tags: Mapping[str, str]) -> ModelSnapshot:
    """Build a model from a row of ``queries.MODELS`` and what belongs to it."""
    model_id, name, experiment_id, kind, status, run_id, created, location, stage, found, experiment_stage, updated = (
        row
    )
    head = ModelSeen(
        subject=SubjectKey("model", text(model_id)),
        experiment=SubjectKey("experiment", text(experiment_id)),
        name=text(name),
        model_type=text(kind),
        status=MODEL_STATUSES.get(text(status), text(status)),
        source_run_id=text(run_id),
        creation_time_ms=number(created),
        params=params,
        tags=tags,
    )
    alive = stage != "deleted" and found is not None and experiment_stage != "deleted"
    return ModelSnapshot(head, alive, text(location), number(updated) or number(created) or 0)


def dataset_input(row: Row, tags: Mapping[str, str]) -> DatasetInput:
    """Build a dataset input from a row of ``queries.DATASETS``."""
    _, _, name, dataset_digest, source_type, source, schema, profile = row
    return DatasetInput(
        name=text(name),
        digest=text(dataset_digest),
        source_type=text(source_type),
        source=text(source),
        schema=text(schema),
        profile=text(profile),
        tags=tags,
    )


def experiment_seen(experiment_id: Any, name: Any, tags: Mapping[str, str]) -> ExperimentSeen:
    """Build an experiment."""
    return ExperimentSeen(SubjectKey("experiment", text(experiment_id)), text(name), tags)


def experiment_state(experiment: ExperimentSeen) -> bytes:
    """Return the state of an experiment."""
    return digest(_key(experiment)).encode()


def row_digest(row: Row) -> str:
    """Return the identity of a row of points; is_nan unknown is as good as not."""
    return digest(repr((*row[:6], row[6] or 0, *row[7:])))


def digest(value: str) -> str:
    """Return 16 hex digits that stand for a text."""
    return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def text(value: Any) -> str:
    """Return a column as text; NULL is empty."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number(value: Any) -> int | None:
    """Return a column as an integer, None when there is none."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _weight(values: Mapping[str, str]) -> int:
    return 200 + sum(len(key) + len(value) + 20 for key, value in values.items())


def _key(value: Any) -> str:
    return repr([_sorted(getattr(value, name)) for name in value.__slots__])


def _sorted(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, Mapping) else value


def _digests(values: Mapping[str, str]) -> dict[str, str]:
    return {key: digest(value) for key, value in values.items()}


def _news(values: Mapping[str, str], new: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if old.get(key) != new[key]}


def _load(state: bytes | None) -> dict[str, Any]:
    return dict(json.loads(state)) if state else {}


def _dump(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state, separators=(",", ":"), sort_keys=True).encode()
