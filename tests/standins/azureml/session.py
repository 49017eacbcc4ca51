"""Plain HTTP calls to a running workspace, for tests that look at the answers themselves."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.standins.azureml.server import RunningWorkspace

API = "/mlflow/v2.0{scope}/api/2.0/mlflow"
Answer = tuple[int, Any, dict[str, str]]


class Session:
    """Calls a workspace with a token of its managed identity; ``{scope}`` in a path is the workspace's."""

    def __init__(self, workspace: RunningWorkspace, http: aiohttp.ClientSession) -> None:
        self.workspace = workspace
        self._http = http
        self.token = ""

    async def log_in(self, resource: str = "https://management.azure.com/") -> None:
        header = {"X-IDENTITY-HEADER": self.workspace.place.identity_header}
        url = f"{self.workspace.place.url}/msi/token?api-version=2019-08-01&resource={resource}"
        async with self._http.get(url, headers=header) as answer:
            self.token = (await answer.json())["access_token"]

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Return status, body and headers; ``{scope}`` in the path is the workspace's."""
        url = path if path.startswith("https:") else self.workspace.place.url + path
        headers = {"Authorization": f"Bearer {self.token}"}
        url = url.replace("{scope}", self.workspace.place.scope)
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            found = json.loads(text) if answer.content_type == "application/json" else text
            return answer.status, found, dict(answer.headers)

    async def mlflow(self, name: str, body: Any, *, expect: int = 200) -> Any:
        """Return the answer to a POST of MLflow's API."""
        status, answer, _ = await self.ask("POST", f"{API}/{name}", body)
        assert status == expect, answer
        return answer

    async def new_run(self, name: str = "e") -> str:
        tracking = self.workspace.state.tracking
        known = tracking.experiment_named(name)
        identity = (
            known.identity if known else (await self.mlflow("experiments/create", {"name": name}))["experiment_id"]
        )
        run_id: str = (await self.mlflow("runs/create", {"experiment_id": identity}))["run"]["info"]["run_id"]
        return run_id

    async def register(self, run_id: str, *paths: str, expect: int = 200) -> Any:
        experiment = self.workspace.state.tracking.run(run_id).experiment_id
        path = f"/history/v1.0{{scope}}/experiments/{experiment}/runs/{run_id}/artifacts/batch/metadata"
        status, answer, _ = await self.ask("POST", path, {"paths": [{"path": path} for path in paths]})
        assert status == expect, answer
        return answer

    async def upload_url(self, run_id: str, path: str) -> str:
        url: str = (await self.register(run_id, path))["artifactContentInformation"][path]["contentUri"]
        return url
