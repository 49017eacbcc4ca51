"""A lane: one pass that delivers what waits of one subject to one destination."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from syncd.core import source_tags
from syncd.core.changes import Again, Change, Section, decode_head, encode_head
from syncd.core.facts import TERMINAL_STATUSES, ExperimentSeen, ModelSeen, RunSeen
from syncd.core.names import held_name
from syncd.core.requests import (
    DeleteRun,
    FinalizeModel,
    LogBatch,
    LogModelParams,
    SetExperimentTags,
    SetModelTags,
    UpdateRun,
)
from syncd.destinations.base import RemoteRun, RemoteSubject
from syncd.errors import OverLimit, Rejected
from syncd.journal import deliveries
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.relayed import is_ended_for_silence, is_reopened, order_of_head
from syncd.journal.subjects import Subject
from syncd.runtime.artifacts import ArtifactDelivery, ArtifactUpload
from syncd.runtime.channel import Channel
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.identities import Identities
from syncd.runtime.lanes import LATER_S, Outcome, make_pass, together
from syncd.runtime.model_points import ModelPointDelivery
from syncd.runtime.overflow import Overflow
from syncd.runtime.overflow_found import take_over_overflow
from syncd.runtime.places import Places
from syncd.runtime.points import PointDelivery
from syncd.runtime.settlement import Settlement
from syncd.runtime.small_facts import SmallFactDelivery

log = structlog.get_logger(__name__)

TWIN_LATER_S = 0.5


class Lane:
    """Delivers one subject to one destination.

    ``later_s`` is when a pass that ended ``LATER`` is to be made again; ``gathers`` that it waits only for more points
    to make a segment of.
    """

    def __init__(
        self,
        channel: Channel,
        identities: Identities,
        places: Places,
        subject_id: int,
        *,
        wall_ms: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._identities = identities
        self._places = places
        self.later_s = LATER_S
        self.gathers = False
        self._subject_id = subject_id
        self._wall_ms = wall_ms
        self._is_shared = False
        self._is_told = False
        self._settlement = Settlement(channel, subject_id)

    @property
    def has_moved(self) -> bool:
        """Whether the pass has settled anything."""
        return self._settlement.moved

    async def run(self) -> Outcome:
        """Make one pass.

        Raises:
            JournalError: the journal cannot be used.
        """
        return await make_pass(self._channel, self._settlement, self._subject_id, self._deliver)

    async def _deliver(self, subject: Subject) -> Outcome:
        self._is_shared = subject.source_id in self._channel.shared
        self._is_told = subject.source_id in self._channel.told_once
        left_out = await self._settlement.was_left_out()
        binding = await self._identities.ensure(self._subject_id)
        if self._may_have_twin(subject, binding):
            # Should another daemon's twin be kept instead, what was sent to ours could not be read again.
            self.later_s = TWIN_LATER_S
            return Outcome.LATER
        if left_out:
            binding = await self._settlement.take_up(subject, binding)
        match subject.head:
            case RunSeen():
                return await self._deliver_run(subject, binding)
            case ModelSeen():
                return await self._deliver_model(subject, subject.head, binding)
            case _:
                return await self._deliver_experiment(subject, binding)

    def _may_have_twin(self, subject: Subject, binding: Binding) -> bool:
        """Say whether another daemon may have created it as well; an experiment cannot, its name is its identity."""
        may_have = self._is_shared and subject.key.kind != "experiment"
        return may_have and not (binding.adopted or binding.checked)

    # -- experiments -----------------------------------------------------------------------------------------------

    async def _deliver_experiment(self, subject: Subject, binding: Binding) -> Outcome:
        changes = await self._settlement.heads()
        head = subject.head
        if isinstance(head, ExperimentSeen) and head.tags:
            try:
                await self._send(SetExperimentTags(binding.remote_id, head.tags))
            except Rejected as first:
                log.info("the experiment's tags are sent one by one", error=str(first))
                await self._send_experiment_tags(binding, head)
        await self._settlement.add(Section.HEAD, [change.seq for change in changes])
        return Outcome.DONE

    async def _send_experiment_tags(self, binding: Binding, head: ExperimentSeen) -> None:
        for key, value in head.tags.items():
            try:
                await self._send(SetExperimentTags(binding.remote_id, {key: value}))
            except Rejected as error:
                body = encode_head(replace(head, tags={key: value}))
                letter = DeadLetter(Section.HEAD, "head", body, 1, str(error), error.code, error.status)
                await self._settlement.add(Section.HEAD, [], dead=[letter])

    # -- runs ------------------------------------------------------------------------------------------------------

    async def _deliver_run(self, subject: Subject, binding: Binding) -> Outcome:
        heads = await self._settlement.heads()
        if heads and heads[-1].kind == "deleted" and self._channel.on_delete.get(subject.source_id) == "delete":
            return await self._deliver_deletion(binding, heads)
        held = await self._held(binding)
        if held is not None:
            await take_over_overflow(self._channel, self._subject_id, binding, held)
        created_tags = self._identities.created_tags(self._subject_id)
        places = await self._places.of(self._subject_id, binding, held=held, created_tags=created_tags)
        overflow = Overflow(self._channel, subject, binding, wall_ms=self._wall_ms)
        small = SmallFactDelivery(
            self._channel,
            self._identities,
            subject,
            binding,
            overflow,
            held,
            places,
            created_tags,
            wall_ms=self._wall_ms,
        )
        points = PointDelivery(self._channel, self._subject_id, binding, self._settlement, held, places.metrics)
        async with together() as sections:
            sections.create_task(small.run())
            sections.create_task(points.run())
            sections.create_task(self._artifacts(subject, binding, overflow).run())
        await self._settlement.flush()
        await self._keep_long_name(subject, overflow)
        due_s = await overflow.write(whole=self._channel.hurries or _is_end(heads))
        name_there = held.name if held is not None else created_tags.get(source_tags.RUN_NAME, "")
        outcome = await self._deliver_head(heads, binding, name_there, held)
        if outcome is Outcome.DONE and due_s is not None:
            self.later_s, self.gathers = due_s, True
            return Outcome.LATER
        return outcome

    async def _held(self, binding: Binding) -> RemoteRun | None:
        """Return what the destination holds of a run that was found there, if anything that waits may be there."""
        if not binding.adopted:
            return None
        for section in (Section.SMALL, Section.METRICS):
            if any(change.again is not Again.NEW for change in await self._settlement.pending(section)):
                return await self._channel.courier.call(lambda: self._channel.reader.run(binding.remote_id))
        return None

    async def _deliver_head(
        self, heads: list[Change], binding: Binding, name_there: str, held: RemoteRun | None
    ) -> Outcome:
        """Send name, status and end once everything else has arrived."""
        if await self._channel.journal.do(deliveries.waits_before_head, self._channel.id, self._subject_id):
            return Outcome.LATER
        if not heads:
            return Outcome.DONE
        stated = [change for change in heads if change.kind == "head"]
        head = decode_head(stated[-1].body) if stated else None
        if isinstance(head, RunSeen) and not await self._is_overtaken(head, binding):
            await self._update_run(binding, head, name_there, held)
        await self._settlement.add(Section.HEAD, [change.seq for change in heads])
        note = "deleted in the store, kept here" if heads[-1].kind == "deleted" else ""
        await self._settlement.note(note)
        return Outcome.DONE

    async def _keep_long_name(self, subject: Subject, overflow: Overflow) -> None:
        name = subject.head.name if subject.head else ""
        if held_name(name, self._channel.limits.run_name_length) != name:
            await overflow.keep("tags", {source_tags.RUN_NAME: name})

    async def _is_overtaken(self, head: RunSeen, binding: Binding) -> bool:
        """Whether others knew more of a run than messages say here, and say that it goes on.

        That is another daemon of a shared source, which may have come back after it was killed, or another source; a
        message that adds to a run does not take it up again. And a run that is silent here may be heard of there.
        """
        if self._is_told and head.origin:
            return await self._is_outdated(binding, marking=True)
        if not (self._is_told and (self._is_shared or binding.adopted)):
            return False
        has_ended = head.status in TERMINAL_STATUSES
        doubted = is_ended_for_silence if has_ended else is_reopened
        if await self._channel.journal.do(doubted, self._subject_id) is not has_ended:
            return False
        there = await self._channel.courier.call(lambda: self._channel.reader.run(binding.remote_id))
        return there.status in TERMINAL_STATUSES or (has_ended and _is_heard(head, there, now_ms=self._wall_ms()))

    async def _is_outdated(self, binding: Binding, *, marking: bool) -> bool:
        """Whether another gateway has brought a later word about how the run stands; else, ``marking``, leave a mark.

        One that comes back after it was killed, or that had the session before, has the older word.
        """
        order = await self._channel.journal.do(order_of_head, self._subject_id) if self._is_shared else None
        if order is None:
            return False
        there = await self._channel.courier.call(lambda: self._channel.reader.run(binding.remote_id))
        told = there.tags.get(source_tags.RELAY_ORDER, "")
        if told.isdecimal() and order < int(told):
            return True
        if marking:
            try:
                await self._send(LogBatch(binding.remote_id, tags={source_tags.RELAY_ORDER: str(order)}))
            except Rejected as error:
                log.info("the run has no room for the tag that tells gateways what it was told", error=str(error))
        return False

    async def _update_run(self, binding: Binding, head: RunSeen, name_there: str, held: RemoteRun | None) -> None:
        while True:
            name = held_name(head.name or head.subject.id, self._channel.limits.run_name_length)
            if self._is_told and binding.adopted and not head.name and not head.origin:
                name = name_there  # no message has named it
            if held is not None and (held.name, held.status, held.end_time_ms) == (name, head.status, head.end_time_ms):
                return
            new_name = name if name != name_there else ""
            try:
                await self._send(UpdateRun(binding.remote_id, new_name, head.status, head.end_time_ms))
            except OverLimit as error:
                if not self._channel.learn(error):
                    raise
            else:
                return

    async def _deliver_deletion(self, binding: Binding, heads: list[Change]) -> Outcome:
        """Delete a run that was deleted in the store after it was sent; what was still to be sent of it goes too."""
        note = "deleted in the store, and taken up again since"
        if not await self._is_outdated(binding, marking=False):
            await self._send(DeleteRun(binding.remote_id))
            note = "deleted in the store, and therefore here"
        await self._settlement.let_all_go(up_to=heads[-1].seq)
        await self._settlement.note(note)
        return Outcome.DONE

    def _artifacts(self, subject: Subject, binding: Binding, overflow: Overflow) -> ArtifactDelivery:
        upload = ArtifactUpload(self._channel, binding, overflow)
        return ArtifactDelivery(self._channel, subject, self._settlement, upload.send, overflow.restate)

    # -- models ----------------------------------------------------------------------------------------------------

    async def _deliver_model(self, subject: Subject, head: ModelSeen, binding: Binding) -> Outcome:
        heads = await self._settlement.heads()
        overflow = Overflow(self._channel, subject, binding, wall_ms=self._wall_ms)
        async with together() as sections:
            sections.create_task(
                ModelPointDelivery(self._channel, self._identities, subject, binding, self._settlement, overflow).run()
            )
            sections.create_task(self._artifacts(subject, binding, overflow).run())
        await self._settlement.flush()
        await overflow.write(whole=True)
        if await self._channel.journal.do(deliveries.waits_before_head, self._channel.id, self._subject_id):
            return Outcome.LATER
        if heads:
            if heads[-1].kind == "head":
                stated = decode_head(heads[-1].body)
                assert isinstance(stated, ModelSeen)
                head = stated
            if head.tags:
                await self._send(SetModelTags(binding.remote_id, head.tags))
            if head.status in ("READY", "FAILED"):
                await self._send(FinalizeModel(binding.remote_id, head.status))
            if head.params:  # some may have been logged after the model was created there
                await self._send(LogModelParams(binding.remote_id, head.params))
            await self._settlement.add(Section.HEAD, [change.seq for change in heads])
        return Outcome.DONE

    async def _send(
        self,
        request: SetExperimentTags | SetModelTags | FinalizeModel | LogModelParams | LogBatch | UpdateRun | DeleteRun,
    ) -> None:
        await self._channel.courier.call(lambda: self._channel.destination.send(request))


def _is_heard(head: RunSeen, there: RemoteRun, *, now_ms: int) -> bool:
    """Whether the run has a point there that is nearer to now than to its last message here: clocks differ a little."""
    last_ms = max((timestamp_ms for _, timestamp_ms, _ in there.latest.values()), default=0)
    return last_ms - (head.end_time_ms or 0) > abs(now_ms - last_ms)


def _is_end(heads: list[Change]) -> bool:
    """Whether what waits of a run's head says that nothing more is to come."""
    if not heads or heads[-1].kind == "deleted":
        return bool(heads)
    head = decode_head(heads[-1].body)
    return isinstance(head, RunSeen) and head.status in TERMINAL_STATUSES


