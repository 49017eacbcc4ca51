"""A run and an experiment as the service keeps them, and the limits they keep to. No I/O, no HTTP.

Rules
-----
1. Points are appended: the same point sent twice is there twice.
2. A param is written once; the same value again is no error, another value is.
3. A batch is checked whole before anything of it is kept.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.standins.azureml.limits import Habits, Limits, check
from tests.standins.azureml.refusals import bad_value

Json = dict[str, Any]


class Point(NamedTuple):
    """A metric's value; timestamps in milliseconds."""

    value: float
    timestamp_ms: int
    step: int


@dataclass
class Experiment:
    """An experiment; times in milliseconds."""

    name: str
    created_at_ms: int
    tags: dict[str, str] = field(default_factory=dict)
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))
    lifecycle_stage: str = "active"
    updated_at_ms: int = 0

    def as_json(self) -> Json:
        return {
            "experiment_id": self.identity,
            "name": self.name,
            "artifact_location": "",
            "lifecycle_stage": self.lifecycle_stage,
            "creation_time": self.created_at_ms,
            "last_update_time": self.updated_at_ms or self.created_at_ms,
            "tags": listed(self.tags),
        }


@dataclass
class Batch:
    """What one log-batch carries."""

    points: list[tuple[str, Point]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """A run with all its data; ``series`` holds points in the order in which they came."""

    experiment_id: str
    artifact_uri: str
    identity: str
    name: str
    started_at_ms: int
    user: str = ""
    ended_at_ms: int | None = None
    status: str = "RUNNING"
    lifecycle_stage: str = "active"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[Point]] = field(default_factory=dict)
    latest: dict[str, Point] = field(default_factory=dict)
    inputs: list[Json] = field(default_factory=list)

    def apply(self, batch: Batch, limits: Limits, habits: Habits) -> None:
        """Keep a batch, all or nothing; Refused when it is over a limit or changes a param."""
        self._check_points(batch.points, limits)
        self._check_params(batch.params, limits)
        self._check_tags(batch.tags, limits, habits)
        for key, point in batch.points:
            self.series.setdefault(key, []).append(point)
            known = self.latest.get(key)
            if known is None or _rank(point) >= _rank(known):
                self.latest[key] = point
        self.params.update(batch.params)
        self.tags.update(batch.tags)
        self.name = self.tags.get("mlflow.runName", self.name)

    def _check_points(self, points: list[tuple[str, Point]], limits: Limits) -> None:
        check("MetricV2Dto.Value/Count", limits.metric_rows_per_batch, len(points))
        new: dict[str, int] = {}
        for key, _ in points:
            new[key] = new.get(key, 0) + 1
        for key, rows in new.items():
            check("MetricV2Dto.Name/Length", limits.metric_name_length, len(key))
            check("MetricRows", limits.metric_rows_per_name, len(self.series.get(key, ())) + rows)
        check("MetricNames", limits.metric_names_per_run, len(self.series.keys() | new.keys()))

    def _check_params(self, params: dict[str, str], limits: Limits) -> None:
        check("ParametersInBatch", limits.params_per_batch, len(params))
        for key, value in params.items():
            check("Parameters.Key/Length", limits.param_key_length, len(key))
            check("Parameters.Value/Length", limits.param_value_length, len(value))
            if self.params.get(key, value) != value:
                raise bad_value(
                    f"Changing param values is not allowed. Param with key='{key}' was already logged with "
                    f"value='{self.params[key]}' for run ID='{self.identity}'. Attempted logging new value '{value}'."
                )
        check("Parameters", limits.params_per_run, len(self.params.keys() | params.keys()))

    def _check_tags(self, tags: dict[str, str], limits: Limits, habits: Habits) -> None:
        check("TagsInBatch", limits.tags_per_batch, len(tags))
        for key, value in tags.items():
            check("RunDto.Tags.Key/Length", limits.tag_key_length, len(key))
            check("RunDto.Tags.Value/Length", limits.tag_value_length, len(value))
        check("RunDto.DisplayName/Length", limits.run_name_length, len(tags.get("mlflow.runName", "")))
        keys = self.tags.keys() | tags.keys()
        counted = keys if habits.system_tags_count else {key for key in keys if not key.startswith("mlflow.")}
        check("RunDto.Tags", limits.tags_per_run, len(counted))

    def info_json(self) -> Json:
        return {
            "run_id": self.identity,
            "run_uuid": self.identity,
            "run_name": self.name,
            "experiment_id": self.experiment_id,
            "user_id": self.user,
            "status": self.status,
            "start_time": self.started_at_ms,
            **({} if self.ended_at_ms is None else {"end_time": self.ended_at_ms}),
            "artifact_uri": self.artifact_uri,
            "lifecycle_stage": self.lifecycle_stage,
        }

    def as_json(self) -> Json:
        data = {
            "metrics": [point_json(key, point) for key, point in self.latest.items()],
            "params": listed(self.params),
            "tags": listed(self.tags),
        }
        return {"info": self.info_json(), "data": data, "inputs": {"dataset_inputs": self.inputs}}


def batch_from(body: Json) -> Batch:
    """Return the batch in a log-batch body; Refused when a number is none."""
    try:
        points = [
            (str(row["key"]), Point(float(row["value"]), int(row.get("timestamp", 0)), int(row.get("step", 0))))
            for row in body.get("metrics", ())
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise bad_value(f"A metric is not well formed: {exc!r}") from exc
    return Batch(points, pairs(body.get("params")), pairs(body.get("tags")))


def pairs(rows: list[Json] | None) -> dict[str, str]:
    """Return the mapping behind a list of {"key", "value"}."""
    return {str(row["key"]): str(row.get("value", "")) for row in rows or ()}


def listed(values: dict[str, str]) -> list[Json]:
    """Return MLflow's list of {"key", "value"}."""
    return [{"key": key, "value": value} for key, value in values.items()]


def point_json(key: str, point: Point) -> Json:
    """Return a point as the service tells it; what JSON has no number for is told as protobuf does."""
    value: float | str = point.value
    if math.isnan(point.value):
        value = "NaN"
    elif math.isinf(point.value):
        value = "Infinity" if point.value > 0 else "-Infinity"
    return {"key": key, "value": value, "timestamp": point.timestamp_ms, "step": point.step}


def _rank(point: Point) -> tuple[int, int]:
    return point.step, point.timestamp_ms
