"""LoggedModels of an MLflow 3 server (``logged-models/…``); older servers and Azure ML have none.

``outputs`` and params of models are appended by the server without a look at what is there (3.15 SQL store,
``log_outputs`` and ``log_logged_model_params``, checked 2026-11): both are compared with the server's state first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from syncd.core.requests import CreateModel, FinalizeModel, LogModelParams, LogOutputs, SetModelTags
from syncd.core.source_tags import SOURCE_MODEL_ID
from syncd.destinations.base import RemoteSubject
from syncd.destinations.mlflow_errors import NotMlflow
from syncd.destinations.mlflow_rest import API, MlflowRest
from syncd.destinations.mlflow_wire import entries, pages, pairs, part, tag_filter
from syncd.errors import Rejected, SubjectGone
from syncd.rest.client import Json

MODELS: Final = f"{API}/logged-models"
PARAMS_PER_REQUEST: Final = 100
_STATUSES: Final = {
    "PENDING": "LOGGED_MODEL_PENDING",
    "READY": "LOGGED_MODEL_READY",
    "FAILED": "LOGGED_MODEL_UPLOAD_FAILED",
}
_NONE_HERE: Final = "this server has no logged models (MLflow 3.0 or later has)"


class MlflowModels:
    """The logged models of one server."""

    def __init__(self, rest: MlflowRest) -> None:
        self._rest = rest

    async def offered(self) -> bool:
        """Return whether the server has them."""
        body = {"experiment_ids": ["0"], "max_results": 1}
        try:
            await self._rest.call("POST", f"{MODELS}/search", body, doing="asking for logged models of")
        except (NotMlflow, Rejected):
            return False
        return True

    async def with_tag(self, experiment_id: str, source_id: str) -> list[Json]:
        """Return the models whose source tag is ``source_id``, by id; none where the server has no models."""
        body = {
            "experiment_ids": [experiment_id],
            "filter": tag_filter(SOURCE_MODEL_ID, source_id),
            "max_results": 50,
        }
        try:
            found = [
                model
                async for model in pages(
                    self._rest, "logged-models/search", body, "models", doing="searching for model", target=source_id
                )
                if pairs(model["info"].get("tags")).get(SOURCE_MODEL_ID) == source_id
            ]
        except NotMlflow:
            return []
        return sorted(found, key=lambda model: str(model["info"]["model_id"]))

    async def find(self, experiment_id: str, source_id: str) -> RemoteSubject | None:
        """Return the model whose source tag is ``source_id``; of several, the one with the smallest id."""
        for model in await self.with_tag(experiment_id, source_id):
            return _subject(model["info"], adopted=True)
        return None

    async def create(self, request: CreateModel) -> RemoteSubject:
        """Create the model; params beyond the first 100 must follow by ``LogModelParams``."""
        if len(request.params) > PARAMS_PER_REQUEST:
            raise Rejected(
                f"{len(request.params)} params in one create", doing="creating a logged model", target=request.name
            )
        body: Json = {
            "experiment_id": request.experiment_id,
            "params": entries(request.params),
            "tags": entries(request.tags),
        }
        body |= {"name": request.name} if request.name else {}
        body |= {"model_type": request.model_type} if request.model_type else {}
        body |= {"source_run_id": request.source_run_id} if request.source_run_id else {}
        answer = await self._call("POST", "", body, doing="creating the logged model", target=request.name)
        model = part(answer, "model", doing="creating the logged model", target=request.name)
        return _subject(part(model, "info", doing="creating the logged model", target=request.name))

    async def get(self, model_id: str) -> Json:
        """Return the model as the server tells it."""
        path = f"{MODELS}/{quote(model_id, safe='')}"
        answer = await self._rest.get(path, doing="reading logged model", target=model_id)
        return part(answer, "model", doing="reading logged model", target=model_id)

    async def delete(self, model_id: str) -> None:
        """Delete the model; done already is done."""
        try:
            await self._call("DELETE", model_id, {}, doing="deleting logged model", target=model_id)
        except SubjectGone:
            return

    async def set_tags(self, request: SetModelTags) -> None:
        """Set tags."""
        body = {"tags": entries(request.tags)}
        await self._call("PATCH", f"{request.model_id}/tags", body, doing="tagging model", target=request.model_id)

    async def log_params(self, request: LogModelParams) -> None:
        """Log the params that the model lacks; Rejected if one is there with another value."""
        model = await self.get(request.model_id)
        there = pairs(model.get("data", {}).get("params"))
        changed = sorted(key for key, value in request.params.items() if there.get(key, value) != value)
        if changed:
            raise Rejected(
                f"params are there with other values: {', '.join(changed)}",
                code="INVALID_PARAMETER_VALUE",
                doing="logging params of model",
                target=request.model_id,
            )
        missing = [entry for entry in entries(request.params) if entry["key"] not in there]
        for start in range(0, len(missing), PARAMS_PER_REQUEST):
            body = {"model_id": request.model_id, "params": missing[start : start + PARAMS_PER_REQUEST]}
            await self._call(
                "POST", f"{request.model_id}/params", body, doing="logging params of model", target=request.model_id
            )

    async def finalize(self, request: FinalizeModel) -> None:
        """Set the status. An unknown word would be taken with a 200 and leave the model without one."""
        status = _STATUSES.get(request.status)
        if status is None:
            raise Rejected(f"no such status: {request.status}", doing="finalizing model", target=request.model_id)
        body = {"model_id": request.model_id, "status": status}
        await self._call("PATCH", request.model_id, body, doing="finalizing model", target=request.model_id)

    async def log_outputs(self, request: LogOutputs) -> None:
        """Link the models that are not linked yet as outputs of the run."""
        run = await self._run(request.run_id)
        outputs = run.get("outputs", {}).get("model_outputs", [])
        there = {(str(o["model_id"]), int(o.get("step", 0))) for o in outputs}
        missing = [pair for pair in dict.fromkeys(request.models) if tuple(pair) not in there]
        if missing:
            body = {"run_id": request.run_id, "models": [{"model_id": m, "step": step} for m, step in missing]}
            path = f"{API}/runs/outputs"
            await self._guarded("POST", path, body, doing="linking models to run", target=request.run_id)

    async def _run(self, run_id: str) -> Json:
        answer = await self._rest.get(f"{API}/runs/get", {"run_id": run_id}, doing="reading run", target=run_id)
        return part(answer, "run", doing="reading run", target=run_id)

    async def _call(self, method: str, path: str, body: Mapping[str, Any], *, doing: str, target: str) -> Json:
        url = f"{MODELS}/{path}" if path else MODELS
        return await self._guarded(method, url, body, doing=doing, target=target)

    async def _guarded(self, method: str, path: str, body: Mapping[str, Any], *, doing: str, target: str) -> Json:
        try:
            return await self._rest.call(method, path, body, doing=doing, target=target)
        except NotMlflow as exc:
            if await self.offered():
                raise
            raise Rejected(_NONE_HERE, code="ENDPOINT_NOT_FOUND", status=404, doing=doing, target=target) from exc


def _subject(info: Json, *, adopted: bool = False) -> RemoteSubject:
    return RemoteSubject(str(info["model_id"]), str(info.get("artifact_uri", "")), adopted=adopted)
