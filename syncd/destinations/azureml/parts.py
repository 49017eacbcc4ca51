"""What of a workspace is not MLflow's tracking: artifacts, and models without an API for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from syncd.core.requests import CreateModel, FinalizeModel, LogInputs, LogModelParams, LogOutputs, SetModelTags
from syncd.destinations.base import RemoteFile, RemoteModel, RemoteRun, RemoteSubject, Upload

ModelRequest = SetModelTags | LogModelParams | FinalizeModel | LogOutputs | LogInputs
"""``LogInputs`` with models alone; datasets are tracking's."""


class WorkspaceArtifacts(Protocol):
    """The artifacts of runs, and of the models laid into them; ``subject`` is either."""

    async def close(self) -> None:
        """Close connections."""
        ...

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact below the subject's root.

        One that is there with the same bytes is stored already.

        Raises:
            NameNotHeld: the workspace cannot keep that name, or keeps other bytes under it and does not replace them.
        """
        ...

    def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's root."""
        ...

    def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces."""
        ...


class WorkspaceModels(Protocol):
    """MLflow 3's logged models, for which a workspace has no API (``logged-models`` answers 404)."""

    async def find(self, experiment_id: str, source_ids: Collection[str]) -> Mapping[str, RemoteSubject]:
        """Return, by source id, the models that ``create`` could make twice; of several, all get the same one."""
        ...

    async def create(self, request: CreateModel) -> RemoteSubject:
        """Create the model, or return it if it is there; called again after a lost answer, unless ``find`` finds it."""
        ...

    async def send(self, request: ModelRequest) -> None:
        """Apply one request; applied twice it has the effect of once."""
        ...

    async def delete(self, model_id: str) -> None:
        """Delete a model that holds nothing; done already is done."""
        ...

    async def with_source(self, experiment_id: str, source_id: str, source_run_id: str) -> Sequence[RemoteModel]:
        """Return the models that carry that source id, whole; ``source_run_id`` is the source's id of their run."""
        ...

    async def linked(self, run: RemoteRun) -> RemoteRun:
        """Return the run together with the models that were linked to it (``model_inputs``, ``model_outputs``)."""
        ...
