"""Addresses of workspaces, clouds, and what a refusal tells of permissions."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.azure.address import WorkspaceAddress
from syncd.azure.clouds import CHINA, CLOUDS, PUBLIC, US_GOVERNMENT, cloud_of_host
from syncd.azure.permissions import (
    DATA_SCIENTIST,
    LIST_DATASTORE_SECRETS,
    READ_RUNS,
    READ_WORKSPACE,
    READER,
    WRITE_ARTIFACTS,
    WRITE_RUNS,
    advice,
    missing_action,
    smallest_role,
)
from syncd.errors import ConfigError

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
HOST = "westeurope.api.azureml.ms"


class TestAddress:
    @pytest.mark.parametrize("between", ["/mlflow/v1.0", "/mlflow/v2.0", ""])
    @pytest.mark.parametrize("end", ["", "/", "?", "#"])
    def test_every_form_of_a_uri_is_the_same_address(self, between: str, end: str) -> None:
        address = WorkspaceAddress.of_uri(f"azureml://{HOST}{between}{SCOPE}{end}")
        assert address.uri == f"azureml://{HOST}/mlflow/v2.0{SCOPE}"
        assert address.scope == SCOPE

    def test_services_are_on_https_below_the_workspace(self) -> None:
        address = WorkspaceAddress.of_uri(f"azureml://127.0.0.1:8443{SCOPE}")
        assert address.tracking_url == f"https://127.0.0.1:8443/mlflow/v2.0{SCOPE}"
        assert address.history_url == f"https://127.0.0.1:8443/history/v1.0{SCOPE}"
        assert address.artifact_url == f"https://127.0.0.1:8443/artifact/v2.0{SCOPE}"

    def test_the_case_of_fixed_words_does_not_matter_and_becomes_azures(self) -> None:
        address = WorkspaceAddress.of_resource_id(SCOPE.replace("resourceGroups", "resourcegroups"))
        assert address.scope == SCOPE

    def test_a_run_has_a_page_in_its_clouds_studio(self) -> None:
        page = WorkspaceAddress.of_uri(f"azureml://{HOST}{SCOPE}").run_page("r 1")
        assert page == f"https://ml.azure.com/runs/r%201?wsid={SCOPE}"
        assert WorkspaceAddress.of_uri(f"azureml://127.0.0.1{SCOPE}").run_page("r") == ""

    def test_without_a_host_it_names_the_workspace_and_no_service(self) -> None:
        address = WorkspaceAddress(subscription_id=SUBSCRIPTION, resource_group="rg", workspace="ws")
        assert WorkspaceAddress.of_uri(address.uri) == address
        with pytest.raises(ValueError, match="host is not known"):
            _ = address.tracking_url
        assert address.at(HOST).uri == f"azureml://{HOST}/mlflow/v2.0{SCOPE}"

    @pytest.mark.parametrize(
        "content",
        [
            {"subscription_id": SUBSCRIPTION, "resource_group": "rg", "workspace_name": "ws"},
            {"Id": None, "Scope": SCOPE},
        ],
    )
    def test_a_config_json_names_it(self, content: dict[str, object]) -> None:
        assert WorkspaceAddress.of_config_json(json.dumps(content)).scope == SCOPE

    @given(group=st.from_regex(r"[\w().-]{0,88}[\w()-]", fullmatch=True), port=st.integers(1, 65535))
    def test_any_address_survives_its_uri(self, group: str, port: int) -> None:
        address = WorkspaceAddress(
            subscription_id=SUBSCRIPTION, resource_group=group, workspace="ws", host=f"h.example:{port}"
        )
        assert WorkspaceAddress.of_uri(address.uri) == address
        assert address.tracking_url.isascii()

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("https://h/mlflow", "expected the azureml:// URI"),
            (f"azureml://{HOST}{SCOPE}?is-remote=True", r"without \? and #"),
            (f"azureml://{HOST}/mlflow/v2.0/registries/r", "this is a registry"),
            (f"azureml://{HOST}/mlflow/v2.0", "expected /subscriptions/"),
            (f"azureml://{HOST}{SCOPE}/experiments/e", "expected /subscriptions/"),
            (f"azureml://user:secret@{HOST}{SCOPE}", "not a host"),
            (f"azureml://{HOST}{SCOPE.replace(SUBSCRIPTION, 'mine')}", "'mine' is not a subscription id"),
            (f"azureml://{HOST}{SCOPE}%20x", "'ws x' is not a workspace name"),
            (f"azureml://{HOST}{SCOPE.replace('/rg/', '/rg%2F../')}", "'rg/..' is not a resource group"),
        ],
    )
    def test_what_is_no_address_is_refused(self, uri: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as refused:
            WorkspaceAddress.of_uri(uri)
        assert "secret" not in refused.value.hint

    @pytest.mark.parametrize(
        ("text", "words"),
        [("{", "not JSON"), ("[]", "expected an object"), ('{"subscription_id": 1}', '"subscription_id" is missing')],
    )
    def test_a_wrong_config_json_is_refused(self, text: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            WorkspaceAddress.of_config_json(text)


def plugins_clouds() -> Any:
    """Return azureml-mlflow's module of clouds, without the seconds that importing the package takes."""
    package = importlib.util.find_spec("azureml.mlflow")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "_common" / "_cloud" / "cloud.py"
    spec = importlib.util.spec_from_file_location("plugins_clouds", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestClouds:
    def test_a_host_tells_its_cloud(self) -> None:
        assert cloud_of_host("westeurope.api.azureml.ms") is PUBLIC
        assert cloud_of_host("usgovvirginia.api.ml.azure.us:443") is US_GOVERNMENT
        assert cloud_of_host("chinaeast2.api.ml.azure.cn") is CHINA
        assert cloud_of_host("api.azureml.ms.example.org") is None
        assert cloud_of_host("") is None

    def test_they_are_those_that_microsofts_own_clients_know(self) -> None:
        from azure.identity import AzureAuthorityHosts

        theirs = plugins_clouds()
        hosts = AzureAuthorityHosts
        assert {cloud.authority_host for cloud in CLOUDS.values()} == {
            f"https://{host}" for host in (hosts.AZURE_PUBLIC_CLOUD, hosts.AZURE_GOVERNMENT, hosts.AZURE_CHINA)
        }
        known = {cloud.name: cloud for cloud in theirs.HARD_CODED_CLOUD_LIST}
        for cloud in CLOUDS.values():
            assert known[cloud.name].endpoints.resource_manager.rstrip("/") == cloud.resource_manager
            assert known[cloud.name]._get_default_scope() == cloud.scope
            assert f".{known[cloud.name].suffixes.storage_endpoint}" == cloud.storage_hosts


class TestPermissions:
    def test_the_action_is_found_in_azures_words(self) -> None:
        message = (
            "The client 'a@b' with object id '4444' does not have authorization to perform action "
            f"'Microsoft.MachineLearningServices/workspaces/read' over scope '{SCOPE}' or the scope is invalid."
        )
        assert missing_action(message) == READ_WORKSPACE
        assert missing_action(f"no access to {SCOPE}") == ""
        assert missing_action("Forbidden") == ""

    @pytest.mark.parametrize(
        ("action", "role"),
        [
            (READ_WORKSPACE, READER),
            (READ_RUNS, READER),
            (WRITE_RUNS, DATA_SCIENTIST),
            (WRITE_ARTIFACTS, DATA_SCIENTIST),
            (LIST_DATASTORE_SECRETS, DATA_SCIENTIST),
            ("Microsoft.MachineLearningServices/workspaces/write", ""),
            ("Microsoft.MachineLearningServices/workspaces/listKeys/action", ""),
            ("Microsoft.MachineLearningServices/workspaces/computes/vm/delete", ""),
            ("Microsoft.Storage/storageAccounts/listKeys/action", ""),
        ],
    )
    def test_the_smallest_role_that_has_it(self, action: str, role: str) -> None:
        assert smallest_role(action) == role
        assert action in advice(action)
        assert not role or f'"{role}"' in advice(action)
