"""A relay's lane: one pass that hands what waits of one subject to a broker, for another syncd.

Rules
-----
1. Nothing is translated: the journal's changes travel as they are, and the gateway keeps to its destination's limits.
2. A head goes last, when nothing else of its subject waits. What a gateway needs to know before, goes with each parcel.
3. A change is settled when all parcels that tell it, and those before them, are with the broker. Points are marked as
   attempted before: what a killed process has sent is told again as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from syncd.core.changes import Again, Change, Head, Section
from syncd.core.facts import ArtifactSeen, SubjectKey
from syncd.core.relay.packing import Address, File, TooLarge, chunk, pack, room_for_chunk
from syncd.core.relay.values import Parcel
from syncd.destinations.base import RemoteSubject
from syncd.errors import Rejected
from syncd.journal import bindings, deliveries
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.subjects import Subject
from syncd.rest.uploads import sha256_of
from syncd.runtime.artifacts import ArtifactDelivery
from syncd.runtime.channel import Supply
from syncd.runtime.lanes import LATER_S, Outcome, make_pass, together
from syncd.runtime.relay_about import MOST_LINKED, Surroundings
from syncd.runtime.relay_channel import Convoy, RelayChannel, Shrunk
from syncd.runtime.settlement import Settlement

WINDOW_CHANGES = 16
RELAYED_DELETION = "deleted in the store, which was relayed"
KEPT_DELETION = "deleted in the store, which is not relayed"


class RelayLanes:
    """Makes the lanes of one relay; a ``Lanes``. A run has one identity here, its own: there are no twins."""

    twins_after_s = 0.0

    def __init__(self, channel: RelayChannel) -> None:
        self.supply: Supply = channel
        self._channel = channel

    def lane(self, subject_id: int) -> RelayLane:
        """Return a lane for one pass."""
        return RelayLane(self._channel, subject_id)

    async def twins_are_there(self) -> None:
        """Wait for nothing."""

    async def twins(self, before_ms: int) -> Sequence[tuple[int, RemoteSubject]]:
        """Return nothing."""
        return ()

    async def give_way(self, subject_id: int, other: RemoteSubject) -> None:
        """Never happens."""
        raise AssertionError("nothing is created twice on a relay")

    def close(self) -> None:
        """Hold nothing."""


class RelayLane:
    """Hands one subject to a broker; a ``Pass``."""

    later_s = LATER_S
    gathers = False

    def __init__(self, channel: RelayChannel, subject_id: int) -> None:
        self._channel = channel
        self._subject_id = subject_id
        self._settlement = Settlement(channel, subject_id)
        self._places = asyncio.Semaphore(channel.in_flight)
        self._session = ""
        self._doubtful = False
        self._held_back = False

    @property
    def has_moved(self) -> bool:
        """Whether the pass has settled anything."""
        return self._settlement.moved

    async def run(self) -> Outcome:
        """Make one pass.

        Raises:
            JournalError: the journal cannot be used.
        """
        return await make_pass(self._channel, self._settlement, self._subject_id, self._pass_on)

    async def _pass_on(self, subject: Subject) -> Outcome:
        around = Surroundings(self._channel, subject)
        address = await around.address()
        self._session = await around.session()
        await self._bind(subject)
        try:
            return await self._deliver(subject, around, address)
        except Shrunk:
            return Outcome.LATER

    async def _bind(self, subject: Subject) -> None:
        """Give the subject its identity there, which is its own."""
        channel = self._channel
        known = await channel.journal.do(bindings.binding, channel.id, subject.id)
        binding = known or Binding(subject.key.id, "", adopted=False, appends=False)
        if await self._settlement.was_left_out():
            binding = await self._settlement.take_up(subject, binding)
        elif known is None:
            await channel.journal.do(bindings.bind, channel.id, subject.id, binding)
        # Of what was relayed before and is read anew, points may have been told before.
        self._doubtful = binding.adopted

    async def _deliver(self, subject: Subject, around: Surroundings, address: Address) -> Outcome:
        heads = await self._settlement.heads()
        if heads and heads[-1].kind == "deleted" and self._channel.on_delete.get(subject.source_id) == "delete":
            await self._send_heads(address, heads)
            await self._settlement.let_all_go(up_to=heads[-1].seq)
            await self._settlement.note(RELAYED_DELETION)
            return Outcome.DONE
        async with together() as sections:
            sections.create_task(self._send_facts(Section.SMALL, around, address))
            sections.create_task(self._send_facts(Section.METRICS, around, address))
            files = RelayedFiles(self._channel, address, self._session, self._places)
            sections.create_task(ArtifactDelivery(self._channel, subject, self._settlement, files.send).run())
        await self._settlement.flush()
        if self._held_back or await self._channel.journal.do(
            deliveries.waits_before_head, self._channel.id, self._subject_id
        ):
            return Outcome.LATER
        if heads:
            stated = [change for change in heads if change.kind == "head"]
            await self._send_heads(address, stated[-1:])
            await self._settlement.add(Section.HEAD, [change.seq for change in heads])
            await self._settlement.note(KEPT_DELETION if heads[-1].kind == "deleted" else "")
        return Outcome.DONE

    async def _send_heads(self, address: Address, heads: Sequence[Change]) -> None:
        stated = [change for change in heads if change.kind == "head"]
        by_seq = {change.seq: change for change in (*stated[-1:], *heads[-1:])}
        async with Convoy(self._channel, self._session, self._places) as convoy:
            for part in await asyncio.to_thread(self._cut, address, list(by_seq.values())):
                if isinstance(part, TooLarge):
                    await self._bury(Section.HEAD, by_seq[part.seq], part)
                else:
                    await convoy.send(part)

    async def _send_facts(self, section: Section, around: Surroundings, address: Address) -> None:
        """Send what waits of a section, a window at a time, so that a backlog of any size takes as little memory."""
        after = 0
        while changes := await self._settlement.pending(section, after=after, limit=WINDOW_CHANGES):
            after = changes[-1].seq
            if section is Section.METRICS:
                await self._send_window(section, address, await self._attempted(changes))
                continue
            async for linked, addressed in self._by_links(changes, around, address):
                await self._send_window(section, addressed, linked)

    async def _attempted(self, changes: Sequence[Change]) -> list[Change]:
        """Record that points are on their way, and mark those that were read anew after some had been told."""
        new = [change.seq for change in changes if not change.attempted]
        if new:
            await self._channel.journal.do(
                deliveries.mark_attempted, self._channel.id, self._subject_id, Section.METRICS, new
            )
        return [
            replace(change, again=Again.RESTATED) if self._doubtful and change.again is not Again.NEW else change
            for change in changes
        ]

    async def _by_links(
        self, changes: Sequence[Change], around: Surroundings, address: Address
    ) -> AsyncIterator[tuple[list[Change], Address]]:
        """Yield changes with the heads of the models that they link to, so many as a message may refer to.

        Links to models that are yet to be read are left out.
        """
        ready: list[Change] = []
        heads: dict[SubjectKey, Head] = {}
        for change in changes:
            linked = await around.linked(change)
            if linked is None:
                self._held_back = True
                continue
            if len(heads.keys() | linked.keys()) > MOST_LINKED:
                yield ready, await around.address(heads.values())
                ready, heads = [], {}
            ready.append(change)
            heads |= linked
        yield ready, await around.address(heads.values()) if heads else address

    async def _send_window(self, section: Section, address: Address, changes: Sequence[Change]) -> None:
        by_seq = {change.seq: change for change in changes}

        async def arrived(parcel: Parcel) -> None:
            points = sum(by_seq[seq].items for seq in parcel.seqs) if section is Section.METRICS else 0
            delivered = Delivered(points=points, bytes=len(parcel.body))
            await self._settlement.add(section, parcel.seqs, delivered=delivered)

        async with Convoy(self._channel, self._session, self._places) as convoy:
            for part in await asyncio.to_thread(self._cut, address, changes):
                if isinstance(part, TooLarge):
                    await self._bury(section, by_seq[part.seq], part)
                else:
                    await convoy.send(part, arrived)

    def _cut(self, address: Address, changes: Sequence[Change]) -> list[Parcel | TooLarge]:
        """Return the parcels that tell these changes, and in their place those that fit into none."""
        parts: list[Parcel | TooLarge] = []
        left = list(changes)
        while left:
            try:
                parts.extend(pack(address, left, most_bytes=self._channel.most_bytes))
            except TooLarge as error:
                parts.append(error)
                left = left[next(at for at, change in enumerate(left) if change.seq == error.seq) + 1 :]
            else:
                break
        return parts

    async def _bury(self, section: Section, change: Change, error: TooLarge) -> None:
        letter = DeadLetter(section, change.kind, change.body, change.items, str(error), "TOO_LARGE", 0)
        await self._settlement.add(section, [change.seq], dead=[letter])


class RelayedFiles:
    """Sends files of one subject, in chunks."""

    def __init__(self, channel: RelayChannel, address: Address, session: str, places: asyncio.Semaphore) -> None:
        self._channel = channel
        self._address = address
        self._session = session
        self._places = places

    async def send(self, change: Change, artifact: ArtifactSeen) -> Delivered:
        """Send one file: read once for its SHA-256, and once more to send it."""
        upload = self._channel.open_artifact(artifact)
        digest = await sha256_of(upload.pieces())
        file = File(change.seq, artifact.path, upload.size_bytes, digest.hex())
        room = room_for_chunk(self._address, file, most_bytes=self._channel.most_bytes)
        if room <= 0:
            raise Rejected("its name leaves no room in a message", code="TOO_LARGE")
        async with Convoy(self._channel, self._session, self._places) as convoy:
            if not upload.size_bytes:
                await convoy.send(chunk(self._address, file, 0, b""))
            offset = 0
            async for piece in upload.pieces():
                for begin in range(0, len(piece), room):
                    content = piece[begin : begin + room]
                    await convoy.send(await asyncio.to_thread(chunk, self._address, file, offset, content))
                    offset += len(content)
        return Delivered(artifacts=1, bytes=upload.size_bytes)
