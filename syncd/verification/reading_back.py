"""Reading a destination back for ``verify``: a few requests at a time, each tried again for a while when it fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from syncd.core.compare.points import told_point
from syncd.destinations.base import (
    Destination,
    DestinationReader,
    RemoteExperiment,
    RemoteFile,
    RemoteModel,
    RemoteRun,
    RemoteSubject,
    ServerFacts,
)
from syncd.errors import AuthFailed, Rejected, Transient
from syncd.verification.point_sort import PointSort
from syncd.verification.segments import SegmentPoints

T = TypeVar("T")

IN_FLIGHT = 8
# A 500 is more often this very object's than the server's.
FAULT_TRIES = 3
DOCUMENT_MAX_BYTES = 256 << 20
_BACKOFF = wait_random_exponential(multiplier=0.5, max=10)


class ReadBack:
    """One destination, for reading. ``tries`` is how often a request is made before its error counts.

    Raises, beside what each method says: Transient or AuthFailed when the destination stays out of reach, Rejected when
    it refuses to tell, or keeps failing over this one question while it answers others.
    """

    def __init__(self, destination: Destination, reader: DestinationReader, *, folder: Path, tries: int = 6) -> None:
        self._destination = destination
        self._reader = reader
        self._folder = folder
        self._tries = tries
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._ask_patiently(call)
        except Transient as error:
            if not error.server_fault:
                raise
            await self._ask_patiently(self._destination.probe)  # is the server itself out of order?
            message = f"the server keeps failing over it: {error.message}"
            raise Rejected(
                message, code="INTERNAL_ERROR", status=500, doing=error.doing, target=error.target
            ) from error

    async def _ask_patiently(
        self, call: Callable[[], Awaitable[T]], *, passing: tuple[type[Exception], ...] = (Transient, AuthFailed)
    ) -> T:
        retrying = AsyncRetrying(stop=self._is_enough, wait=_wait, retry=retry_if_exception_type(passing), reraise=True)
        async for attempt in retrying:
            with attempt:
                async with self._slots:
                    return await call()
        raise AssertionError("tenacity reraises the last error")

    def _is_enough(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        is_fault = isinstance(error, Transient) and error.server_fault
        return state.attempt_number >= (min(FAULT_TRIES, self._tries) if is_fault else self._tries)

    async def probe(self) -> ServerFacts:
        """Reach the server and learn its abilities. Credentials that were never taken are not tried again."""
        return await self._ask_patiently(self._destination.probe, passing=(Transient,))

    async def experiments(self) -> Mapping[str, RemoteExperiment]:
        """Return the active experiments by name."""
        return await self._ask(self._reader.experiments)

    async def runs(self, experiment_id: str, source_run_id: str) -> Sequence[RemoteRun]:
        """Return the active runs of that experiment that carry that source run id."""
        return await self._ask(lambda: self._reader.runs_by_source(experiment_id, source_run_id))

    async def run(self, run_id: str) -> RemoteRun:
        """Return one run."""
        return await self._ask(lambda: self._reader.run(run_id))

    async def models(self, experiment_id: str, source_model_id: str, source_run_id: str) -> Sequence[RemoteModel]:
        """Return the models of that experiment that carry that source model id; ``source_run_id`` made it."""
        return await self._ask(lambda: self._reader.models_by_source(experiment_id, source_model_id, source_run_id))

    async def history(self, run_id: str, key: str) -> PointSort:
        """Return all points of that key; the caller closes what is returned."""

        async def read() -> PointSort:
            points = PointSort(self._folder)
            try:
                async for value, timestamp_ms, step in self._reader.history(run_id, key):
                    points.add(told_point(value, timestamp_ms, step))
            except BaseException:
                points.close()
                raise
            return points

        return await self._ask(read)

    async def files(self, subject: RemoteSubject) -> dict[str, RemoteFile]:
        """Return the files of that run or model by their path."""

        async def read() -> dict[str, RemoteFile]:
            return {file.path: file async for file in self._reader.files(subject)}

        return await self._ask(read)

    async def digest(self, subject: RemoteSubject, path: str) -> tuple[int, str]:
        """Return the number of bytes of a file and their SHA-256."""
        return await self._ask(lambda: digest_of(self._reader.content(subject, path)))

    async def segments(self, subject: RemoteSubject, paths: Sequence[str]) -> SegmentPoints:
        """Return all points of overflow segments; the caller closes what is returned.

        Raises:
            Rejected: one cannot be understood.
        """
        points = SegmentPoints()
        try:
            for path in paths:
                await self._ask(lambda path=path: points.take(self._reader.content(subject, path), path))  # type: ignore[misc]
        except BaseException:
            points.close()
            raise
        return points

    async def document(self, subject: RemoteSubject, path: str) -> dict[str, str | None]:
        """Return an overflow document; None of what it says to be held by the destination itself.

        Raises:
            Rejected: it cannot be understood.
        """

        async def read() -> bytes:
            content = bytearray()
            async for piece in self._reader.content(subject, path):
                content += piece
                if len(content) > DOCUMENT_MAX_BYTES:
                    raise Rejected("it is too large to be an overflow document", doing="reading", target=path)
            return bytes(content)

        return _parsed(await self._ask(read), path)


async def digest_of(pieces: AsyncIterator[bytes]) -> tuple[int, str]:
    """Return the number of bytes and their SHA-256."""
    digest, size_bytes = hashlib.sha256(), 0
    async for piece in pieces:
        digest.update(piece)
        size_bytes += len(piece)
    return size_bytes, digest.hexdigest()


def _parsed(content: bytes, path: str) -> dict[str, str | None]:
    try:
        document: Any = json.loads(content.decode("utf-8", "surrogatepass"))
    except ValueError as exc:
        raise Rejected(f"it is no JSON: {exc}", doing="reading", target=path) from exc
    if not isinstance(document, dict) or not all(isinstance(value, str | None) for value in document.values()):
        raise Rejected("it is no JSON object of texts", doing="reading", target=path)
    return document


def _wait(state: RetryCallState) -> float:
    """Return how long to wait before the next try: the server's wish, or full jitter."""
    error = state.outcome.exception() if state.outcome else None
    wished_s = error.retry_after_s if isinstance(error, Transient) else None
    return max(min(wished_s or 0.0, 30.0), _BACKOFF(state))
