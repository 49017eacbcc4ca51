"""Artifacts through an MLflow server's proxy (``mlflow-artifacts:``): addresses, names, single and multipart uploads.

Rules
-----
1. A name that the server would store as another one is refused before anything is sent (see ``unholdable``).
2. A multipart upload is completed only after every part has been confirmed, and aborted when a part fails for good.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from syncd.destinations.base import RemoteSubject, Upload
from syncd.destinations.mlflow_errors import NotMlflow, Unsupported
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.errors import (
    ArtifactChanged,
    ArtifactMissing,
    AuthFailed,
    DestinationError,
    NameNotHeld,
    Rejected,
    Transient,
)
from syncd.rest.client import encode_json

PROXY: Final = "/api/2.0/mlflow-artifacts"
MULTIPART_MAX_PARTS: Final = 10_000  # of S3, checked 2026-11
NAME_MAX_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class ArtifactAddress:
    """Where a subject's artifacts are served: base URL of the serving host, and path below its artifact store."""

    base_url: str
    path: str

    def file_url(self, name: str) -> str:
        """Return the URL of one file, its name percent-encoded as UTF-8."""
        return f"{self.base_url}{PROXY}/artifacts/{encode_path(posixpath.join(self.path, name))}"


def encode_path(path: str) -> str:
    """Percent-encode a path but for its slashes."""
    return quote(path, safe="/", errors="surrogateescape")


def resolve(subject: RemoteSubject, base_url: str) -> ArtifactAddress:
    """Return the address behind ``mlflow-artifacts:/path`` or ``mlflow-artifacts://host:port/path``.

    Raises Rejected where the server does not serve artifacts itself.
    """
    parts = urlsplit(subject.artifact_root)
    if parts.scheme == "mlflow-artifacts":
        base = urlsplit(base_url)
        host = parts.netloc or base.netloc
        return ArtifactAddress(f"{base.scheme}://{host}{base.path}", parts.path.strip("/"))
    anchor = f"{PROXY}/artifacts/"
    if parts.scheme in ("http", "https") and anchor in parts.path:
        prefix, _, path = parts.path.partition(anchor)
        return ArtifactAddress(f"{parts.scheme}://{parts.netloc}{prefix}", path.strip("/"))
    raise Rejected(
        f"the server keeps artifacts at {parts.scheme or 'a bare path'}: and does not serve them",
        doing="uploading to",
        target=subject.artifact_root,
        hint="start it with --serve-artifacts and a mlflow-artifacts: default root",
    )


def unholdable(path: str) -> str:
    """Return why an MLflow server cannot store this name as it is, or "" when it can.

    From mlflow/utils/uri.py ``validate_path_is_safe`` and ``_decode`` (3.15, checked 2026-11): the server decodes
    percent escapes and parses the path as a URL until it stops changing, writes control characters as escapes and
    refuses ``#`` and ``..``.
    """
    names = path.split("/")
    if not path or any(name in ("", ".", "..") for name in names):
        return "it is not a plain relative path"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "it holds a control character, which the server would rewrite"
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path):
        return "it is not valid UTF-8"
    if "#" in path:
        return "it holds '#', which the server refuses"
    if unquote(path) != path:
        return "it holds a percent escape, which the server would decode"
    if any(len(name.encode()) > NAME_MAX_BYTES for name in names):
        return f"a part of it is longer than {NAME_MAX_BYTES} bytes"
    return ""


def not_served(message: str) -> bool:
    """Return whether a 503 says that the server was started without artifact serving (3.x; 2.x)."""
    return any(words in message for words in ("Artifact serving is disabled", "serve-artifacts"))


