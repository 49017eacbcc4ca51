"""Every way to sign in, with azure-identity as it is, at the stand-in's token endpoints over https with its own CA."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from azure.core.credentials_async import AsyncTokenCredential
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient, ArmRest
from syncd.azure.clouds import CHINA, PUBLIC, US_GOVERNMENT, Cloud
from syncd.azure.credentials import Credentials
from syncd.azure.sign_in import (
    AzureCli,
    FixedToken,
    ManagedIdentity,
    ManagedIdentityOrCli,
    ServicePrincipal,
    SignIn,
    WorkloadIdentity,
)
from syncd.configuration.secret import Secret
from syncd.errors import AuthFailed, SubjectGone, Transient
from syncd.rest.client import BearerAuth
from tests.standins.azureml import Fault, RunningWorkspace
from tests.standins.azureml.az_command import AzCommand, install
from tests.standins.azureml.refusals import Refused

SCOPE = PUBLIC.scope
NOWHERE = "https://127.0.0.1:9"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@pytest.fixture
def workspace(serving: RunningWorkspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningWorkspace]:
    """A workspace in its first state, on a machine that Azure knows nothing of."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", NOWHERE)  # where a virtual machine's identity would be
    monkeypatch.setenv("PATH", "/nowhere")
    yield serving
    identity = serving.state.identity
    identity.refusal, identity.lifetime_s = None, 3600.0
    identity.certificates, identity.federated_tokens, identity.user_assigned = [], set(), set()
    serving.state.faults.clear()
    serving.state.habits.datastores_page = 30


def credentials(workspace: RunningWorkspace, sign_in: SignIn) -> Credentials:
    return Credentials(sign_in, authority_host=workspace.place.url, ca_file=str(workspace.place.ca))


def secret(text: str) -> Secret:
    return Secret(text, origin="environment")


def principal(workspace: RunningWorkspace, text: str = "") -> ServicePrincipal:
    place = workspace.place
    return ServicePrincipal(
        tenant_id=place.tenant, client_id=place.client_id, secret=secret(text or place.client_secret)
    )


async def subject_of(workspace: RunningWorkspace, sign_in: SignIn) -> str:
    """Return who the workspace takes the holder of the token to be."""
    token = await credentials(workspace, sign_in).token(SCOPE)
    return workspace.state.identity.grants[token.text].subject


