"""Requests to a destination, as frozen values. The planner makes them, an adapter sends them.

Rules
-----
1. A request speaks of remote ids only; ids of the source have been replaced before.
2. ``LogBatch`` keeps points in wire form (see ``facts``): an adapter puts them into the body as they are.
3. Each request but ``CreateRun`` and ``CreateModel`` may be sent twice with the effect of once on a server whose
   store is keyed (SQL); where a store appends (FileStore, Azure ML), ``LogBatch.lines`` is the exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from syncd.core.facts import DatasetInput


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Create a run; ``tags`` hold ``syncd.source_run_id`` so that it is found again when the answer is lost."""

    experiment_id: str
    name: str
    user_id: str
    start_time_ms: int | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CreateModel:
    """Create a LoggedModel; ``tags`` hold ``syncd.source_model_id``."""

    experiment_id: str
    name: str
    model_type: str
    source_run_id: str  # remote id of the run, "" for none
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogBatch:
    """runs/log-batch: points in wire form, params and tags of one run."""

    run_id: str
    lines: Sequence[bytes] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeleteTags:
    """runs/delete-tag for each key; a missing tag is success."""

    run_id: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class LogInputs:
    """runs/log-inputs: datasets, and remote ids of models that the run used."""

    run_id: str
    datasets: Sequence[DatasetInput] = ()
    models: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LogOutputs:
    """runs/outputs: remote ids of models that the run made, with their step."""

    run_id: str
    models: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class UpdateRun:
    """runs/update: name, status and end time."""

    run_id: str
    name: str
    status: str
    end_time_ms: int | None


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """runs/delete (soft), only where the source is configured with ``on_delete = "delete"``."""

    run_id: str


@dataclass(frozen=True, slots=True)
class SetExperimentTags:
    """experiments/set-experiment-tag for each tag."""

    experiment_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetModelTags:
    """logged-models/{id}/tags."""

    model_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogModelParams:
    """logged-models/{id}/params."""

    model_id: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FinalizeModel:
    """PATCH logged-models/{id}: READY or FAILED."""

    model_id: str
    status: str


Request = (
    LogBatch
    | DeleteTags
    | LogInputs
    | LogOutputs
    | UpdateRun
    | DeleteRun
    | SetExperimentTags
    | SetModelTags
    | LogModelParams
    | FinalizeModel
)