class ArtifactUploads:
    """Uploads of one server. ``multipart_threshold_bytes`` None never uses multipart."""

    def __init__(
        self, rest: MlflowRest, *, multipart_threshold_bytes: int | None, part_bytes: int, parallel_parts: int = 4
    ) -> None:
        self._rest = rest
        self._threshold_bytes = multipart_threshold_bytes
        self._part_bytes = part_bytes
        self._parallel_parts = parallel_parts
        self.chunked = False  # send without a length, where a server would publish the half of a broken upload
        self._multipart = multipart_threshold_bytes is not None

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store one artifact. Rejected names why a name cannot be held, or that artifacts are not served."""
        reason = unholdable(artifact.path)
        if reason:
            raise NameNotHeld(
                f"an MLflow server cannot store this name as it is: {reason}",
                code="UNHOLDABLE_NAME",
                doing="uploading",
                target=artifact.path,
            )
        address = resolve(subject, self._rest.base_url)
        large = self._threshold_bytes is not None and artifact.size_bytes >= self._threshold_bytes
        if large and self._multipart and await self._upload_in_parts(address, artifact):
            return
        await self._upload_whole(address, artifact)

    async def _upload_whole(self, address: ArtifactAddress, artifact: Upload) -> None:
        try:
            answer = await self._rest.put_upload(
                address.file_url(artifact.path),
                artifact,
                foreign=self._rest.is_foreign(address.base_url),
                chunked=self.chunked,
                doing="uploading",
                target=artifact.path,
            )
        except Transient as exc:
            if not not_served(exc.message):
                raise
            raise Rejected(
                exc.message, status=503, doing="uploading", target=artifact.path, hint="start it with --serve-artifacts"
            ) from exc
        if answer.body.strip() not in (b"", b"{}"):
            raise Transient(
                f"{answer.status} with something that is not MLflow's answer: {answer.body[:200]!r}",
                doing="uploading",
                target=artifact.path,
                hint="does a proxy or a sign-in page answer?",
            )

    async def _upload_in_parts(self, address: ArtifactAddress, artifact: Upload) -> bool:
        """Upload in parts to pre-signed URLs; False when the server does not offer it."""
        part_bytes = max(self._part_bytes, -(-artifact.size_bytes // MULTIPART_MAX_PARTS))
        count = -(-artifact.size_bytes // part_bytes)
        try:
            opened = await self._mpu("create", address, artifact, {"num_parts": count})
        except (Unsupported, NotMlflow):
            self._multipart = False
            return False
        try:
            parts = await self._send_parts(opened["credentials"], part_bytes, artifact)
            await self._mpu("complete", address, artifact, {"upload_id": opened["upload_id"], "parts": parts})
        except (DestinationError, ArtifactChanged, ArtifactMissing, KeyError) as exc:
            await self._abort(address, artifact, opened)
            if isinstance(exc, KeyError):
                raise Transient(f"the answer lacks {exc}", doing="uploading", target=artifact.path) from exc
            raise
        return True

    async def _send_parts(
        self, credentials: Sequence[Mapping[str, Any]], part_bytes: int, artifact: Upload
    ) -> list[dict[str, Any]]:
        room = asyncio.Semaphore(self._parallel_parts)

        async def one(credential: Mapping[str, Any], start: int) -> dict[str, Any]:
            async with room:
                length = min(part_bytes, artifact.size_bytes - start)
                try:
                    answer = await self._rest.put_upload(
                        credential["url"],
                        artifact,
                        start=start,
                        length=length,
                        foreign=True,
                        headers=credential.get("headers"),
                        doing="uploading a part of",
                        target=artifact.path,
                    )
                except AuthFailed as exc:  # of the storage, not of the server: a new upload gets new addresses
                    hint = "the pre-signed address ran out, or this machine's clock is wrong"
                    raise Transient(exc.message, doing=exc.doing, target=exc.target, hint=hint) from exc
                etag = answer.headers.get("ETag", "")
                return {"part_number": int(credential["part_number"]), "etag": etag, "url": credential["url"]}

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(c, i * part_bytes)) for i, c in enumerate(credentials)]
        except* (DestinationError, ArtifactChanged, ArtifactMissing, KeyError) as errors:
            raise errors.exceptions[0] from None
        return sorted((task.result() for task in tasks), key=lambda part: part["part_number"])

    async def _abort(self, address: ArtifactAddress, artifact: Upload, opened: Mapping[str, Any]) -> None:
        try:
            await self._mpu("abort", address, artifact, {"upload_id": opened.get("upload_id", "")})
        except DestinationError:
            return  # the store's own lifecycle rule removes what stays; the first error is the one to be told

    async def _mpu(
        self, step: str, address: ArtifactAddress, artifact: Upload, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        folder, _, name = posixpath.join(address.path, artifact.path).rpartition("/")
        url = f"{address.base_url}{PROXY}/mpu/{step}/{encode_path(folder)}"
        return await self._rest.call_url(
            "POST",
            url,
            encode_json({"path": name, **more}, doing="uploading", target=artifact.path),
            foreign=self._rest.is_foreign(address.base_url),
            doing=f"multipart {step} of",
            target=artifact.path,
        )
