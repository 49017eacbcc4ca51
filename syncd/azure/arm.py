"""A client of Azure Resource Manager: the workspace, its datastores, and their credentials.

The API version 2023-04-01 of Microsoft.MachineLearningServices is the one of azure-ai-ml's stable calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from syncd.azure.address import WorkspaceAddress
from syncd.azure.permissions import advise
from syncd.errors import DestinationError, Rejected, SubjectGone
from syncd.rest.answers import classify_status, service_words
from syncd.rest.client import Json, RestClient

API_VERSION: Final = "2023-04-01"


@dataclass(frozen=True, slots=True)
class WorkspaceFacts:
    """What Azure tells of a workspace; ``tracking_uri`` is an ``azureml://`` URI, ``storage_account`` a resource id."""

    id: str
    workspace_id: str
    friendly_name: str
    location: str
    tracking_uri: str
    storage_account: str
    discovery_url: str
    provisioning_state: str


@dataclass(frozen=True, slots=True)
class Datastore:
    """A named place of the workspace.

    ``kind`` is Azure's word ("AzureBlob", "AzureDataLakeGen2", "AzureFile", …), ``container`` the container, file
    system or share, ``endpoint`` what follows the account's name and the kind of storage ("core.windows.net"),
    ``credentials`` Azure's word for what opens it ("Sas", "AccountKey", "None": the caller's identity).
    """

    name: str
    kind: str
    account: str
    container: str
    endpoint: str
    protocol: str
    is_default: bool
    credentials: str


@dataclass(frozen=True, slots=True)
class DatastoreSecret:
    """What opens a datastore: ``kind`` is "Sas" or "AccountKey", or another of Azure's words and ``text`` is ""."""

    kind: str
    text: str = field(repr=False)


class ArmRest(RestClient):
    """A REST client that knows ARM's refusals."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means."""
        words = service_words(body)
        error = classify_status(method, status, headers, words, doing=doing, target=target)
        if isinstance(error, SubjectGone):
            error.hint = "check subscription, resource group and name; what one may not see is not found either"
        return advise(error, status=status, code=words[0])


class ArmClient:
    """Asks Azure Resource Manager about one workspace; ``rest`` is closed by who opened it, or by ``close``."""

    def __init__(self, rest: ArmRest, address: WorkspaceAddress) -> None:
        self._rest = rest
        self._address = address

    async def close(self) -> None:
        """Close connections."""
        await self._rest.close()

    async def workspace(self) -> WorkspaceFacts:
        """Return what Azure tells of the workspace."""
        answer = await self._get("", doing="reading the workspace")
        told = answer.get("properties") or {}
        return WorkspaceFacts(
            id=_text(answer, "id"),
            workspace_id=_text(told, "workspaceId"),
            friendly_name=_text(told, "friendlyName") or _text(answer, "name"),
            location=_text(answer, "location"),
            tracking_uri=_text(told, "mlFlowTrackingUri"),
            storage_account=_text(told, "storageAccount"),
            discovery_url=_text(told, "discoveryUrl"),
            provisioning_state=_text(told, "provisioningState"),
        )

    async def located(self) -> WorkspaceAddress:
        """Return the workspace's address with its host, asking Azure only if it is not known.

        Raises:
            Rejected: the workspace has no MLflow address (a hub has none).
        """
        if self._address.host:
            return self._address
        facts = await self.workspace()
        if not facts.tracking_uri:
            raise Rejected("it has no MLflow address", doing="reading the workspace", target=self._address.workspace)
        self._address = self._address.at(WorkspaceAddress.of_uri(facts.tracking_uri).host)
        return self._address

    async def datastores(self) -> AsyncIterator[Datastore]:
        """Yield the datastores of the workspace."""
        query, seen = f"api-version={API_VERSION}", set[str]()
        while query and query not in seen:
            seen.add(query)
            page = await self._get("/datastores", query, doing="listing the datastores")
            for item in page.get("value") or ():
                yield _datastore(item)
            query = urlsplit(_text(page, "nextLink")).query  # its host may be another way to the same service

    async def datastore(self, name: str) -> Datastore:
        """Return the datastore of that name; SubjectGone if there is none."""
        return _datastore(await self._get(f"/datastores/{quote(name, safe='')}", doing="reading the datastore"))

    async def datastore_secret(self, name: str) -> DatastoreSecret:
        """Return what opens the datastore, as Azure keeps it; AuthFailed if the identity may not see it."""
        path = f"{self._address.path}/datastores/{quote(name, safe='')}/listSecrets?api-version={API_VERSION}"
        told = await self._rest.call("POST", path, {}, doing="reading the credentials of the datastore", target=name)
        return DatastoreSecret(_text(told, "secretsType"), _text(told, "sasToken") or _text(told, "key"))

    async def _get(self, path: str, query: str = f"api-version={API_VERSION}", *, doing: str) -> Json:
        whole = f"{self._address.path}{path}?{query}"
        return await self._rest.get(whole, doing=doing, target=f"{self._address.workspace}{path}")


def _datastore(item: Mapping[str, Any]) -> Datastore:
    told = item.get("properties") or {}
    return Datastore(
        name=_text(item, "name"),
        kind=_text(told, "datastoreType"),
        account=_text(told, "accountName"),
        container=_text(told, "containerName") or _text(told, "filesystem") or _text(told, "fileShareName"),
        endpoint=_text(told, "endpoint"),
        protocol=_text(told, "protocol"),
        is_default=bool(told.get("isDefault")),
        credentials=_text(told.get("credentials") or {}, "credentialsType"),
    )


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    return value if isinstance(value, str) else ""
