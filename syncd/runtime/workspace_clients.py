"""The clients of one workspace: one sign-in and one bandwidth for all of its services."""

from __future__ import annotations

from typing import TypeVar

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient, ArmRest
from syncd.azure.blob import Blobs
from syncd.azure.credentials import Credentials
from syncd.configuration.model import DestinationSettings, WorkspaceSettings
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.datastores import STORAGE_SCOPE, ArtifactsWithDatastores, Datastores
from syncd.destinations.azureml.history import HistoryRest, RunHistory
from syncd.destinations.azureml.limits import AZUREML_LIMITS
from syncd.destinations.azureml.models import RunModels
from syncd.destinations.azureml.reader import AzuremlReader
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.azureml.workspace import AzuremlWorkspace
from syncd.rest.client import BearerAuth, RestClient
from syncd.runtime.bandwidth import throttle_of

_Client = TypeVar("_Client", bound=RestClient)


class WorkspaceClients:
    """Opens clients of one workspace, each closed by who gets it. Nothing is asked for before a client is used."""

    def __init__(self, settings: DestinationSettings, workspace: WorkspaceSettings) -> None:
        self._settings = settings
        self._workspace = workspace
        self._ca_file = str(settings.ca_file) if settings.ca_file else None
        self._throttle = throttle_of(settings.bwlimit_bytes_s)
        self.scope = workspace.cloud.scope
        self.credentials = Credentials(
            workspace.sign_in, authority_host=workspace.cloud.authority_host, ca_file=self._ca_file
        )

    def resource_manager(self) -> ArmRest:
        """Return a client of Azure Resource Manager, for ``ArmClient``."""
        return self._open(ArmRest, self._workspace.cloud.resource_manager)

    def tracking(self, address: WorkspaceAddress) -> AzuremlRest:
        """Return a client of the workspace's MLflow endpoint."""
        return self._open(AzuremlRest, address.tracking_url)

    def artifacts(self, address: WorkspaceAddress) -> RunArtifacts:
        """Return the artifacts of the workspace's runs."""
        history = RunHistory(self._open(HistoryRest, f"https://{address.host}"), address)
        return RunArtifacts(history, self._blobs())

    def datastores(self, address: WorkspaceAddress) -> Datastores:
        """Return the workspace's datastores, and which artifacts are to go there."""
        rules = [(rule.name, rule.takes) for rule in self._workspace.datastores]
        identity = self.credentials.provider(STORAGE_SCOPE)
        arm = ArmClient(self.resource_manager(), address)
        return Datastores(arm, self._blobs(), address, rules=rules, identity=identity)

    def _blobs(self) -> Blobs:
        return Blobs(ca_file=self._ca_file, deadlines=self._settings.deadlines, throttle=self._throttle)

    async def located(self) -> WorkspaceAddress:
        """Return the workspace's address with its host, asking Azure only if it is not known."""
        async with self.resource_manager() as rest:
            return await ArmClient(rest, self._workspace.address).located()

    async def doors(self) -> tuple[AzuremlWorkspace, AzuremlReader]:
        """Return both doors of the workspace; closing the first closes all connections."""
        address = await self.located()
        rest, in_runs = self.tracking(address), self.artifacts(address)
        datastores = self.datastores(address)
        artifacts = ArtifactsWithDatastores(in_runs, datastores)
        models = RunModels(rest, in_runs)
        try:
            await datastores.check()
        except BaseException:
            await artifacts.close()
            raise
        limits = self._settings.limits(AZUREML_LIMITS)
        return (
            AzuremlWorkspace(rest, artifacts=artifacts, models=models, limits=limits),
            AzuremlReader(rest, artifacts=artifacts, models=models, limits=limits),
        )

    def _open(self, kind: type[_Client], base_url: str) -> _Client:
        return kind(
            base_url,
            auth=BearerAuth(self.credentials.provider(self.scope)),
            ca_file=self._ca_file,
            deadlines=self._settings.deadlines,
            connections=self._settings.max_concurrency + 4,
            throttle=self._throttle,
        )
