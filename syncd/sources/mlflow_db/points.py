"""Follow a table of points by rowid.

Rules
-----
1. ``store:points/<table>`` holds the rowid up to which points were stated and, as anchors, the identities of some
   rows on the way there. Rows are only ever appended with the greatest rowid + 1, so while an anchor's row is the
   same, everything up to it was stated. When the newest anchor is gone (``mlflow gc``, VACUUM, rowids used again) the
   feed goes back to the newest one that is left, or to 0, and states from there with ``again=True``.
2. Only points of subjects that have a state are stated here; who has none is introduced first (see ``subjects``),
   with its points up to the feed's rowid, or is deleted and left out: when it comes back it is introduced then.
3. A model's point that reads 0.0 while its run has no such point yet may be a NaN (see ``queries.MODEL_POINTS``). The
   feed stops before it until the run's point is there, or as long as MLflow may wait for the database to write it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from syncd.sources.base import Cursors
from syncd.sources.mlflow_db import rows
from syncd.sources.mlflow_db.reader import LARGEST_ROWID, Family, Reader

CHUNK_ROWS = 5000
ANCHORS = 24
UNDECIDED_MS = 10_000  # MLflow's client gives up after 5 s of "database is locked"


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """How far a table of points was stated.

    ``again_until``: rows up to that rowid may have been stated before. ``anchors``: (rowid, identity), oldest first.
    """

    rowid: int = 0
    again_until: int = 0
    anchors: tuple[tuple[int, str], ...] = ()

    @property
    def upper(self) -> int:
        """Last rowid that the next chunk may hold, so that it is stated again as a whole or not at all."""
        return self.again_until if self.rowid < self.again_until else LARGEST_ROWID

    @property
    def again(self) -> bool:
        """Whether the next chunk may have been stated before."""
        return self.rowid < self.again_until

    def advanced(self, last: rows.Row) -> FeedPosition:
        """Return the position behind a row."""
        anchors = thinned((*self.anchors, (last[0], rows.row_digest(last))))
        return replace(self, rowid=last[0], anchors=anchors)

    def encoded(self) -> bytes:
        """Return the cursor."""
        return json.dumps([self.rowid, self.again_until, self.anchors]).encode()

    @classmethod
    def decoded(cls, cursor: bytes | None) -> FeedPosition:
        """Return the position that a cursor holds."""
        if cursor is None:
            return cls()
        rowid, again_until, anchors = json.loads(cursor)
        return cls(rowid, again_until, tuple((at, identity) for at, identity in anchors))


def thinned(anchors: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """Keep the newest anchors dense and older ones ever sparser."""
    if len(anchors) <= ANCHORS:
        return tuple(anchors)
    end = anchors[-1][0]
    gaps = [(anchors[i + 1][0] - anchors[i - 1][0]) / (end - anchors[i][0] + 1) for i in range(1, len(anchors) - 1)]
    drop = gaps.index(min(gaps)) + 1
    return (*anchors[:drop], *anchors[drop + 1 :])


def cursor_key(family: Family) -> str:
    """Return the cursor of a family's feed."""
    return f"store:points/{family.points_table}"


class PointFeed:
    """The feed of one table."""

    def __init__(self, family: Family, reader: Reader, now_ms: Callable[[], int], chunk_rows: int = CHUNK_ROWS) -> None:
        self._family = family
        self._reader = reader
        self._now_ms = now_ms
        self._chunk_rows = chunk_rows
        self._undecided = (0, 0)  # rows up to this rowid are taken as they are from then on (ms since the epoch)
        self.held = False

    def position(self, cursors: Cursors) -> FeedPosition:
        """Return the committed position, as it is."""
        return FeedPosition.decoded(cursors.load(cursor_key(self._family)))

    def verified(self, position: FeedPosition) -> FeedPosition:
        """Return the position, moved back to the newest anchor that is still there."""
        for index in range(len(position.anchors) - 1, -1, -1):
            rowid, identity = position.anchors[index]
            row = self._reader.point_at(self._family, rowid)
            if row is not None and rows.row_digest(row) == identity:
                if rowid == position.rowid:
                    return position
                kept = position.anchors[: index + 1]
                return FeedPosition(rowid, max(position.again_until, position.rowid), kept)
        return FeedPosition(0, max(position.again_until, position.rowid)) if position.rowid else position

    def rewound(self, position: FeedPosition) -> FeedPosition:
        """Return the position for reading everything once more."""
        return FeedPosition(0, max(position.again_until, position.rowid, self._reader.points_end(self._family)))

    def chunk(self, position: FeedPosition) -> list[rows.Row]:
        """Return the next rows; ``held`` tells whether one was left for later."""
        found = self._reader.points(self._family, position.rowid, position.upper, self._chunk_rows)
        self.held = False
        if self._family.kind == "model" and not position.again:
            for index, row in enumerate(found):
                if row[6] is None and self._waits(row[0]):
                    self.held = True
                    return found[:index]
        return found

    def _waits(self, rowid: int) -> bool:
        now_ms = self._now_ms()
        if now_ms - self._reader.changed_ms() > UNDECIDED_MS:
            return False
        until_rowid, until_ms = self._undecided
        if rowid > until_rowid:
            self._undecided = (self._reader.points_end(self._family), now_ms + UNDECIDED_MS)
            return True
        return now_ms < until_ms

    def finished(self, position: FeedPosition, chunk: Sequence[rows.Row]) -> bool:
        """Tell whether the table is read to its end after this chunk."""
        return self.held or (len(chunk) < self._chunk_rows and position.upper == LARGEST_ROWID)


def cursors_of(family: Family, position: FeedPosition) -> Mapping[str, bytes]:
    """Return the cursor of a position, to be committed."""
    return {cursor_key(family): position.encoded()}
