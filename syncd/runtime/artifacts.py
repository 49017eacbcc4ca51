"""Delivers the artifacts of one run or model, several at a time; never a byte that changed under way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath

import structlog

from syncd.core import source_tags
from syncd.core.changes import Again, Change, Section, decode_artifact
from syncd.core.facts import ArtifactSeen
from syncd.destinations.base import RemoteSubject, Upload
from syncd.errors import ArtifactChanged, ArtifactMissing, NameNotHeld, Rejected
from syncd.journal import deliveries
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.subjects import Subject
from syncd.rest.uploads import RenamedUpload, sha256_of
from syncd.runtime.channel import Channel, Supply
from syncd.runtime.overflow import Overflow
from syncd.runtime.settlement import Settlement

log = structlog.get_logger(__name__)

WINDOW_CHANGES = 256
Send = Callable[[Change, ArtifactSeen], Awaitable[Delivered]]


class ArtifactDelivery:
    """One pass over the artifact changes of a subject that wait for a destination.

    ``send`` sends one file; ``restate`` takes the body of an overflow document that was a dead letter.
    """

    def __init__(
        self,
        channel: Supply,
        subject: Subject,
        settlement: Settlement,
        send: Send,
        restate: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        self._channel = channel
        self._subject = subject
        self._settlement = settlement
        self._send = send
        self._restate = restate
        self._places = asyncio.Semaphore(channel.in_flight)
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Deliver everything that waited when the pass reached it."""
        after = 0
        async with asyncio.TaskGroup() as uploads:
            while changes := await self._load(after):
                after = changes[-1].seq
                changes = await self._without_overflow(changes)
                newest = {decode_artifact(self._subject.key, change.body).path: change for change in changes}
                superseded = [change.seq for change in changes if newest[self._path(change)] is not change]
                await self._settlement.add(Section.ARTIFACTS, superseded)
                for path, change in newest.items():
                    await self._settled(path)
                    await self._places.acquire()
                    self._under_way[path] = uploads.create_task(self._deliver_and_release(path, change))

    async def _settled(self, path: str) -> None:
        """Wait until an older content of a path is done with: of what came in messages, both are here."""
        if path in self._under_way:
            await asyncio.wait([self._under_way[path]])

    async def _without_overflow(self, changes: list[Change]) -> list[Change]:
        """Take out what was a dead letter and says where renamed artifacts are, or what is in which segment."""
        for change in changes:
            if change.kind == "overflow":
                assert self._restate is not None, "only a destination with an overflow refuses a part of it"
                await self._restate(change.body)
                await self._settlement.add(Section.ARTIFACTS, [change.seq])
        return [change for change in changes if change.kind != "overflow"]

    def _path(self, change: Change) -> str:
        return decode_artifact(self._subject.key, change.body).path

    async def _load(self, after: int) -> list[Change]:
        return await self._channel.journal.do(
            deliveries.pending,
            self._channel.id,
            self._subject.id,
            Section.ARTIFACTS,
            after=after,
            limit=WINDOW_CHANGES,
        )

    async def _deliver_and_release(self, path: str, change: Change) -> None:
        try:
            await self._deliver(change, decode_artifact(self._subject.key, change.body))
        finally:
            del self._under_way[path]
            self._places.release()

    async def _deliver(self, change: Change, artifact: ArtifactSeen) -> None:
        try:
            if self._channel.filter.takes_artifact(artifact.path):
                sent = await self._send(change, artifact)
            else:
                sent = Delivered()
        except ArtifactChanged as error:
            if self._subject.source_id in self._channel.told_once:
                await self._give_up(change, error)
                return
            # The source states the file again with its new size and time; this statement of it is overtaken.
            log.info("an artifact changed while it was read; it is sent again", path=artifact.path, reason=str(error))
            await self._channel.read_again(self._subject.source_id, "")
            self._settlement.let_go()
            sent = Delivered()
        except (ArtifactMissing, Rejected) as error:
            await self._give_up(change, error)
            return
        await self._settlement.add(Section.ARTIFACTS, [change.seq], delivered=sent)

    async def _give_up(self, change: Change, error: ArtifactMissing | ArtifactChanged | Rejected) -> None:
        local = "ARTIFACT_MISSING" if isinstance(error, ArtifactMissing) else "ARTIFACT_CHANGED"
        code, status = (error.code, error.status) if isinstance(error, Rejected) else (local, 0)
        letter = DeadLetter(Section.ARTIFACTS, change.kind, change.body, 1, str(error), code, status)
        await self._settlement.add(Section.ARTIFACTS, [change.seq], dead=[letter])


class ArtifactUpload:
    """Sends files of one subject to a tracking server."""

    def __init__(self, channel: Channel, binding: Binding, overflow: Overflow) -> None:
        self._channel = channel
        self._remote = RemoteSubject(binding.remote_id, binding.artifact_root, binding.adopted)
        self._overflow = overflow
        self._held: dict[str, int | None] | None = None

    async def send(self, change: Change, artifact: ArtifactSeen) -> Delivered:
        """Send one file, unless these very bytes are known to be there."""
        upload = self._channel.open_artifact(artifact)
        if self._remote.adopted and change.again is not Again.NEW and await self._is_held(artifact.path, upload):
            return Delivered()
        try:
            await self._upload(upload)
        except NameNotHeld:
            stored = overflow_path(artifact)
            await self._upload(RenamedUpload(upload, stored))
            await self._overflow.keep("artifacts", {artifact.path: stored})
        else:
            await self._overflow.release("artifacts", [artifact.path])
        return Delivered(artifacts=1, bytes=upload.size_bytes)

    async def _upload(self, upload: Upload) -> None:
        await self._channel.courier.call(lambda: self._channel.destination.upload(self._remote, upload))

    async def _is_held(self, path: str, upload: Upload) -> bool:
        """Whether the destination already holds these very bytes under that path."""
        if self._held is None:
            self._held = await self._channel.courier.call(self._list_held)
        if path not in self._held or self._held[path] not in (upload.size_bytes, None):
            return False
        try:
            theirs = await self._channel.courier.call(lambda: self._hash_held(path))
        except Rejected as error:
            if error.status != 404:
                raise
            return False  # a workspace lists what was registered, although its sender ended before it sent it
        return theirs == await sha256_of(upload.pieces())

    async def _list_held(self) -> dict[str, int | None]:
        return {file.path: file.size_bytes async for file in self._channel.reader.files(self._remote)}

    async def _hash_held(self, path: str) -> bytes:
        return await sha256_of(self._channel.reader.content(self._remote, path))


def overflow_path(artifact: ArtifactSeen) -> str:
    """Return where an artifact is kept that cannot be under its own name: a name that any server can hold.

    Another state of the file has another name, since there are destinations that replace nothing.
    """
    suffix = PurePosixPath(artifact.path).suffix
    safe = suffix if suffix[1:].isalnum() and suffix.isascii() else ""
    state = f"{artifact.path}\0{artifact.size_bytes}\0{artifact.mtime_ns}"
    digest = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{source_tags.OVERFLOW_FOLDER}/artifacts/{digest[:32]}{safe}"
