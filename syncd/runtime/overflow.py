"""Overflow: what a destination cannot hold as it is, kept whole in documents among the run's artifacts.

``syncd/overflow/params.json`` and ``tags.json`` map each key to its whole value; ``artifacts.json`` maps each original
path to the path under which the bytes are kept; ``metrics.json`` of a model holds points in wire form, with the ids
of the source. The documents are written anew whenever one of them grows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import structlog

from syncd.core import source_tags
from syncd.core.requests import LogBatch
from syncd.destinations.base import RemoteSubject
from syncd.errors import Rejected
from syncd.journal.journal import Binding, Journal, Subject
from syncd.rest.uploads import BytesUpload
from syncd.runtime.channel import Channel

log = structlog.get_logger(__name__)


class OverflowDocuments:
    """The overflow documents of one run on one destination."""

    def __init__(self, channel: Channel, subject: Subject, binding: Binding) -> None:
        self._channel = channel
        self._subject = subject
        self._binding = binding
        self._writing = asyncio.Lock()

    async def keep(self, section: str, entries: Mapping[str, str]) -> None:
        """Put entries into the section's document.

        Raises:
            Rejected: the server refuses the document, so there is no place for them.
        """
        await self._update(section, dict(entries))

    async def release(self, section: str, keys: list[str]) -> None:
        """Take out of the document what the destination holds itself by now."""
        known = await self._channel.journal.do(Journal.overflow, self._channel.id, self._subject.id, section)
        gone = [key for key in keys if key in known]
        if gone:
            await self._update(section, dict.fromkeys(gone))

    async def _update(self, section: str, entries: Mapping[str, str | None]) -> None:
        async with self._writing:
            kept = await self._channel.journal.do(
                Journal.put_overflow, self._channel.id, self._subject.id, section, entries
            )
            document = json.dumps(kept, ensure_ascii=False, indent=1, sort_keys=True).encode("utf-8", "surrogatepass")
            upload = BytesUpload(f"{source_tags.OVERFLOW_FOLDER}/{section}.json", document)
            remote = RemoteSubject(self._binding.remote_id, self._binding.artifact_root)
            await self._channel.courier.call(lambda: self._channel.destination.upload(remote, upload))
            log.info(
                "the destination cannot hold this; it is kept in an artifact of the run",
                run=self._subject.key.id,
                section=section,
                entries=len(kept),
                artifact=upload.path,
            )
            if self._subject.key.kind == "run":
                await self._mark(section, len(kept))

    async def _mark(self, section: str, count: int) -> None:
        """Leave a tag on the run that says where to look."""
        tags = {f"{source_tags.OVERFLOW}.{section}": f"{count} in {source_tags.OVERFLOW_FOLDER}/{section}.json"}
        request = LogBatch(self._binding.remote_id, tags=tags)
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except Rejected as error:
            log.info("the run has no room for the tag that names its overflow", error=str(error))
