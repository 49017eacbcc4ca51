"""Artifacts that go to a datastore of the workspace instead of the run, and the reference that the run keeps of each.

The bytes are at ``syncd/<run id>/<path>`` in the datastore's container. Among the run's artifacts is the document
``syncd/datastores/<path>/`` (see ``documents``): ``datastore``, ``path``, ``uri``, ``size_bytes``, ``md5`` (hex).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final
from urllib.parse import quote, urlsplit
from weakref import WeakKeyDictionary, proxy

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient, Datastore, DatastoreSecret
from syncd.azure.blob import BlobAddress, Blobs
from syncd.azure.blob_upload import BlobDoor, BlobUpload, Blocks
from syncd.azure.clouds import CLOUDS
from syncd.azure.shared_access import container_signature
from syncd.core.source_tags import DATASTORES_FOLDER, OWN_FOLDER
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.documents import Documents
from syncd.destinations.azureml.shelf import Shelf, unholdable
from syncd.destinations.base import RemoteFile, RemoteSubject
from syncd.errors import ConfigError, Rejected, SubjectGone
from syncd.rest.client import Json, TokenProvider
from syncd.rest.streaming import Upload

BLOB: Final = "AzureBlob"
PERMISSIONS: Final = "racw"
RUNS_REMEMBERED: Final = 1000
STORAGE_SCOPE: Final = "https://storage.azure.com/.default"  # of all clouds (azure-storage-blob 12.27, read 2026-11)


def blob_url(store: Datastore) -> str:
    """Return the URL of a datastore's container."""
    return f"{store.protocol or 'https'}://{store.account}.blob.{store.endpoint}/{store.container}"


class Datastores:
    """The blob datastores of one workspace.

    ``rules`` are asked in their order whether an artifact of that path and size goes to the datastore of that name.
    ``identity`` hands out tokens for storage, for datastores without a secret. ``url_of`` tells where a container is.
    """

    def __init__(
        self,
        arm: ArmClient,
        blobs: Blobs,
        address: WorkspaceAddress,
        *,
        rules: Sequence[tuple[str, Callable[[str, int], bool]]] = (),
        identity: TokenProvider,
        url_of: Callable[[Datastore], str] = blob_url,
        cut: Blocks | None = None,
    ) -> None:
        self._rules = rules
        self._arm = arm
        self._cut = cut or Blocks()
        self._room = asyncio.Semaphore(self._cut.at_once)
        self._under_way: WeakKeyDictionary[Upload, BlobUpload] = WeakKeyDictionary()
        self._blobs = blobs
        self._workspace = address
        self._identity = identity
        self._url_of = url_of
        self._known: dict[str, Datastore] = {}
        self._secrets: dict[str, DatastoreSecret] = {}
        self._asking = asyncio.Lock()

    @property
    def is_used(self) -> bool:
        """Whether artifacts are sent to datastores."""
        return bool(self._rules)

    def choose(self, path: str, size_bytes: int) -> str:
        """Return the datastore that the artifact goes to, "" for none."""
        return next((name for name, takes in self._rules if takes(path, size_bytes)), "")

    async def close(self) -> None:
        """Close connections."""
        await self._arm.close()
        await self._blobs.close()

    async def check(self) -> None:
        """Look whether artifacts can be sent to the datastores that the rules name.

        Raises:
            ConfigError: there is no such datastore, or it is none of blobs.
        """
        for name, _ in self._rules:
            try:
                await self._store(name)
            except Rejected as error:
                message = f"the datastore {name!r} cannot be used: {error.message}"
                raise ConfigError(message, doing="reading [[destinations.datastores]]", hint=error.hint) from error

    async def store(self, name: str, run_id: str, artifact: Upload) -> Json:
        """Send an artifact of a run, unless the same bytes are there, and return the reference to it."""
        path = f"syncd/{run_id}/{artifact.path}"
        door = self._door(name, path)
        held = await door.through(lambda address: self._blobs.properties(address, target=path))
        upload = self._under_way.get(artifact)
        if upload is None:
            # What is known of an upload must not keep it alive.
            upload = BlobUpload(self._blobs, proxy(artifact), door, cut=self._cut, room=self._room, already=door)
            self._under_way[artifact] = upload
        if held is None or held.size_bytes != artifact.size_bytes or held.md5 != await upload.digest():
            await upload.run()
        scope = self._workspace
        uri = (
            f"azureml://subscriptions/{scope.subscription_id}/resourcegroups/{scope.resource_group}"
            f"/workspaces/{scope.workspace}/datastores/{name}/paths/{path}"
        )
        md5 = (await upload.digest()).hex()
        return {"datastore": name, "path": path, "uri": uri, "size_bytes": artifact.size_bytes, "md5": md5}

    async def read(self, reference: Json) -> AsyncGenerator[bytes, None]:
        """Yield the bytes that a reference leads to."""
        path = str(reference["path"])

        async def begin(address: BlobAddress) -> tuple[AsyncGenerator[bytes, None], bytes]:
            pieces = self._blobs.read(address, target=path)
            return pieces, await anext(pieces, b"")

        pieces, first = await self._door(str(reference["datastore"]), path).through(begin)
        yield first
        async for piece in pieces:
            yield piece

    def _door(self, name: str, path: str) -> BlobDoor:
        async def ask(refused: bool) -> BlobAddress:
            store = await self._store(name)
            url = f"{self._url_of(store)}/{quote(path, safe='/~')}"
            if _takes_identity(store):
                return BlobAddress(url, f"Bearer {await self._identity(refused)}")
            return BlobAddress(f"{url}?{self._query(store, await self._secret(name, anew=refused))}")

        return BlobDoor(ask)

    def _query(self, store: Datastore, secret: DatastoreSecret) -> str:
        if secret.kind == "AccountKey":
            protocol = "https" if store.protocol in ("", "https") else "https,http"
            return container_signature(
                store.account, store.container, secret.text, permissions=PERMISSIONS, protocol=protocol
            )
        if secret.kind == "Sas":
            return secret.text.lstrip("?")
        raise Rejected(
            f"it is opened by {secret.kind or 'nothing'}, which syncd cannot use",
            doing="opening the datastore",
            target=store.name,
            hint="let it use an account key, a SAS, or the caller's identity",
        )

    async def _secret(self, name: str, *, anew: bool) -> DatastoreSecret:
        async with self._asking:
            if anew or name not in self._secrets:
                self._secrets[name] = await self._arm.datastore_secret(name)
            return self._secrets[name]

    async def _store(self, name: str) -> Datastore:
        async with self._asking:
            if name not in self._known:
                self._known[name] = _of_blobs(await self._arm.datastore(name))
            return self._known[name]


