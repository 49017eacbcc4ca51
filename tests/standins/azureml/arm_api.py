"""Azure Resource Manager's view of the workspace and its datastores, and the discovery of its services."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from tests.standins.azureml.artifacts import STORE_CONTAINER
from tests.standins.azureml.place import PROVIDER
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.runs import Json
from tests.standins.azureml.state import Route, State
from tests.standins.azureml.tracking import page

DATASTORE_PERMISSIONS = "racwdl"


@dataclass(frozen=True)
class Datastore:
    """A blob datastore of the workspace's storage account."""

    name: str
    container: str
    is_default: bool = False


class ArmApi:
    """Answers ``GET <SC>``, its datastores and their secrets, and ``/discovery``."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._place = state.place
        self.datastores = [
            Datastore("workspaceblobstore", self._place.container, is_default=True),
            Datastore("workspaceartifactstore", STORE_CONTAINER),
        ]

    def routes(self) -> list[Route]:
        scope = self._place.scope
        one = f"{scope}/datastores/{{name}}"
        return [
            Route("arm", "arm/workspace", "GET", scope, self._workspace),
            Route("arm", "arm/datastores", "GET", f"{scope}/datastores", self._list),
            Route("arm", "arm/datastore", "GET", one, self._one),
            Route("arm", "arm/list-secrets", "POST", f"{one}/listSecrets", self._secrets),
            Route("identity", "discovery", "GET", "/discovery", self._discovery),
            Route("identity", "discovery", "GET", "/discovery/workspaces/{workspace}", self._discovery),
        ]

    async def _workspace(self, request: web.Request) -> web.StreamResponse:
        _check_version(request)
        place = self._place
        group = place.scope.partition(f"/providers/{PROVIDER}")[0]
        body = {
            "id": place.scope,
            "name": place.workspace,
            "type": f"{PROVIDER}/workspaces",
            "location": place.region,
            "identity": {"type": "SystemAssigned", "tenantId": self._state.identity.tenant},
            "properties": {
                "friendlyName": place.workspace,
                "workspaceId": place.workspace_id,
                "provisioningState": "Succeeded",
                "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{place.storage_account}",
                "discoveryUrl": f"{place.url}/discovery",
                "mlFlowTrackingUri": place.tracking_uri.replace("/mlflow/v2.0/", "/mlflow/v1.0/"),
            },
        }
        return web.json_response(body)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        _check_version(request)
        size = self._state.habits.datastores_page
        bodies = [self._body(datastore) for datastore in self.datastores]
        bodies += [self._named(name, properties) for name, (properties, _) in self._state.datastores.items()]
        kept, following = page(bodies, size, request.query.get("$skip", ""))
        here = f"{self._place.url}{request.rel_url.raw_path}"
        link = f"{here}?api-version={request.query['api-version']}&$skip={following}"
        answer: Json = {"value": kept}
        return web.json_response({**answer, "nextLink": link} if following else answer)

    async def _one(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name in self._state.datastores:
            return web.json_response(self._named(name, self._state.datastores[name][0]))
        return web.json_response(self._body(self._asked(request)))

    async def _secrets(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name in self._state.datastores:
            return web.json_response(self._state.datastores[name][1])
        token = self._state.access.token(self._asked(request).container, DATASTORE_PERMISSIONS)
        return web.json_response({"secretsType": "Sas", "sasToken": token})

    async def _discovery(self, _request: web.Request) -> web.StreamResponse:
        services = ("api", "history", "experimentation", "modelmanagement", "mlflow")
        return web.json_response(dict.fromkeys(services, self._place.url))

    def _asked(self, request: web.Request) -> Datastore:
        _check_version(request)
        name = request.match_info["name"]
        found = next((datastore for datastore in self.datastores if datastore.name == name), None)
        if found is None:
            raise Refused(404, "UserError", f"Could not find datastore with name: {name}.")
        return found

    def _body(self, datastore: Datastore) -> Json:
        properties = {
            "datastoreType": "AzureBlob",
            "isDefault": datastore.is_default,
            "accountName": self._place.storage_account,
            "containerName": datastore.container,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "credentials": {"credentialsType": "Sas"},
            "serviceDataAccessAuthIdentity": "None",
        }
        return self._named(datastore.name, properties)

    def _named(self, name: str, properties: Json) -> Json:
        kind = f"{PROVIDER}/workspaces/datastores"
        return {
            "id": f"{self._place.scope}/datastores/{name}",
            "name": name,
            "type": kind,
            "properties": properties,
        }


def _check_version(request: web.Request) -> None:
    if not request.query.get("api-version"):
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise Refused(400, "MissingApiVersionParameter", message)
