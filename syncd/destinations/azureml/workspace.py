"""Writes to an Azure Machine Learning workspace.

Runs go through MLflow's REST API as to any MLflow server; artifacts and models have ways of their own (``parts``).
Rules
-----
1. The workspace is assumed to append: the same point sent twice is there twice.
2. A 404 without words is how the workspace says that it lacks an endpoint. It is taken for that only when another
   endpoint answers meanwhile, since a gateway in trouble says the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from syncd.core.limits import Limits
from syncd.core.requests import (
    CreateModel,
    CreateRun,
    FinalizeModel,
    LogInputs,
    LogModelParams,
    LogOutputs,
    Request,
    SetModelTags,
)
from syncd.destinations.azureml.parts import WorkspaceArtifacts, WorkspaceModels
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.base import RemoteExperiment, RemoteSubject, ServerFacts, Upload
from syncd.destinations.mlflow_errors import NotMlflow
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import API
from syncd.destinations.mlflow_server import MlflowServer
from syncd.errors import OverLimit, Rejected


class AzuremlWorkspace:
    """A workspace as a destination. ``limits`` is what it takes. ``close`` closes the client and the artifacts."""

    def __init__(
        self, rest: AzuremlRest, *, artifacts: WorkspaceArtifacts, models: WorkspaceModels, limits: Limits
    ) -> None:
        self._rest = rest
        self._artifacts = artifacts
        self._models = models
        self._limits = limits
        self._tracking = MlflowServer(rest, duplicates="appended", limits=limits, multipart_threshold_bytes=None)
        self._reader = MlflowReader(rest, duplicates="appended")

    async def close(self) -> None:
        """Close connections."""
        await self._artifacts.close()
        await self._rest.close()

    async def probe(self) -> ServerFacts:
        """Reach the workspace and check the credentials; it tells no version."""
        await self._rest.call("POST", f"{API}/experiments/search", {"max_results": 1}, doing="listing experiments of")
        return ServerFacts(
            version="",
            limits=self._limits,
            logged_models=True,
            proxied_artifacts=True,
            replaces_artifacts=False,
        )

    async def ensure_experiment(self, name: str) -> RemoteExperiment:
        """Return the experiment of that name, created if it was missing. Rejected if it is deleted there."""
        return await self._tracking.ensure_experiment(name)

    async def find(
        self, kind: str, experiment_id: str, source_ids: Collection[str], *, besides: str = ""
    ) -> Mapping[str, RemoteSubject]:
        """Return the runs or models by their source tag; of several, all callers get the same one."""
        if kind == "run":
            return await self._tracking.find(kind, experiment_id, source_ids, besides=besides)
        return await self._models.find(experiment_id, source_ids)

    async def create(self, request: CreateRun | CreateModel) -> RemoteSubject:
        """Create the run or model. OutcomeUnknown means: ``find`` before another create."""
        if isinstance(request, CreateModel):
            return await self._models.create(request)
        return await self._tracking.create(request)

    async def discard(self, kind: str, remote_id: str) -> None:
        """Delete a run or model that lost a race of two creates and that holds nothing."""
        if kind == "model":
            await self._models.delete(remote_id)
        else:
            await self._tracking.discard(kind, remote_id)

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact below the subject's artifact root; NameNotHeld if other bytes are there already."""
        await self._artifacts.upload(subject, artifact)

    async def send(self, request: Request) -> None:
        """Apply one request. Rejected speaks of the request as a whole: cut it in two and try the halves."""
        match request:
            case LogInputs():
                if request.datasets:
                    await self._log_datasets(replace(request, models=()))
                if request.models:
                    await self._models.send(replace(request, datasets=()))
            case SetModelTags() | LogModelParams() | FinalizeModel() | LogOutputs():
                await self._models.send(request)
            case _:
                await self._offered(lambda: self._tracking.send(request), target=type(request).__name__)

    async def _log_datasets(self, request: LogInputs) -> None:
        """Log the datasets that the run lacks: nothing says that the workspace takes the same one twice as one."""
        held = (await self._reader.run(request.run_id)).datasets
        known = {(dataset.name, dataset.digest) for dataset in held}
        missing = [dataset for dataset in request.datasets if (dataset.name, dataset.digest) not in known]
        wanted = replace(request, datasets=missing)
        try:
            await self._offered(lambda: self._tracking.send(wanted), target="LogInputs")
        except Rejected as error:
            if error.code != "ENDPOINT_NOT_FOUND":
                raise
            raise OverLimit(error.message, limit_name="inputs_per_run", limit=0, code=error.code, status=404) from error

    async def _offered(self, send: Callable[[], Awaitable[None]], *, target: str) -> None:
        try:
            await send()
        except NotMlflow as exc:
            await self.probe()
            raise Rejected(
                "this workspace has no such endpoint",
                code="ENDPOINT_NOT_FOUND",
                status=404,
                doing="sending",
                target=target,
            ) from exc
