"""Block blobs of Azure Storage by their REST API: single requests, each on an address that opens it.

Rules
-----
1. A client of a storage account knows no credentials but those in the address at hand: what opens the workspace never
   reaches storage.
2. An address is never printed: its query is a signature. Errors name the blob by the artifact's path.
3. Every request may be sent again with the effect of once. Blocks are committed from those sent last or, where there
   are none, from those of the blob as it is (``Latest``): a repeated commit finds what the first one used.

A blob has at most 50,000 blocks, their ids are of one length within a blob, and what is not committed is dropped after
a week (learn.microsoft.com, "Put Block", "Put Block List", read 2026-11).
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from syncd.azure.storage_errors import storage_error
from syncd.errors import DestinationError, Rejected, Transient
from syncd.rest.client import Deadlines, RestClient, Throttle
from syncd.rest.streaming import Upload

API_VERSION: Final = "2021-12-02"
MOST_BLOCKS: Final = 50_000
MOST_IN_AN_ACCOUNT: Final = 64  # connections; how many are used, those decide who send
_BLOCK: Final = re.compile(rb"<Block><Name>([^<]*)</Name><Size>(\d+)</Size></Block>")
_UNCOMMITTED: Final = re.compile(rb"<UncommittedBlocks>.*</UncommittedBlocks>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BlobAddress:
    """A blob's whole URL, with its signature in the query or with an ``Authorization`` header beside it."""

    url: str
    authorization: str = ""

    def __repr__(self) -> str:
        return f"BlobAddress({self.url.partition('?')[0]})"

    def asking(self, query: str) -> str:
        """Return the URL with more in its query."""
        return f"{self.url}{'&' if '?' in self.url else '?'}{query}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request to it carries."""
        version = {"x-ms-version": API_VERSION}
        return {**version, "Authorization": self.authorization} if self.authorization else version


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an artifact and their MD5."""

    start: int
    size_bytes: int
    md5: bytes


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """What storage tells of a blob; ``md5`` None if it was written without, ``modified_s`` since the epoch."""

    size_bytes: int
    md5: bytes | None
    modified_s: float


class StorageRest(RestClient):
    """A client of one storage account."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means."""
        return storage_error(method, status, headers, body, doing=doing, target=target)


class Blobs:
    """Block blobs of any storage account, with one client for each; ``close`` closes them.

    ``ca_file``, ``deadlines`` and ``throttle`` are as for ``RestClient``.
    """

    def __init__(
        self, *, ca_file: str | None = None, deadlines: Deadlines | None = None, throttle: Throttle | None = None
    ) -> None:
        self._ca_file = ca_file
        self._deadlines = deadlines
        self._throttle = throttle
        self._clients: dict[str, StorageRest] = {}

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    def _client(self, address: BlobAddress) -> StorageRest:
        parts = urlsplit(address.url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._clients:
            self._clients[host] = StorageRest(
                host,
                ca_file=self._ca_file,
                deadlines=self._deadlines,
                connections=MOST_IN_AN_ACCOUNT,
                throttle=self._throttle,
            )
        return self._clients[host]

    async def put(self, address: BlobAddress, artifact: Upload, md5: bytes) -> None:
        """Make the artifact a blob in one request."""
        headers = {**address.headers, "x-ms-blob-type": "BlockBlob", "Content-MD5": _text(md5)}
        doing = "uploading"
        await self._client(address).put_upload(
            address.url, artifact, headers=headers, doing=doing, target=artifact.path
        )

    async def put_block(self, address: BlobAddress, artifact: Upload, span: Span, block_id: str) -> None:
        """Send one block, which is nothing before it is committed."""
        await self._client(address).put_upload(
            address.asking(f"comp=block&blockid={quote(block_id, safe='')}"),
            artifact,
            start=span.start,
            length=span.size_bytes,
            headers={**address.headers, "Content-MD5": _text(span.md5)},
            doing="uploading a block of",
            target=artifact.path,
        )

    async def commit(self, address: BlobAddress, block_ids: Sequence[str], md5: bytes, *, target: str) -> None:
        """Make the blocks a blob; Rejected with the code InvalidBlockList when one of them is not there."""
        listed = "".join(f"<Latest>{block_id}</Latest>" for block_id in block_ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        kind = {"Content-Type": "application/xml", "x-ms-blob-content-type": "application/octet-stream"}
        headers = {**address.headers, **kind, "x-ms-blob-content-md5": _text(md5)}
        url = address.asking("comp=blocklist")
        await self._client(address).exchange(
            "PUT", url, data=body, headers=headers, doing="completing the blocks of", target=target
        )

    async def sent_blocks(self, address: BlobAddress, *, target: str) -> dict[str, int]:
        """Return the size in bytes of each block, by its id, that was sent and not committed."""
        answer = await self._client(address).exchange(
            "GET",
            address.asking("comp=blocklist&blocklisttype=uncommitted"),
            headers=address.headers,
            doing="asking for the blocks of",
            target=target,
        )
        part = _UNCOMMITTED.search(answer.body)
        return {name.decode(): int(size) for name, size in _BLOCK.findall(part[0])} if part else {}

    async def properties(self, address: BlobAddress, *, target: str) -> BlobProperties | None:
        """Return what is told of a blob, None if there is none."""
        try:
            answer = await self._client(address).exchange(
                "HEAD", address.url, headers=address.headers, doing="looking at", target=target
            )
        except Rejected as error:
            if error.status == 404:
                return None
            raise
        return _properties(answer.headers, target)

    async def read(self, address: BlobAddress, *, target: str) -> AsyncGenerator[bytes, None]:
        """Yield a blob's bytes in pieces."""
        async for piece in self._client(address).download(
            address.url, headers=address.headers, doing="downloading", target=target
        ):
            yield piece

    async def small(self, address: BlobAddress, *, target: str) -> bytes | None:
        """Return the content of a small blob, None if there is none."""
        try:
            answer = await self._client(address).exchange(
                "GET", address.url, headers=address.headers, doing="reading", target=target
            )
        except Rejected as error:
            if error.status == 404:
                return None
            raise
        return answer.body


def _text(md5: bytes) -> str:
    return base64.b64encode(md5).decode()


def _properties(headers: Mapping[str, str], target: str) -> BlobProperties:
    try:
        size_bytes = int(headers["Content-Length"])
        modified_s = email.utils.parsedate_to_datetime(headers["Last-Modified"]).timestamp()
        md5 = base64.b64decode(headers["Content-MD5"], validate=True) if headers.get("Content-MD5") else None
    except (KeyError, ValueError, binascii.Error) as exc:
        words = f"the answer is not that of a blob service: {exc!r}"
        raise Transient(words, doing="looking at", target=target) from exc
    return BlobProperties(size_bytes, md5, modified_s)
