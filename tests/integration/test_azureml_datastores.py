"""Artifacts in datastores: in the stand-in's own storage by its SAS, in Azurite by the account's key."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient, ArmRest, Datastore
from syncd.azure.blob import Blobs
from syncd.azure.blob_upload import Blocks
from syncd.azure.storage_errors import StorageForbidden
from syncd.configuration.model import DatastoreRule
from syncd.destinations.azureml.datastores import ArtifactsWithDatastores, Datastores, blob_url
from syncd.destinations.base import RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.errors import ArtifactChanged, ConfigError, Rejected
from syncd.rest.uploads import BytesUpload
from tests.standins.azureml import RunningWorkspace, Shelf
from tests.standins.azureml.clients import artifacts_of, auth_of, new_run
from tests.standins.azurite import ACCOUNT, KEY, RunningAzurite

CUT = Blocks(whole_bytes=100_000, block_bytes=50_000, at_once=3)
BIG = DatastoreRule(name="workspaceblobstore", larger_than_bytes=1000)
BINARIES = DatastoreRule(name="workspaceblobstore", artifacts=("*.bin",))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@asynccontextmanager
async def artifacts_with(
    workspace: RunningWorkspace, *rules: DatastoreRule, azurite: RunningAzurite | None = None
) -> AsyncIterator[ArtifactsWithDatastores]:
    place = workspace.place

    def url_of(store: Datastore) -> str:
        return f"{azurite.url if azurite else place.storage_url}/{store.container}"

    async def identity(_refused: bool) -> str:
        return "a-token-for-storage"

    address = WorkspaceAddress.of_uri(place.tracking_uri)
    datastores = Datastores(
        ArmClient(ArmRest(place.url, auth=auth_of(workspace), ca_file=str(place.ca)), address),
        Blobs(ca_file=str(place.ca)),
        address,
        rules=[(rule.name, rule.takes) for rule in rules],
        identity=identity,
        url_of=url_of,
        cut=CUT,
    )
    await datastores.check()
    made = ArtifactsWithDatastores(artifacts_of(workspace), datastores)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def run(workspace: RunningWorkspace) -> RemoteSubject:
    made = new_run(workspace)
    workspace.state.log.clear()
    return made


async def content(artifacts: ArtifactsWithDatastores, run: RemoteSubject, path: str) -> bytes:
    return b"".join([piece async for piece in artifacts.content(run, path)])


def paths(workspace: RunningWorkspace, run: RemoteSubject) -> list[str]:
    return sorted(workspace.state.artifacts.registered.get(Shelf.of_run(run.id), {}))


async def test_what_is_large_goes_to_the_datastore_and_a_reference_stays(
    workspace: RunningWorkspace, run: RemoteSubject
) -> None:
    data = os.urandom(200_000)
    async with artifacts_with(workspace, BIG) as artifacts:
        await artifacts.upload(run, BytesUpload("deep/big ü.pt", data))
        await artifacts.upload(run, BytesUpload("small.txt", b"small"))
        listed = {file.path: file.is_own async for file in artifacts.files(run)}
    assert paths(workspace, run) == ["small.txt", "syncd/datastores/deep/big ü.pt/1.json"]
    assert listed == {"deep/big ü.pt": True, "small.txt": True, "syncd/datastores/deep/big ü.pt/1.json": False}
    where = f"syncd/{run.id}/deep/big ü.pt"
    assert workspace.state.blobs.content(f"{workspace.place.container}/{where}") == data
    shelf = Shelf.of_run(run.id)
    reference = json.loads(workspace.state.artifacts.bytes_of(shelf, "syncd/datastores/deep/big ü.pt/1.json"))
    assert reference == {
        "datastore": "workspaceblobstore",
        "path": where,
        "uri": f"azureml://subscriptions/{workspace.place.subscription}/resourcegroups/rg-standin"
        f"/workspaces/ws-standin/datastores/workspaceblobstore/paths/{where}",
        "size_bytes": len(data),
        "md5": hashlib.md5(data).hexdigest(),
    }
    async with artifacts_with(workspace) as reader:  # as `syncd verify`, which knows no rules
        assert await content(reader, run, "deep/big ü.pt") == data
        assert await content(reader, run, "small.txt") == b"small"


async def test_the_same_bytes_are_sent_once_and_others_replace_them(
    workspace: RunningWorkspace, run: RemoteSubject, tmp_path: Path
) -> None:
    workspace.state.habits.write_offered = False
    async with artifacts_with(workspace, BIG) as artifacts:
        for data in (b"a" * 200_000, b"a" * 200_000, b"b" * 200_000):
            (tmp_path / "a.pt").write_bytes(data)
            seen = (tmp_path / "a.pt").stat()
            await artifacts.upload(run, LocalUpload(str(tmp_path), "a.pt", seen.st_size, seen.st_mtime_ns))
            assert await content(artifacts, run, "a.pt") == data
        assert len(workspace.state.log.of("blob/put-block-list")) == 2
        await artifacts.upload(run, BytesUpload("a.pt", b"small now"))  # it stays where it was once
        assert await content(artifacts, run, "a.pt") == b"small now"
    assert paths(workspace, run) == [f"syncd/datastores/a.pt/{number}.json" for number in (1, 2, 3)]
    workspace.state.habits.write_offered = True


@pytest.mark.parametrize("rules", [[BIG], []], ids=["in a datastore", "in the run"])
async def test_an_upload_is_forgotten_with_its_end(
    workspace: RunningWorkspace, run: RemoteSubject, tmp_path: Path, rules: list[DatastoreRule]
) -> None:
    (tmp_path / "a.pt").write_bytes(b"a" * 2000)
    seen = (tmp_path / "a.pt").stat()
    async with artifacts_with(workspace, *rules) as artifacts:
        sent = LocalUpload(str(tmp_path), "a.pt", seen.st_size, seen.st_mtime_ns)
        await artifacts.upload(run, sent)
        changed = LocalUpload(str(tmp_path), "a.pt", seen.st_size, seen.st_mtime_ns + 1)
        try:
            await artifacts.upload(run, changed)
        except ArtifactChanged as error:
            error.__traceback__ = None  # whose frames hold the upload
        left = [weakref.ref(sent), weakref.ref(changed)]
        del sent, changed
        gc.collect()
        assert [one() for one in left] == [None, None]


async def test_names_decide_where_a_rule_has_some_and_models_stay_whole(
    workspace: RunningWorkspace, run: RemoteSubject
) -> None:
    model = RemoteSubject(f"{run.id}/model", f"{run.artifact_root}/model")
    async with artifacts_with(workspace, BINARIES) as artifacts:
        await artifacts.upload(run, BytesUpload("weights.bin", b"x"))
        await artifacts.upload(run, BytesUpload("notes.txt", b"x" * 5000))
        await artifacts.upload(model, BytesUpload("weights.bin", b"x"))
        await artifacts.upload(run, BytesUpload("syncd/overflow/artifacts/1.bin", b"x"))
    assert paths(workspace, run) == [
        "model/weights.bin",
        "notes.txt",
        "syncd/datastores/weights.bin/1.json",
        "syncd/overflow/artifacts/1.bin",
    ]


@pytest.mark.parametrize("kind", ["AccountKey", "Sas"])
async def test_azurite_takes_what_is_signed_for_it(
    workspace: RunningWorkspace, run: RemoteSubject, azurite: RunningAzurite, kind: str
) -> None:
    container = f"store-{run.id}"
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    service.create_container(container)
    sas = azurite.sas_url(container, "racw").partition("?")[2]
    secret = (
        {"secretsType": "AccountKey", "key": KEY} if kind == "AccountKey" else {"secretsType": kind, "sasToken": sas}
    )
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": ACCOUNT,
        "containerName": container,
        "endpoint": "core.windows.net",
        "protocol": "http",
        "credentials": {"credentialsType": kind},
    }
    workspace.state.datastores = {"mine": (properties, secret)}
    data = os.urandom(300_000)
    async with artifacts_with(workspace, DatastoreRule(name="mine", artifacts=("*",)), azurite=azurite) as artifacts:
        await artifacts.upload(run, BytesUpload("a b#%.pt", data))
        assert await content(artifacts, run, "a b#%.pt") == data
    blob = service.get_blob_client(container, f"syncd/{run.id}/a b#%.pt")
    assert blob.download_blob().readall() == data
    assert bytes(blob.get_blob_properties().content_settings.content_md5) == hashlib.md5(data).digest()


@pytest.mark.parametrize(
    "place",
    [
        {"endpoint": "example.org"},
        {"endpoint": "example.org/core.windows.net"},
        {"accountName": "example.org/x"},
        {"accountName": "x@example.org:443/"},
        {"protocol": "http"},
    ],
    ids=str,
)
async def test_the_identity_is_shown_to_nobody_but_azure_storage(
    workspace: RunningWorkspace, place: dict[str, str]
) -> None:
    azure = {"datastoreType": "AzureBlob", "accountName": "a", "containerName": "c", "endpoint": "core.windows.net"}
    workspace.state.datastores = {"mine": ({**azure, **place, "credentials": {"credentialsType": "None"}}, {})}
    with pytest.raises(ConfigError, match="no token is sent there"):
        async with artifacts_with(workspace, DatastoreRule(name="mine", artifacts=("*",))):
            pass


async def test_without_a_secret_the_identity_is_shown_to_storage(
    workspace: RunningWorkspace, run: RemoteSubject
) -> None:
    properties = {"datastoreType": "AzureBlob", "accountName": "a", "containerName": "c"}
    properties["endpoint"] = "core.windows.net"
    workspace.state.datastores = {"mine": ({**properties, "credentials": {"credentialsType": "None"}}, {})}
    async with artifacts_with(workspace, DatastoreRule(name="mine", artifacts=("*",))) as artifacts:
        with pytest.raises(StorageForbidden):  # the stand-in's storage takes signatures only
            await artifacts.upload(run, BytesUpload("a", b"x"))
    assert {asked.authorized for asked in workspace.state.log.of("blob")} == {True}
    assert workspace.state.log.counts()["arm/list-secrets"] == 0


async def test_a_datastore_of_files_or_of_another_name_is_a_wrong_configuration(workspace: RunningWorkspace) -> None:
    workspace.state.datastores = {"files": ({"datastoreType": "AzureFile"}, {})}
    for name, words in (("files", "it is of kind AzureFile; syncd writes to"), ("never", "Could not find datastore")):
        with pytest.raises(ConfigError, match=words):
            async with artifacts_with(workspace, DatastoreRule(name=name, artifacts=("*",))):
                pass


async def test_a_secret_of_another_kind_says_what_would_do(workspace: RunningWorkspace, run: RemoteSubject) -> None:
    properties = {"datastoreType": "AzureBlob", "credentials": {"credentialsType": "Certificate"}}
    workspace.state.datastores = {"mine": (properties, {"secretsType": "Certificate"})}
    async with artifacts_with(workspace, DatastoreRule(name="mine", artifacts=("*",))) as artifacts:
        with pytest.raises(Rejected, match="use an account key, a SAS, or"):
            await artifacts.upload(run, BytesUpload("a", b"x"))


def test_a_container_is_where_azure_has_it() -> None:
    store = Datastore("d", "AzureBlob", "acc", "con", "core.usgovcloudapi.net", "", False, "Sas")
    assert blob_url(store) == "https://acc.blob.core.usgovcloudapi.net/con"


@pytest.mark.parametrize(
    ("rule", "path", "size_bytes", "takes"),
    [
        (BIG, "a", 1000, False),
        (BIG, "a", 1001, True),
        (BINARIES, "deep/a.bin", 0, True),
        (BINARIES, "a.txt", 10**9, False),
        (DatastoreRule(name="x", artifacts=("*.bin",), larger_than_bytes=5), "a.bin", 5, False),
    ],
)
def test_a_rule_takes_what_it_says(rule: DatastoreRule, path: str, size_bytes: int, takes: bool) -> None:
    assert rule.takes(path, size_bytes) is takes
