"""A workspace that keeps no models: what belongs to a model goes where it goes on a server without logged models."""

from __future__ import annotations

from collections.abc import Sequence

from syncd.core.requests import CreateModel
from syncd.destinations.azureml.parts import ModelRequest
from syncd.destinations.base import RemoteModel, RemoteRun, RemoteSubject


class NoModels:
    """The part of a workspace for models, where there is none; only ``held`` is ever asked."""

    held = False

    async def find(self, experiment_id: str, source_id: str) -> RemoteSubject | None:
        """Find none."""
        return None

    async def create(self, request: CreateModel) -> RemoteSubject:
        """Not possible."""
        raise NotImplementedError

    async def send(self, request: ModelRequest) -> None:
        """Not possible."""
        raise NotImplementedError

    async def delete(self, model_id: str) -> None:
        """Not possible."""
        raise NotImplementedError

    async def with_source(self, experiment_id: str, source_id: str) -> Sequence[RemoteModel]:
        """Find none."""
        return ()

    async def linked(self, run: RemoteRun) -> RemoteRun:
        """Return the run as it is."""
        return run