def _of_blobs(store: Datastore) -> Datastore:
    if store.kind != BLOB:
        raise Rejected(
            f"it is of kind {store.kind}; syncd writes to datastores of kind {BLOB} only",
            doing="opening the datastore",
            target=store.name,
            hint="name a blob datastore (`syncd workspace show` lists them)",
        )
    if _takes_identity(store) and not _is_azure_storage(store):
        raise Rejected(
            f"it lies at {blob_url(store)}, which is no https address of Azure Storage; no token is sent there",
            doing="opening the datastore",
            target=store.name,
            hint="let it use an account key or a SAS",
        )
    return store


def _takes_identity(store: Datastore) -> bool:
    return store.credentials in ("", "None")


def _is_azure_storage(store: Datastore) -> bool:
    """Whether a token, which opens all storage that its owner may use, goes to Azure itself.

    Whoever may write datastores chooses what their addresses are made of.
    """
    host = urlsplit(blob_url(store)).hostname or ""
    is_named = f"{store.account}.blob.{store.endpoint}".lower() == host
    return (
        store.protocol in ("", "https")
        and is_named
        and host.endswith(tuple(one.storage_hosts for one in CLOUDS.values()))
    )


class ArtifactsWithDatastores:
    """A workspace's artifacts, of which some lie in datastores; one that has once gone to a datastore stays there.

    Files of models stay in their run, whatever their size: a model without them could not be loaded.
    """

    def __init__(self, artifacts: RunArtifacts, datastores: Datastores) -> None:
        self._artifacts = artifacts
        self._datastores = datastores
        self._documents = Documents(artifacts)
        self._referred: OrderedDict[str, dict[str, str]] = OrderedDict()  # of runs: each path, and its datastore

    async def close(self) -> None:
        """Close connections."""
        await self._artifacts.close()
        await self._datastores.close()

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact in a datastore if it belongs there, else below the subject's root."""
        shelf = Shelf.of(subject)
        if shelf.folder or artifact.path.startswith(f"{OWN_FOLDER}/") or unholdable(_folder(artifact.path)):
            await self._artifacts.upload(subject, artifact)
            return
        name = self._datastores.choose(artifact.path, artifact.size_bytes)
        if not name and self._datastores.is_used:
            name = (await self._references(shelf)).get(artifact.path, "")
        if not name:
            await self._artifacts.upload(subject, artifact)
            return
        reference = await self._datastores.store(name, shelf.run_id, artifact)
        await self._documents.change(shelf, _folder(artifact.path), lambda _: reference)
        if shelf.run_id in self._referred:  # read anew each time, a run of n would take n * n requests
            self._referred[shelf.run_id][artifact.path] = name

    async def _references(self, shelf: Shelf) -> dict[str, str]:
        """Return the artifacts of a run that lie in datastores, each with the datastore's name."""
        if shelf.run_id not in self._referred:
            paths = await self._artifacts.paths(shelf)
            found = {}
            for path in sorted({one for one in map(_referring, paths) if one}):
                document = await self._documents.load(shelf, _folder(path), paths)
                if document is not None:
                    found[path] = str(document.get("datastore", ""))
            self._referred[shelf.run_id] = found
            if len(self._referred) > RUNS_REMEMBERED:
                self._referred.popitem(last=False)
        return self._referred[shelf.run_id]

    async def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's root; those in datastores by the path that they have in the source."""
        shelf = Shelf.of(subject)
        references = {} if shelf.folder else await self._references(shelf)
        for path in references:
            yield RemoteFile(path, None)
        async for file in self._artifacts.files(subject):
            if file.path not in references:
                yield file

    async def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces, wherever they lie."""
        shelf = Shelf.of(subject)
        if shelf.folder or path not in await self._references(shelf):
            async for piece in self._artifacts.content(subject, path):
                yield piece
            return
        paths = await self._artifacts.paths(shelf)
        reference = await self._documents.load(shelf, _folder(path), paths)
        if reference is None:
            raise SubjectGone("the reference to its datastore is not there", doing="downloading", target=path)
        async for piece in self._datastores.read(reference):
            yield piece


def _folder(path: str) -> str:
    return f"{DATASTORES_FOLDER}/{path}"


def _referring(path: str) -> str:
    """Return the artifact that a document of that path refers to, "" if it is no such document."""
    inner, _, name = path.removeprefix(f"{DATASTORES_FOLDER}/").rpartition("/")
    return inner if path.startswith(f"{DATASTORES_FOLDER}/") and name.endswith(".json") else ""
