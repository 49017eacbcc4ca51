"""Where a workspace is: parsed from an ``azureml://`` URI, a resource id or a ``config.json``. Values, no I/O.

Rules
-----
1. All forms of one workspace's address make the same ``uri``: it names the destination in the journal.
2. Every URL is https, whatever was written: a token is sent along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from syncd.azure.clouds import cloud_of_host
from syncd.errors import ConfigError

EXAMPLE: Final = (
    "azureml://REGION.api.azureml.ms/mlflow/v2.0/subscriptions/S/resourceGroups/G"
    "/providers/Microsoft.MachineLearningServices/workspaces/W"
)
_PATH: Final = re.compile(
    r"(?:/mlflow/v\d+(?:\.\d+)?)?"
    r"/subscriptions/(?P<subscription_id>[^/]+)/resourceGroups/(?P<resource_group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)/?",
    re.IGNORECASE,
)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?")
_SUBSCRIPTION: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Microsoft.Resources and Microsoft.MachineLearningServices, learn.microsoft.com "resource-name-rules", read 2026-11;
# letters and digits of any script in a group's name.
_GROUP: Final = re.compile(r"[\w().-]{1,90}(?<!\.)")
_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceAddress:
    """One workspace; ``host`` is its region's service ("host" or "host:port"), "" until Azure has told it."""

    subscription_id: str
    resource_group: str
    workspace: str
    host: str = ""

    def __post_init__(self) -> None:
        for what, pattern, text in (
            ("subscription id", _SUBSCRIPTION, self.subscription_id),
            ("resource group", _GROUP, self.resource_group),
            ("workspace name", _WORKSPACE, self.workspace),
            ("host", _HOST, self.host or "unknown"),
        ):
            if not pattern.fullmatch(text):
                raise ConfigError(f"{text!r} is not a {what}", doing="reading the workspace's address")

    @classmethod
    def of_uri(cls, uri: str) -> WorkspaceAddress:
        """Return the address that an ``azureml://`` URI names, with or without ``/mlflow/v1.0`` and host.

        Raises:
            ConfigError: it is no workspace's URI.
        """
        parts = urlsplit(uri)
        if parts.scheme != "azureml" or parts.query or parts.fragment:
            raise _not_an_address("expected the azureml:// URI of a workspace, without ? and #")
        if "/registries/" in parts.path:
            raise _not_an_address("this is a registry; runs need a workspace")
        return replace(cls.of_resource_id(parts.path), host=parts.netloc)

    @classmethod
    def of_resource_id(cls, resource_id: str) -> WorkspaceAddress:
        """Return the address that Azure Resource Manager's id of a workspace names; its host is unknown.

        Raises:
            ConfigError: it is no workspace's id.
        """
        match = _PATH.fullmatch(resource_id)
        if match is None:
            raise _not_an_address("expected /subscriptions/…/resourceGroups/…/providers/…/workspaces/…")
        return cls(**{name: unquote(text) for name, text in match.groupdict().items()})

    @classmethod
    def of_config_json(cls, text: str) -> WorkspaceAddress:
        """Return the address that a workspace's ``config.json`` names, as Azure's portal and SDKs write it.

        Raises:
            ConfigError: it is not JSON, or misses a field.
        """
        try:
            content = json.loads(text)
        except ValueError as exc:
            raise _not_an_address(f"not JSON: {exc}") from exc
        if not isinstance(content, dict):
            raise _not_an_address("expected an object with subscription_id, resource_group and workspace_name")
        if isinstance(content.get("Scope"), str):
            return cls.of_resource_id(content["Scope"])
        names = {
            "subscription_id": "subscription_id",
            "resource_group": "resource_group",
            "workspace_name": "workspace",
        }
        return cls(**{ours: _field(content, theirs) for theirs, ours in names.items()})

    def at(self, host: str) -> WorkspaceAddress:
        """Return the same workspace, reached at that host."""
        return replace(self, host=host)

    @property
    def scope(self) -> str:
        """The workspace's id in Azure Resource Manager."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def uri(self) -> str:
        """The address as MLflow's clients take it (without ``/mlflow/v2.0`` while the host is unknown)."""
        return f"azureml://{self.host}/mlflow/v2.0{self.scope}" if self.host else f"azureml://{self.scope}"

    @property
    def path(self) -> str:
        """The scope as part of a URL."""
        return quote(self.scope, safe="/().-_")

    def run_page(self, run_id: str) -> str:
        """Return where a browser shows a run of the workspace, "" if its cloud is not known."""
        cloud = cloud_of_host(self.host)
        return f"{cloud.studio}/runs/{quote(run_id, safe='')}?wsid={self.path}" if cloud is not None else ""

    @property
    def tracking_url(self) -> str:
        """Where MLflow's API begins: ``/api/2.0/mlflow/…`` follows."""
        return self._service_url("mlflow/v2.0")

    @property
    def history_url(self) -> str:
        """Where a run's artifacts are registered and listed: ``/experiments/{name}/runs/{id}/artifacts/…`` follows."""
        return self._service_url("history/v1.0")

    @property
    def artifact_url(self) -> str:
        """Where artifacts of no run are registered: ``/artifacts/LocalUpload/…`` follows."""
        return self._service_url("artifact/v2.0")

    def _service_url(self, service: str) -> str:
        if not self.host:
            raise ValueError("the workspace's host is not known yet")
        return f"https://{self.host}/{service}{self.path}"


def _field(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise _not_an_address(f'the field "{name}" is missing')
    return value


def _not_an_address(message: str) -> ConfigError:
    return ConfigError(message, doing="reading the workspace's address", hint=f"for example {EXAMPLE}")
