"""Blobs as storage really takes them: against Azurite, with Microsoft's own client looking at what came."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient

from syncd.azure.blob import BlobAddress, Blobs, Span
from syncd.azure.blob_upload import BlobDoor, BlobUpload, Blocks
from syncd.azure.storage_errors import StorageForbidden
from syncd.destinations.local_upload import LocalUpload
from syncd.errors import ArtifactChanged, ArtifactMissing, OutcomeUnknown, Transient
from syncd.rest.client import Deadlines
from syncd.rest.uploads import BytesUpload
from tests.standins.azurite import RunningAzurite

CUT = Blocks(whole_bytes=100_000, block_bytes=50_000, at_once=3)
_numbers = itertools.count()


class CountingBlobs(Blobs):
    """Notes which blocks are sent, and fails where it is told to."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.blocks: list[int] = []
        self.broken = -1

    async def put_block(self, address: BlobAddress, artifact: Any, span: Span, block_id: str) -> None:
        if span.start // CUT.block_bytes == self.broken:
            raise OutcomeUnknown("broken on purpose")
        await super().put_block(address, artifact, span, block_id)
        self.blocks.append(span.start // CUT.block_bytes)


class Case:
    """A container of its own, a file, and what sends it."""

    def __init__(self, azurite: RunningAzurite, folder: Path) -> None:
        self.name = f"case-{next(_numbers)}"
        self.azurite = azurite
        service: BlobServiceClient = BlobServiceClient.from_connection_string(azurite.connection_string)
        self.container: ContainerClient = service.create_container(self.name)
        self.folder = folder
        self.blobs = CountingBlobs()
        self.asked: list[bool] = []
        self.lifetime_s = 3600.0

    async def address(self, refused: bool) -> BlobAddress:
        self.asked.append(refused)
        lifetime_s = 3600.0 if refused else self.lifetime_s
        return BlobAddress(self.azurite.sas_url(f"{self.name}/a ü#%.bin", "rcw", lifetime_s=lifetime_s))

    def file(self, data: bytes) -> LocalUpload:
        (self.folder / "a").write_bytes(data)
        seen = (self.folder / "a").stat()
        return LocalUpload(str(self.folder), "a", seen.st_size, seen.st_mtime_ns)

    def upload(self, artifact: Any, *, already: bool = False, cut: Blocks = CUT) -> BlobUpload:
        room = asyncio.Semaphore(2)
        again = BlobDoor(self.address) if already else None
        return BlobUpload(self.blobs, artifact, BlobDoor(self.address), cut=cut, room=room, already=again)

    def stored(self) -> tuple[bytes, bytes | None]:
        """Return the bytes and the MD5 that the real client finds."""
        blob = self.container.get_blob_client("a ü#%.bin")
        md5 = blob.get_blob_properties().content_settings.content_md5
        return blob.download_blob().readall(), None if md5 is None else bytes(md5)

    def is_there(self) -> bool:
        return self.container.get_blob_client("a ü#%.bin").exists()


@pytest.fixture
async def case(azurite: RunningAzurite, tmp_path: Path) -> AsyncIterator[Case]:
    made = Case(azurite, tmp_path)
    yield made
    await made.blobs.close()


@pytest.mark.parametrize("size", [0, 17, 100_000, 100_001, 3_333_333])
async def test_the_real_client_reads_what_was_sent(case: Case, size: int) -> None:
    data = os.urandom(size)
    md5 = hashlib.md5(data).digest()
    assert await case.upload(case.file(data)).run() == md5
    assert case.stored() == (data, md5)
    blocks = -(-size // CUT.block_bytes) if size > CUT.whole_bytes else 0
    assert sorted(case.blobs.blocks) == list(range(blocks))
    assert case.asked == [False]


async def test_what_is_told_of_a_blob_is_what_was_sent(case: Case) -> None:
    address = await case.address(False)
    assert await case.blobs.properties(address, target="a") is None
    assert await case.blobs.small(address, target="a") is None
    md5 = await case.upload(BytesUpload("a", b"data")).run()
    held = await case.blobs.properties(address, target="a")
    assert held is not None
    assert (held.size_bytes, held.md5) == (4, md5)
    assert await case.blobs.small(address, target="a") == b"data"
    assert b"".join([piece async for piece in case.blobs.read(address, target="a")]) == b"data"


async def test_another_process_sends_only_the_blocks_that_are_missing(case: Case) -> None:
    data = os.urandom(8 * CUT.block_bytes)
    case.blobs.broken = 5
    with pytest.raises(OutcomeUnknown):
        await case.upload(case.file(data)).run()
    sent = set(case.blobs.blocks)
    assert sent >= {0, 1, 2, 3}
    assert not case.is_there()
    case.blobs.broken, case.blobs.blocks = -1, []
    await case.upload(case.file(data), already=True).run()
    assert sorted(case.blobs.blocks) == sorted(set(range(8)) - sent)
    assert case.stored() == (data, hashlib.md5(data).digest())


async def test_a_next_attempt_reads_and_sends_nothing_twice(case: Case) -> None:
    data = os.urandom(8 * CUT.block_bytes)
    case.blobs.broken = 5
    upload = case.upload(case.file(data))
    with pytest.raises(OutcomeUnknown):
        await upload.run()
    case.blobs.broken = -1
    await upload.run()
    assert sorted(case.blobs.blocks) == list(range(8))
    await upload.run()  # the answer to the commit was lost
    assert sorted(case.blobs.blocks) == list(range(8))
    assert case.stored()[0] == data


async def test_blocks_of_an_older_content_are_not_taken_for_its_own(case: Case) -> None:
    old = os.urandom(4 * CUT.block_bytes)
    case.blobs.broken = 3
    with pytest.raises(OutcomeUnknown):
        await case.upload(case.file(old)).run()
    case.blobs.broken, case.blobs.blocks = -1, []
    new = old[: CUT.block_bytes] + os.urandom(3 * CUT.block_bytes)
    await case.upload(case.file(new), already=True).run()
    assert sorted(case.blobs.blocks) == [1, 2, 3]
    assert case.stored()[0] == new


async def test_an_expired_address_is_asked_for_again_once(case: Case) -> None:
    case.lifetime_s = -60.0
    data = os.urandom(6 * CUT.block_bytes)
    await case.upload(case.file(data)).run()
    assert case.asked == [False, True]
    assert case.stored()[0] == data


async def test_an_address_that_stays_refused_is_an_error_without_its_signature(case: Case) -> None:
    async def expired(_refused: bool) -> BlobAddress:
        return BlobAddress(case.azurite.sas_url(f"{case.name}/a", "cw", lifetime_s=-60.0))

    door = BlobDoor(expired)
    upload = BlobUpload(case.blobs, case.file(b"x"), door, cut=CUT, room=asyncio.Semaphore(1))
    with pytest.raises(StorageForbidden) as caught:
        await upload.run()
    assert caught.value.code in ("AuthenticationFailed", "AuthorizationFailure")  # the latter is Azurite's
    assert "sig=" not in str(caught.value) + repr(await expired(False))


async def test_a_file_that_changes_under_way_is_not_committed(case: Case) -> None:
    file = case.file(os.urandom(4 * CUT.block_bytes))
    upload = case.upload(file)
    case.blobs.broken = 3
    with pytest.raises(OutcomeUnknown):
        await upload.run()
    case.blobs.broken = -1
    os.utime(case.folder / "a", ns=(1, 1))
    with pytest.raises(ArtifactChanged):
        await upload.run()
    assert not case.is_there()
    (case.folder / "a").unlink()
    with pytest.raises(ArtifactMissing):
        await upload.run()


async def test_a_file_that_changes_after_its_last_block_is_not_committed(case: Case) -> None:
    file = case.file(os.urandom(4 * CUT.block_bytes))
    upload = case.upload(file)
    await upload._send_blocks()
    os.utime(case.folder / "a", ns=(1, 1))
    with pytest.raises(ArtifactChanged):
        await upload.run()
    assert not case.is_there()


@pytest.mark.parametrize("size", [2_000_000, 5_000_000])
async def test_bytes_that_change_behind_the_files_time_are_read_and_sent_again(case: Case, size: int) -> None:
    file = case.file(bytes(size))
    upload = case.upload(file, cut=replace(CUT, whole_bytes=3_000_000, block_bytes=2_000_000))
    await upload.digest()
    seen = (case.folder / "a").stat()
    with (case.folder / "a").open("r+b") as changed:
        changed.write(b"other")
    os.utime(case.folder / "a", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(Transient, match="not those that were read before"):
        await upload.run()
    await upload.run()
    assert case.stored()[0] == b"other" + bytes(size - 5)


async def test_blocks_that_storage_has_dropped_are_sent_again(case: Case) -> None:
    data = os.urandom(4 * CUT.block_bytes)
    upload = case.upload(case.file(data))
    await upload._send_blocks()
    blob = case.container.get_blob_client("a ü#%.bin")
    blob.commit_block_list([])
    blob.delete_blob()
    with pytest.raises(Transient, match="dropped"):
        await upload.run()
    await upload.run()
    assert case.stored()[0] == data


async def test_bandwidth_is_asked_for_every_byte(case: Case) -> None:
    taken: list[int] = []

    async def take(size_bytes: int) -> None:
        taken.append(size_bytes)

    case.blobs = CountingBlobs(throttle=take, deadlines=Deadlines(total_s=60))
    data = os.urandom(5 * CUT.block_bytes)
    await case.upload(case.file(data)).run()
    assert len(data) <= sum(taken) < len(data) + 1000  # and the list of the blocks
