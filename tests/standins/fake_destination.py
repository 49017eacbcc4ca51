"""A destination in memory, for tests of what stands before one; kept honest by tests/contract/test_destination.py.

It behaves like an SQL-backed MLflow server: a point is kept once, params cannot change, deleted runs refuse.
``appends=True`` makes it a store that keeps repeated points. ``failures`` are raised, one for each call, before
anything is done (``before``) or after it was done (``after``: the answer was lost). ``judge`` is asked about every
call, by the method's name and what it is about, and returns what is to be raised before anything is done, or None.
``takes`` are the limits that it really has and names in its refusals, as a workspace does; None has those it tells.
``replaces_artifacts=False`` makes it keep an artifact as it first came.
Each call but one that reads back takes ``latency_s`` before anything is done.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from syncd.core.facts import DatasetInput
from syncd.core.limits import Limits
from syncd.core.requests import (
    CreateModel,
    CreateRun,
    DeleteRun,
    DeleteTags,
    FinalizeModel,
    LogBatch,
    LogInputs,
    LogModelParams,
    LogOutputs,
    Request,
    SetExperimentTags,
    SetModelTags,
    UpdateRun,
)
from syncd.core.source_tags import SESSION, SOURCE_MODEL_ID, SOURCE_RUN_ID
from syncd.destinations.base import (
    RemoteExperiment,
    RemoteFile,
    RemoteModel,
    RemoteRun,
    RemoteSubject,
    ServerFacts,
    Upload,
)
from syncd.errors import NameNotHeld, OverLimit, Rejected, SubjectGone

Point = tuple[float, int, int]


@dataclass
class FakeRun:
    """What the fake keeps of a run."""

    id: str
    experiment_id: str
    name: str
    user_id: str
    start_time_ms: int | None
    tags: dict[str, str]
    status: str = "RUNNING"
    end_time_ms: int | None = None
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)  # (key, repr of the point): NaN equals itself there
    datasets: list[DatasetInput] = field(default_factory=list)
    model_inputs: list[str] = field(default_factory=list)
    model_outputs: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class FakeModel:
    """What the fake keeps of a model."""

    id: str
    request: CreateModel
    params: dict[str, str]
    tags: dict[str, str]
    status: str = "PENDING"
    deleted: bool = False
    metrics: list[tuple[str, float, int, int, str]] = field(default_factory=list)


class FakeDestination:
    """Implements Destination and DestinationReader."""

    def __init__(
        self,
        *,
        appends: bool = False,
        limits: Limits | None = None,
        takes: Limits | None = None,
        replaces_artifacts: bool = True,
    ) -> None:
        self.appends = appends
        self.limits = limits or Limits()
        self.takes = takes
        self.replaces_artifacts = replaces_artifacts
        self.runs: dict[str, FakeRun] = {}
        self.models: dict[str, FakeModel] = {}
        self.artifacts: dict[tuple[str, str], bytes] = {}
        self.sent: list[Request] = []
        self.before: deque[Exception | None] = deque()
        self.after: deque[Exception | None] = deque()
        self.judge: Callable[[str, object], Exception | None] = lambda method, about: None
        self.latency_s = 0.0
        self._experiments: dict[str, RemoteExperiment] = {}
        self._experiment_tags: dict[str, dict[str, str]] = {}
        self._ids = itertools.count(1)

    async def close(self) -> None:
        """Nothing to close."""

    async def _begin(self, method: str, about: object, *, reads: bool = False) -> None:
        await asyncio.sleep(0 if reads else self.latency_s)
        if not reads:
            _fail(self.before)
        failure = self.judge(method, about)
        if failure is not None:
            raise failure

    async def probe(self) -> ServerFacts:
        await self._begin("probe", None)
        return ServerFacts(
            "fake",
            self.limits,
            logged_models=True,
            proxied_artifacts=True,
            replaces_artifacts=self.replaces_artifacts,
        )

    async def ensure_experiment(self, name: str) -> RemoteExperiment:
        await self._begin("ensure_experiment", name)
        created = name not in self._experiments
        if created:
            identity = str(next(self._ids))
            self._experiment_tags[identity] = {}
            self._experiments[name] = RemoteExperiment(identity, name, created=True, appends=self.appends)
        _fail(self.after)
        identity = self._experiments[name].id
        return RemoteExperiment(identity, name, created, self.appends, dict(self._experiment_tags[identity]))

    async def find(
        self, kind: str, experiment_id: str, source_ids: Collection[str], *, besides: str = ""
    ) -> Mapping[str, RemoteSubject]:
        await self._begin("find", (kind, experiment_id))
        found = {}
        for source_id in source_ids:
            if kind == "run":
                runs = await self.runs_by_source(experiment_id, source_id)
                ids = [run.id for run in runs]
                if besides and all(run.tags.get(SESSION) == besides for run in runs):
                    continue
            else:
                ids = [m.id for m in await self.models_by_source(experiment_id, source_id)]
            if ids:
                found[source_id] = RemoteSubject(min(ids), f"fake:/{min(ids)}", adopted=True)
        return found

    async def create(self, request: CreateRun | CreateModel) -> RemoteSubject:
        await self._begin("create", request)
        if self.takes is not None and isinstance(request, CreateRun):
            check_values(self.takes, {}, {**request.tags, "mlflow.runName": request.name})
        if request.experiment_id not in self._experiment_tags:
            raise SubjectGone("no such experiment", code="RESOURCE_DOES_NOT_EXIST", status=404)
        number = next(self._ids)
        if isinstance(request, CreateRun):
            identity = f"{number:032x}"
            self.runs[identity] = FakeRun(
                identity,
                request.experiment_id,
                request.name,
                request.user_id,
                request.start_time_ms,
                dict(request.tags) | ({"mlflow.runName": request.name} if request.name else {}),
            )
        else:
            identity = f"m-{number:032x}"
            self.models[identity] = FakeModel(identity, request, dict(request.params), dict(request.tags))
        _fail(self.after)
        return RemoteSubject(identity, f"fake:/{identity}")

    async def send(self, request: Request) -> None:
        await self._begin("send", request)
        self._apply(request)
        self.sent.append(request)
        _fail(self.after)

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        await self._begin("upload", artifact.path)
        data = b"".join([piece async for piece in artifact.pieces()])
        if not self.replaces_artifacts and self.artifacts.get((subject.id, artifact.path), data) != data:
            raise NameNotHeld("other bytes are there", code="ARTIFACT_EXISTS", status=409)
        self.artifacts[subject.id, artifact.path] = data
        _fail(self.after)

    async def discard(self, kind: str, remote_id: str) -> None:
        await self._begin("discard", remote_id)
        if kind == "run":
            self.runs[remote_id].deleted = True
        else:
            self.models[remote_id].deleted = True
        _fail(self.after)

    def _run(self, run_id: str) -> FakeRun:
        run = self.runs.get(run_id)
        if run is None:
            raise SubjectGone(f"Run with id={run_id} not found", code="RESOURCE_DOES_NOT_EXIST", status=404)
        if run.deleted:
            raise SubjectGone("the run is deleted", code="INVALID_PARAMETER_VALUE", status=400)
        return run

    def _model(self, model_id: str) -> FakeModel:
        model = self.models.get(model_id)
        if model is None or model.deleted:
            raise SubjectGone(f"no model {model_id}", code="RESOURCE_DOES_NOT_EXIST", status=404)
        return model

    def _apply(self, request: Request) -> None:
        match request:
            case LogBatch():
                self._log_batch(request)
            case DeleteTags():
                for key in request.keys:
                    self._run(request.run_id).tags.pop(key, None)
            case LogInputs():
                run = self._run(request.run_id)
                if self.takes is not None:
                    check_count("inputs_per_run", self.takes.inputs_per_run, len(run.datasets) + len(request.datasets))
                known = {(d.name, d.digest) for d in run.datasets}
                run.datasets += [d for d in request.datasets if (d.name, d.digest) not in known]
                run.model_inputs += [m for m in request.models if m not in run.model_inputs]
            case LogOutputs():
                run = self._run(request.run_id)
                run.model_outputs += [m for m in request.models if m not in run.model_outputs]
            case UpdateRun():
                self._update(request)
            case DeleteRun():
                if request.run_id in self.runs:
                    self.runs[request.run_id].deleted = True
            case SetExperimentTags():
                self._experiment_tags[request.experiment_id].update(request.tags)
            case SetModelTags():
                self._model(request.model_id).tags.update(request.tags)
            case LogModelParams():
                _add_params(self._model(request.model_id).params, request.params)
            case FinalizeModel():
                self._model(request.model_id).status = request.status

    def _update(self, request: UpdateRun) -> None:
        run = self._run(request.run_id)
        if self.takes is not None:
            check_count("run_name_length", self.takes.run_name_length, len(request.name))
        run.status = request.status
        run.end_time_ms = request.end_time_ms
        if request.name:
            run.name = run.tags["mlflow.runName"] = request.name

    def _log_batch(self, request: LogBatch) -> None:
        run = self._run(request.run_id)
        if self.takes is None:
            self._check_limits(request)
        else:
            check_batch(self.takes, run, request)
        points = [json.loads(line) for line in request.lines]
        _add_params(run.params, request.params)
        run.tags.update(request.tags)
        for point in points:
            value = (float(point["value"]), int(point["timestamp"]), int(point.get("step", 0)))
            series = run.points.setdefault(point["key"], [])
            if self.appends or (point["key"], repr(value)) not in run.seen:
                series.append(value)
            run.seen.add((point["key"], repr(value)))
            if "model_id" in point:
                self._model(point["model_id"]).metrics.append((point["key"], *value, request.run_id))

    def _check_limits(self, request: LogBatch) -> None:
        limits = self.limits
        for what, values, most in (
            ("metrics", request.lines, limits.batch_metrics),
            ("params", request.params, limits.batch_params),
            ("tags", request.tags, limits.batch_tags),
        ):
            if len(values) > most:
                raise _invalid(f"A batch logging request can contain at most {most} {what}")
        if any(len(v) > limits.param_value_length for v in request.params.values()):
            raise _invalid("param value too long")
        if any(len(v) > limits.tag_value_length for v in request.tags.values()):
            raise _invalid("tag value too long")
        for key in (*request.params, *request.tags, *(json.loads(line)["key"] for line in request.lines)):
            if not key or len(key) > limits.metric_key_length or set(key) & set("@%\"'#?&"):
                raise _invalid(f"Invalid name: {key!r}")

    # -- reading back --------------------------------------------------------------------------------------------

    async def experiments(self) -> Mapping[str, RemoteExperiment]:
        return {
            e.name: RemoteExperiment(e.id, e.name, False, self.appends, dict(self._experiment_tags[e.id]))
            for e in self._experiments.values()
        }

    async def runs_by_source(self, experiment_id: str, source_run_id: str) -> Sequence[RemoteRun]:
        return [
            _remote(run)
            for run in self.runs.values()
            if not run.deleted and run.experiment_id == experiment_id and run.tags.get(SOURCE_RUN_ID) == source_run_id
        ]

    async def run(self, run_id: str) -> RemoteRun:
        await self._begin("run", run_id, reads=True)
        if run_id not in self.runs:
            raise SubjectGone(f"Run with id={run_id} not found", code="RESOURCE_DOES_NOT_EXIST", status=404)
        return _remote(self.runs[run_id])

    async def history(self, run_id: str, key: str) -> AsyncIterator[Point]:
        await self._begin("history", key, reads=True)
        for point in self.runs[run_id].points.get(key, ()):
            yield point

    async def models_by_source(
        self, experiment_id: str, source_model_id: str, source_run_id: str = ""
    ) -> Sequence[RemoteModel]:
        return [
            RemoteModel(
                model.id,
                model.request.experiment_id,
                model.request.name,
                model.request.model_type,
                model.status,
                model.request.source_run_id,
                f"fake:/{model.id}",
                dict(model.params),
                dict(model.tags),
                tuple(model.metrics),
            )
            for model in self.models.values()
            if not model.deleted
            and model.request.experiment_id == experiment_id
            and model.tags.get(SOURCE_MODEL_ID) == source_model_id
        ]

    async def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        for (owner, path), data in list(self.artifacts.items()):
            if owner == subject.id:
                yield RemoteFile(path, len(data))

    async def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        if (subject.id, path) not in self.artifacts:
            raise SubjectGone(f"no artifact {path}", code="RESOURCE_DOES_NOT_EXIST", status=404)
        yield self.artifacts[subject.id, path]


def check_count(name: str, most: int | None, size: int) -> None:
    """Refuse as a workspace does, by a message that names the limit."""
    if most is not None and size > most:
        message = f"A field of the entity is over the size limit. FieldName={name}, Limit={most}, Size={size}."
        raise OverLimit(message, limit_name=name, limit=most, code="INVALID_PARAMETER_VALUE", status=400)


def check_values(takes: Limits, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Refuse what is too long or too much, of everything that a run would have then."""
    for key, value in params.items():
        check_count("param_key_length", takes.param_key_length, len(key))
        check_count("param_value_length", takes.param_value_length, len(value))
    for key, value in tags.items():
        check_count("tag_key_length", takes.tag_key_length, len(key))
        check_count("tag_value_length", takes.tag_value_length, len(value))
    check_count("run_name_length", takes.run_name_length, len(tags.get("mlflow.runName", "")))
    check_count("params_per_run", takes.params_per_run, len(params))
    check_count("tags_per_run", takes.tags_per_run, len(tags))


