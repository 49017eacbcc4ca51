"""Comparing the artifacts of runs and models: the same paths, sizes, and bytes by their SHA-256."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from syncd.core.compare.artifacts import compare_paths
from syncd.core.compare.findings import Difference, Note, Place
from syncd.core.facts import ArtifactSeen
from syncd.core.overflow import POINTS, numbered
from syncd.destinations.base import RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.errors import ArtifactChanged, ArtifactMissing, Rejected
from syncd.verification.reading_back import ReadBack, digest_of
from syncd.verification.report import Findings, Report

AT_ONCE = 4
# A file that changes under the reading is read again this often.
LOCAL_TRIES = 3


@dataclass(frozen=True, slots=True)
class OverflowContent:
    """The overflow documents of one run or model; empty where there are none."""

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    segments: Sequence[str] = ()  # paths


class ArtifactVerification:
    """Compares artifacts, a few at a time over all runs. ``unread`` names local files that could not be read."""

    def __init__(self, back: ReadBack, report: Report, *, served: bool) -> None:
        """Prepare; ``served`` says whether the server hands out artifacts itself."""
        self._back = back
        self._report = report
        self._served = served
        self._places = asyncio.Semaphore(AT_ONCE)
        self.unread: list[tuple[Place, str, str]] = []

    async def compare(
        self, artifacts: Mapping[str, ArtifactSeen], subject: RemoteSubject, findings: Findings
    ) -> OverflowContent:
        """Compare the artifacts of one run or model with those below ``subject``; return its overflow documents."""
        self._report.compared.artifacts += len(artifacts)
        try:
            held = await self._back.files(subject)
        except Rejected as error:
            findings.differences.append(Difference("unreadable", "artifacts", detail=str(error)))
            return OverflowContent()
        overflow = await self._overflow(subject, held, findings)
        wanted = {path: artifact.size_bytes for path, artifact in artifacts.items()}
        sizes = {path: file.size_bytes for path, file in held.items()}
        expected = {path for path, file in held.items() if not file.is_own}
        paths = compare_paths(wanted, sizes, overflow.artifacts, no_extras=expected)
        findings.differences += paths.differences
        self._report.overflow.artifacts += paths.in_overflow
        for differences in await self._compare_all(artifacts, subject, paths.to_read, findings):
            findings.differences += differences
        return overflow

    async def _overflow(self, subject: RemoteSubject, held: Collection[str], findings: Findings) -> OverflowContent:
        documents: dict[str, Mapping[str, str]] = {}
        for section in ("params", "tags", "artifacts", "metrics", "inputs"):
            said: dict[str, str | None] = {}
            for path in numbered(held, section).values():
                try:
                    said |= await self._back.document(subject, path)
                except Rejected as error:
                    findings.differences.append(Difference("unreadable", "artifact", path, detail=str(error)))
            documents[section] = {key: value for key, value in said.items() if value is not None}
        return OverflowContent(**documents, segments=list(numbered(held, POINTS).values()))

    async def _compare_all(
        self,
        artifacts: Mapping[str, ArtifactSeen],
        subject: RemoteSubject,
        to_read: Sequence[tuple[str, str]],
        findings: Findings,
    ) -> list[list[Difference]]:
        results: list[list[Difference]] = [[] for _ in to_read]
        waiting = iter(enumerate(to_read))

        async def worker() -> None:
            for index, (path, there) in waiting:
                async with self._places:
                    results[index] = await self._compare_one(artifacts[path], subject, there, findings)

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(to_read))):
                workers.create_task(worker())
        return results

    async def _compare_one(
        self, artifact: ArtifactSeen, subject: RemoteSubject, there: str, findings: Findings
    ) -> list[Difference]:
        try:
            ours = await _local_digest(artifact)
        except (ArtifactMissing, ArtifactChanged) as error:
            self.unread.append((findings.place, artifact.path, str(error)))
            return []
        try:
            theirs = await self._back.digest(subject, there)
        except Rejected as error:
            if not self._served and not error.status:
                findings.notes.append(Note("artifact", artifact.path, f"only its size was compared: {error.message}"))
                return []
            return [Difference("unreadable", "artifact", artifact.path, detail=str(error))]
        self._report.compared.bytes += ours[0]
        if ours == theirs:
            return []
        return [Difference("different", "artifact", artifact.path, _digest_text(ours), _digest_text(theirs))]


def _digest_text(found: tuple[int, str]) -> str:
    return f"{found[0]} bytes, sha256 {found[1]}"


async def _local_digest(artifact: ArtifactSeen) -> tuple[int, str]:
    """Return the size and digest of a local file as it is now.

    Raises:
        ArtifactMissing: it cannot be read.
        ArtifactChanged: it does not stop changing.
    """
    for _ in range(LOCAL_TRIES):
        try:
            return await digest_of(_opened(artifact).pieces())
        except ArtifactChanged as error:
            changed = error
            artifact = await asyncio.to_thread(_as_it_is_now, artifact)
    raise changed


def _opened(artifact: ArtifactSeen) -> LocalUpload:
    return LocalUpload(artifact.root, artifact.path, artifact.size_bytes, artifact.mtime_ns)


def _as_it_is_now(artifact: ArtifactSeen) -> ArtifactSeen:
    try:
        now = (Path(artifact.root) / artifact.path).lstat()
    except OSError as exc:
        raise ArtifactMissing(
            exc.strerror or str(exc), doing="reading artifact", target=f"{artifact.root}/{artifact.path}"
        ) from exc
    return replace(artifact, size_bytes=now.st_size, mtime_ns=now.st_mtime_ns)
