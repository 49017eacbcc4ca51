"""Keep the stated runs (or models) of a store equal to its rows.

Rules
-----
1. ``<id>/<kind>`` (for example ``<run id>/run``) is the state of a subject that was stated. It is written together
   with, or after, everything the subject had up to the feed's position; without it nothing of the subject counts as
   stated. Forgetting it makes the subject be stated wholly again.
2. ``<id>/points`` is the rowid that an unfinished introduction has reached.
3. Nothing is remembered in memory but which subjects are likely to change (``Warm``), so a poll may be abandoned
   anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from syncd.core.facts import Fact, Reading, SubjectDeleted, SubjectKey
from syncd.sources.base import Cursors
from syncd.sources.mlflow_db import rows
from syncd.sources.mlflow_db.points import CHUNK_ROWS, FeedPosition, PointFeed, cursors_of
from syncd.sources.mlflow_db.reader import LARGEST_ROWID, RUNS, Family, Reader
from syncd.sources.mlflow_db.rows import Snapshot

PAGE = 200
HINT_ROWS = 5000
READING_CHARACTERS = 2_000_000  # a page of runs with long tags is cut into readings of about this size
WARM_MS = 60_000  # how long after its end a run is compared at each poll
QUIET_MS = 600_000  # how long without news a run that has not ended is compared at each poll
MOST_QUIET = 2000
MOST_STIRRED = 200

ExperimentFacts = Callable[[Cursors, Collection[str]], Reading]


class Warm:
    """Which subjects are likely to change. Bounded by what is active; a full poll finds the rest."""

    def __init__(self) -> None:
        self._until_ms: dict[str, int] = {}
        self._quiet: dict[str, None] = {}

    def touch(self, subject_id: str, until_ms: int) -> None:
        """Compare this subject at each poll until then."""
        self._until_ms[subject_id] = max(until_ms, self._until_ms.get(subject_id, 0))
        self._quiet.pop(subject_id, None)

    def cool(self, now_ms: int, lasting: Callable[[str], bool]) -> None:
        """Set aside whose time is over; those that have not ended stay watched for their end."""
        for subject_id in [key for key, until_ms in self._until_ms.items() if until_ms < now_ms]:
            del self._until_ms[subject_id]
            if lasting(subject_id):
                self._quiet[subject_id] = None
        for subject_id in list(islice(self._quiet, max(0, len(self._quiet) - MOST_QUIET))):
            del self._quiet[subject_id]

    def __contains__(self, subject_id: str) -> bool:
        return subject_id in self._until_ms or subject_id in self._quiet

    def drop(self, subject_id: str) -> None:
        """Forget a subject."""
        self._until_ms.pop(subject_id, None)
        self._quiet.pop(subject_id, None)

    @property
    def hot(self) -> list[str]:
        """Those to compare."""
        return list(self._until_ms)

    @property
    def quiet(self) -> list[str]:
        """Those whose end alone is watched."""
        return list(self._quiet)


class Subjects:
    """All runs, or all models, of a store."""

    def __init__(
        self,
        family: Family,
        reader: Reader,
        *,
        experiments: ExperimentFacts,
        now_ms: Callable[[], int],
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self.family = family
        self.warm = Warm()
        self.located: dict[str, Snapshot] = {}  # the warm ones, as last read
        self._reader = reader
        self._experiments = experiments
        self._now_ms = now_ms
        self._chunk_rows = chunk_rows
        self._feed = PointFeed(family, reader, now_ms, chunk_rows)
        self._hints: dict[str, int] | None = None

    # --- what a poll does, in this order --------------------------------------------------------------------------

    def start(self) -> None:
        """After the start of the process: find out which subjects may change."""
        if self._hints is not None:
            return
        tables = ("tags", "params", "inputs") if self.family is RUNS else ("logged_model_tags",)
        self._hints = {t: self._reader.hint_end(t) for t in tables if self._reader.schema.has_rowid(t)}
        now_ms = self._now_ms()
        for subject_id in self._reader.live(self.family, now_ms - WARM_MS, MOST_QUIET):
            self.warm.touch(subject_id, now_ms + QUIET_MS)

    def poll(self, cursors: Cursors, *, everything: bool, replaced: bool = False) -> Iterator[Reading]:
        """Yield what is new of all subjects, then their points.

        ``everything`` compares all of them. ``replaced``: another database took the place of the one that was read,
        so that a missing row says nothing about a deletion.
        """
        self.start()
        touched = self._hinted()
        if self._has_feed:
            yield from self._verified(cursors)
        yield from self._walk(cursors, everything=everything)
        if everything:
            yield from self._vanished(cursors, replaced=replaced)
        else:
            touched.update(self._reader.ended(self.family, self.warm.quiet))
            for subject_id in touched:
                self.warm.touch(subject_id, self._now_ms() + WARM_MS)
            for ids in batches(self.warm.hot, PAGE):
                yield from self._compare(cursors, ids)
        yield from self._points(cursors)

    @property
    def held(self) -> bool:
        """Whether the last poll left a point for later, so that the database is to be read again as it is."""
        return self._feed.held

    def rest(self) -> None:
        """After a poll: set aside the subjects that have been quiet for long."""
        self.warm.cool(self._now_ms(), lambda key: key in self.located and self.located[key].lasting)
        for key in self.located.keys() - {*self.warm.hot, *self.warm.quiet}:
            del self.located[key]

    def rewind(self, cursors: Cursors) -> dict[str, bytes | None]:
        """Return the cursors for reading all points once more (another database took the place of this one)."""
        self._hints = None
        self._reader.forget()
        if not self._reader.schema.has_rowid(self.family.points_table):
            return {}
        return {**cursors_of(self.family, self._feed.rewound(self._feed.position(cursors)))}

    def state_key(self, subject_id: str) -> str:
        """Return the cursor that holds a subject's state."""
        return f"{subject_id}/{self.family.kind}"

    def known(self, cursors: Cursors) -> Iterator[str]:
        """Yield the ids of all stated subjects."""
        ending = f"/{self.family.kind}"
        keys = (key for key in cursors.keys("") if key.endswith(ending) and key.count("/") == 1)
        return (key.removesuffix(ending) for key in keys if not key.startswith("store:"))

    # --- heads, params, tags ----------------------------------------------------------------------------------------

    def _walk(self, cursors: Cursors, *, everything: bool) -> Iterator[Reading]:
        """Go over the subjects by rowid: the new ones, or all."""
        key = f"store:{self.family.table}"
        before, _, anchor = (cursors.load(key) or b"0 ").decode().partition(" ")
        stated = rowid = int(before)
        if rowid and self._reader.subject_at(self.family, rowid) != anchor:  # removed, or the rowid was used again
            everything, stated = True, LARGEST_ROWID
        if everything:
            rowid = 0
        while page := self._reader.page(self.family, rowid, PAGE):
            yield from self._compare(cursors, [subject_id for _, subject_id in page])
            rowid, anchor = page[-1]
            if rowid > stated:
                yield Reading((), {key: f"{rowid} {anchor}".encode()})
        if stated == LARGEST_ROWID:
            yield Reading((), {key: f"{rowid} {anchor}".encode() if rowid else None})

    def _compare(self, cursors: Cursors, ids: Collection[str]) -> Iterator[Reading]:
        """State what is new of these subjects."""
        snapshots = self._reader.snapshots(self.family, ids)
        unknown = [key for key, s in snapshots.items() if s.alive and cursors.load(self.state_key(key)) is None]
        if unknown:
            yield from self._introduce(cursors, [snapshots[key] for key in unknown])
        for group in weighed(list(snapshots.values()), READING_CHARACTERS):
            reading = self._news(cursors, group)
            if reading.cursors:
                yield reading

    def _news(self, cursors: Cursors, snapshots: Collection[Snapshot]) -> Reading:
        facts: list[Fact] = []
        renewed: dict[str, bytes | None] = {}
        for snapshot in snapshots:
            subject_id = snapshot.subject.id
            state = cursors.load(self.state_key(subject_id))
            if state is None:
                continue
            if not snapshot.alive:
                facts.append(SubjectDeleted(snapshot.subject))
                renewed.update(dict.fromkeys(cursors.keys(f"{subject_id}/")))
                self.warm.drop(subject_id)
                continue
            news, new_state = snapshot.against(state)
            if new_state != state:
                facts += news
                renewed[self.state_key(subject_id)] = new_state
            self._warm_up(snapshot, news=bool(news))
        return Reading(facts, renewed)

    def _warm_up(self, snapshot: Snapshot, *, news: bool) -> None:
        subject_id, now_ms = snapshot.subject.id, self._now_ms()
        if snapshot.lasting and (news or snapshot.last_time_ms > now_ms - QUIET_MS):
            self.warm.touch(subject_id, now_ms + QUIET_MS)
        elif snapshot.alive and (news or snapshot.last_time_ms > now_ms - WARM_MS):
            self.warm.touch(subject_id, now_ms + WARM_MS)
        if subject_id in self.warm:
            self.located[subject_id] = snapshot

    def _vanished(self, cursors: Cursors, *, replaced: bool) -> Iterator[Reading]:
        """Forget the subjects whose rows are gone: removed by `mlflow gc`, or never in this database."""
        for ids in batches(list(self.known(cursors)), PAGE):
            present = self._reader.present(self.family, ids)
            for subject_id in (key for key in ids if key not in present):
                self.warm.drop(subject_id)
                subject = SubjectKey(self.family.kind, subject_id)
                forgotten = dict.fromkeys(cursors.keys(f"{subject_id}/"))
                yield Reading(() if replaced else (SubjectDeleted(subject),), forgotten)

    # --- introduction -----------------------------------------------------------------------------------------------

    def _introduce(self, cursors: Cursors, snapshots: Collection[Snapshot]) -> Iterator[Reading]:
        """State subjects that have no state, with their points up to the feed's position."""
        position = self._feed.position(cursors) if self._has_feed else FeedPosition()
        late: set[str] = set()
        if position.rowid:
            late = self._reader.with_points(self.family, [s.subject.id for s in snapshots], position.rowid)
        missing = self._experiments(cursors, {s.experiment_id for s in snapshots})
        if missing.facts:
            yield missing
        for group in weighed(snapshots, READING_CHARACTERS):
            facts: list[Fact] = []
            states: dict[str, bytes | None] = {}
            for snapshot in group:
                news, state = snapshot.against(None)
                facts += news
                if snapshot.subject.id not in late:
                    states[self.state_key(snapshot.subject.id)] = state
                self._warm_up(snapshot, news=snapshot.lasting)
            yield Reading(facts, states)
            for snapshot in group:
                if snapshot.subject.id in late:
                    yield from self._catch_up(cursors, snapshot, position.rowid)

    def _catch_up(self, cursors: Cursors, snapshot: Snapshot, until: int) -> Iterator[Reading]:
        """State the points that the feed has passed already."""
        subject_id = snapshot.subject.id
        reached_key, state = f"{subject_id}/points", snapshot.against(None)[1]
        after = int(cursors.load(reached_key) or 0)
        while True:
            chunk = self._reader.points_of(self.family, subject_id, after, until, self._chunk_rows)
            facts = rows.segments(self.family.kind, chunk, frozenset((subject_id,)), again=True)
            if len(chunk) < self._chunk_rows:
                yield Reading(facts, {reached_key: None, self.state_key(subject_id): state})
                return
            after = chunk[-1][0]
            yield Reading(facts, {reached_key: b"%d" % after})

    # --- points -----------------------------------------------------------------------------------------------------

    @property
    def _has_feed(self) -> bool:
        return self._reader.schema.has_rowid(self.family.points_table)

    def _points(self, cursors: Cursors) -> Iterator[Reading]:
        if not self._has_feed:
            if self._reader.schema.has(self.family.points_table) and self.family is RUNS:
                yield from self._counted_points(cursors)
            return
        while True:
            yield from self._verified(cursors)
            position = self._feed.position(cursors)
            chunk = self._feed.chunk(position)
            ids = list(dict.fromkeys(rows.text(row[1]) for row in chunk))
            unknown = [key for key in ids if cursors.load(self.state_key(key)) is None]
            for some in batches(unknown, PAGE):
                snapshots = self._reader.snapshots(self.family, some).values()
                yield from self._introduce(cursors, [s for s in snapshots if s.alive])
            stated = frozenset(key for key in ids if cursors.load(self.state_key(key)) is not None)
            if chunk:
                facts = rows.segments(self.family.kind, chunk, stated, again=position.again)
                yield Reading(facts, cursors_of(self.family, position.advanced(chunk[-1])))
                self._stir(ids if self._feed.finished(position, chunk) else ())
            elif position.again:
                yield Reading((), cursors_of(self.family, FeedPosition(position.rowid, 0, position.anchors)))
            if self._feed.finished(position, chunk):
                return

    def _verified(self, cursors: Cursors) -> Iterator[Reading]:
        """Move the feed back if rows that it has passed are not the same any more."""
        committed = self._feed.position(cursors)
        position = self._feed.verified(committed)
        if position != committed:
            yield Reading((), cursors_of(self.family, position))

    def _stir(self, ids: Iterable[str]) -> None:
        """Points came in: their runs are alive."""
        for subject_id in islice(ids, MOST_STIRRED):
            self.warm.touch(subject_id, self._now_ms() + WARM_MS)

    def _counted_points(self, cursors: Cursors) -> Iterator[Reading]:
        """Without rowids: read a run's points again whenever their number has changed."""
        for ids in batches(list(self.known(cursors)), PAGE):
            for run_id, count in self._reader.counts(ids).items():
                key, counted = f"{run_id}/counted", b"%d" % count
                before = cursors.load(key)
                if before == counted:
                    continue
                for offset in range(0, count, self._chunk_rows):
                    chunk = self._reader.points_unordered(run_id, offset, self._chunk_rows)
                    yield Reading(rows.segments("run", chunk, frozenset((run_id,)), again=before is not None))
                yield Reading((), {key: counted})

    def _hinted(self) -> set[str]:
        """Return the subjects that got new tags, params or inputs."""
        assert self._hints is not None
        touched: set[str] = set()
        for table, after in self._hints.items():
            while found := self._reader.hints(table, self._hints[table], HINT_ROWS):
                self._hints[table] = found[-1][0]
                touched.update(subject_id for _, subject_id in found)
            if self._hints[table] == after:  # nothing new, or rows were removed and their rowids are used again
                self._hints[table] = min(after, self._reader.hint_end(table))
        return touched


def batches(items: Collection[str], size: int) -> Iterator[list[str]]:
    """Cut a collection into lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def weighed(snapshots: Collection[Snapshot], limit: int) -> Iterator[list[Snapshot]]:
    """Cut snapshots into groups of about ``limit`` characters."""
    group: list[Snapshot] = []
    weight = 0
    for snapshot in snapshots:
        group.append(snapshot)
        weight += snapshot.weight
        if weight >= limit:
            yield group
            group, weight = [], 0
    if group:
        yield group
