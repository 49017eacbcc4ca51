"""Facts that sources state, and readings, the unit in which they are committed.

Rules
-----
1. A fact is a frozen value in the past tense. It says what a store holds, never what is to be done about it.
2. Facts about one subject merge: applying a later fact after an earlier one has the effect of the later one
   (``RunSeen``, ``TagsSet``) or of the union (``MetricsLogged``; MLflow's key of a point is key, timestamp, step,
   value, so a point stated twice is one point).
3. A subject is an experiment, a run or a logged model. ``SubjectKey.store`` names the store inside the source (a
   path relative to the source's root, "" for the root itself), since one source may hold many stores.
   A run's or a model's id is unique in the world, an experiment's only inside its store.
4. Points travel in MLflow's REST wire form, one JSON object a line, rendered once by the source
   (see ``metric_lines``): ``{"key":"loss","value":0.5,"timestamp":1700000000000,"step":3}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

SubjectKind = Literal["experiment", "run", "model"]
RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
TERMINAL_STATUSES: frozenset[str] = frozenset({"FINISHED", "FAILED", "KILLED"})


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """Identity of an experiment, run or model inside one source."""

    kind: SubjectKind
    id: str
    store: str = ""  # only experiments need it; "" for runs and models


@dataclass(frozen=True, slots=True)
class ExperimentSeen:
    """An experiment's present name and tags (whole, the note is the tag ``mlflow.note.content``)."""

    subject: SubjectKey
    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run's present head: everything that MLflow's run info holds. Times in ms since the epoch, UTC.

    ``origin`` is the name of the source that has read it, on the machine where it was read; "" where that is this one.
    """

    subject: SubjectKey
    experiment: SubjectKey
    name: str  # "" when the run has none
    status: RunStatus
    start_time_ms: int | None
    end_time_ms: int | None
    user_id: str = ""
    parent_run_id: str = ""  # source id of the parent, from the tag mlflow.parentRunId
    origin: str = ""


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """An MLflow 3 LoggedModel's head with its params and tags (whole)."""

    subject: SubjectKey
    experiment: SubjectKey
    name: str
    model_type: str
    status: str  # PENDING, READY, FAILED (LOGGED_MODEL_* without the prefix)
    source_run_id: str  # "" when no run made it
    creation_time_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    origin: str = ""  # as a run's


@dataclass(frozen=True, slots=True)
class MetricsLogged:
    """Points of a run (or of a model: then the lines carry ``model_id`` and ``run_id`` of the source).

    ``lines`` is wire form, lines joined by newline, no trailing newline; ``count`` the number of lines.
    ``again`` is true when these points may have been stated before (a file was replaced, a rescan).
    """

    subject: SubjectKey
    lines: bytes
    count: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class ParamsLogged:
    """Params of a run."""

    subject: SubjectKey
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TagsSet:
    """Tags of a run that are new or have a new value."""

    subject: SubjectKey
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TagsDeleted:
    """Tags of a run that were there and are gone."""

    subject: SubjectKey
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """One dataset input of a run, in MLflow's words. ``source``, ``schema`` and ``profile`` are the stored texts."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str = ""
    profile: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputsLogged:
    """Dataset inputs of a run that are new, and ids of logged models it used (``model_inputs``)."""

    subject: SubjectKey
    datasets: Sequence[DatasetInput]
    model_inputs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OutputsLogged:
    """Logged models that a run made: (source model id, step)."""

    subject: SubjectKey
    models: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class ArtifactSeen:
    """A file of a run or model that is new or changed. The bytes stay where they are until they are sent.

    ``path`` is relative with "/" (as MLflow names the artifact); ``root`` the absolute directory it lies under
    (the file is opened below it without following links out of it); ``size_bytes`` and ``mtime_ns`` as last seen.
    """

    subject: SubjectKey
    path: str
    root: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class SubjectDeleted:
    """A run that had been stated before was deleted in the store."""

    subject: SubjectKey


@dataclass(frozen=True, slots=True)
class ProblemFound:
    """Something in a store that cannot be brought over as it is, named rather than skipped silently.

    ``where`` is a path or table row, ``what`` the reason in plain words. An empty ``what`` withdraws the problem.
    """

    where: str
    what: str
    subject: SubjectKey | None = None


Fact = (
    ExperimentSeen
    | RunSeen
    | ModelSeen
    | MetricsLogged
    | ParamsLogged
    | TagsSet
    | TagsDeleted
    | InputsLogged
    | OutputsLogged
    | ArtifactSeen
    | SubjectDeleted
    | ProblemFound
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one step of reading yields: facts, and the cursors that are true once those facts are committed.

    The journal commits both in one transaction. A cursor of None is forgotten. Cursor keys start with the id of
    the run or model they belong to and a "/" (``<run id>/metrics``), or with "store:" for store-wide ones, so that
    everything known of one run can be forgotten by prefix and read again.
    """

    facts: Sequence[Fact]
    cursors: Mapping[str, bytes | None] = field(default_factory=dict)