def check_batch(takes: Limits, run: FakeRun, request: LogBatch) -> None:
    """Refuse a batch whole, as a workspace does."""
    check_count("batch_metrics", takes.batch_metrics, len(request.lines))
    rows = Counter(json.loads(line)["key"] for line in request.lines)
    for name, count in rows.items():
        check_count("metric_key_length", takes.metric_key_length, len(name))
        check_count("metric_rows_per_name", takes.metric_rows_per_name, len(run.points.get(name, ())) + count)
    check_count("metric_names_per_run", takes.metric_names_per_run, len(run.points.keys() | rows.keys()))
    if takes.only_finite and any(b'"value":"' in line for line in request.lines):
        raise _invalid("a value is not finite")
    if request.params or request.tags:
        check_values(takes, run.params | dict(request.params), run.tags | dict(request.tags))


def _fail(failures: deque[Exception | None]) -> None:
    failure = failures.popleft() if failures else None
    if failure is not None:
        raise failure


def _invalid(message: str) -> Rejected:
    return Rejected(message, code="INVALID_PARAMETER_VALUE", status=400)


def _add_params(there: dict[str, str], params: Mapping[str, str]) -> None:
    changed = [key for key, value in params.items() if there.get(key, value) != value]
    if changed:
        raise _invalid(f"Changing param values is not allowed: {changed}")
    there.update(params)


def _remote(run: FakeRun) -> RemoteRun:
    return RemoteRun(
        id=run.id,
        experiment_id=run.experiment_id,
        name=run.name,
        status=run.status,
        start_time_ms=run.start_time_ms,
        end_time_ms=run.end_time_ms,
        user_id=run.user_id,
        lifecycle_stage="deleted" if run.deleted else "active",
        artifact_root=f"fake:/{run.id}",
        params=dict(run.params),
        tags=dict(run.tags),
        latest={key: _latest(points) for key, points in run.points.items()},
        datasets=tuple(run.datasets),
        model_inputs=tuple(run.model_inputs),
        model_outputs=dict(run.model_outputs),
    )


def _latest(points: Iterable[Point]) -> Point:
    return max(points, key=lambda point: (point[2], point[1], point[0]))
