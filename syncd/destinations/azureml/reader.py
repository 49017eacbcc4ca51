"""Reads a workspace back, for verify and for reconciling: tracking as MLflow's, the rest in its own ways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from syncd.core.limits import Limits
from syncd.destinations.azureml.parts import WorkspaceArtifacts, WorkspaceModels
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.base import RemoteExperiment, RemoteFile, RemoteModel, RemoteRun, RemoteSubject
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.errors import OverLimit


class AzuremlReader:
    """Reads one workspace; the parts and the client are those of its ``AzuremlWorkspace``, which closes them."""

    def __init__(
        self, rest: AzuremlRest, *, artifacts: WorkspaceArtifacts, models: WorkspaceModels, limits: Limits
    ) -> None:
        self._tracking = MlflowReader(rest, duplicates="appended", history_page=limits.history_results)
        self._artifacts = artifacts
        self._models = models

    async def experiments(self) -> Mapping[str, RemoteExperiment]:
        """Return the active experiments by name."""
        return await self._tracking.experiments()

    async def runs_by_source(self, experiment_id: str, source_run_id: str) -> Sequence[RemoteRun]:
        """Return all active runs of the experiment that carry that source tag (more than one is a fault)."""
        runs = await self._tracking.runs_by_source(experiment_id, source_run_id)
        return [await self._models.linked(run) for run in runs]

    async def run(self, run_id: str) -> RemoteRun:
        """Return one run, without the models linked to it, which would take a listing of its artifacts."""
        return await self._tracking.run(run_id)

    async def history(self, run_id: str, key: str) -> AsyncIterator[tuple[float, int, int]]:
        """Yield (value, timestamp_ms, step) of every point of that key, repeated ones repeatedly, in any order.

        A page that is larger than the workspace takes is refused before anything came; the next ones are smaller.
        """
        try:
            async for point in self._tracking.history(run_id, key):
                yield point
        except OverLimit as error:
            if error.limit_name != "history_results" or error.limit >= self._tracking.history_page:
                raise
            self._tracking.history_page = error.limit
        else:
            return
        async for point in self._tracking.history(run_id, key):
            yield point

    async def models_by_source(
        self, experiment_id: str, source_model_id: str, source_run_id: str
    ) -> Sequence[RemoteModel]:
        """Return the models that carry that source id."""
        return await self._models.with_source(experiment_id, source_model_id, source_run_id)

    def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's artifact root."""
        return self._artifacts.files(subject)

    def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces."""
        return self._artifacts.content(subject, path)
