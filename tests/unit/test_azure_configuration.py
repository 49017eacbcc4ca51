"""A workspace in the configuration: its address, its cloud, how to sign in, its datastores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncd.azure.sign_in import (
    AzureCli,
    FixedToken,
    ManagedIdentity,
    ManagedIdentityOrCli,
    ServicePrincipal,
    SignIn,
    WorkloadIdentity,
)
from syncd.configuration import Configuration, InvalidConfiguration, Problem, Secret, destination_of_argument, parse
from syncd.configuration.model import DatastoreRule, DestinationSettings, WorkspaceSettings

FILE = Path("/etc/syncd/syncd.toml")
SOURCE = "[[sources]]\nname = 'runs'\nkind = 'mlruns'\npath = '/runs'\n"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
URI = f"uri = 'azureml://westeurope.api.azureml.ms/mlflow/v2.0{SCOPE}'\n"
NAMED = f"subscription_id = '{SUBSCRIPTION}'\nresource_group = 'rg'\nworkspace = 'ws'\n"
PRINCIPAL = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}


def read(keys: str, environment: dict[str, str] | None = None) -> Configuration:
    return parse(f"{SOURCE}[[destinations]]\nname = 'w'\n{keys}", file=FILE, environment=environment or {})


def destination(keys: str, environment: dict[str, str] | None = None) -> DestinationSettings:
    return read(keys, environment).destinations[0]


def workspace(keys: str, environment: dict[str, str] | None = None) -> WorkspaceSettings:
    found = destination(keys, environment).workspace
    assert found is not None
    return found


def problems(keys: str, environment: dict[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfiguration) as invalid:
        read(keys, environment)
    return invalid.value.problems


def secret(text: str) -> Secret:
    return Secret(text, origin="environment")


class TestAddress:
    def test_a_uri_names_it(self) -> None:
        settings = destination(URI.replace("v2.0", "v1.0"))
        assert settings.uri == f"azureml://westeurope.api.azureml.ms/mlflow/v2.0{SCOPE}"
        assert settings.workspace is not None
        assert settings.workspace.address.host == "westeurope.api.azureml.ms"

    def test_subscription_group_and_name_name_it(self) -> None:
        assert destination(NAMED).uri == f"azureml://{SCOPE}"

    def test_a_config_json_beside_the_file_names_it(self, tmp_path: Path) -> None:
        content = {"subscription_id": SUBSCRIPTION, "resource_group": "rg", "workspace_name": "ws"}
        (tmp_path / "config.json").write_text(json.dumps(content))
        text = f"{SOURCE}[[destinations]]\nname = 'w'\nconfig_file = 'config.json'\n"
        found = parse(text, file=tmp_path / "syncd.toml", environment={})
        assert found.destinations[0].uri == f"azureml://{SCOPE}"

    def test_the_keys_of_every_destination_hold_for_it(self) -> None:
        settings = destination(f"{URI}max_concurrency = 3\nlimits.tags_per_run = 5\nfilters.tags = {{ a = 'b' }}\n")
        assert (settings.max_concurrency, settings.limit_overrides["tags_per_run"]) == (3, 5)
        assert settings.filter.tags == {"a": "b"}

    @pytest.mark.parametrize(
        ("keys", "line", "key", "message"),
        [
            ("uri = 'azureml://h/x'", 7, "uri", "expected /subscriptions/"),
            (URI + NAMED, 8, "subscription_id", '"uri" names the workspace already'),
            (URI + "config_file = 'c'", 8, "config_file", '"uri" names the workspace already'),
            (URI + "workspace = 'ws'", 8, "workspace", '"uri" names the workspace already'),
            (NAMED.replace(SUBSCRIPTION, "mine"), 7, "subscription_id", "'mine' is not a subscription id"),
            ("workspace = 'ws'\nresource_group = 'rg'", 5, "", 'the key "subscription_id" of a workspace is missing'),
            ("config_file = '/no/such'", 7, "config_file", "cannot be read: /no/such: No such file"),
            (URI + "username = 'u'", 8, "username", "signed in to with a token"),
            (URI + "credentials = 'azure-cli'", 8, "credentials", "unknown key of a workspace"),
            (
                "uri = 'https://h'\ncredential = 'azure-cli'",
                8,
                "credential",
                "only an Azure Machine Learning workspace",
            ),
            ("uri = 'https://h'\ndatastores = []", 8, "datastores", "only an Azure Machine Learning workspace"),
        ],
    )
    def test_a_mistake_is_named(self, keys: str, line: int, key: str, message: str) -> None:
        problem = problems(keys)[0]
        assert (problem.line, problem.key) == (line, f"destinations[0].{key}".rstrip("."))
        assert message in problem.message

    def test_a_host_that_is_not_azures_is_warned_of(self) -> None:
        (warning,) = read(URI.replace("api.azureml.ms", "example.org")).warnings
        assert "westeurope.example.org is not a host of Azure's: your Azure tokens are sent there" in warning
        assert read(URI.replace("westeurope.api.azureml.ms", "127.0.0.1:8443")).warnings == ()


class TestCloud:
    def test_the_host_tells_it(self) -> None:
        assert workspace(URI).cloud.name == "AzureCloud"
        china = workspace(URI.replace("westeurope.api.azureml.ms", "chinaeast2.api.ml.azure.cn")).cloud
        assert china.authority_host == "https://login.chinacloudapi.cn"
        assert china.resource_manager == "https://management.chinacloudapi.cn"

    def test_it_is_named_where_no_host_is(self) -> None:
        assert workspace(NAMED).cloud.name == "AzureCloud"
        government = workspace(f"{NAMED}cloud = 'AzureUSGovernment'").cloud
        assert government.authority_host == "https://login.microsoftonline.us"
        assert government.scope == "https://management.usgovcloudapi.net/.default"

    @pytest.mark.parametrize("host", ["login.example.org", "https://login.example.org/"])
    def test_azures_variable_names_the_authority_unless_the_file_does(self, host: str) -> None:
        environment = {"AZURE_AUTHORITY_HOST": host}
        assert workspace(URI, environment).cloud.authority_host == "https://login.example.org"
        written = workspace(f"{URI}authority_host = 'https://mine'\n", environment).cloud
        assert written.authority_host == "https://mine"

    def test_another_way_to_resource_manager_keeps_its_audience(self) -> None:
        cloud = workspace(f"{URI}resource_manager = 'https://gateway/arm/'").cloud
        assert cloud.resource_manager == "https://gateway/arm"
        assert cloud.scope == "https://management.azure.com/.default"

    @pytest.mark.parametrize(
        ("keys", "key", "message"),
        [
            ("cloud = 'AzureChinaCloud'", "cloud", "the host westeurope.api.azureml.ms is of AzureCloud"),
            ("cloud = 'AzureChina'", "cloud", 'expected "AzureCloud" or'),
            ("authority_host = 'http://login'", "authority_host", "expected an https:// URL"),
        ],
    )
    def test_a_mistake_is_named(self, keys: str, key: str, message: str) -> None:
        (problem,) = problems(URI + keys)
        assert (problem.line, problem.key) == (8, f"destinations[0].{key}")
        assert message in problem.message


class TestSignIn:
    @pytest.mark.parametrize(
        ("keys", "environment", "expected"),
        [
            ("credential = 'managed-identity'", {}, ManagedIdentity()),
            ("credential = 'managed-identity'\nclient_id = 'c'", {}, ManagedIdentity("c")),
            ("credential = 'azure-cli'", {}, AzureCli()),
            ("credential = 'azure-cli'\ntenant_id = 't'", PRINCIPAL, AzureCli("t")),
            ("token = { env = 'T' }", {"T": "text"}, FixedToken(secret("text"))),
            (
                "tenant_id = 't'\nclient_id = 'c'\nclient_secret = { env = 'S' }",
                {"S": "s"},
                ServicePrincipal(tenant_id="t", client_id="c", secret=secret("s")),
            ),
            (
                f"tenant_id = 't'\nclient_id = 'c'\ncertificate_file = '{__file__}'\ncertificate_password = '${{P}}'",
                {"P": "p"},
                ServicePrincipal(
                    tenant_id="t", client_id="c", certificate_file=Path(__file__), certificate_password=secret("p")
                ),
            ),
            (
                "credential = 'environment'",
                PRINCIPAL,
                ServicePrincipal(tenant_id="t", client_id="c", secret=secret("s")),
            ),
            (
                "credential = 'workload-identity'",
                {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/var/token"},
                WorkloadIdentity(tenant_id="t", client_id="c", token_file=Path("/var/token")),
            ),
            (
                "federated_token_file = 'token'\ntenant_id = 'x'",
                {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"},
                WorkloadIdentity(tenant_id="x", client_id="c", token_file=Path("/etc/syncd/token")),
            ),
        ],
    )
    def test_it_is_written(self, keys: str, environment: dict[str, str], expected: SignIn) -> None:
        assert workspace(URI + keys, environment).sign_in == expected

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            (PRINCIPAL, ServicePrincipal(tenant_id="t", client_id="c", secret=secret("s"))),
            (
                {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_CERTIFICATE_PATH": "/c.pem"},
                ServicePrincipal(tenant_id="t", client_id="c", certificate_file=Path("/c.pem")),
            ),
            ({**PRINCIPAL, "AZURE_CLIENT_SECRET": ""}, ManagedIdentityOrCli("c")),
            (
                {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/t"},
                WorkloadIdentity(tenant_id="t", client_id="c", token_file=Path("/t")),
            ),
            ({"IDENTITY_ENDPOINT": "http://i", "AZURE_CLIENT_ID": "c"}, ManagedIdentity("c")),
            ({"MSI_ENDPOINT": "http://i"}, ManagedIdentity()),
            ({}, ManagedIdentityOrCli()),
            ({"MLFLOW_TRACKING_TOKEN": "of another server"}, ManagedIdentityOrCli()),
        ],
    )
    def test_the_environment_decides_in_the_documented_order(
        self, environment: dict[str, str], expected: SignIn
    ) -> None:
        assert workspace(URI, environment).sign_in == expected
        argument = destination_of_argument(URI.split("'")[1], environment=environment)
        assert argument.workspace is not None
        assert argument.workspace.sign_in == expected
        assert argument.token is None

    def test_mlflows_variables_still_go_to_the_one_server_that_may_be_meant(self) -> None:
        keys = f"{URI}[[destinations]]\nname = 'm'\nuri = 'https://h'\n"
        _, server = read(keys, {"MLFLOW_TRACKING_TOKEN": "mine"}).destinations
        assert server.token == secret("mine")

    @pytest.mark.parametrize(
        ("keys", "key", "message", "hint"),
        [
            ("credential = 'cli'", "credential", "expected ", '"azure-cli"'),
            ("credential = 'interactive'", "credential", "expected ", ""),
            (
                "credential = 'azure-cli'\nclient_id = 'c'",
                "client_id",
                '"azure-cli" does not use this key',
                "it is for",
            ),
            ("credential = 'environment'", "credential", "names no service principal", "set AZURE_TENANT_ID"),
            ("credential = 'workload-identity'", "credential", "needs federated_token_file", "AZURE_FEDERATED_TOKEN"),
            ("credential = 'service-principal'\ntenant_id = 't'\nclient_id = 'c'", "credential", "needs either", ""),
            (
                "client_secret = { env = 'NO' }\ntenant_id = 't'\nclient_id = 'c'",
                "client_secret",
                "'NO' is not set",
                "",
            ),
            ("certificate_file = '/no'\ntenant_id = 't'\nclient_id = 'c'", "certificate_file", "no such file: /no", ""),
            ("credential = 'token'", "", 'the key "token" of a workspace is missing', ""),
        ],
    )
    def test_a_mistake_is_named(self, keys: str, key: str, message: str, hint: str) -> None:
        found = problems(URI + keys)[0]
        assert found.key == f"destinations[0].{key}".rstrip(".")
        assert message in found.message
        assert hint in found.hint

    def test_a_secret_that_is_written_out_is_warned_of_and_not_shown(self) -> None:
        found = read(f"{URI}tenant_id = 't'\nclient_id = 'c'\nclient_secret = 'hush'")
        assert any("client_secret: this secret is written out" in warning for warning in found.warnings)
        assert "hush" not in repr(found)


class TestDatastores:
    def test_rules_are_kept_in_order(self) -> None:
        rules = "[[destinations.datastores]]\nname = 'big'\nlarger_than = '1GiB'\n"
        rules += "[[destinations.datastores]]\nname = 'checkpoints'\nartifacts = ['checkpoints/*']\n"
        assert workspace(URI + rules).datastores == (
            DatastoreRule(name="big", larger_than_bytes=1024**3),
            DatastoreRule(name="checkpoints", artifacts=("checkpoints/*",)),
        )

    @pytest.mark.parametrize(
        ("rule", "key", "message"),
        [
            ("name = 'd'", "name", "this would send every artifact there"),
            ("larger_than = '1GB'", "", 'the key "name" of [[destinations.datastores]] is missing'),
            ("name = 'd'\nlarger_then = '1GB'", "larger_then", "unknown key"),
            ("name = 'd'\nlarger_than = 'big'", "larger_than", "expected a size"),
        ],
    )
    def test_a_mistake_is_named(self, rule: str, key: str, message: str) -> None:
        found = problems(f"{URI}[[destinations.datastores]]\n{rule}\n")
        assert any(p.key == f"destinations[0].datastores[0].{key}".rstrip(".") and message in p.message for p in found)
