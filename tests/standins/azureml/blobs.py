"""A storage account's block blobs, block by block on disk, and the SAS tokens that open them. No HTTP."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from tests.standins.azureml.refusals import Refused

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Block:
    """A block as it was sent; ``identity`` is the client's, in Base64."""

    identity: str
    path: Path
    size: int
    md5: bytes


@dataclass
class Blob:
    """What was put together, and what waits for it. ``committed`` None: there is no blob yet."""

    committed: tuple[Block, ...] | None = None
    staged: dict[str, Block] = field(default_factory=dict)
    content_md5: bytes | None = None
    content_type: str = "application/octet-stream"
    etag: str = ""
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        return sum(block.size for block in self.committed or ())


class BlockWriter:
    """Takes the bytes of one block; ``done`` returns it, ``forget`` removes what came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._md5.update(data)
        self._size += len(data)

    def done(self, identity: str = "") -> Block:
        self._file.close()
        return Block(identity, self._path, self._size, self._md5.digest())

    def forget(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobStore:
    """All blobs by ``container/name``; the bytes are files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.blobs: dict[str, Blob] = {}
        self._folder = folder
        self._numbers = itertools.count()

    def writer(self) -> BlockWriter:
        return BlockWriter(self._folder / f"{next(self._numbers)}.block")

    def blob(self, name: str) -> Blob:
        """Return a blob that is there; refuses one that has only waiting blocks."""
        found = self.blobs.get(name)
        if found is None or found.committed is None:
            raise Refused(404, "BlobNotFound", "The specified blob does not exist.")
        return found

    def content(self, name: str) -> bytes:
        """Return a blob's bytes."""
        blob = self.blob(name)
        return b"".join(self.pieces(blob, 0, blob.size))

    def put(self, name: str, block: Block, *, content_type: str, content_md5: bytes | None, only_new: bool) -> Blob:
        """Make a blob of one block; refuses to replace one when ``only_new``."""
        blob = self._to_write(name, only_new=only_new)
        self._commit(blob, (block,), content_type=content_type, content_md5=content_md5 or block.md5)
        return blob

    def stage(self, name: str, block: Block) -> None:
        """Keep a block until a block list names it; ids of a blob have to be of one length."""
        blob = self.blobs.setdefault(name, Blob())
        if any(len(known) != len(block.identity) for known in blob.staged):
            raise Refused(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.")
        replaced = blob.staged.pop(block.identity, None)
        blob.staged[block.identity] = block
        if replaced is not None:
            replaced.path.unlink(missing_ok=True)

    def commit(
        self, name: str, wanted: list[tuple[str, str]], *, content_type: str, content_md5: bytes | None, only_new: bool
    ) -> Blob:
        """Put a blob together from (where, block id); refuses a list with an unknown block."""
        blob = self._to_write(name, only_new=only_new)
        committed = {block.identity: block for block in blob.committed or ()}
        tables = {
            "Latest": {**committed, **blob.staged},
            "Uncommitted": blob.staged,
            "Committed": committed,
        }
        try:
            chosen = tuple(tables[where][identity] for where, identity in wanted)
        except KeyError as exc:
            raise Refused(400, "InvalidBlockList", "The specified block list is invalid.") from exc
        self._commit(blob, chosen, content_type=content_type, content_md5=content_md5)
        return blob

    def pieces(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``stop``."""
        at = 0
        for block in blob.committed or ():
            low, high = max(start - at, 0), min(stop - at, block.size)
            at += block.size
            if low >= high:
                continue
            with block.path.open("rb") as file:
                file.seek(low)
                while low < high:
                    piece = file.read(min(PIECE_BYTES, high - low))
                    low += len(piece)
                    yield piece

    def _to_write(self, name: str, *, only_new: bool) -> Blob:
        blob = self.blobs.setdefault(name, Blob())
        if only_new and blob.committed is not None:
            raise Refused(409, "BlobAlreadyExists", "The specified blob already exists.")
        return blob

    @staticmethod
    def _commit(blob: Blob, blocks: tuple[Block, ...], *, content_type: str, content_md5: bytes | None) -> None:
        kept = {block.path for block in blocks}
        for old in (*(blob.committed or ()), *blob.staged.values()):
            if old.path not in kept:
                old.path.unlink(missing_ok=True)
        blob.committed = blocks
        blob.staged = {}
        blob.content_md5 = content_md5
        blob.content_type = content_type or "application/octet-stream"
        blob.etag = f'"0x{secrets.token_hex(8).upper()}"'
        blob.modified_at = datetime.now(UTC)


class SharedAccess:
    """Issues and checks SAS tokens, of a blob ("b") or of a container with all blobs ("c")."""

    def __init__(self, *, lifetime_s: float = 8 * 3600.0, now: Callable[[], float] = time.time) -> None:
        self.lifetime_s = lifetime_s
        self._now = now
        self._key = secrets.token_bytes(32)

    def token(self, name: str, permissions: str) -> str:
        """Return the query that opens ``container`` or ``container/blob``."""
        fields = {
            "sv": "2021-12-02",
            "se": datetime.fromtimestamp(self._now() + self.lifetime_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "sr": "b" if "/" in name else "c",
            "sp": permissions,
        }
        return urlencode({**fields, "sig": self._signature(name, fields)})

    def expire_all(self) -> None:
        """Make every token issued so far worthless."""
        self._key = secrets.token_bytes(32)

    def check(self, query: Mapping[str, str], name: str, permission: str) -> None:
        """Raise storage's 403 when the token does not open ``name`` for any of the permissions' letters."""
        fields = {key: query.get(key, "") for key in ("sv", "se", "sr", "sp")}
        signed = name if fields["sr"] == "b" else name.partition("/")[0]
        if not hmac.compare_digest(query.get("sig", ""), self._signature(signed, fields)):
            raise _unauthenticated("Signature did not match.")
        if datetime.fromisoformat(fields["se"]).timestamp() <= self._now():
            raise _unauthenticated("Signature not valid in the specified time frame.")
        if not set(permission) & set(fields["sp"]):
            message = "This request is not authorized to perform this operation using this permission."
            raise Refused(403, "AuthorizationPermissionMismatch", message)

    def _signature(self, name: str, fields: Mapping[str, str]) -> str:
        text = "\n".join((name, *(fields[key] for key in ("sv", "se", "sr", "sp"))))
        return base64.b64encode(hmac.digest(self._key, text.encode(), "sha256")).decode()


def _unauthenticated(detail: str) -> Refused:
    message = "Server failed to authenticate the request. Make sure the value of Authorization header is formed "
    return Refused(403, "AuthenticationFailed", f"{message}correctly including the signature. {detail}")
