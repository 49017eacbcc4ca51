"""Artifacts in the stand-in of a workspace: what is registered, sent, taken for sent, replaced, and not held."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from syncd.azure.blob_upload import Blocks
from syncd.azure.storage_errors import StorageForbidden
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.shelf import Shelf, unholdable
from syncd.destinations.base import RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.errors import AuthFailed, NameNotHeld, Rejected, SubjectGone, Transient
from syncd.rest.uploads import BytesUpload
from tests.standins.azureml import RunningWorkspace
from tests.standins.azureml import Shelf as StandinShelf
from tests.standins.azureml.clients import artifacts_of, new_run

CUT = Blocks(whole_bytes=100_000, block_bytes=50_000, at_once=3)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as workspace:
        yield workspace


@pytest.fixture
def workspace(running: RunningWorkspace) -> Iterator[RunningWorkspace]:
    yield running
    running.state.faults.clear()
    running.state.habits.__init__()  # type: ignore[misc]


@pytest.fixture
async def artifacts(workspace: RunningWorkspace) -> AsyncIterator[RunArtifacts]:
    made = artifacts_of(workspace, cut=CUT)
    yield made
    await made.close()


@pytest.fixture
def run(workspace: RunningWorkspace) -> RemoteSubject:
    made = new_run(workspace)
    workspace.state.log.clear()
    return made


def stored(workspace: RunningWorkspace, run: RemoteSubject, path: str) -> bytes:
    return workspace.state.artifacts.bytes_of(StandinShelf.of_run(run.id), path)


def file_of(folder: Path, data: bytes) -> LocalUpload:
    (folder / "a.bin").write_bytes(data)
    seen = (folder / "a.bin").stat()
    return LocalUpload(str(folder), "a.bin", seen.st_size, seen.st_mtime_ns)


async def content(artifacts: RunArtifacts, run: RemoteSubject, path: str) -> bytes:
    return b"".join([piece async for piece in artifacts.content(run, path)])


class TestSending:
    async def test_a_small_one_takes_two_requests_and_is_read_back(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        await artifacts.upload(run, BytesUpload("deep/ä b#%.txt", b"data"))
        assert workspace.state.log.counts() == {"artifacts/batch/metadata": 1, "blob/put": 1}
        assert stored(workspace, run, "deep/ä b#%.txt") == b"data"
        assert [file.path async for file in artifacts.files(run)] == ["deep/ä b#%.txt"]
        assert await content(artifacts, run, "deep/ä b#%.txt") == b"data"

    async def test_the_token_of_the_workspace_never_reaches_storage(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject, tmp_path: Path
    ) -> None:
        await artifacts.upload(run, file_of(tmp_path, os.urandom(300_000)))
        await content(artifacts, run, "a.bin")
        assert {asked.authorized for asked in workspace.state.log.of("blob")} == {False}
        assert {asked.authorized for asked in workspace.state.log.of("artifacts")} == {True}

    async def test_those_of_one_moment_are_registered_together(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        other = new_run(workspace)
        workspace.state.faults.latency_s = 0.05
        uploads = [artifacts.upload(run, BytesUpload(f"f{number}", b"%d" % number)) for number in range(120)]
        await asyncio.gather(*uploads, artifacts.upload(other, BytesUpload("f0", b"other")))
        sizes = [asked.request_bytes for asked in workspace.state.log.of("artifacts/batch/metadata")]
        assert len(sizes) == 4  # 50, 50 and 20 of the one run, 1 of the other
        assert {stored(workspace, run, f"f{number}") for number in range(120)} == {b"%d" % n for n in range(120)}
        assert stored(workspace, other, "f0") == b"other"

    async def test_a_refused_path_is_refused_alone(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        workspace.state.limits.artifact_path_length = 5
        try:
            with pytest.raises(Rejected, match="over the size limit"):
                await artifacts.upload(run, BytesUpload("long.name", b""))
        finally:
            workspace.state.limits.artifact_path_length = 5000

    async def test_a_run_that_is_not_there_is_gone(self, artifacts: RunArtifacts, run: RemoteSubject) -> None:
        with pytest.raises(SubjectGone):
            await artifacts.upload(RemoteSubject("x", run.artifact_root.replace(run.id, "x")), BytesUpload("a", b""))

    async def test_a_caller_that_gives_up_takes_nobody_with_it(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        workspace.state.faults.latency_s = 0.1
        first, second = (asyncio.create_task(artifacts.upload(run, BytesUpload(name, b"x"))) for name in "ab")
        await asyncio.sleep(0.02)
        first.cancel()
        await second
        assert stored(workspace, run, "b") == b"x"


class TestWhatIsThereAlready:
    async def test_the_same_bytes_are_not_sent_again(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject, tmp_path: Path
    ) -> None:
        for size in (10, 300_000):
            data = os.urandom(size)
            await artifacts.upload(run, file_of(tmp_path, data))
            workspace.state.log.clear()
            await artifacts.upload(run, file_of(tmp_path, data))
            assert not any(kind.startswith("blob/put") for kind in workspace.state.log.counts())

    async def test_other_bytes_are_replaced(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        for data in (b"first", b"other", b"longer than these"):
            await artifacts.upload(run, BytesUpload("a", data))
            assert stored(workspace, run, "a") == data

    async def test_a_blob_without_an_md5_is_read_back(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject, tmp_path: Path
    ) -> None:
        data = os.urandom(300_000)
        await artifacts.upload(run, file_of(tmp_path, data))
        blob = next(blob for name, blob in workspace.state.blobs.blobs.items() if run.id in name)
        blob.content_md5 = None
        workspace.state.log.clear()
        await artifacts.upload(run, file_of(tmp_path, data))
        assert workspace.state.log.counts()["blob/get"] == 1
        assert workspace.state.log.counts()["blob/put-block"] == 0
        blob.content_md5 = None
        other = bytes([data[0] ^ 1]) + data[1:]
        await artifacts.upload(run, file_of(tmp_path, other))
        assert stored(workspace, run, "a.bin") == other

    async def test_what_was_registered_and_never_sent_is_sent(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject, tmp_path: Path
    ) -> None:
        workspace.state.artifacts.register(StandinShelf.of_run(run.id), ["a.bin"])
        data = os.urandom(300_000)
        await artifacts.upload(run, file_of(tmp_path, data))
        assert stored(workspace, run, "a.bin") == data

    async def test_where_nothing_is_replaced_other_bytes_are_not_held_under_the_name(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        await artifacts.upload(run, BytesUpload("a", b"first"))
        workspace.state.habits.write_offered = False
        await artifacts.upload(run, BytesUpload("a", b"first"))
        with pytest.raises(NameNotHeld, match="keeps other bytes"):
            await artifacts.upload(run, BytesUpload("a", b"other"))
        assert stored(workspace, run, "a") == b"first"

    async def test_an_address_for_reading_that_allows_writing_does(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        await artifacts.upload(run, BytesUpload("a", b"first"))
        workspace.state.habits.write_offered = False
        workspace.state.habits.content_permissions = "rw"
        await artifacts.upload(run, BytesUpload("a", b"other"))
        assert stored(workspace, run, "a") == b"other"

    async def test_a_service_that_forgets_what_it_registered_has_it_replaced(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        workspace.state.habits.registered_again_conflicts = False
        for data in (b"first", b"other"):
            await artifacts.upload(run, BytesUpload("a", data))
            assert stored(workspace, run, "a") == data


class TestReading:
    async def test_a_long_listing_comes_in_pages(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        workspace.state.habits.artifacts_page = 2
        for name in ("a", "folder/b", "folder/c", "folderd"):
            await artifacts.upload(run, BytesUpload(name, b""))
        below = RemoteSubject("m", f"{run.artifact_root}/folder")
        assert [file.path async for file in artifacts.files(run)] == ["a", "folder/b", "folder/c", "folderd"]
        assert [file.path async for file in artifacts.files(below)] == ["b", "c"]

    async def test_what_is_not_there_is_refused(self, artifacts: RunArtifacts, run: RemoteSubject) -> None:
        with pytest.raises(Rejected):
            await content(artifacts, run, "never")

    async def test_a_broken_download_is_no_end(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject, tmp_path: Path
    ) -> None:
        await artifacts.upload(run, file_of(tmp_path, bytes(4_000_000)))
        workspace.state.faults.lose_answer("blob/get")
        with pytest.raises(Transient):
            await content(artifacts, run, "a.bin")

    async def test_an_address_that_ran_out_meanwhile_is_asked_for_again(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        await artifacts.upload(run, BytesUpload("a", b"data"))
        workspace.state.access.lifetime_s = -1.0
        try:
            with pytest.raises(StorageForbidden):
                await content(artifacts, run, "a")
        finally:
            workspace.state.access.lifetime_s = 3600.0
        assert len(workspace.state.log.of("artifacts/contentinfo")) == 2

    async def test_a_missing_permission_says_so(
        self, workspace: RunningWorkspace, artifacts: RunArtifacts, run: RemoteSubject
    ) -> None:
        workspace.state.faults.denied.add("artifacts/batch/metadata")
        with pytest.raises(AuthFailed, match="does not have authorization"):
            await artifacts.upload(run, BytesUpload("a", b""))


def test_an_address_of_another_kind_is_refused() -> None:
    for root in ("", "mlflow-artifacts:/1/r/artifacts", "azureml://h/mlflow/v2.0/subscriptions/s"):
        with pytest.raises(Rejected, match="not that of a workspace's run"):
            Shelf.of(RemoteSubject("r", root))


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "a/../b", "a\nb", "a\\b", "\udcff", "a./b", "a ", "x" * 900, "/".join("a" * 300)]
)
def test_names_that_a_workspace_might_change_are_not_trusted_to_it(path: str) -> None:
    assert unholdable(path)
    assert not unholdable(path.encode("utf-8", "replace").hex()[:100] + "x/é #%?.bin")