def certificate(folder: Path, password: bytes | None) -> tuple[x509.Certificate, Path]:
    """Return a self-signed certificate, and a PEM file with it and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "syncd")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = builder.sign(key, hashes.SHA256())
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = folder / "certificate.pem"
    file.write_bytes(key.private_bytes(pem, pkcs8, lock) + made.public_bytes(pem))
    return made, file


class TestWaysToSignIn:
    async def test_managed_identity_of_an_app(
        self, workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{workspace.place.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", workspace.place.identity_header)
        assert await subject_of(workspace, ManagedIdentity()) == "managed-identity"

    async def test_managed_identity_of_a_virtual_machine(
        self, workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", workspace.place.url)
        workspace.state.identity.user_assigned = {"mine"}
        assert await subject_of(workspace, ManagedIdentity()) == "managed-identity"
        assert await subject_of(workspace, ManagedIdentity("mine")) == "mine"
        with pytest.raises(AuthFailed, match=r"not been assigned to this resource.*check client_id"):
            await subject_of(workspace, ManagedIdentity("other"))

    async def test_service_principal_with_a_secret(self, workspace: RunningWorkspace) -> None:
        assert await subject_of(workspace, principal(workspace)) == "service-principal"

    async def test_a_secret_that_was_replaced_in_its_file_is_taken(
        self, workspace: RunningWorkspace, tmp_path: Path
    ) -> None:
        file = tmp_path / "secret"
        file.write_text("the old one")
        place = workspace.place
        who = ServicePrincipal(tenant_id=place.tenant, client_id=place.client_id, secret=Secret.of_file(file))
        made = credentials(workspace, who)
        with pytest.raises(AuthFailed):
            await made.token(SCOPE)
        file.write_text(place.client_secret)
        assert (await made.token(SCOPE)).text in workspace.state.identity.grants

    @pytest.mark.parametrize("password", [None, "pass word"])
    async def test_service_principal_with_a_certificate(
        self, workspace: RunningWorkspace, tmp_path: Path, password: str | None
    ) -> None:
        made, file = certificate(tmp_path, password.encode() if password else None)
        sign_in = ServicePrincipal(
            tenant_id=workspace.place.tenant,
            client_id=workspace.place.client_id,
            certificate_file=file,
            certificate_password=secret(password) if password else None,
        )
        with pytest.raises(AuthFailed, match=r"AADSTS700027.*upload the certificate"):
            await subject_of(workspace, sign_in)
        workspace.state.identity.certificates = [made]
        assert await subject_of(workspace, sign_in) == "certificate"

    async def test_workload_identity(self, workspace: RunningWorkspace, tmp_path: Path) -> None:
        file = tmp_path / "azure-identity-token"
        file.write_text("projected-1")
        sign_in = WorkloadIdentity(
            tenant_id=workspace.place.tenant, client_id=workspace.place.client_id, token_file=file
        )
        workspace.state.identity.federated_tokens = {"projected-1"}
        made = credentials(workspace, sign_in)
        first = await made.token(SCOPE)
        file.write_text("projected-2")  # as the kubelet does every hour
        workspace.state.identity.federated_tokens = {"projected-2"}
        assert (await made.token(SCOPE, refused=True)).text != first.text
        workspace.state.identity.federated_tokens = set()
        with pytest.raises(AuthFailed, match=r"AADSTS700213.*add a federated credential"):
            await subject_of(workspace, sign_in)

    async def test_azure_cli(
        self, workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        az = logged_in(workspace, tmp_path, monkeypatch)
        assert await subject_of(workspace, AzureCli()) == "service-principal"
        assert az.calls()[0][:2] == ["account", "get-access-token"]
        az.log_out()
        with pytest.raises(AuthFailed, match="az login"):
            await subject_of(workspace, AzureCli())

    async def test_a_fixed_token_is_read_again_when_it_was_refused(
        self, workspace: RunningWorkspace, tmp_path: Path
    ) -> None:
        file = tmp_path / "token"
        file.write_text("one\n")
        made = credentials(workspace, FixedToken(Secret.of_file(file)))
        assert (await made.token(SCOPE)).text == "one"
        file.write_text("two\n")
        assert (await made.token(SCOPE)).text == "one"
        assert (await made.token(SCOPE, refused=True)).text == "two"

    async def test_a_machine_without_an_identity_uses_the_cli(
        self, workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logged_in(workspace, tmp_path, monkeypatch)
        assert await subject_of(workspace, ManagedIdentityOrCli()) == "service-principal"
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", workspace.place.url)
        assert await subject_of(workspace, ManagedIdentityOrCli()) == "managed-identity"
        workspace.state.faults.add(Fault("fail", "token/imds", status=500))
        with pytest.raises(Transient):  # not the CLI's account, which may be another
            await subject_of(workspace, ManagedIdentityOrCli())

    async def test_an_identity_that_breaks_off_is_there_and_waited_for(
        self, workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", workspace.place.url)
        workspace.state.faults.add(Fault("drop", "token/imds", times=10))
        with pytest.raises(Transient):  # not AuthFailed because there is no CLI either
            await subject_of(workspace, ManagedIdentityOrCli())
        workspace.state.faults.clear()

    async def test_azures_sdks_take_it_for_one_of_their_credentials(self, workspace: RunningWorkspace) -> None:
        async with credentials(workspace, principal(workspace)) as made:
            assert isinstance(made, AsyncTokenCredential)
            token = await made.get_token(SCOPE)
            assert token.expires_on > datetime.datetime.now(datetime.UTC).timestamp() + 3000
            assert (await made.get_token_info(SCOPE)).token == token.token
            again = await made.get_token_info(SCOPE, options={"claims": "{}"})
            assert again.token != token.token


def logged_in(workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AzCommand:
    az = install(tmp_path / "bin", workspace.place)
    monkeypatch.setenv("PATH", str(az.folder))
    return az


class TestWhatGoesWrong:
    async def test_a_wrong_secret_says_what_to_do_in_one_line(self, workspace: RunningWorkspace) -> None:
        with pytest.raises(AuthFailed) as refused:
            await subject_of(workspace, principal(workspace, "wrong"))
        text = str(refused.value)
        assert "AADSTS7000215" in text
        assert refused.value.hint == "the client secret is wrong: it must be the secret's value, not its id"
        assert "\n" not in text
        assert "wrong" not in refused.value.message.replace("wrong:", "")

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_a_busy_sign_in_service_is_asked_again_later(self, workspace: RunningWorkspace, status: int) -> None:
        workspace.state.identity.refusal = Refused(status, "temporarily_unavailable", "AADSTS90033: come back later")
        with pytest.raises(Transient, match="AADSTS90033"):
            await subject_of(workspace, principal(workspace))

    async def test_throttling_brings_its_wish_along_and_is_not_retried_inside(
        self, workspace: RunningWorkspace
    ) -> None:
        workspace.state.log.clear()
        workspace.state.faults.throttle_next(5, kind="token", retry_after_s=7)
        with pytest.raises(Transient) as throttled:
            await subject_of(workspace, principal(workspace))
        assert (throttled.value.throttled, throttled.value.retry_after_s) == (True, 7.0)
        assert workspace.state.log.counts()["token/client-credentials"] == 1

    async def test_no_answer_is_transient(self, workspace: RunningWorkspace) -> None:
        workspace.state.faults.add(Fault("drop", "token"))
        with pytest.raises(Transient):
            await subject_of(workspace, principal(workspace))
        with pytest.raises(Transient, match="Outside Azure, use another credential"):
            await subject_of(workspace, ManagedIdentity())

    async def test_an_authority_with_another_ca_is_not_trusted(self, workspace: RunningWorkspace) -> None:
        made = Credentials(principal(workspace), authority_host=workspace.place.url)
        with pytest.raises(Transient, match="certificate"):
            await made.token(SCOPE)

    @pytest.mark.parametrize("what", ["token file", "certificate"])
    async def test_a_missing_file_is_named(self, workspace: RunningWorkspace, tmp_path: Path, what: str) -> None:
        who = {"tenant_id": workspace.place.tenant, "client_id": workspace.place.client_id}
        gone = tmp_path / "gone"
        sign_in: SignIn = ServicePrincipal(**who, certificate_file=gone)
        if what == "token file":
            sign_in = WorkloadIdentity(**who, token_file=gone)
        with pytest.raises(AuthFailed, match=f"{gone}.*check .*{what}"):
            await subject_of(workspace, sign_in)

    async def test_a_hanging_cli_is_ended(
        self, workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "az").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (folder / "az").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr("syncd.azure.credentials.CLI_S", 0.2)
        with pytest.raises(Transient, match="Timed out waiting for Azure CLI"):
            await subject_of(workspace, AzureCli())

    async def test_a_silent_sign_in_service_is_given_up(
        self, workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            monkeypatch.setattr("syncd.azure.credentials.SIGN_IN_S", 0.3)
            made = Credentials(principal(workspace), authority_host=f"https://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(Transient):
                await made.token(SCOPE)


class TestNobodyIsAsked:
    def test_azure_identitys_async_credentials_have_nothing_that_asks(self) -> None:
        from azure.identity import aio

        assert not [name for name in dir(aio) if "Interactive" in name or "DeviceCode" in name or "Browser" in name]

    def test_without_any_credential_it_fails_at_once_and_opens_nothing(
        self, workspace: RunningWorkspace, tmp_path: Path
    ) -> None:
        opened, browser = tmp_path / "opened", tmp_path / "browser"
        browser.write_text(f"#!/bin/sh\necho $* >> {opened}\n")
        browser.chmod(0o755)
        program = (
            "import asyncio, sys\n"
            "from syncd.azure.credentials import Credentials\n"
            "from syncd.configuration.sign_in import sign_in_of_environment\n"
            "from syncd.errors import AuthFailed\n"
            "assert 'azure' not in sys.modules\n"
            f"made = Credentials(sign_in_of_environment({{}}), authority_host={workspace.place.url!r})\n"
            f"try: asyncio.run(made.token({SCOPE!r}))\n"
            "except AuthFailed as error: print(error)\n"
            "assert not {'mlflow', 'azureml'} & set(sys.modules)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "BROWSER": str(browser), "DISPLAY": ":0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "no credentials found" in ended.stdout
        assert "run `az login`" in ended.stdout
        assert not opened.exists()


@pytest.fixture
async def arm(workspace: RunningWorkspace) -> AsyncIterator[ArmClient]:
    auth = BearerAuth(credentials(workspace, principal(workspace)).provider(SCOPE))
    address = WorkspaceAddress.of_resource_id(workspace.place.scope)
    async with ArmRest(workspace.place.url, auth=auth, ca_file=str(workspace.place.ca)) as rest:
        yield ArmClient(rest, address)


class TestResourceManager:
    async def test_it_tells_where_the_workspace_is(self, workspace: RunningWorkspace, arm: ArmClient) -> None:
        facts = await arm.workspace()
        assert (facts.id, facts.location) == (workspace.place.scope, "westeurope")
        assert facts.storage_account.endswith("/storageAccounts/standinstorage")
        assert (await arm.located()).uri == workspace.place.tracking_uri

    async def test_datastores_come_from_every_page_and_are_opened_by_their_secret(
        self, workspace: RunningWorkspace, arm: ArmClient
    ) -> None:
        workspace.state.habits.datastores_page = 1
        found = [datastore async for datastore in arm.datastores()]
        assert [(one.name, one.container, one.is_default) for one in found] == [
            ("workspaceblobstore", "azureml-blobstore", True),
            ("workspaceartifactstore", "azureml", False),
        ]
        assert await arm.datastore("workspaceblobstore") == found[0]
        secret = await arm.datastore_secret("workspaceblobstore")
        assert secret.kind == "Sas"
        assert "sig=" in secret.text
        assert "sig=" not in repr(secret)
        with pytest.raises(SubjectGone, match="Could not find datastore"):
            await arm.datastore("none such")

    async def test_an_ended_or_revoked_token_is_renewed_on_the_way(
        self, workspace: RunningWorkspace, arm: ArmClient
    ) -> None:
        workspace.state.identity.lifetime_s = -1.0
        with pytest.raises(AuthFailed, match=r"expiry.*sign in again"):
            await arm.workspace()
        workspace.state.identity.lifetime_s = 3600.0
        fresh = Credentials(principal(workspace), authority_host=workspace.place.url, ca_file=str(workspace.place.ca))
        address = WorkspaceAddress.of_resource_id(workspace.place.scope)
        auth = BearerAuth(fresh.provider(SCOPE))
        async with ArmRest(workspace.place.url, auth=auth, ca_file=str(workspace.place.ca)) as rest:
            client = ArmClient(rest, address)
            await client.workspace()
            workspace.state.identity.expire_all()
            workspace.state.log.clear()
            await asyncio.gather(*(client.workspace() for _ in range(6)))
        assert workspace.state.log.counts()["token/client-credentials"] == 1

    async def test_a_missing_permission_is_named_with_the_role_that_has_it(
        self, workspace: RunningWorkspace, arm: ArmClient
    ) -> None:
        workspace.state.faults.denied.add("arm")
        with pytest.raises(AuthFailed) as refused:
            await arm.workspace()
        assert refused.value.hint == (
            "the permission Microsoft.MachineLearningServices/workspaces/read is missing: "
            'give the identity the role "Reader" on the workspace'
        )
        with pytest.raises(AuthFailed, match=r"datastores/listSecrets/action is missing.*AzureML Data Scientist"):
            await arm.datastore_secret("workspaceblobstore")


@pytest.mark.parametrize("cloud", [PUBLIC, US_GOVERNMENT, CHINA], ids=lambda cloud: cloud.name)
async def test_each_cloud_is_asked_for_its_own_audience(workspace: RunningWorkspace, cloud: Cloud) -> None:
    """The stand-in knows the public cloud's audience only, and names the one it was asked for."""
    made = credentials(workspace, principal(workspace))
    if cloud is PUBLIC:
        assert (await made.token(cloud.scope)).text in workspace.state.identity.grants
        return
    with pytest.raises(AuthFailed, match=f"AADSTS500011.*{cloud.resource_manager} is unknown.*check cloud"):
        await made.token(cloud.scope)
