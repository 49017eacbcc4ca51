"""Multipart uploads over pre-signed URLs, and the way back to a plain upload where the server has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncd.destinations.base import RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import MlflowServer
from syncd.errors import ArtifactChanged, Transient
from syncd.rest.client import BasicAuth
from tests.standins.null_server import NullMlflow
from tests.standins.presigned_storage import PresignedStorage

RUN = RemoteSubject("r", "mlflow-artifacts:/1/r/artifacts")
PART = 1 << 20


def upload_of(root: Path, data: bytes, *, mtime_change_ns: int = 0) -> LocalUpload:
    (root / "model ü.bin").write_bytes(data)
    seen = (root / "model ü.bin").stat()
    return LocalUpload(str(root), "model ü.bin", seen.st_size, seen.st_mtime_ns + mtime_change_ns)


def server_on(rest: MlflowRest) -> MlflowServer:
    return MlflowServer(rest, multipart_threshold_bytes=2 * PART, part_bytes=PART)


@pytest.mark.parametrize("size", [2 * PART, 5 * PART + 17])
async def test_a_large_file_goes_in_parts_without_our_credentials(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    async with PresignedStorage() as storage, MlflowRest(storage.url, auth=BasicAuth("u", "p")) as rest:
        await server_on(rest).upload(RUN, upload_of(tmp_path, data))
        assert storage.objects == {"1/r/artifacts/model ü.bin": data}
        assert storage.open_uploads == {}
        assert set(storage.authorizations) == {None}


async def test_a_refused_part_aborts_the_upload_and_hides_the_signature(tmp_path: Path) -> None:
    async with PresignedStorage() as storage, MlflowRest(storage.url) as rest:
        storage.refuse_part = 2
        with pytest.raises(Transient) as caught:
            await server_on(rest).upload(RUN, upload_of(tmp_path, bytes(4 * PART)))
        assert "SECRET" not in str(caught.value)
        assert (storage.objects, storage.open_uploads) == ({}, {})
        storage.refuse_part = 0
        await server_on(rest).upload(RUN, upload_of(tmp_path, bytes(4 * PART)))
        assert len(storage.objects) == 1


async def test_a_changed_file_aborts_the_upload(tmp_path: Path) -> None:
    async with PresignedStorage() as storage, MlflowRest(storage.url) as rest:
        with pytest.raises(ArtifactChanged):
            await server_on(rest).upload(RUN, upload_of(tmp_path, bytes(4 * PART), mtime_change_ns=1))
        assert (storage.objects, storage.open_uploads) == ({}, {})


async def test_a_server_without_multipart_is_asked_once_and_gets_the_file_whole(tmp_path: Path) -> None:
    async with NullMlflow() as upstream, MlflowRest(upstream.url) as rest:
        server = server_on(rest)
        for _ in range(2):
            await server.upload(RUN, upload_of(tmp_path, bytes(4 * PART)))
        assert upstream.counts.artifact_files == 2
        assert upstream.counts.artifact_bytes == 8 * PART
        assert upstream.counts.requests == 3
