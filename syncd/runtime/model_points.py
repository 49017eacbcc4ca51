"""Delivers the points of a logged model: each belongs to the model and to the run that logged it.

A server takes them as points of the run that name the model. Some cannot be held that way, and go to the model's
overflow: a NaN that the run already has (SQL stores refuse it, and would tell it as 0.0), and all of them where points
are appended, since the run would have each twice (measured 2026-11).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from syncd.core.changes import Change, Section
from syncd.core.planner import Points, cut_points
from syncd.core.requests import LogBatch
from syncd.errors import Rejected
from syncd.journal import deliveries, subjects
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Channel
from syncd.runtime.identities import Identities
from syncd.runtime.overflow import Overflow
from syncd.runtime.settlement import Settlement


class ModelPointDelivery:
    """One pass over the metric changes of a model. They are few, so they go one change after the other."""

    def __init__(
        self,
        channel: Channel,
        identities: Identities,
        subject: Subject,
        binding: Binding,
        settlement: Settlement,
        overflow: Overflow,
    ) -> None:
        self._channel = channel
        self._overflow = overflow
        self._identities = identities
        self._subject = subject
        self._binding = binding
        self._settlement = settlement

    async def run(self) -> None:
        """Deliver everything that waits."""
        while changes := await self._channel.journal.do(
            deliveries.pending, self._channel.id, self._subject.id, Section.METRICS
        ):
            for change in changes:
                await self._deliver(change)
            await self._settlement.flush()

    async def _deliver(self, change: Change) -> None:
        dead: list[DeadLetter] = []
        every = change.body.split(b"\n")
        over = every if self._binding.appends else [line for line in every if b'"value":"NaN"' in line]
        if over:
            await self._overflow.keep("metrics", {point_name(line): line.decode() for line in over})
        for run_key, lines in group_by_run(line for line in every if line not in over).items():
            try:
                await self._send(run_key, lines)
            except Rejected as error:
                if await self._went_with_its_run(run_key):
                    continue
                body = b"\n".join(lines)
                dead.append(
                    DeadLetter(Section.METRICS, "metrics", body, len(lines), str(error), error.code, error.status)
                )
        await self._settlement.add(
            Section.METRICS, [change.seq], dead=dead, delivered=Delivered(points=change.items, bytes=len(change.body))
        )

    async def _went_with_its_run(self, run_key: str) -> bool:
        """Whether the run that logged the points was deleted in the store, and is therefore deleted there, too."""
        source_id = self._subject.source_id
        if self._channel.on_delete.get(source_id) != "delete":
            return False
        found = await self._channel.journal.do(subjects.find_subject, source_id, "run", run_key)
        return found is not None and (await self._channel.journal.do(subjects.subject, found)).deleted

    async def _send(self, run_key: str, lines: list[bytes]) -> None:
        run = await self._identities.remote_run(self._subject.source_id, run_key)
        if run is None:
            raise Rejected(f"the run {run_key} that logged these points is not in the store", code="RUN_UNKNOWN")
        renamed = [with_model(line, self._binding.remote_id) for line in lines]
        for batch in cut_points([Points(0, renamed)], self._channel.limits):
            request = LogBatch(run.remote_id, lines=batch.lines)
            await self._channel.courier.call(lambda request=request: self._channel.destination.send(request))  # type: ignore[misc]


def point_name(line: bytes) -> str:
    """Return what a point is called in the overflow document."""
    point = json.loads(line)
    return f"{point['key']} at step {point['step']}, {point['timestamp']} ms: {point['value']}"


def group_by_run(lines: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Group a model's points, whose lines name the run that logged them, by that run's source id."""
    groups: dict[str, list[bytes]] = {}
    for line in lines:
        groups.setdefault(json.loads(line).get("run_id", ""), []).append(line)
    return groups


def with_model(line: bytes, model_id: str) -> bytes:
    """Return the point with the destination's model id in place of the source's, and without the run's id."""
    point = json.loads(line)
    point.pop("run_id", None)
    return json.dumps({**point, "model_id": model_id}, separators=(",", ":"), ensure_ascii=False).encode()
