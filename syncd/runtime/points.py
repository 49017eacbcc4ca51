"""Delivers the points of one run: batches in flight side by side, refused ones cut down to the guilty point.

Points of names that have no place on the destination are not sent: they go to the overflow with their change.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from syncd.core.changes import Again, Change, Section
from syncd.core.overflow import metric_name, raw_key
from syncd.core.places import MetricPlaces
from syncd.core.planner import Countdown, MetricBatch, Points, cut_points
from syncd.core.reconcile import by_key, parse_line, point_key
from syncd.core.requests import LogBatch
from syncd.destinations.base import RemoteRun
from syncd.errors import OutcomeUnknown, OverLimit, Rejected, SubjectGone
from syncd.journal import deliveries
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.overflow import OverPoints
from syncd.runtime.channel import Channel
from syncd.runtime.held_points import HeldPoints
from syncd.runtime.overflow_doubts import OverflowDoubts
from syncd.runtime.settlement import Settlement

WINDOW_CHANGES = 16
# Up to this many pending points of a key are simply sent again to a keyed store rather than looked up there.
CHEAP_TO_RESEND = 5
# A keyed store's history longer than this is not read to spare a resend.
LONG_HISTORY = 300_000
READ_TOGETHER = 1000
# 1 + 2 + 4 + 8 + 16 + 32 s: a server that fails for one key for a minute, while it answers what is read back.
FAULTY_ATTEMPTS = 6

Refusal = tuple[str, str, int]  # the server's words, code and status


class PointDelivery:
    """One pass over the metric changes of a run that wait for a destination.

    ``held`` tells what the destination holds of a run that was found there; None for one that was created.
    ``names`` says which metrics have a place there.
    """

    def __init__(
        self,
        channel: Channel,
        subject_id: int,
        binding: Binding,
        settlement: Settlement,
        held: RemoteRun | None,
        names: MetricPlaces,
    ) -> None:
        self._channel = channel
        self._subject_id = subject_id
        self._binding = binding
        self._settlement = settlement
        self._held = held
        self._countdown = Countdown()
        self._places = asyncio.Semaphore(channel.in_flight)
        self._names = names
        self._naming = asyncio.Lock()
        self._over: defaultdict[int, list[bytes]] = defaultdict(list)  # of changes that are not settled yet
        self._refused_lines: defaultdict[int, list[tuple[Refusal, list[bytes]]]] = defaultdict(list)  # of such, too
        self._doubts = OverflowDoubts(channel, subject_id, binding)
        self._unknown = False
        self._all_held = True  # whatever was sent
        self._known = HeldPoints()
        self._cheaper_sent: set[str] = set()

    async def run(self) -> None:
        """Deliver everything that waited when the pass reached it."""
        if self._binding.adopted and self._binding.appends:
            await self._remember()
        try:
            await self._deliver()
        except BaseException:
            self._all_held = False
            raise
        finally:
            self._keep_in_mind()

    async def _remember(self) -> None:
        """Go on with what is known since the pass before, but of keys of which others have sent points as well."""
        known = self._channel.remembered_points.take(self._binding.remote_id)
        if known:
            held = self._held or await self._read_run()
            known.forget_others(held.latest)
        self._known = known

    def _keep_in_mind(self) -> None:
        """Keep what is known for the next pass, which is wrong as soon as something that was sent did not arrive."""
        if self._all_held and not self._unknown and self._binding.adopted and self._binding.appends:
            self._channel.remembered_points.keep(self._binding.remote_id, self._known)
        else:
            self._known.close()

    async def _read_run(self) -> RemoteRun:
        return await self._channel.courier.call(lambda: self._channel.reader.run(self._binding.remote_id))

    async def _deliver(self) -> None:
        after = 0
        self._names.begin_pass()
        async with self._doubts, asyncio.TaskGroup() as sends:
            while changes := await self._load(after):
                after = changes[-1].seq
                doubtful = [change for change in changes if self._is_doubtful(change)]
                if self._binding.appends and (doubtful or self._known):
                    doubtful = changes
                    await self._let_arrive()
                sure = [change for change in changes if change not in doubtful] if doubtful else changes
                await self._record_attempt(changes)
                await self._send_all(sends, [Points(change.seq, self._placed(change)) for change in sure])
                for change in doubtful:
                    await self._send_missing(sends, change)
        self._names.all_arrived = not self._unknown

    async def _let_arrive(self) -> None:
        """Wait for what is in flight, so that a history that is read now holds it."""
        for _ in range(self._channel.in_flight):
            await self._places.acquire()
        for _ in range(self._channel.in_flight):
            self._places.release()

    def _placed(self, change: Change) -> Sequence[bytes]:
        """Return the points of a change that have a place there; the others are kept for the overflow."""
        if change.again is Again.RESTATED:
            self._names.doubt_last()
        found = self._names.divide(change.body.split(b"\n"), self._channel.limits, appends=self._binding.appends)
        if found.over:
            self._over[change.seq] += found.over
        return found.fits

    async def _load(self, after: int) -> list[Change]:
        return await self._channel.journal.do(
            deliveries.pending,
            self._channel.id,
            self._subject_id,
            Section.METRICS,
            after=after,
            limit=WINDOW_CHANGES,
        )

    def _is_doubtful(self, change: Change) -> bool:
        """Whether the destination may hold points of this change in a way that matters.

        Of a run that was found there, somebody else may be sending points too; where a store appends, each is
        looked for first.
        """
        if self._binding.adopted:
            return self._binding.appends or change.again is Again.FIRST_READING
        return self._binding.appends and (change.attempted or change.again is Again.RESTATED)

    async def _record_attempt(self, changes: Iterable[Change]) -> None:
        if self._binding.appends:
            await self._channel.journal.do(
                deliveries.mark_attempted,
                self._channel.id,
                self._subject_id,
                Section.METRICS,
                [change.seq for change in changes if not change.attempted],
            )

    async def _send_all(self, sends: asyncio.TaskGroup, points: Sequence[Points]) -> None:
        await self._settle([part.seq for part in points if not part.lines])
        for batch in cut_points(points, self._channel.limits):
            for part in batch.parts:
                self._countdown.expect(part)
            await self._places.acquire()
            sends.create_task(self._send_and_release(batch))

    async def _settle(self, seqs: Iterable[int], *, delivered: Delivered | None = None) -> None:
        """Settle changes of which nothing is left to be sent.

        What of them has no place goes over with that, and what was refused becomes a dead letter: a change that is
        sent again, because some of it did not arrive, must not leave its letter twice.
        """
        done = list(seqs)
        over = [_over_points(lines) for seq in done if (lines := self._over.pop(seq, None))]
        dead = _letters(refused for seq in done for refused in self._refused_lines.pop(seq, ()))
        await self._settlement.add(Section.METRICS, done, dead=dead, over=over, delivered=delivered)

    async def _send_missing(self, sends: asyncio.TaskGroup, change: Change) -> None:
        lines: list[bytes] = []
        placed = self._placed(change)
        self._over[change.seq] = await self._doubts.missing(self._over[change.seq])
        for key, group in by_key(placed).items():
            lines += await self._missing(key, group)
        await self._send_all(sends, [Points(change.seq, lines)])

    async def _missing(self, key: str, lines: list[bytes]) -> list[bytes]:
        """Return the points of one key that the destination does not hold.

        They are then on their way: another statement of them must not send them too.
        """
        latest = self._held.latest.get(key) if self._held is not None else None
        if self._held is not None and latest is None and self._binding.adopted and not self._binding.appends:
            return lines
        if latest is not None and len(lines) == 1 and point_key(*parse_line(lines[0])[1:]) == point_key(*latest):
            return []
        if not self._binding.appends and len(lines) <= CHEAP_TO_RESEND:
            return lines
        if key not in self._known and key not in self._cheaper_sent:
            await self._channel.courier.call(lambda: self._read_history(key))
        return lines if key in self._cheaper_sent else self._known.add_missing(key, lines)

    async def _read_history(self, key: str) -> None:
        """Learn which points are held there, or that a resend is cheaper than knowing."""
        number = self._known.begin()
        told: list[tuple[float, int, int]] = []
        count = 0
        async for point in self._channel.reader.history(self._binding.remote_id, key):
            told.append(point)
            count += 1
            if len(told) == READ_TOGETHER:
                self._known.add(number, told)
                told.clear()
            if count > LONG_HISTORY and not self._binding.appends:
                self._cheaper_sent.add(key)
                return
        self._known.add(number, told)
        self._known.finish(number, key)

    # -- one batch -------------------------------------------------------------------------------------------------

    async def _send_and_release(self, batch: MetricBatch) -> None:
        try:
            await self._send(batch)
        finally:
            self._places.release()

    async def _send(self, batch: MetricBatch) -> None:
        request = LogBatch(self._binding.remote_id, lines=list(dict.fromkeys(batch.lines)))
        try:
            await self._channel.courier.call(
                lambda: self._channel.destination.send(request), repeat_unknown=not self._binding.appends
            )
        except OutcomeUnknown as error:
            # Of a reset or a time-out it waits on, marked as attempted: the next pass reads back what arrived.
            self._unknown = True
            if error.server_fault:
                await self._find_faulty(batch, error)
        except SubjectGone as error:
            await self._give_up(batch, error)
        except Rejected as error:
            await self._refused(batch, error)
        else:
            await self._arrived(batch, batch.count, sum(map(len, request.lines)))

    async def _find_faulty(self, batch: MetricBatch, error: OutcomeUnknown) -> None:
        """Find the points for which an appending server fails, of which it may have applied any.

        What arrived is read back before anything is sent again. A key for which it fails again and again while it
        answers other requests is given up: then not the server is the cause, but the key (a FileStore cannot hold
        both ``a`` and ``a/b``; measured 2026-11).
        """
        for attempt in range(FAULTY_ATTEMPTS):
            groups = by_key(batch.lines)
            self._known.forget(groups)
            missing = {line for key, group in groups.items() for line in await self._missing(key, group)}
            batch, arrived = batch.divide(missing.__contains__)
            if arrived.parts:
                await self._arrived(arrived, arrived.count, sum(map(len, arrived.lines)))
            if not batch.parts:
                return
            if len(groups) > 1:
                for half in batch.halves():
                    await self._send(half)
                return
            await asyncio.sleep(2.0**attempt)
            request = LogBatch(self._binding.remote_id, lines=list(dict.fromkeys(batch.lines)))
            try:
                await self._channel.courier.call(
                    lambda request=request: self._channel.destination.send(request),  # type: ignore[misc]
                    repeat_unknown=False,
                )
            except OutcomeUnknown as again:
                error = again
            except Rejected as refusal:
                await self._refused(batch, refusal)
                return
            else:
                await self._arrived(batch, batch.count, sum(map(len, request.lines)))
                return
        await self._give_up(batch, Rejected(error.message, code="INTERNAL_ERROR", status=500))

    async def _arrived(self, batch: MetricBatch, points: int, size_bytes: int) -> None:
        await self._settle(self._countdown.arrived(batch), delivered=Delivered(points=points, bytes=size_bytes))

    async def _refused(self, batch: MetricBatch, error: Rejected) -> None:
        """Find the guilty points of a refused batch; all others arrive."""
        if isinstance(error, OverLimit):
            await self._over_limit(batch, error)
        elif already_there(error):
            await self._send_one_by_one_if_nan(batch, error)
        elif batch.count == 1 or (len(by_key(batch.lines)) == 1 and names_are_refused(error)):
            await self._give_up(batch, error)
        else:
            for half in batch.halves():
                await self._send(half)

    async def _over_limit(self, batch: MetricBatch, error: OverLimit) -> None:
        """Cut a batch that is too large, and give to the overflow what has no place; nothing of it is refused for good.

        Who has a place is asked anew where that is in question. A name that is refused by itself has no place, whatever
        the reason (1,000,000 points of it are there; a limit that is not known here).
        """
        self._channel.learn(error)
        smaller = list(cut_points(batch.parts, self._channel.limits))
        if len(smaller) > 1:
            for one in smaller:
                await self._send(one)
            return
        async with self._naming:
            if error.limit_name == "metric_names_per_run" or (not error.limit_name and len(by_key(batch.lines)) > 1):
                self._names.found((await self._read_run()).latest)
            if batch.count == 1:
                self._names.close(metric_name(raw_key(batch.lines[0])))
            fits, over = self._divided(batch)
        await self._give_over(over)
        if over.parts and fits.parts:
            await self._send(fits)
        elif fits.parts:
            for half in batch.halves():
                await self._send(half)

    def _divided(self, batch: MetricBatch) -> tuple[MetricBatch, MetricBatch]:
        """Return the points that have a place by now, and the others."""
        placed = {line for line in batch.lines if self._names.has_place(line, self._channel.limits)}
        return batch.divide(placed.__contains__)

    async def _give_over(self, batch: MetricBatch) -> None:
        self._all_held = False
        for part in batch.parts:
            self._over[part.seq] += part.lines
        if batch.parts:
            await self._settle(self._countdown.arrived(batch))

    async def _send_one_by_one_if_nan(self, batch: MetricBatch, error: Rejected) -> None:
        """Divide a batch that collided with points already there (SQL servers before 3.17 refuse a NaN twice)."""
        if batch.count == 1:
            await self._arrived(batch, 0, 0)
            return
        finite, nan = batch.divide(lambda line: b'"value":"' not in line)
        if finite.parts and nan.parts:
            await self._send(finite)
            await self._send(nan)
            return
        for half in batch.halves():
            await self._send(half)

    async def _give_up(self, batch: MetricBatch, error: Rejected) -> None:
        self._all_held = False
        for part in batch.parts:
            self._refused_lines[part.seq].append(((error.message, error.code, error.status), list(part.lines)))
        await self._settle(self._countdown.arrived(batch))


def _letters(refused: Iterable[tuple[Refusal, list[bytes]]]) -> list[DeadLetter]:
    """Return a dead letter for each refusal."""
    lines: defaultdict[Refusal, list[bytes]] = defaultdict(list)
    for refusal, some in refused:
        lines[refusal] += some
    return [
        DeadLetter(Section.METRICS, "metrics", b"\n".join(every), len(every), *refusal)
        for refusal, every in lines.items()
    ]


def _over_points(lines: Sequence[bytes]) -> OverPoints:
    names = frozenset(metric_name(raw) for raw in {raw_key(line) for line in lines})
    return OverPoints(b"\n".join(lines), len(lines), names)


def already_there(error: Rejected) -> bool:
    """Whether the refusal says that the points collide with equal ones (an SQL server's unique key)."""
    words = error.message.lower()
    return any(sign in words for sign in ("unique constraint", "integrityerror", "duplicate key", "duplicate entry"))


def names_are_refused(error: Rejected) -> bool:
    """Whether the refusal speaks of a key, so that all points of that key share its fate."""
    words = error.message.lower()
    return "metric name" in words or ".name'" in words or ".key'" in words
