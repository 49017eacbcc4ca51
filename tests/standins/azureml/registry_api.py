"""MLflow's model registry as a workspace speaks it; states and aliases are left out."""

from __future__ import annotations

import re

from tests.standins.azureml.refusals import bad_value
from tests.standins.azureml.runs import Json
from tests.standins.azureml.state import Route, State
from tests.standins.azureml.tracking import page
from tests.standins.azureml.tracking_api import Call, mlflow_routes, with_token

PAGE = 100


class RegistryApi:
    """Registered models and versions."""

    def __init__(self, state: State) -> None:
        self._registry = state.registry
        self._scope = state.place.scope

    def routes(self) -> list[Route]:
        calls: list[tuple[str, str, Call]] = [
            ("POST", "registered-models/create", self._create_model),
            ("GET", "registered-models/get", self._get_model),
            ("GET", "registered-models/search", self._search_models),
            ("POST", "registered-models/set-tag", self._set_model_tag),
            ("POST", "model-versions/create", self._create_version),
            ("GET", "model-versions/get", self._get_version),
            ("GET", "model-versions/search", self._search_versions),
            ("GET", "model-versions/get-download-uri", self._download_uri),
            ("POST", "model-versions/set-tag", self._set_version_tag),
        ]
        return [route for method, name, call in calls for route in mlflow_routes(self._scope, method, name, call)]

    def _create_model(self, body: Json) -> Json:
        return {"registered_model": self._registry.create_model(body).as_json()}

    def _get_model(self, body: Json) -> Json:
        return {"registered_model": self._registry.model(body["name"]).as_json()}

    def _search_models(self, body: Json) -> Json:
        name = _wanted(body.get("filter", ""), "name")
        found = [model for model in self._registry.models.values() if name in (None, model.name)]
        kept, following = page(found, int(body.get("max_results", PAGE)), body.get("page_token", ""))
        return with_token({"registered_models": [model.as_json() for model in kept]}, following)

    def _set_model_tag(self, body: Json) -> Json:
        self._registry.model(body["name"]).tags[body["key"]] = body.get("value", "")
        return {}

    def _create_version(self, body: Json) -> Json:
        return {"model_version": self._registry.create_version(body).as_json()}

    def _get_version(self, body: Json) -> Json:
        return {"model_version": self._registry.version(body["name"], body["version"]).as_json()}

    def _search_versions(self, body: Json) -> Json:
        text = body.get("filter", "")
        found = self._registry.versions(name=_wanted(text, "name"), run_id=_wanted(text, "run_id"))
        if text and _wanted(text, "name") is None and _wanted(text, "run_id") is None:
            raise bad_value(f"Invalid filter string: {text!r}")
        kept, following = page(found, int(body.get("max_results", PAGE)), body.get("page_token", ""))
        return with_token({"model_versions": [version.as_json() for version in kept]}, following)

    def _download_uri(self, body: Json) -> Json:
        return {"artifact_uri": self._registry.version(body["name"], body["version"]).source}

    def _set_version_tag(self, body: Json) -> Json:
        self._registry.version(body["name"], body["version"]).tags[body["key"]] = body.get("value", "")
        return {}


def _wanted(text: str, key: str) -> str | None:
    found = re.search(rf"\b{key}\s*=\s*(['\"])(.*?)\1", text)
    return found[2] if found else None
