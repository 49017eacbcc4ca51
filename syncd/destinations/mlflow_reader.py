"""Reads an MLflow tracking server back, page by page, over the same REST client as the writer.

Quirks measured in November 2026 on 2.9.2, 2.22.5, 3.15.0 and 3.17.2: servers before 3.x answer a metric's history
whole whatever page is asked for; the size of an empty file is absent; downloads of names outside Latin-1 fail on 2.x.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from syncd.core.facts import DatasetInput
from syncd.core.source_tags import SOURCE_RUN_ID
from syncd.destinations.base import RemoteExperiment, RemoteFile, RemoteModel, RemoteRun, RemoteSubject
from syncd.destinations.mlflow_artifacts import resolve
from syncd.destinations.mlflow_models import MODELS, MlflowModels
from syncd.destinations.mlflow_rest import API, MlflowRest
from syncd.destinations.mlflow_wire import (
    Duplicates,
    ids_look_appending,
    pages,
    pairs,
    part,
    runs_with_tag,
    server_version,
)
from syncd.errors import Rejected
from syncd.rest.client import Json

HISTORY_PAGE: Final = 10_000
HISTORY_TOTAL_S: Final = 1800.0  # an old server answers a million points in one piece, at about 15,000 points/s
_STATUS_PREFIX: Final = "LOGGED_MODEL_"


class MlflowReader:
    """Reads one server; ``duplicates`` as for ``MlflowServer``. The client is closed by ``close``.

    ``history_page`` is how many points of a metric are asked for at once.
    """

    def __init__(self, rest: MlflowRest, *, duplicates: Duplicates = "auto", history_page: int = HISTORY_PAGE) -> None:
        self._rest = rest
        self._duplicates = duplicates
        self.history_page = history_page
        self._models = MlflowModels(rest)
        self._version: str | None = None

    async def close(self) -> None:
        """Close connections."""
        await self._rest.close()

    async def experiments(self) -> Mapping[str, RemoteExperiment]:
        """Return the active experiments by name."""
        body = {"max_results": 1000, "view_type": "ACTIVE_ONLY"}
        doing = "listing experiments of"
        found = [e async for e in pages(self._rest, "experiments/search", body, "experiments", doing=doing)]
        appends = self._do_append([str(e["experiment_id"]) for e in found])
        return {
            str(e["name"]): RemoteExperiment(
                str(e["experiment_id"]), str(e["name"]), created=False, appends=appends, tags=pairs(e.get("tags"))
            )
            for e in found
        }

    def _do_append(self, ids: Sequence[str]) -> bool:
        if self._duplicates != "auto":
            return self._duplicates == "appended"
        return ids_look_appending(ids) is not False

    async def runs_by_source(self, experiment_id: str, source_run_id: str) -> Sequence[RemoteRun]:
        """Return all active runs of the experiment that carry that source tag (more than one is a fault)."""
        found = await runs_with_tag(self._rest, experiment_id, SOURCE_RUN_ID, source_run_id)
        return [_remote_run(run) for run in found]

    async def run(self, run_id: str) -> RemoteRun:
        """Return one run."""
        answer = await self._rest.get(f"{API}/runs/get", {"run_id": run_id}, doing="reading run", target=run_id)
        return _remote_run(part(answer, "run", doing="reading run", target=run_id))

    async def history(self, run_id: str, key: str) -> AsyncIterator[tuple[float, int, int]]:
        """Yield (value, timestamp_ms, step) of every point of that key, repeated ones repeatedly, in any order."""
        query = {"run_id": run_id, "metric_key": key, "max_results": str(self.history_page)}
        while True:
            doing = f"reading metric {key!r} of run"
            path = f"{API}/metrics/get-history"
            answer = await self._rest.get(path, query, total_s=HISTORY_TOTAL_S, doing=doing, target=run_id)
            for point in answer.get("metrics", ()):
                yield _point(point)
            token = answer.get("next_page_token", "")
            if not token:
                return
            query["page_token"] = token

    async def models_by_source(
        self, experiment_id: str, source_model_id: str, source_run_id: str = ""
    ) -> Sequence[RemoteModel]:
        """Return the logged models that carry that source tag; empty where the server has none."""
        found = await self._models.with_tag(experiment_id, source_model_id)
        return [_remote_model(await self._models.get(str(model["info"]["model_id"]))) for model in found]

    async def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's artifact root."""
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry in await self._listed(subject, folder):
                path = posixpath.join(folder, posixpath.basename(str(entry["path"])))
                if entry.get("is_dir"):
                    folders.append(path)
                else:
                    yield RemoteFile(path, int(entry.get("file_size", 0)))

    async def _listed(self, subject: RemoteSubject, folder: str) -> Sequence[Json]:
        if _is_model(subject):
            path = f"{MODELS}/{quote(subject.id, safe='')}/artifacts/directories"
            query = {"artifact_directory_path": folder} if folder else {}
        else:
            path = f"{API}/artifacts/list"
            query = {"run_id": subject.id} | ({"path": folder} if folder else {})
        files: list[Json] = []
        while True:
            answer = await self._rest.get(path, query, doing="listing artifacts of", target=subject.id)
            files += answer.get("files", ())
            token = answer.get("next_page_token", "")
            if not token:
                return files
            query = {**query, "page_token": token}

    async def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces."""
        url = await self._content_url(subject, path)
        async for piece in self._rest.download(url, doing="downloading", target=path):
            yield piece

    async def _content_url(self, subject: RemoteSubject, path: str) -> str:
        if self._version is None:
            self._version = await server_version(self._rest)
        nameable = not self._version.startswith("2.") or _is_latin(path)
        try:
            address = resolve(subject, self._rest.base_url)
        except Rejected:
            if _is_model(subject):
                raise
            nameable = False
        if nameable:
            return address.file_url(path)
        query = urlencode({"run_uuid": subject.id, "path": path}, quote_via=quote)
        return f"{self._rest.base_url}/get-artifact?{query}"


def _is_model(subject: RemoteSubject) -> bool:
    return subject.id.startswith("m-")


def _is_latin(path: str) -> bool:
    return all(ord(c) < 256 for c in path)


def _remote_run(run: Mapping[str, Any]) -> RemoteRun:
    info = run["info"]
    data = run.get("data", {})
    tags = pairs(data.get("tags"))
    return RemoteRun(
        id=str(info["run_id"]),
        experiment_id=str(info["experiment_id"]),
        name=str(info.get("run_name", "")),
        status=str(info.get("status", "")),
        start_time_ms=_maybe_int(info.get("start_time")),
        end_time_ms=_maybe_int(info.get("end_time")),
        user_id=str(info.get("user_id", "")),
        lifecycle_stage=str(info.get("lifecycle_stage", "active")),
        artifact_root=str(info.get("artifact_uri", "")),
        params=pairs(data.get("params")),
        tags=tags,
        latest={str(point["key"]): _point(point) for point in data.get("metrics", ())},
        datasets=[_dataset(i) for i in (run.get("inputs") or {}).get("dataset_inputs", ())],
        model_inputs=[str(i["model_id"]) for i in (run.get("inputs") or {}).get("model_inputs", ())],
        model_outputs={
            str(o["model_id"]): _maybe_int(o.get("step")) for o in (run.get("outputs") or {}).get("model_outputs", ())
        },
    )


def _remote_model(model: Mapping[str, Any]) -> RemoteModel:
    info = model["info"]
    data = model.get("data", {})
    return RemoteModel(
        id=str(info["model_id"]),
        experiment_id=str(info["experiment_id"]),
        name=str(info.get("name", "")),
        model_type=str(info.get("model_type", "")),
        status=str(info.get("status", "")).removeprefix(_STATUS_PREFIX).removeprefix("UPLOAD_"),
        source_run_id=str(info.get("source_run_id", "")),
        artifact_root=str(info.get("artifact_uri", "")),
        params=pairs(data.get("params")),
        tags=pairs(info.get("tags")),
        metrics=[(str(p["key"]), *_point(p), str(p.get("run_id", ""))) for p in data.get("metrics", ())],
    )


def _dataset(item: Mapping[str, Any]) -> DatasetInput:
    dataset = item["dataset"]
    return DatasetInput(
        name=str(dataset.get("name", "")),
        digest=str(dataset.get("digest", "")),
        source_type=str(dataset.get("source_type", "")),
        source=str(dataset.get("source", "")),
        schema=str(dataset.get("schema", "")),
        profile=str(dataset.get("profile", "")),
        tags=pairs(item.get("tags")),
    )


def _point(point: Mapping[str, Any]) -> tuple[float, int, int]:
    return float(point.get("value", 0.0)), int(point.get("timestamp", 0)), int(point.get("step", 0))


def _maybe_int(value: object) -> int | None:
    return None if value is None else int(str(value))
