"""Takes over the overflow of a run that another journal has sent: it was lost, or belongs to another machine.

Only needed where artifacts are not replaced: what they say already is not to be said again under the next number.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from syncd.core import source_tags
from syncd.core.changes import parse
from syncd.core.overflow import POINTS, metric_name, numbered, overflow_path, parse_overflow_path, raw_key
from syncd.destinations.base import RemoteRun, RemoteSubject
from syncd.errors import Rejected
from syncd.journal import overflow
from syncd.journal.bindings import Binding
from syncd.runtime.channel import Channel

log = structlog.get_logger(__name__)

SECTIONS = ("params", "tags", "artifacts", "inputs")


async def take_over_overflow(channel: Channel, subject_id: int, binding: Binding, held: RemoteRun) -> None:
    """Record what the overflow of a run that was found there says, unless this journal knows it."""
    if channel.replaces_artifacts or source_tags.OVERFLOW not in held.tags:
        return
    if await channel.journal.do(overflow.artifacts, channel.id, subject_id):
        return
    there = _There(channel, RemoteSubject(binding.remote_id, binding.artifact_root))
    paths = await channel.courier.call(there.paths)
    entries = [entry for section in SECTIONS for entry in await there.entries(paths, section)]
    entries += [("metrics", name, "{}", 0) for name in sorted(await there.names(paths))]
    documents = [parsed for path in paths if (parsed := parse_overflow_path(path))]
    await channel.journal.do(overflow.take_over, channel.id, subject_id, documents=documents, entries=entries)


async def content_of(channel: Channel, remote: RemoteSubject, path: str) -> bytes:
    """Return the bytes of a document or segment; b"" where there are none.

    A path is listed from its registration on, and the process that registered it may have ended before it sent them.
    """

    async def read() -> bytes:
        return b"".join([piece async for piece in channel.reader.content(remote, path)])

    try:
        return await channel.courier.call(read)
    except Rejected as error:
        if error.status != 404:
            raise
        log.info("an artifact of the overflow is named and not there", artifact=path, error=str(error))
        return b""


class _There:
    """The overflow as the destination has it."""

    def __init__(self, channel: Channel, remote: RemoteSubject) -> None:
        self._channel = channel
        self._remote = remote

    async def paths(self) -> list[str]:
        return [file.path async for file in self._channel.reader.files(self._remote)]

    async def entries(self, paths: Iterable[str], section: str) -> list[tuple[str, str, str, int]]:
        """Return (section, key, value, number of the document) of what holds."""
        found: dict[str, tuple[str | None, int]] = {}
        for number, path in numbered(paths, section).items():
            document = _document(await self._content(path) or b"{}", path)
            found.update({key: (value, number) for key, value in document.items()})
        return [(section, key, value, number) for key, (value, number) in found.items() if value is not None]

    async def names(self, paths: Iterable[str]) -> set[str]:
        """Return the metric names that have points in segments."""
        found: set[str] = set()
        for number in numbered(paths, POINTS):
            path = overflow_path(POINTS, number)
            content = await self._content(path)
            try:
                found.update(metric_name(raw) for raw in {raw_key(line) for line in content.splitlines()})
            except (ValueError, LookupError, TypeError) as error:
                _warn(path, error)
        return found

    async def _content(self, path: str) -> bytes:
        return await content_of(self._channel, self._remote, path)


def _document(content: bytes, path: str) -> dict[str, str | None]:
    """Return what a document says: nothing, if it is not syncd's. It stays as it is, since its number is taken."""
    try:
        document = parse(content)
        if not isinstance(document, dict) or not all(isinstance(value, str | None) for value in document.values()):
            raise TypeError("it is no JSON object of texts")
    except (ValueError, TypeError) as error:
        _warn(path, error)
        return {}
    return document


def _warn(path: str, error: Exception) -> None:
    log.warning(
        "this is no overflow that syncd writes; it is left as it is, and what it may have said is written beside it",
        artifact=path,
        error=str(error),
    )
