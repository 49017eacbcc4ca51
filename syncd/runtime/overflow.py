"""Overflow: what a destination cannot hold as it is, kept whole among the run's artifacts (form: ``core.overflow``).

What is to be kept is recorded in the journal first (``keep``, and points in ``deliveries.settle``), and brought to the
destination by ``write`` at the end of a pass: so one document says all that a pass has found, and a run that goes on
gets a segment a minute rather than one for each flush.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import structlog

from syncd.core import source_tags
from syncd.core.changes import Section, parse
from syncd.core.facts import TERMINAL_STATUSES, RunSeen
from syncd.core.overflow import INDEX, POINTS, last_number, metric_name, overflow_path, raw_key, render_document
from syncd.core.requests import LogBatch
from syncd.destinations.base import RemoteSubject
from syncd.errors import NameNotHeld, Rejected
from syncd.journal import overflow
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.overflow import PointsRow, Unsent
from syncd.journal.subjects import Subject
from syncd.rest.uploads import BytesUpload
from syncd.runtime.channel import Channel

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 4 << 20
# A number that somebody else has taken is passed over so often; then it is the name that the destination refuses.
MOST_RENUMBERINGS = 3
# Documents whose entries are kept no longer once they are refused: who retries the letter states them anew.
RESTATED_BY_FACTS = ("params", "tags", "inputs", "metrics")


class Overflow:
    """The overflow of one run or model on one destination, in one pass."""

    def __init__(self, channel: Channel, subject: Subject, binding: Binding, *, wall_ms: Callable[[], int]) -> None:
        self._channel = channel
        self._subject = subject
        self._remote = RemoteSubject(binding.remote_id, binding.artifact_root)
        self._wall_ms = wall_ms
        self._writing = asyncio.Lock()
        self._is_run = subject.key.kind == "run"
        self._is_over = isinstance(subject.head, RunSeen) and subject.head.status in TERMINAL_STATUSES
        self._marked = ""

    async def keep(self, section: str, entries: Mapping[str, str]) -> None:
        """Record values to be kept in the section's document."""
        await self._channel.journal.do(overflow.keep, self._channel.id, self._subject.id, section, entries)

    async def release(self, section: str, keys: Iterable[str]) -> None:
        """Record that the destination holds these values itself by now."""
        known = await self._channel.journal.do(overflow.kept, self._channel.id, self._subject.id, section)
        gone = [key for key in keys if key in known]
        if gone:
            await self._channel.journal.do(overflow.release, self._channel.id, self._subject.id, section, gone)

    async def restate(self, body: bytes) -> None:
        """Record that what a refused document said is to be said once more; ``body`` is that of its dead letter."""
        said = parse(body)
        entries = {
            key: value if isinstance(value, str | None) else json.dumps(value) for key, value in said["entries"].items()
        }
        await self._channel.journal.do(overflow.restate, self._channel.id, self._subject.id, said["section"], entries)

    async def write(self, *, whole: bool) -> float | None:
        """Bring what is kept to the destination.

        Args:
            whole: also points that could wait for more of their kind, and their index.

        Returns:
            The seconds after which what still waits is due; None if nothing waits.
        """
        async with self._writing:
            await self._send_unsent()
            due_s = await self._write_segments(whole=whole)
            await self._write_documents(index=whole or (self._is_over and due_s is None))
        return due_s

    # -- documents -------------------------------------------------------------------------------------------------

    async def _write_documents(self, *, index: bool) -> None:
        """Write what no document says yet."""
        unwritten = await self._channel.journal.do(overflow.unwritten, self._channel.id, self._subject.id)
        if not index and self._is_run:
            unwritten.pop("metrics", None)
        for section, entries in unwritten.items():
            is_index = section == "metrics" and self._is_run
            said: Mapping[str, str | None] = entries
            if self._channel.replaces_artifacts:
                said = await self._kept(section)
            values = {key: json.loads(value) for key, value in said.items() if value} if is_index else said
            await self._channel.journal.do(
                overflow.freeze_document,
                self._channel.id,
                self._subject.id,
                section=section,
                document=INDEX if is_index else section,
                number=1 if self._channel.replaces_artifacts else None,
                body=render_document(values),
                entries=entries,
            )
            await self._send_unsent()

    async def _kept(self, section: str) -> dict[str, str]:
        return await self._channel.journal.do(overflow.kept, self._channel.id, self._subject.id, section)

    # -- segments --------------------------------------------------------------------------------------------------

    async def _write_segments(self, *, whole: bool) -> float | None:
        while True:
            waiting = await self._channel.journal.do(overflow.points_waiting, self._channel.id, self._subject.id)
            if not waiting.rows:
                return None
            interval_s = self._channel.overflow_interval_s
            left_s = interval_s - (self._wall_ms() - waiting.oldest_ms) / 1000
            is_early = 0 < left_s <= interval_s  # else it is time, or the clock was set back
            if is_early and not whole and waiting.size_bytes < SEGMENT_BYTES:
                return left_s
            rows = await self._rows()
            lines = list(dict.fromkeys(line for row in rows for line in row.lines.split(b"\n")))
            body = b"\n".join(lines) + b"\n"
            await self._channel.journal.do(
                overflow.freeze_segment, self._channel.id, self._subject.id, rows, body, len(lines)
            )
            await self._send_unsent()

    async def _rows(self) -> list[PointsRow]:
        """Return the first of the points that wait, up to a segment's worth."""
        rows: list[PointsRow] = []
        size = 0
        while size < SEGMENT_BYTES:
            more = await self._channel.journal.do(
                overflow.points_rows,
                self._channel.id,
                self._subject.id,
                after=rows[-1].id if rows else 0,
            )
            if not more:
                break
            rows += more
            size += sum(len(row.lines) for row in more)
        return rows

    async def _index_of(self, segment: Unsent) -> dict[str, str]:
        """Return what the index says of the names in a segment, now that it is there."""
        known = await self._kept("metrics")
        points = Counter(raw_key(line) for line in segment.body.splitlines())
        found = {}
        for raw, count in points.items():
            name = metric_name(raw)
            before = json.loads(known.get(name) or "{}")
            segments = [*before.get("segments", ()), segment.number]
            found[name] = json.dumps({"points": before.get("points", 0) + count, "segments": segments})
        return found

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send_unsent(self) -> None:
        journal, where = self._channel.journal, (self._channel.id, self._subject.id)
        renumberings = 0
        while (unsent := await journal.do(overflow.next_unsent, *where)) is not None:
            upload = BytesUpload(overflow_path(unsent.section, unsent.number), unsent.body)
            try:
                await self._channel.courier.call(
                    lambda upload=upload: self._channel.destination.upload(self._remote, upload)  # type: ignore[misc]
                )
            except NameNotHeld as error:
                renumberings += 1
                if renumberings > MOST_RENUMBERINGS:
                    await self._give_up(unsent, error)
                    continue
                await journal.do(overflow.renumber, *where, unsent, await self._free_number(unsent))
            except Rejected as error:
                await self._give_up(unsent, error)
            else:
                await self._mark()
                metrics = await self._index_of(unsent) if unsent.section == POINTS else None
                await journal.do(overflow.arrived, *where, unsent, metrics=metrics)
                log.info(
                    "the destination cannot hold this; it is kept in an artifact of the run",
                    run=self._subject.key.id,
                    entries=unsent.items,
                    artifact=upload.path,
                )

    async def _free_number(self, unsent: Unsent) -> int:
        """Return the next number that is taken neither there nor here: another journal has written there."""
        ours = await self._channel.journal.do(overflow.artifacts, self._channel.id, self._subject.id)
        there = await self._channel.courier.call(self._list)
        taken = [number for section, number in ours if section == unsent.section]
        return max(last_number(there, unsent.section), *taken, unsent.number) + 1

    async def _list(self) -> list[str]:
        return [file.path async for file in self._channel.reader.files(self._remote)]

    async def _give_up(self, unsent: Unsent, error: Rejected) -> None:
        """Turn what a refused document or segment says into a dead letter."""
        log.warning("the destination refuses overflow", artifact=unsent.section, error=str(error))
        said = {} if unsent.section == POINTS else parse(unsent.body)
        entries = {key: value for key, value in said.items() if value is not None}
        stated = _as_stated(unsent, said, entries)
        letter = DeadLetter(*stated, str(error), error.code, error.status) if stated is not None else None
        keys: Iterable[str] = entries if unsent.section in RESTATED_BY_FACTS else ()
        await self._channel.journal.do(
            overflow.refused, self._channel.id, self._subject.id, unsent, keys=keys, letter=letter
        )

    # -- the mark --------------------------------------------------------------------------------------------------

    async def _mark(self) -> None:
        """Leave a tag on the run that says what is where."""
        if not self._is_run:
            return
        counts = await self._channel.journal.do(overflow.counts, self._channel.id, self._subject.id)
        kept = ", ".join(f"{section}: {count}" for section, count in counts.items())
        text = f"{kept or 'nothing any more'}; see {source_tags.OVERFLOW_FOLDER}/"
        if text == self._marked:
            return
        tags = {source_tags.OVERFLOW: text}
        request = LogBatch(self._remote.id, tags=tags)
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except Rejected as error:
            log.info("the run has no room for the tag that names its overflow", error=str(error))
        self._marked = text


def _as_stated(
    unsent: Unsent, said: Mapping[str, str | None], entries: Mapping[str, str]
) -> tuple[Section, str, bytes, int] | None:
    """Return section, kind, body and items of the change that states what a document or segment says.

    No fact states what only describes others, the index and where renamed artifacts are: that is said as it is, and
    goes the way of artifacts, which runs and models have.
    """
    match unsent.section:
        case "points":
            return Section.METRICS, "metrics", unsent.body.rstrip(b"\n"), unsent.items
        case "artifacts" | "metrics/index":
            about = {"section": unsent.section.split("/")[0], "entries": said}
            return Section.ARTIFACTS, "overflow", _encoded(about), len(said)
        case _ if not entries:
            return None
        case "metrics":  # of a model
            lines = "\n".join(entries.values()).encode("utf-8", "surrogatepass")
            return Section.METRICS, "metrics", lines, len(entries)
        case "params" | "tags" as kind:
            return Section.SMALL, kind, _encoded(entries), len(entries)
        case "inputs":
            datasets = [json.loads(value) for value in entries.values()]
            return Section.SMALL, "inputs", _encoded({"datasets": datasets, "models": []}), len(entries)
    return None


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
