"""MLflow 3's logged models in a workspace, which has no API for them (``logged-models`` answers 404).

A model's files lie among the artifacts of the run that made it, in a folder of the model's name, as MLflow 2 laid them:
the workspace shows an MLflow model there, and registers it. What else belongs to the model is in a document beside:

    syncd/models/<folder>/<number>.json     the model (see ``_document``), and what was changed later
    syncd/models/<folder>/overflow/…        what lies in ``syncd/overflow/`` of a run
    syncd/model_links/<hash>.json           {"outputs": {model id: step}} or {"inputs": [model id, …]} of the run

Rules
-----
1. A model's id is ``<run id>/<folder>``.
2. A folder belongs to the model whose document was written first in ``syncd/models/<folder>/``. A second model of a
   name, or one whose name is taken by artifacts of the run itself, has a folder that ends with its source's id.
3. A model of no run gets a run that holds it alone and carries the model's source id as a tag.
4. ``create`` finds what an earlier one has made: it may be called again. Two syncds that create the same model in the
   same moment lay it twice; ``find`` makes both choose the same one, and the other one is withdrawn.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final
from weakref import WeakValueDictionary

from syncd.core.requests import (
    CreateModel,
    CreateRun,
    FinalizeModel,
    LogInputs,
    LogModelParams,
    LogOutputs,
    SetModelTags,
    UpdateRun,
)
from syncd.core.source_tags import MODEL_LINKS_FOLDER, MODELS_FOLDER, OWN_FOLDER, SOURCE, SOURCE_MODEL_ID, SOURCE_RUN_ID
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.documents import Documents
from syncd.destinations.azureml.parts import ModelRequest
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.azureml.shelf import Shelf, model_folders, unholdable
from syncd.destinations.base import RemoteModel, RemoteRun, RemoteSubject
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_server import MlflowServer
from syncd.destinations.mlflow_wire import runs_with_tag, tagged_runs
from syncd.errors import Rejected, SubjectGone
from syncd.rest.client import Json

NAME_MAX_LENGTH: Final = 200
# What would make a model's folder something else in a path or in an artifact URI.
_ODD: Final = re.compile(r"[/?#%:]")
_RUN_STATUS: Final = {"READY": "FINISHED", "FAILED": "FAILED"}


@dataclass(frozen=True, slots=True)
class _Laid:
    """A model in a run whose artifact URI is ``root``."""

    root: str
    folder: str
    document: Json

    @property
    def shelf(self) -> Shelf:
        return Shelf.of_root(self.root)

    @property
    def source_id(self) -> str:
        return str(self.document.get("source_id", ""))

    @property
    def subject(self) -> RemoteSubject:
        return RemoteSubject(f"{self.shelf.run_id}/{self.folder}", f"{self.root.rstrip('/')}/{self.folder}")

    def as_model(self, experiment_id: str) -> RemoteModel:
        told = self.document
        return RemoteModel(
            id=self.subject.id,
            experiment_id=experiment_id,
            name=str(told.get("name", "")),
            model_type=str(told.get("model_type", "")),
            status=str(told.get("status", "")),
            source_run_id=str(told.get("source_run_id", "")),
            artifact_root=self.subject.artifact_root,
            params=told.get("params") or {},
            tags=told.get("tags") or {},
        )


class RunModels:
    """The logged models of one workspace."""

    def __init__(self, rest: AzuremlRest, artifacts: RunArtifacts) -> None:
        self._rest = rest
        self._artifacts = artifacts
        self._documents = Documents(artifacts)
        self._tracking = MlflowServer(rest, duplicates="appended", multipart_threshold_bytes=None)
        self._reader = MlflowReader(rest, duplicates="appended")
        self._laid: dict[str, str] = {}  # source ids of models just created, and the artifact URI of their run
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # -- finding and creating --------------------------------------------------------------------------------------

    async def find(self, experiment_id: str, source_ids: Collection[str]) -> Mapping[str, RemoteSubject]:
        """Return the models that another syncd could have made as well, by their source id: all choose the same one.

        These are models of no run, and those that this process has just laid into runs; others ``create`` finds.
        """
        roots: dict[str, set[str]] = {one: {self._laid[one]} for one in source_ids if one in self._laid}
        async for info, source_id in tagged_runs(self._rest, experiment_id, SOURCE_MODEL_ID):
            if source_id in source_ids:
                roots.setdefault(source_id, set()).add(str(info.get("artifact_uri", "")))
        found: dict[str, RemoteSubject] = {}
        for source_id, places in roots.items():
            twins = [one for root in places for one in await self._all(root) if one.source_id == source_id]
            if twins:
                chosen = min(twins, key=lambda one: (one.shelf.run_id, len(one.folder), one.folder))
                found[source_id] = replace(chosen.subject, adopted=True)
            self._laid.pop(source_id, None)
        return found

    async def create(self, request: CreateModel) -> RemoteSubject:
        """Lay the model into its run, or return the one that is there."""
        source_id = request.tags.get(SOURCE_MODEL_ID, "")
        run_id = request.source_run_id or await self._holder(request, source_id)
        async with self._creating.setdefault(run_id, asyncio.Lock()):  # who comes first gets the plain name
            root = (await self._reader.run(run_id)).artifact_root
            made = await self._lay(root, request, source_id)
        if request.source_run_id and not made.adopted:
            self._laid[source_id] = root
        return made

    async def _holder(self, request: CreateModel, source_id: str) -> str:
        """Return the run that holds a model of no run, created if there is none."""
        held = await runs_with_tag(self._rest, request.experiment_id, SOURCE_MODEL_ID, source_id)
        if held:
            return str(held[0]["info"]["run_id"])
        own = (SOURCE_MODEL_ID, SOURCE)
        tags = {key: request.tags[key] for key in own if key in request.tags}
        run = await self._tracking.create(CreateRun(request.experiment_id, request.name or source_id, "", None, tags))
        return run.id

    async def _lay(self, root: str, request: CreateModel, source_id: str) -> RemoteSubject:
        shelf = Shelf.of_root(root)
        document = _document(request, source_id)
        for folder in folders_for(request.name, source_id):
            paths = await self._artifacts.paths(shelf)
            held = await self._documents.load(shelf, _folder(folder), paths)
            if held is not None and held.get("source_id") == source_id and not held.get("withdrawn"):
                return replace(_Laid(root, folder, held).subject, adopted=True)
            first = f"{_folder(folder)}/1.json"
            is_mine = self._documents.is_unsent(shelf, first, document)
            if not (is_mine or self._is_free(shelf, folder, paths)):
                continue
            if await self._documents.write(shelf, first, document):
                return _Laid(root, folder, document).subject
        raise AssertionError("the names never end")

    def _is_free(self, shelf: Shelf, name: str, paths: Collection[str]) -> bool:
        """Whether neither artifacts of the run itself nor another model begin with that name."""
        used = any(path == name or path.startswith(f"{name}/") for path in paths)
        return not (used or name in model_folders(paths) or self._artifacts.is_used_by_run(shelf, name))

    # -- requests --------------------------------------------------------------------------------------------------

    async def send(self, request: ModelRequest) -> None:
        """Apply one request; applied twice it has the effect of once."""
        match request:
            case SetModelTags():
                await self._change(request.model_id, lambda _: {"tags": dict(request.tags)})
            case LogModelParams():
                await self._change(request.model_id, lambda held: _added_params(held, request))
            case FinalizeModel():
                await self._finalize(request)
            case LogOutputs():
                await self._link(request.run_id, {"outputs": dict(request.models)})
            case LogInputs():
                await self._link(request.run_id, {"inputs": sorted(request.models)})

    async def _finalize(self, request: FinalizeModel) -> None:
        status = _RUN_STATUS.get(request.status)
        if status is None:
            raise Rejected(f"no such status: {request.status}", doing="finalizing model", target=request.model_id)
        document = await self._change(request.model_id, lambda _: {"status": request.status})
        if not document["source_run_id"]:
            run_id, _ = _parts(request.model_id)
            await self._tracking.send(UpdateRun(run_id, "", status, None))

    async def _change(self, model_id: str, change: Callable[[Json], Json]) -> Json:
        run_id, folder = _parts(model_id)

        def changed(held: Json | None) -> Json:
            if held is None:
                raise SubjectGone("its document is not there", doing="changing model", target=model_id)
            return change(held)

        shelf = Shelf.of_root((await self._reader.run(run_id)).artifact_root)
        return await self._documents.change(shelf, _folder(folder), changed)

    async def _link(self, run_id: str, links: Json) -> None:
        """Write down links, under a name that follows from them: the same ones are written once."""
        name = hashlib.sha256(json.dumps(links, sort_keys=True).encode()).hexdigest()[:16]
        shelf = Shelf.of_root((await self._reader.run(run_id)).artifact_root)
        for number in count(1):
            path = f"{MODEL_LINKS_FOLDER}/{name}-{number}.json"
            if await self._documents.write(shelf, path, links) or await self._documents.read(shelf, path) == links:
                return

    async def delete(self, model_id: str) -> None:
        """Withdraw a model that gives way to its twin; one of no run goes with the run that holds it."""
        run_id, _ = _parts(model_id)
        try:
            run = await self._reader.run(run_id)
            if SOURCE_MODEL_ID in run.tags:
                await self._tracking.discard("run", run_id)
            else:
                await self._change(model_id, lambda _: {"withdrawn": True})
        except SubjectGone:
            return

    # -- reading ---------------------------------------------------------------------------------------------------

    async def with_source(self, experiment_id: str, source_id: str, source_run_id: str) -> Sequence[RemoteModel]:
        """Return the models that carry that source id: in the runs of that source id, and of no run."""
        runs = await runs_with_tag(self._rest, experiment_id, SOURCE_MODEL_ID, source_id)
        if source_run_id:
            runs += await runs_with_tag(self._rest, experiment_id, SOURCE_RUN_ID, source_run_id)
        laid = [one for run in runs for one in await self._all(str(run["info"].get("artifact_uri", "")))]
        return [one.as_model(experiment_id) for one in laid if one.source_id == source_id]

    async def _all(self, root: str) -> list[_Laid]:
        """Return all models in a run."""
        shelf = Shelf.of_root(root)
        paths = await self._artifacts.paths(shelf)
        found = []
        for folder in sorted(model_folders(paths)):
            document = await self._documents.load(shelf, _folder(folder), paths)
            if document is not None and not document.get("withdrawn"):
                found.append(_Laid(root, folder, document))
        return found

    async def linked(self, run: RemoteRun) -> RemoteRun:
        """Return the run together with the models that were linked to it."""
        shelf = Shelf.of_root(run.artifact_root)
        outputs: dict[str, int | None] = {}
        inputs: dict[str, None] = {}
        for path in await self._artifacts.paths(shelf):
            if path.startswith(f"{MODEL_LINKS_FOLDER}/"):
                links = await self._documents.read(shelf, path) or {}
                outputs.update(links.get("outputs") or {})
                inputs.update(dict.fromkeys(links.get("inputs") or ()))
        return replace(run, model_inputs=tuple(inputs), model_outputs=outputs)


def folders_for(name: str, source_id: str) -> Iterator[str]:
    """Yield the folders that a model may have, the first free one of which it takes: its name, then with its id."""
    usable = name != OWN_FOLDER and len(name) <= NAME_MAX_LENGTH and not unholdable(name) and not _ODD.search(name)
    if usable:
        yield name
    yield f"{name}-{source_id}" if usable else source_id
    for number in count(2):
        yield f"{name if usable else 'model'}-{source_id}-{number}"


def _document(request: CreateModel, source_id: str) -> Json:
    return {
        "source_id": source_id,
        "source": request.tags.get(SOURCE, ""),
        "name": request.name,
        "model_type": request.model_type,
        "status": "PENDING",
        "source_run_id": request.source_run_id,
        "params": dict(request.params),
        "tags": dict(request.tags),
    }


def _added_params(held: Json, request: LogModelParams) -> Json:
    changed = sorted(key for key, value in request.params.items() if held["params"].get(key, value) != value)
    if changed:
        raise Rejected(
            f"params are there with other values: {', '.join(changed)}",
            code="INVALID_PARAMETER_VALUE",
            doing="logging params of model",
            target=request.model_id,
        )
    return {"params": dict(request.params)}


def _parts(model_id: str) -> tuple[str, str]:
    """Return the run's id and the folder of a model."""
    run_id, slash, folder = model_id.partition("/")
    if not slash:
        raise Rejected("it is no model's id", doing="reading the id of model", target=model_id)
    return run_id, folder


def _folder(folder: str) -> str:
    return f"{MODELS_FOLDER}/{folder}"
