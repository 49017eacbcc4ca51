"""Gathers what has been delivered of one subject and records it in few commits."""

from __future__ import annotations

from collections.abc import Iterable

from syncd.core.changes import Section
from syncd.journal.journal import DeadLetter, Delivered, Journal
from syncd.journal.overflow import OverPoints
from syncd.runtime.channel import Channel

# A crash forgets at most this many settled changes; they are delivered again.
GATHERED = 16


class Settlement:
    """Settles changes of one subject; ``flush`` must be called at the end of the pass."""

    def __init__(self, channel: Channel, subject_id: int) -> None:
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
            Journal.settle,
            self._channel.id,
            self._subject_id,
            done,
            dead=letters,
            over=over,
            delivered=delivered,
            uploaded=uploaded,
            whole=self._whole,
        )
