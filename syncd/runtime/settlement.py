"""What waits of one subject, and the record of what was delivered of it, made in few commits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import structlog

from syncd.core.changes import Change, Section
from syncd.errors import Rejected
from syncd.journal import bindings, deliveries, participants
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.overflow import OverPoints
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Supply

log = structlog.get_logger(__name__)

FILTERED = "the destination's filter leaves it out"
HELD = "waits a minute for a name or tags such as the destination's filter wants"
CAME_TOO_LATE = "what came before it had a name or tags that {} wants was left out, and messages cannot be read again"

EVER = 2**62
READ_AT_ONCE = 256
# A crash forgets at most this many settled changes; they are delivered again.
GATHERED = 16


class Settlement:
    """Settles changes of one subject; ``flush`` must be called at the end of the pass."""

    def __init__(self, channel: Supply, subject_id: int) -> None:
        self._channel = channel
        self._subject_id = subject_id
        self._done: list[tuple[Section, int]] = []
        self._over: list[OverPoints] = []
        self._delivered = Delivered()
        self._uploaded: list[int] = []
        self._whole = True
        self.moved = False  # whether anything was settled

    def let_go(self) -> None:
        """Take note that something of this pass is settled unsent: what is settled then is not all of it."""
        self._whole = False

    async def add(
        self,
        section: Section,
        seqs: Iterable[int],
        *,
        dead: Iterable[DeadLetter] = (),
        over: Iterable[OverPoints] = (),
        delivered: Delivered | None = None,
    ) -> None:
        """Take note of delivered changes; dead letters are recorded at once, together with what was gathered.

        ``over`` are points of these changes that go to the overflow.
        """
        settled = list(seqs)
        self._over.extend(over)
        self._done.extend((section, seq) for seq in settled)
        if section is Section.ARTIFACTS and delivered is not None and delivered.artifacts:
            self._uploaded.extend(settled)
        if delivered is not None:
            self._delivered = Delivered(
                self._delivered.points + delivered.points,
                self._delivered.artifacts + delivered.artifacts,
                self._delivered.bytes + delivered.bytes,
            )
        letters = list(dead)
        if letters or len(self._done) >= GATHERED:
            await self.flush(letters)

    async def flush(self, dead: Iterable[DeadLetter] = ()) -> None:
        """Record what was gathered."""
        letters = list(dead)
        done, self._done = self._done, []
        over, self._over = self._over, []
        delivered, self._delivered = self._delivered, Delivered()
        uploaded, self._uploaded = self._uploaded, []
        if not done and not letters and delivered == Delivered():
            return
        self.moved = self.moved or bool(done)
        await self._channel.journal.do(
            deliveries.settle,
            self._channel.id,
            self._subject_id,
            done,
            dead=letters,
            over=over,
            delivered=delivered,
            uploaded=uploaded,
            whole=self._whole,
        )

    async def pending(self, section: Section, *, after: int = 0, limit: int = READ_AT_ONCE) -> list[Change]:
        """Return the next changes of a section that wait, in order."""
        return await self._channel.journal.do(
            deliveries.pending, self._channel.id, self._subject_id, section, after=after, limit=limit
        )

    async def heads(self) -> list[Change]:
        """Return what waits to be said of how the subject stands, the last word last.

        Of more than are read at once, all are settled that the later ones have overtaken.
        """
        while len(heads := await self.pending(Section.HEAD)) == READ_AT_ONCE:
            last_stated = next((change for change in reversed(heads) if change.kind == "head"), None)
            await self.add(Section.HEAD, [one.seq for one in heads if one not in (last_stated, heads[-1])])
            await self.flush()
        return heads

    async def let_all_go(self, *, up_to: int = EVER, before_ms: int = EVER) -> None:
        """Settle, unsent, what waits up to a change and was stated before a time."""
        for section in Section:
            while changes := await self.pending(section):
                past = [change.seq for change in changes if change.seq <= up_to and change.at_ms < before_ms]
                if not past:
                    break
                await self.add(section, past)
                await self.flush()

    async def note(self, text: str) -> None:
        """Record why nothing of the subject goes on just now, "" when it does."""
        await self._channel.journal.do(deliveries.note, self._channel.id, self._subject_id, text)

    async def leave_out(self, *, before_ms: int = EVER) -> bool:
        """Settle what was stated before a time of a subject that the destination does not want.

        Returns:
            Whether anything is left.
        """
        self.let_go()
        oldest_ms = [change.at_ms for section in Section for change in await self.pending(section, limit=1)]
        if before_ms == EVER or any(at_ms < before_ms for at_ms in oldest_ms):
            await self.note(FILTERED)  # before anything goes: after a kill nobody would know that something has
            await self.let_all_go(before_ms=before_ms)
        elif oldest_ms and await self._noted() != FILTERED:
            await self.note(HELD)
        return before_ms < EVER and any([await self.pending(section, limit=1) for section in Section])

    async def was_left_out(self) -> bool:
        """Return whether the destination did not want it before; now it does, and what it was held for has come."""
        noted = await self._noted()
        if noted == HELD:
            await self.note("")
        return noted == FILTERED

    async def _noted(self) -> str:
        return await self._channel.journal.do(deliveries.note_of, self._channel.id, self._subject_id)

    async def take_up(self, subject: Subject, binding: Binding) -> Binding:
        """Begin with what was left out before: its changes were let go, so its source states it whole again.

        What waits already is then stated twice: the subject counts as one that may hold content.
        """
        self.let_go()
        if subject.source_id in self._channel.told_once:
            what = CAME_TOO_LATE.format(self._channel.name)
            await self._channel.journal.do(participants.add_problem, subject, what)
        binding = replace(binding, adopted=True)
        await self._channel.journal.do(bindings.bind, self._channel.id, self._subject_id, binding)
        await self._channel.read_again(subject.source_id, subject.key.id)
        await self.note("")
        return binding

    async def bury_all(self, error: Rejected) -> None:
        """Make dead letters of all that waits of a subject that is refused as such."""
        log.warning("the destination refuses this", subject=self._subject_id, error=str(error))

        def bury(section: Section, change: Change) -> DeadLetter:
            return DeadLetter(section, change.kind, change.body, change.items, str(error), error.code, error.status)

        for section in Section:
            while changes := await self.pending(section):
                letters = [bury(section, change) for change in changes]
                await self.add(section, [change.seq for change in changes], dead=letters)
                await self.flush()
