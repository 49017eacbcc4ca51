"""syncd's own clients of a workspace that runs in this process, for tests of one part of the destination."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from syncd.azure.address import WorkspaceAddress
from syncd.azure.blob import Blobs
from syncd.azure.blob_upload import Blocks
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.history import HistoryRest, RunHistory
from syncd.destinations.azureml.limits import AZUREML_LIMITS
from syncd.destinations.azureml.models import RunModels
from syncd.destinations.azureml.reader import AzuremlReader
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.azureml.workspace import AzuremlWorkspace
from syncd.destinations.base import RemoteSubject
from syncd.rest.client import BearerAuth
from tests.standins.azureml.server import RunningWorkspace


def auth_of(workspace: RunningWorkspace) -> BearerAuth:
    """Return what signs in as the workspace's managed identity."""

    async def token(_refused: bool) -> str:
        return workspace.state.identity.for_managed_identity("", "https://management.azure.com/")[0]

    return BearerAuth(token)


def artifacts_of(workspace: RunningWorkspace, *, cut: Blocks | None = None, **blobs: Any) -> RunArtifacts:
    place = workspace.place
    rest = HistoryRest(place.url, auth=auth_of(workspace), ca_file=str(place.ca))
    history = RunHistory(rest, WorkspaceAddress.of_uri(place.tracking_uri))
    return RunArtifacts(history, Blobs(ca_file=str(place.ca), **blobs), cut=cut)


def new_run(workspace: RunningWorkspace, experiment: str = "e") -> RemoteSubject:
    """Return a run of the workspace, made behind its API."""
    tracking = workspace.state.tracking
    known = tracking.experiment_named(experiment) or tracking.create_experiment(experiment, {})
    run = tracking.create_run({"experiment_id": known.identity})
    return RemoteSubject(run.identity, run.artifact_uri)


@asynccontextmanager
async def doors_of(workspace: RunningWorkspace) -> AsyncIterator[tuple[AzuremlWorkspace, AzuremlReader]]:
    """Open both doors of a workspace, as ``syncd.runtime.workspace_clients`` does."""
    address = WorkspaceAddress.of_uri(workspace.place.tracking_uri)
    rest = AzuremlRest(address.tracking_url, auth=auth_of(workspace), ca_file=str(workspace.place.ca))
    artifacts = artifacts_of(workspace)
    parts: dict[str, Any] = {"artifacts": artifacts, "models": RunModels(rest, artifacts), "limits": AZUREML_LIMITS}
    writer = AzuremlWorkspace(rest, **parts)
    try:
        yield writer, AzuremlReader(rest, **parts)
    finally:
        await writer.close()
