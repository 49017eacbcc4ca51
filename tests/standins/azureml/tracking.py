"""Experiments and runs of a workspace, and what may be done with them. No I/O, no HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from tests.standins.azureml import search
from tests.standins.azureml.limits import Habits, Limits, check
from tests.standins.azureml.refusals import Refused, bad_value, not_there
from tests.standins.azureml.runs import Batch, Experiment, Json, Run, pairs, point_json

T = TypeVar("T")
ENDED = ("FINISHED", "FAILED", "KILLED")
STATES = (*ENDED, "RUNNING", "SCHEDULED")


class Tracking:
    """All experiments by id and runs by id; ``artifact_uri`` makes a run's from experiment id and run id."""

    def __init__(self, limits: Limits, habits: Habits, artifact_uri: Callable[[str, str], str]) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.runs: dict[str, Run] = {}
        self._runs_of: dict[str, list[Run]] = {}
        self._limits = limits
        self._habits = habits
        self._artifact_uri = artifact_uri

    # experiments

    def create_experiment(self, name: str, tags: dict[str, str]) -> Experiment:
        if not name:
            raise bad_value("An experiment needs a name.")
        check("ExperimentName/Length", self._limits.experiment_name_length, len(name))
        if self.experiment_named(name) is not None:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"Experiment(name={name}) already exists.")
        made = Experiment(name, _now_ms(), dict(tags))
        self.experiments[made.identity] = made
        self._runs_of[made.identity] = []
        return made

    def experiment(self, identity: str) -> Experiment:
        """Return an experiment by id; refuses an unknown one."""
        try:
            return self.experiments[identity]
        except KeyError as exc:
            raise not_there(f"Experiment with id {identity}") from exc

    def experiment_named(self, name: str) -> Experiment | None:
        return next((known for known in self.experiments.values() if known.name == name), None)

    def search_experiments(self, body: Json) -> list[Experiment]:
        clauses = search.parse(body.get("filter") or "")
        stages = _stages(body.get("view_type"))

        def kept(known: Experiment) -> bool:
            attributes = {"name": known.name, "experiment_id": known.identity}
            view: search.View = {"tags": known.tags.get, "attributes": attributes.get}
            return known.lifecycle_stage in stages and all(clause.holds(view) for clause in clauses)

        return [known for known in self.experiments.values() if kept(known)]

    # runs

    def create_run(self, body: Json) -> Run:
        experiment = self.experiment(str(body.get("experiment_id", "")))
        if experiment.lifecycle_stage != "active":
            raise bad_value(f"Experiment {experiment.identity} must be in the 'active' state.")
        identity = str(uuid.uuid4())
        tags = pairs(body.get("tags"))
        name = body.get("run_name") or tags.get("mlflow.runName") or f"run_{identity[:8]}"
        tags.setdefault("mlflow.runName", name)
        run = Run(
            experiment_id=experiment.identity,
            artifact_uri=self._artifact_uri(experiment.identity, identity),
            identity=identity,
            name=name,
            started_at_ms=int(body.get("start_time") or _now_ms()),
            user=body.get("user_id", ""),
        )
        run.apply(Batch(tags=tags), self._limits, self._habits)
        self.runs[identity] = run
        self._runs_of[experiment.identity].append(run)
        return run

    def run(self, identity: str) -> Run:
        """Return a run by id; refuses an unknown one."""
        try:
            return self.runs[identity]
        except KeyError as exc:
            raise not_there(f"Run {identity}") from exc

    def active_run(self, identity: str) -> Run:
        """Return a run that may be written to; refuses a deleted one."""
        run = self.run(identity)
        if run.lifecycle_stage != "active":
            raise bad_value(f"The run {identity} must be in the 'active' state. Current state is deleted.")
        return run

    def update_run(self, body: Json) -> Run:
        run = self.active_run(run_id(body))
        status = body.get("status", run.status)
        if status not in STATES:
            raise bad_value(f"Invalid run status {status!r}")
        name = body.get("run_name") or run.name
        run.apply(Batch(tags={"mlflow.runName": name}), self._limits, self._habits)
        run.status = status
        if body.get("end_time") is not None:
            run.ended_at_ms = int(body["end_time"])
        return run

    def log(self, identity: str, batch: Batch) -> None:
        """Keep a batch for a run."""
        self.active_run(identity).apply(batch, self._limits, self._habits)

    def delete_tag(self, identity: str, key: str) -> None:
        run = self.active_run(identity)
        if key not in run.tags:
            raise not_there(f"Tag {key} of run {identity}")
        del run.tags[key]

    def add_inputs(self, identity: str, inputs: list[Json]) -> None:
        run = self.active_run(identity)
        check("RunDto.InputDatasets", self._limits.inputs_per_run, len(run.inputs) + len(inputs))
        run.inputs.extend(inputs)

    def search_runs(self, body: Json) -> list[Run]:
        stages = _stages(body.get("run_view_type"))
        asked = dict.fromkeys(str(identity) for identity in body.get("experiment_ids", ()))
        among = [run for identity in asked for run in self._runs_of.get(identity, ()) if run.lifecycle_stage in stages]
        return search.ordered(search.matching(among, body.get("filter") or ""), list(body.get("order_by", ())))

    def history(self, identity: str, key: str, max_results: int | None, token: str) -> Json:
        """Return a page of a metric's points, in the order in which they came."""
        most = self._limits.history_results
        if most is not None and max_results is not None and max_results >= most:
            message = f"MaxResults = {max_results} is invalid: MaxResults must be less than {most}."
            raise Refused(400, "BAD_REQUEST", message)
        points = self.run(identity).series.get(key, [])
        kept, following = page(points, max_results or (most or len(points) + 2) - 1, token)
        answer: Json = {"metrics": [point_json(key, point) for point in kept]}
        return {**answer, "next_page_token": following} if following else answer

    def search_page(self, found: list[T], body: Json) -> tuple[list[T], str]:
        """Return the page that a search's body asks for, and the token of the next one."""
        size = min(int(body.get("max_results") or self._limits.search_results), self._limits.search_results)
        return page(found, size, body.get("page_token") or "")


def page(items: list[T], size: int, token: str) -> tuple[list[T], str]:
    """Return up to ``size`` items from where ``token`` says, and the next token ("" at the end)."""
    try:
        start = int(token or 0)
    except ValueError as exc:
        raise bad_value(f"Invalid page token {token!r}") from exc
    end = start + max(1, size)
    return items[start:end], str(end) if end < len(items) else ""


def run_id(body: Json) -> str:
    """Return the run's id in a request; old clients call it run_uuid."""
    return str(body.get("run_id") or body.get("run_uuid") or "")


def _stages(view: Any) -> tuple[str, ...]:
    wanted = {"DELETED_ONLY": ("deleted",), "ALL": ("active", "deleted")}
    return wanted.get(str(view), ("active",))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
