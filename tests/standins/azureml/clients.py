"""syncd's own clients of a workspace that runs in this process, for tests of one part of the destination."""

from __future__ import annotations

from typing import Any

from syncd.azure.address import WorkspaceAddress
from syncd.azure.blob import Blobs
from syncd.azure.blob_upload import Blocks
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.history import HistoryRest, RunHistory
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