class ServerLanes:
    """Makes the lanes of one tracking server; a ``Lanes``."""

    def __init__(
        self,
        channel: Channel,
        *,
        wall_ms: Callable[[], int] = wall_ms_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.supply = self._channel = channel
        self._identities = Identities(channel, wall_ms=wall_ms, monotonic=monotonic)
        self._places = Places(channel)
        self._wall_ms = wall_ms

    def lane(self, subject_id: int) -> Lane:
        """Return a lane for one pass."""
        return Lane(self._channel, self._identities, self._places, subject_id, wall_ms=self._wall_ms)

    @property
    def twins_after_s(self) -> float:
        """How long after a create a twin of it may yet come to be there (see ``Identities``)."""
        return self._identities.twins_after_s

    async def twins_are_there(self) -> None:
        """Wait until what was created last has its twin, if it gets one."""
        await self._identities.twins_are_there()

    async def twins(self, before_ms: int) -> list[tuple[int, RemoteSubject]]:
        """Return what was created twice and is to be given up here, with the one that stays (see ``Identities``)."""
        return await self._identities.twins(before_ms)

    async def give_way(self, subject_id: int, other: RemoteSubject) -> None:
        """Go on with the one that another daemon created."""
        await self._identities.give_way(subject_id, other)

    def close(self) -> None:
        """Give back what the lanes held."""
        self._channel.remembered_points.close()
