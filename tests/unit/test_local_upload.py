"""LocalUpload: never out of its root, never a byte of a file that changed, never blocked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from syncd.destinations.local_upload import LocalUpload
from syncd.errors import ArtifactChanged, ArtifactMissing

MIB = 1 << 20


def seen(root: Path, path: str) -> LocalUpload:
    status = (root / path).stat()
    return LocalUpload(str(root), path, status.st_size, status.st_mtime_ns)


async def read(upload: LocalUpload, start: int = 0, length: int | None = None) -> list[bytes]:
    return [piece async for piece in upload.pieces(start, length)]


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB])
async def test_bytes_come_whole_in_pieces(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(data)
    pieces = await read(seen(tmp_path, "d/f"))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


@pytest.mark.parametrize(("start", "length"), [(0, 5), (3, 4), (MIB - 1, 2), (2 * MIB, None), (2 * MIB, 9 * MIB)])
async def test_a_part_of_it(tmp_path: Path, start: int, length: int | None) -> None:
    data = os.urandom(3 * MIB)
    (tmp_path / "f").write_bytes(data)
    expected = data[start:] if length is None else data[start : start + length]
    assert b"".join(await read(seen(tmp_path, "f"), start, length)) == expected


@pytest.mark.parametrize("path", ["../secret", "d/../../secret", "/etc/hostname", "d//f", "", ".", "d/"])
async def test_paths_out_of_the_root_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "f").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"s")
    with pytest.raises(ArtifactMissing):
        await read(LocalUpload(str(tmp_path / "root"), path, 1, 0))


@pytest.mark.parametrize("path", ["link", "folder/secret", "inner"])
async def test_no_link_is_followed(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret").write_bytes(b"s")
    (root / "real").write_bytes(b"r")
    (root / "link").symlink_to(tmp_path / "out" / "secret")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "inner").symlink_to("real")
    with pytest.raises(ArtifactMissing):
        await read(seen(root, path))


async def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"x")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert await read(seen(tmp_path / "root", "f")) == [b"x"]


async def test_fifo_socket_device_and_folder_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock"))
        for path in ("fifo", "folder", "sock", "absent"):
            with pytest.raises(ArtifactMissing):
                await read(LocalUpload(str(tmp_path), path, 0, 0))
    with pytest.raises(ArtifactMissing):
        await read(LocalUpload("/dev", "null", 0, 0))


async def test_a_file_that_differs_from_what_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    upload = seen(tmp_path, "f")
    for size, mtime in ((4, upload.mtime_ns), (3, upload.mtime_ns + 1)):
        with pytest.raises(ArtifactChanged):
            await read(LocalUpload(str(tmp_path), "f", size, mtime))


@pytest.mark.parametrize("change", ["append", "truncate", "touch", "replace", "remove", "same size"])
async def test_a_change_in_the_middle_is_noticed_before_the_last_piece(tmp_path: Path, change: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(3 * MIB))
    upload = seen(tmp_path, "f")
    pieces = upload.pieces()
    await anext(pieces)
    _change(file, change)
    with pytest.raises(ArtifactChanged):
        assert len([piece async for piece in pieces]) < 2


def _change(file: Path, change: str) -> None:
    before = file.stat()
    match change:
        case "append":
            with file.open("ab") as opened:
                opened.write(b"x")
        case "truncate":
            os.truncate(file, MIB)
        case "touch":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        case "replace":
            other = file.with_name("other")
            other.write_bytes(bytes(3 * MIB))
            os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
            other.replace(file)
        case "remove":
            file.unlink()
        case "same size":
            with file.open("r+b") as opened:
                opened.write(b"x")
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 5))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * MIB))
    upload = seen(tmp_path, "f")
    before = descriptors()
    await read(upload)
    pieces = upload.pieces()
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ArtifactChanged):
        await read(LocalUpload(str(tmp_path), "f", 1, 1))
    assert descriptors() == before
