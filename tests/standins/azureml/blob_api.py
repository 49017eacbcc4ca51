"""Storage's REST API for block blobs, as far as uploads and downloads by SAS URL go."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from typing import Final
from urllib.parse import unquote
from xml.etree import ElementTree

from aiohttp import web

from tests.standins.azureml.blobs import Blob, Block
from tests.standins.azureml.gate import is_lost, reset
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.state import Route, State

RANGE_MD5_MAX_BYTES: Final = 4 << 20


class BlobApi:
    """Answers below ``/{account}.blob.core.windows.net/``."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._prefix = f"/{state.place.storage_account}.blob.core.windows.net/"

    def routes(self) -> list[Route]:
        path = self._prefix + "{name:.+}"
        return [
            Route("blob", "blob/put", "PUT", path, self._write),
            Route("blob", "blob/get", "GET", path, self._read),
            Route("blob", "blob/head", "HEAD", path, self._head),
        ]

    def _name(self, request: web.Request, permission: str) -> str:
        """Return ``container/blob`` of a request whose SAS allows what it wants."""
        name = unquote(request.rel_url.raw_path).removeprefix(self._prefix)
        self._state.access.check(request.query, name, permission)
        return name

    async def _write(self, request: web.Request) -> web.StreamResponse:
        name = self._name(request, "cw")
        match request.query.get("comp"):
            case "block":
                return await self._put_block(request, name)
            case "blocklist":
                return await self._put_block_list(request, name)
            case None:
                return await self._put_blob(request, name)
        raise Refused(400, "InvalidQueryParameterValue", "comp is not known here.")

    async def _put_blob(self, request: web.Request, name: str) -> web.Response:
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            raise Refused(400, "MissingRequiredHeader", "x-ms-blob-type has to be BlockBlob.")
        block = await self._receive(request, "")
        blob = self._state.blobs.put(
            name,
            block,
            content_type=request.headers.get("x-ms-blob-content-type", ""),
            content_md5=_md5(request, "x-ms-blob-content-md5"),
            only_new=_only_new(request),
        )
        return web.Response(status=201, headers={**_common(blob), "Content-MD5": _base64(block.md5)})

    async def _put_block(self, request: web.Request, name: str) -> web.Response:
        identity = request.query.get("blockid", "")
        try:
            base64.b64decode(identity, validate=True)
        except binascii.Error as exc:
            raise Refused(400, "InvalidQueryParameterValue", "blockid is not Base64.") from exc
        block = await self._receive(request, identity)
        self._state.blobs.stage(name, block)
        return web.Response(status=201, headers={**_common(), "Content-MD5": _base64(block.md5)})

    async def _put_block_list(self, request: web.Request, name: str) -> web.Response:
        try:
            wanted = [(item.tag, item.text or "") for item in ElementTree.fromstring(await request.read())]
        except ElementTree.ParseError as exc:
            raise Refused(400, "InvalidXmlDocument", "XML specified is not syntactically valid.") from exc
        blob = self._state.blobs.commit(
            name,
            wanted,
            content_type=request.headers.get("x-ms-blob-content-type", ""),
            content_md5=_md5(request, "x-ms-blob-content-md5"),
            only_new=_only_new(request),
        )
        return web.Response(status=201, headers=_common(blob))

    async def _receive(self, request: web.Request, identity: str) -> Block:
        """Return the body as a block; refuses a body without a length or with a wrong checksum."""
        if request.content_length is None:
            raise Refused(411, "MissingContentLengthHeader", "Content-Length HTTP header was not specified.")
        writer = self._state.blobs.writer()
        try:
            async for piece in request.content.iter_any():
                writer.write(piece)
        except BaseException:
            writer.forget()
            raise
        block = writer.done(identity)
        if (_md5(request, "Content-MD5") or block.md5) != block.md5:
            writer.forget()
            raise Refused(400, "Md5Mismatch", "The MD5 value specified in the request did not match.")
        return block

    async def _head(self, request: web.Request) -> web.StreamResponse:
        blob = self._state.blobs.blob(self._name(request, "r"))
        headers = {**_common(blob), **_content(blob), "Content-Length": str(blob.size)}
        return web.Response(headers=headers)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        name = self._name(request, "r")
        if request.query.get("comp") == "blocklist":
            return self._block_list(name, request.query.get("blocklisttype", "committed"))
        blob = self._state.blobs.blob(name)
        asked = request.headers.get("x-ms-range") or request.headers.get("Range")
        start, stop = _range(asked, blob.size) if asked else (0, blob.size)
        headers = {**_common(blob), **_content(blob)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
            whole = headers.pop("Content-MD5", None)
            if whole is not None:
                headers["x-ms-blob-content-md5"] = whole
            if request.headers.get("x-ms-range-get-content-md5") == "true" and stop - start <= RANGE_MD5_MAX_BYTES:
                data = b"".join(self._state.blobs.pieces(blob, start, stop))
                headers["Content-MD5"] = _base64(hashlib.md5(data, usedforsecurity=False).digest())
        answer = web.StreamResponse(status=206 if asked else 200, headers=headers)
        answer.content_length = stop - start
        return await self._send(request, answer, blob, (start, stop))

    async def _send(
        self, request: web.Request, answer: web.StreamResponse, blob: Blob, span: tuple[int, int]
    ) -> web.StreamResponse:
        """Send a span of a blob; half of it when the answer is to be lost."""
        start, stop = span
        lost = is_lost()
        await answer.prepare(request)
        for piece in self._state.blobs.pieces(blob, start, (start + stop) // 2 if lost else stop):
            await answer.write(piece)
        if lost:
            reset(request)
        else:
            await answer.write_eof()
        return answer

    def _block_list(self, name: str, wanted: str) -> web.Response:
        blob = self._state.blobs.blobs.get(name)
        if blob is None:
            raise Refused(404, "BlobNotFound", "The specified blob does not exist.")
        root = ElementTree.Element("BlockList")
        for title, kind, blocks in (
            ("CommittedBlocks", "committed", blob.committed or ()),
            ("UncommittedBlocks", "uncommitted", tuple(blob.staged.values())),
        ):
            if wanted in (kind, "all"):
                part = ElementTree.SubElement(root, title)
                for block in blocks:
                    item = ElementTree.SubElement(part, "Block")
                    ElementTree.SubElement(item, "Name").text = block.identity
                    ElementTree.SubElement(item, "Size").text = str(block.size)
        text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
        headers = {**_common(blob), "x-ms-blob-content-length": str(blob.size)}
        return web.Response(text=text, content_type="application/xml", headers=headers)


def _common(blob: Blob | None = None) -> dict[str, str]:
    headers = {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": "2021-12-02"}
    if blob is not None and blob.committed is not None:
        headers["ETag"] = blob.etag
        headers["Last-Modified"] = blob.modified_at.strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers["x-ms-request-server-encrypted"] = "true"
    return headers


def _content(blob: Blob) -> dict[str, str]:
    headers = {"Content-Type": blob.content_type, "Accept-Ranges": "bytes", "x-ms-blob-type": "BlockBlob"}
    if blob.content_md5 is not None:
        headers["Content-MD5"] = _base64(blob.content_md5)
    return headers


def _range(asked: str, size: int) -> tuple[int, int]:
    """Return first byte and the one after the last; refuses a range that begins behind the end."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.strip())
    if found is None:
        raise Refused(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
    start = int(found[1])
    if start >= size:
        message = "The range specified is invalid for the current size of the resource."
        raise Refused(416, "InvalidRange", message, headers={"Content-Range": f"bytes */{size}"})
    return start, min(int(found[2]) + 1, size) if found[2] else size


def _md5(request: web.Request, header: str) -> bytes | None:
    text = request.headers.get(header)
    return base64.b64decode(text) if text else None


def _only_new(request: web.Request) -> bool:
    return request.headers.get("If-None-Match") == "*"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
