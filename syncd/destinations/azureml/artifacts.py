"""Artifacts of a workspace: registered with run history, their bytes sent to storage by the address that it tells.

Rules
-----
1. A path that was registered before is looked at before anything is sent: the same bytes are there (an earlier answer
   was lost, another syncd was faster), or none (an earlier process ended between the two), or others.
2. Other bytes are replaced where storage lets us. Where it does not, the name is not held (``NameNotHeld``), and the
   artifact goes under another name into the run's overflow.
3. A run's own artifact never takes the place of a file of a model that lies in the run (see ``models``).
4. What is known of an upload lives as long as the ``Upload`` itself, so that the next attempt goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary, proxy

from syncd.azure.blob import BlobAddress, Blobs
from syncd.azure.blob_upload import BlobDoor, BlobUpload, Blocks
from syncd.azure.storage_errors import StorageForbidden
from syncd.destinations.azureml.history import PATHS_PER_CALL, RunHistory
from syncd.destinations.azureml.registering import Registrations
from syncd.destinations.azureml.shelf import Shelf, is_reserved, model_folders, unholdable
from syncd.destinations.base import RemoteFile, RemoteSubject, Upload
from syncd.errors import NameNotHeld, Rejected

RUNS_REMEMBERED: Final = 1000
# What storage answers when an address may not be used to write over a blob.
_OVERWRITE_REFUSED: Final = frozenset({"UnauthorizedBlobOverwrite", "AuthorizationPermissionMismatch"})


@dataclass(slots=True)
class _UnderWay:
    """An upload of which something is known already."""

    shelf: Shelf
    path: str
    blob: BlobUpload
    is_registered_anew: bool


class RunArtifacts:
    """The artifacts of one workspace's runs, and of models that lie among them. ``close`` closes the clients."""

    def __init__(self, history: RunHistory, blobs: Blobs, *, cut: Blocks | None = None) -> None:
        self._history = history
        self._blobs = blobs
        self._cut = cut or Blocks()
        self._room = asyncio.Semaphore(self._cut.at_once)
        self._registrations = Registrations(history.register, most=PATHS_PER_CALL)
        self._tops: OrderedDict[str, set[str]] = OrderedDict()
        self._under_way: WeakKeyDictionary[Upload, _UnderWay] = WeakKeyDictionary()

    async def close(self) -> None:
        """Close connections."""
        await self._registrations.close()
        await self._history.close()
        await self._blobs.close()

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact below the subject's root, unless the same bytes are there.

        Raises:
            NameNotHeld: the workspace cannot keep that name, or keeps other bytes under it and does not replace them.
        """
        shelf = Shelf.of(subject)
        path = shelf.inside(artifact.path)
        reason = unholdable(path)
        if not shelf.folder:
            self._note_top(shelf, path)
            reason = reason or ("it is kept for what syncd notes" if is_reserved(path, ()) else "")
        if reason:
            raise _not_held(f"a workspace cannot be trusted to keep this name: {reason}", "UNHOLDABLE_NAME", path)
        known = self._under_way.get(artifact)
        if known is None:
            known = self._under_way[artifact] = await self._begin(shelf, path, artifact)
        if known.is_registered_anew or not await self._is_held(known):
            await self._send(known)
        del self._under_way[artifact]

    def _note_top(self, shelf: Shelf, path: str) -> None:
        tops = self._tops.setdefault(shelf.run_id, set())
        tops.add(path.partition("/")[0])
        self._tops.move_to_end(shelf.run_id)
        if len(self._tops) > RUNS_REMEMBERED:
            self._tops.popitem(last=False)

    def is_used_by_run(self, shelf: Shelf, name: str) -> bool:
        """Whether artifacts of the run itself that this process sent, or is sending, begin with that name."""
        return name in self._tops.get(shelf.run_id, ())

    async def _begin(self, shelf: Shelf, path: str, artifact: Upload) -> _UnderWay:
        address = await self._registrations.register(shelf, path)

        async def to_write(_refused: bool) -> BlobAddress:
            return await self._history.writable(shelf, path)

        blob = BlobUpload(
            self._blobs,
            proxy(artifact),  # what is known of an upload must not keep it alive (rule 4)
            BlobDoor(to_write, address=address),
            cut=self._cut,
            room=self._room,
            already=None if address is not None else self._to_read(shelf, path),
        )
        return _UnderWay(shelf, path, blob, address is not None)

    def _to_read(self, shelf: Shelf, path: str) -> BlobDoor:
        async def ask(_refused: bool) -> BlobAddress:
            return await self._history.readable(shelf, path)

        return BlobDoor(ask)

    async def _send(self, known: _UnderWay) -> None:
        if not known.is_registered_anew and not known.shelf.folder:
            await self._refuse_in_model(known)
        try:
            await known.blob.run()
        except StorageForbidden as error:
            if error.code not in _OVERWRITE_REFUSED or not await self._is_taken(known):
                raise
        except Rejected as error:
            if error.status not in (409, 412) or not await self._is_taken(known):
                raise

    async def _is_taken(self, known: _UnderWay) -> bool:
        """Whether the bytes are there, which an unanswered attempt of ours has sent; NameNotHeld if others are."""
        if await self._is_held(known):
            return True
        door = self._to_read(known.shelf, known.path)
        if await door.through(lambda address: self._blobs.properties(address, target=known.path)) is None:
            return False
        message = "the workspace keeps other bytes under this name and does not let them be replaced"
        raise _not_held(message, "ARTIFACT_EXISTS", known.path)

    async def _refuse_in_model(self, known: _UnderWay) -> None:
        """Keep a run's own artifact from taking the place of a file of a model."""
        if is_reserved(known.path, model_folders(await self.paths(known.shelf))):
            raise _not_held("a model of the run has a file of this name there", "ARTIFACT_EXISTS", known.path)

    async def _is_held(self, known: _UnderWay) -> bool:
        """Whether storage has these very bytes: of this length and MD5, read back if it does not tell the MD5."""
        door = self._to_read(known.shelf, known.path)
        held = await door.through(lambda address: self._blobs.properties(address, target=known.path))
        if held is None or held.size_bytes != known.blob.size_bytes:
            return False
        theirs = held.md5 or await self._digest(known.shelf, known.path)
        return theirs == await known.blob.digest()

    async def _digest(self, shelf: Shelf, path: str) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        async for piece in self._read(shelf, path):
            digest.update(piece)
        return digest.digest()

    # -- reading ---------------------------------------------------------------------------------------------------

    async def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's root; run history tells no sizes."""
        shelf = Shelf.of(subject)
        paths = await self.paths(shelf)
        folders = set() if shelf.folder else model_folders(paths)
        for path in paths:
            name = shelf.outside(path)
            if name is not None:
                yield RemoteFile(name, None, is_own=not is_reserved(name, folders))

    async def paths(self, shelf: Shelf) -> list[str]:
        """Return the paths of all artifacts of a run."""
        return [path async for path in self._history.paths(shelf)]

    async def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces."""
        shelf = Shelf.of(subject)
        async for piece in self._read(shelf, shelf.inside(path)):
            yield piece

    async def _read(self, shelf: Shelf, path: str) -> AsyncIterator[bytes]:
        async def begin(address: BlobAddress) -> tuple[AsyncGenerator[bytes, None], bytes]:
            pieces = self._blobs.read(address, target=path)
            return pieces, await anext(pieces, b"")

        pieces, first = await self._to_read(shelf, path).through(begin)
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    # -- for documents of syncd's own ------------------------------------------------------------------------------

    async def claim(self, shelf: Shelf, path: str) -> BlobAddress | None:
        """Register an artifact and return where to send it, None if that path was registered before."""
        return await self._registrations.register(shelf, path)

    async def put(self, shelf: Shelf, document: Upload, address: BlobAddress) -> None:
        """Send a small artifact that was claimed."""
        door = BlobDoor(lambda _refused: self._history.writable(shelf, document.path), address=address)
        await BlobUpload(self._blobs, document, door, cut=self._cut, room=self._room).run()

    async def small(self, shelf: Shelf, path: str) -> bytes | None:
        """Return the bytes of a small artifact; None if it was registered and never sent."""
        door = self._to_read(shelf, path)
        return await door.through(lambda address: self._blobs.small(address, target=path))


def _not_held(message: str, code: str, path: str) -> NameNotHeld:
    return NameNotHeld(message, code=code, doing="uploading", target=path)
