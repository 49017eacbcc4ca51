"""Writes to any MLflow tracking server from 2.9 on, over its REST API.

What the server does was measured on 2.9.2, 2.22.5, 3.15.0 and 3.17.2, SQLite and FileStore, in November 2026.
Rules
-----
1. Where the server would silently cut, the limit told by ``probe`` is what it stores whole.
2. Every request may be sent again. Where the server is not idempotent by itself (NaN points on SQL stores before 3.17,
   outputs, params of logged models), this adapter makes it so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from syncd.core.facts import TERMINAL_STATUSES
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
from syncd.core.source_tags import RUN_NAME, SESSION, SOURCE_RUN_ID
from syncd.destinations.base import RemoteExperiment, RemoteSubject, ServerFacts, Upload
from syncd.destinations.mlflow_artifacts import PROXY, ArtifactUploads, not_served
from syncd.destinations.mlflow_errors import NotMlflow
from syncd.destinations.mlflow_models import MlflowModels
from syncd.destinations.mlflow_rest import API, MlflowRest
from syncd.destinations.mlflow_wire import (
    Duplicates,
    batch_body,
    entries,
    ids_look_appending,
    limits_of,
    pairs,
    part,
    runs_with_tag,
    server_version,
    tag_filter,
    tag_of,
    tagged_runs,
)
from syncd.errors import AuthFailed, Rejected, SubjectGone, Transient
from syncd.rest.client import Json

SEARCHED_SINGLY: Final = 8
# Listing so many runs costs an SQL store's server as much as searching for 8 (5 ms a run, 2026-11).
FOREIGN_AT_MOST: Final = 20
# So often a request is sent that an SQL store refuses because another one wrote the same row at the same time.
SENDS_AT_MOST: Final = 4
_CONFLICT: Final = re.compile(r"UNIQUE constraint|IntegrityError|duplicate key|Duplicate entry", re.IGNORECASE)
# Of points that go alone: so many without an answer one after the other are an outage.
MOST_LOST_IN_A_ROW: Final = 2
_TOUCHY: Final = re.compile(rb'"(?:NaN|-?Infinity)"|e\+?308')


class MlflowServer:
    """An MLflow tracking server as a destination.

    ``duplicates`` says what an identical point sent twice does there ("auto": by the look of the experiment ids).
    ``limits`` replaces what the version suggests. ``multipart_threshold_bytes`` None never uses multipart uploads.
    The client is closed by ``close``.
    """

    def __init__(
        self,
        rest: MlflowRest,
        *,
        duplicates: Duplicates = "auto",
        limits: Limits | None = None,
        multipart_threshold_bytes: int | None = 512 << 20,
        part_bytes: int = 64 << 20,
    ) -> None:
        self._rest = rest
        self._duplicates = duplicates
        self._limits = limits
        self._appends: bool | None = None
        self._crowded: set[str] = set()  # experiments in which many runs are not of the session that asks
        self._answered_alone: set[tuple[str, bytes]] = set()  # of batches that are not through yet
        self._version = ""
        self._models = MlflowModels(rest)
        self._artifacts = ArtifactUploads(
            rest, multipart_threshold_bytes=multipart_threshold_bytes, part_bytes=part_bytes
        )

    async def close(self) -> None:
        """Close connections."""
        await self._rest.close()

    async def probe(self) -> ServerFacts:
        """Reach the server, check the credentials, learn its version and abilities."""
        version = await server_version(self._rest)
        await self._rest.call("POST", f"{API}/experiments/search", {"max_results": 1}, doing="listing experiments of")
        self._version = version
        # 2.x publishes the part of an interrupted upload that came when it knows the length (measured 2026-11).
        self._artifacts.chunked = version.startswith("2.")
        return ServerFacts(
            version=version,
            limits=self._limits or limits_of(version),
            logged_models=await self._models.offered(),
            proxied_artifacts=await self._serves_artifacts(),
        )

    async def _serves_artifacts(self) -> bool:
        try:
            query = {"path": "syncd-probe"}
            await self._rest.get(f"{PROXY}/artifacts", query, doing="asking for artifact serving of")
        except (Rejected, NotMlflow):
            return False
        except AuthFailed:
            return True  # the same credentials may list experiments: it is there, and refuses them artifacts
        except Transient as exc:
            if not_served(exc.message):
                return False
            raise
        return True

    # -- experiments ---------------------------------------------------------------------------------------------

    async def ensure_experiment(self, name: str) -> RemoteExperiment:
        """Return the experiment of that name, created if it was missing. Rejected if it is deleted there."""
        found = await self._experiment_by_name(name)
        created = found is None
        if found is None:
            found = await self._create_experiment(name)
        if found.get("lifecycle_stage") == "deleted":
            raise Rejected(
                "it is deleted on the server",
                code="INVALID_STATE",
                doing="using the experiment",
                target=name,
                hint="restore it, delete it for good with `mlflow gc`, or map it to another name",
            )
        identity = str(found["experiment_id"])
        return RemoteExperiment(identity, name, created, await self._does_append(identity), pairs(found.get("tags")))

    async def _experiment_by_name(self, name: str) -> Json | None:
        query = {"experiment_name": name}
        path = f"{API}/experiments/get-by-name"
        try:
            answer = await self._rest.get(path, query, doing="looking up the experiment", target=name)
        except SubjectGone:
            return None
        return part(answer, "experiment", doing="looking up the experiment", target=name)

    async def _create_experiment(self, name: str) -> Json:
        doing = "creating the experiment"
        try:
            return await self._rest.call("POST", f"{API}/experiments/create", {"name": name}, doing=doing, target=name)
        except Rejected as exc:
            found = await self._experiment_by_name(name) if exc.code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
            return found

    async def _does_append(self, experiment_id: str) -> bool:
        if self._duplicates != "auto":
            return self._duplicates == "appended"
        if self._appends is None:
            self._appends = ids_look_appending([experiment_id])
        if self._appends is None:
            body = {"max_results": 10, "view_type": "ALL"}
            answer = await self._rest.call("POST", f"{API}/experiments/search", body, doing="listing experiments of")
            self._appends = ids_look_appending(str(e["experiment_id"]) for e in answer.get("experiments", ()))
        return self._appends is not False  # with nothing to go by assume the dearer case

    # -- runs and models -----------------------------------------------------------------------------------------

    async def find(
        self, kind: str, experiment_id: str, source_ids: Collection[str], *, besides: str = ""
    ) -> Mapping[str, RemoteSubject]:
        """Return the runs or models by their source tag; of several, the one with the smallest id.

        Where only few runs are not of the session ``besides``, one request tells which to search for. Few are searched
        for one by one; for many all of the experiment are listed: a search costs 17 ms of an SQL store's server and a
        second on a FileStore of 1,000 runs, listing 1,000 runs some seconds on either (2026-11).
        """
        if kind == "run" and besides and (foreign := await self._foreign(experiment_id, besides)) is not None:
            source_ids = foreign.intersection(source_ids)
        if kind == "run" and len(source_ids) > SEARCHED_SINGLY:
            return await self._find_among_all(experiment_id, frozenset(source_ids))
        found = {}
        for source_id in source_ids:
            one = await self._find_one(kind, experiment_id, source_id)
            if one is not None:
                found[source_id] = one
        return found

    async def _find_one(self, kind: str, experiment_id: str, source_id: str) -> RemoteSubject | None:
        if kind == "model":
            return await self._models.find(experiment_id, source_id)
        for run in await runs_with_tag(self._rest, experiment_id, SOURCE_RUN_ID, source_id):
            return _run_subject(run["info"], adopted=True)
        return None

    async def _foreign(self, experiment_id: str, session: str) -> set[str] | None:
        """Return the source ids of the experiment's runs that other sessions created; None if they are many."""
        if experiment_id in self._crowded:
            return None
        body = {
            "experiment_ids": [experiment_id],
            "filter": tag_filter(SESSION, session, "!="),
            "run_view_type": "ACTIVE_ONLY",
            "max_results": FOREIGN_AT_MOST,
        }
        path = f"{API}/runs/search"
        try:
            answer = await self._rest.call("POST", path, body, doing="searching the runs of", target=experiment_id)
        except Rejected:
            answer = {"next_page_token": "a server that knows no such filter"}
        if answer.get("next_page_token"):
            self._crowded.add(experiment_id)
            return None
        return {source_id for run in answer.get("runs", ()) if (source_id := tag_of(run, SOURCE_RUN_ID)) is not None}

    async def _find_among_all(self, experiment_id: str, source_ids: Collection[str]) -> dict[str, RemoteSubject]:
        found: dict[str, RemoteSubject] = {}
        async for info, source_id in tagged_runs(self._rest, experiment_id, SOURCE_RUN_ID):
            if source_id in source_ids:
                one = _run_subject(info, adopted=True)
                if source_id not in found or one.id < found[source_id].id:
                    found[source_id] = one
        return found

    async def create(self, request: CreateRun | CreateModel) -> RemoteSubject:
        """Create the run or model. OutcomeUnknown means: ``find`` before another create."""
        if isinstance(request, CreateModel):
            return await self._models.create(request)
        tags = dict(request.tags)
        if request.name and tags.get(RUN_NAME, request.name) != request.name:
            del tags[RUN_NAME]  # the server refuses a name that differs from the tag, and sets the tag itself
        body: Json = {"experiment_id": request.experiment_id, "user_id": request.user_id, "tags": entries(tags)}
        if request.name:
            body["run_name"] = request.name
        if request.start_time_ms is not None:
            body["start_time"] = request.start_time_ms
        source = request.tags.get(SOURCE_RUN_ID, request.name)
        answer = await self._rest.call("POST", f"{API}/runs/create", body, doing="creating a run for", target=source)
        run = part(answer, "run", doing="creating a run for", target=source)
        return _run_subject(part(run, "info", doing="creating a run for", target=source))

    async def discard(self, kind: str, remote_id: str) -> None:
        """Delete a run or model that lost a race of two creates and that holds nothing."""
        if kind == "model":
            await self._models.delete(remote_id)
        else:
            await self._delete_run(DeleteRun(remote_id))

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact below the subject's artifact root, replacing what is there."""
        await self._artifacts.upload(subject, artifact)

    # -- requests ------------------------------------------------------------------------------------------------

    async def send(self, request: Request) -> None:
        """Apply one request. Rejected speaks of the request as a whole: cut it in two and try the halves."""
        if isinstance(request, LogBatch):
            await self._log_batch(request)
        else:
            await _again_after_conflicts(lambda: self._apply(request))

    async def _apply(self, request: Request) -> None:
        match request:
            case DeleteTags():
                await self._delete_tags(request)
            case LogInputs():
                await self._log_inputs(request)
            case LogOutputs():
                await self._models.log_outputs(request)
            case UpdateRun():
                await self._update_run(request)
            case DeleteRun():
                await self._delete_run(request)
            case SetExperimentTags():
                await self._set_experiment_tags(request)
            case SetModelTags():
                await self._models.set_tags(request)
            case LogModelParams():
                await self._models.log_params(request)
            case FinalizeModel():
                await self._models.finalize(request)

    async def _log_batch(self, request: LogBatch) -> None:
        try:
            await self._post_batch(request)
        except Rejected as exc:
            if not _CONFLICT.search(exc.message):
                raise
            await self._log_around_conflicts(request)

    async def _log_around_conflicts(self, request: LogBatch) -> None:
        """Send a batch again that an SQL store refused because a row was there already.

        Two reasons are known: another request that ran at the same time wrote the same param or point, then a second
        try succeeds; or, before 3.17, a NaN was there already (also ±inf beside the largest double): a repeated
        finite point counts as one, but such a point has the whole batch refused. These points go alone, where the
        same refusal means that the point is there. One that gets no answer does not keep the others from being sent,
        and when the batch is sent again, those that were answered are not repeated: on a bad line a whole round of
        them would never come to its end.
        """
        lines = dict.fromkeys(request.lines)
        rest = replace(request, lines=[line for line in lines if not _TOUCHY.search(line)])
        await _again_after_conflicts(lambda: self._post_batch(rest))
        alone = {(request.run_id, line) for line in lines if _TOUCHY.search(line)}
        lost: Transient | None = None
        lost_in_a_row = 0
        for run_id, line in sorted(alone - self._answered_alone):
            try:
                await self._post_alone(run_id, line)
            except Transient as exc:
                lost, lost_in_a_row = exc, lost_in_a_row + 1
                if exc.throttled or lost_in_a_row == MOST_LOST_IN_A_ROW:
                    break
            else:
                lost_in_a_row = 0
                self._answered_alone.add((run_id, line))
        if lost is not None:
            raise lost
        self._answered_alone -= alone

    async def _post_alone(self, run_id: str, line: bytes) -> None:
        try:
            await self._post_batch(LogBatch(run_id, lines=(line,)))
        except Rejected as exc:
            # A model's row has no value in its key: there another value may be what is in the way.
            if not _CONFLICT.search(exc.message) or "logged_model_metrics" in exc.message:
                raise

    async def _post_batch(self, request: LogBatch) -> None:
        doing = "logging to run"
        body = batch_body(request)
        await self._rest.call("POST", f"{API}/runs/log-batch", body, doing=doing, target=request.run_id)

    async def _delete_tags(self, request: DeleteTags) -> None:
        for key in request.keys:
            try:
                await self._run_call("delete-tag", request.run_id, {"key": key}, doing="deleting a tag of run")
            except SubjectGone as exc:
                if "No tag with name" not in exc.message:
                    raise

    async def _log_inputs(self, request: LogInputs) -> None:
        body: Json = {}
        if request.datasets:
            body["datasets"] = [
                {
                    "tags": entries(dataset.tags),
                    "dataset": {
                        "name": dataset.name,
                        "digest": dataset.digest,
                        "source_type": dataset.source_type,
                        "source": dataset.source,
                        "schema": dataset.schema,
                        "profile": dataset.profile,
                    },
                }
                for dataset in request.datasets
            ]
        if request.models:
            body["models"] = [{"model_id": model} for model in request.models]
        if any(body.values()):
            await self._run_call("log-inputs", request.run_id, body, doing="logging inputs of run")

    async def _update_run(self, request: UpdateRun) -> None:
        body: Json = {"status": request.status}
        if request.name:
            body["run_name"] = request.name
        if request.end_time_ms is not None:
            body["end_time"] = request.end_time_ms
        elif self._version and request.status not in TERMINAL_STATUSES:
            body["end_time"] = 0  # of a run that was resumed: SQL stores unset it, FileStores ignore it
        await self._run_call("update", request.run_id, body, doing="updating run")

    async def _delete_run(self, request: DeleteRun) -> None:
        try:
            await self._run_call("delete", request.run_id, {}, doing="deleting run")
        except SubjectGone:
            return

    async def _set_experiment_tags(self, request: SetExperimentTags) -> None:
        for key, value in request.tags.items():
            body = {"experiment_id": request.experiment_id, "key": key, "value": value}
            await self._rest.call(
                "POST",
                f"{API}/experiments/set-experiment-tag",
                body,
                doing="tagging experiment",
                target=request.experiment_id,
            )

    async def _run_call(self, verb: str, run_id: str, body: Mapping[str, Any], *, doing: str) -> Json:
        return await self._rest.call(
            "POST", f"{API}/runs/{verb}", {"run_id": run_id, **body}, doing=doing, target=run_id
        )


async def _again_after_conflicts(send: Callable[[], Awaitable[None]]) -> None:
    """Send again what an SQL store refuses because another request wrote the same row at the same time.

    MLflow looks for the row and adds it if it is missing; the row of the other one is found at the next attempt. Two
    runs that log the same new dataset meet so, and two daemons that deliver the same run (measured on 3.15, 2026-11).
    """
    for _ in range(SENDS_AT_MOST - 1):
        try:
            await send()
        except Rejected as exc:
            if not _CONFLICT.search(exc.message):
                raise
        else:
            return
    await send()


def _run_subject(info: Json, *, adopted: bool = False) -> RemoteSubject:
    return RemoteSubject(str(info["run_id"]), str(info.get("artifact_uri", "")), adopted=adopted)
