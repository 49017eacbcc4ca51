"""Comparing the artifacts of one run or model: the same paths, sizes, and bytes by their SHA-256."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from syncd.core import source_tags
from syncd.core.compare import Difference, Note, Place, compare_paths
from syncd.core.facts import ArtifactSeen
from syncd.destinations.base import RemoteSubject
from syncd.errors import ArtifactChanged, ArtifactMissing, Rejected
from syncd.runtime.assembly import open_artifact
from syncd.runtime.reading_back import ReadBack, digest_of

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


@dataclass(slots=True)
class ArtifactFindings:
    """What comparing artifacts came to; ``size_bytes`` were read on both sides."""

    differences: list[Difference] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    overflow: OverflowContent = field(default_factory=OverflowContent)
    in_overflow: int = 0
    size_bytes: int = 0


class ArtifactVerification:
    """Compares artifacts, a few at a time over all runs. ``unread`` names local files that could not be read."""

    def __init__(self, back: ReadBack, *, served: bool) -> None:
        """Prepare; ``served`` says whether the server hands out artifacts itself."""
        self._back = back
        self._served = served
        self._places = asyncio.Semaphore(AT_ONCE)
        self.unread: list[tuple[Place, str, str]] = []

    async def compare(
        self, place: Place, artifacts: Mapping[str, ArtifactSeen], subject: RemoteSubject
    ) -> ArtifactFindings:
        """Compare the artifacts of one run or model with those below ``subject``."""
        found = ArtifactFindings()
        try:
            held = await self._back.files(subject)
        except Rejected as error:
            found.differences.append(Difference("unreadable", "artifacts", detail=str(error)))
            return found
        found.overflow = await self._overflow(subject, held, found)
        wanted = {path: artifact.size_bytes for path, artifact in artifacts.items()}
        paths = compare_paths(wanted, held, found.overflow.artifacts)
        found.differences += paths.differences
        found.in_overflow = paths.in_overflow
        for differences in await self._compare_all(place, artifacts, subject, paths.to_read, found):
            found.differences += differences
        return found

    async def _overflow(
        self, subject: RemoteSubject, held: Mapping[str, int | None], found: ArtifactFindings
    ) -> OverflowContent:
        documents: dict[str, Mapping[str, str]] = {}
        for section in ("params", "tags", "artifacts", "metrics"):
            path = f"{source_tags.OVERFLOW_FOLDER}/{section}.json"
            if path not in held:
                continue
            try:
                documents[section] = await self._back.document(subject, section)
            except Rejected as error:
                found.differences.append(Difference("unreadable", "artifact", path, detail=str(error)))
        return OverflowContent(**documents)

    async def _compare_all(
        self,
        place: Place,
        artifacts: Mapping[str, ArtifactSeen],
        subject: RemoteSubject,
        to_read: Sequence[tuple[str, str]],
        found: ArtifactFindings,
    ) -> list[list[Difference]]:
        results: list[list[Difference]] = [[] for _ in to_read]
        waiting = iter(enumerate(to_read))

        async def worker() -> None:
            for index, (path, there) in waiting:
                async with self._places:
                    results[index] = await self._compare_one(place, artifacts[path], subject, there, found)

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(to_read))):
                workers.create_task(worker())
        return results

    async def _compare_one(
        self, place: Place, artifact: ArtifactSeen, subject: RemoteSubject, there: str, found: ArtifactFindings
    ) -> list[Difference]:
        try:
            ours = await _local_digest(artifact)
        except (ArtifactMissing, ArtifactChanged) as error:
            self.unread.append((place, artifact.path, str(error)))
            return []
        try:
            theirs = await self._back.digest(subject, there)
        except Rejected as error:
            if not self._served and not error.status:
                found.notes.append(Note("artifact", artifact.path, f"only its size was compared: {error.message}"))
                return []
            return [Difference("unreadable", "artifact", artifact.path, detail=str(error))]
        found.size_bytes += ours[0]
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
            return await digest_of(open_artifact(artifact).pieces())
        except ArtifactChanged as error:
            changed = error
            artifact = await asyncio.to_thread(_as_it_is_now, artifact)
    raise changed


def _as_it_is_now(artifact: ArtifactSeen) -> ArtifactSeen:
    try:
        now = (Path(artifact.root) / artifact.path).lstat()
    except OSError as exc:
        raise ArtifactMissing(
            exc.strerror or str(exc), doing="reading artifact", target=f"{artifact.root}/{artifact.path}"
        ) from exc
    return replace(artifact, size_bytes=now.st_size, mtime_ns=now.st_mtime_ns)
