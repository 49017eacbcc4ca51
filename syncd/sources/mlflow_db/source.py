"""Poll one MLflow SQLite store.

Rules
-----
1. Order inside a poll: experiments, runs (heads, params, tags, inputs), their points, logged models, their points,
   artifacts. So nothing is stated before what it belongs to.
2. When neither the database nor its ``-wal`` has changed, a poll that is not full executes no SQL.
3. What is committed is only known from the cursors. Memory holds hints.

Cursors: ``store:database`` (which file), ``store:experiment/<id>``, ``store:runs``, ``store:logged_models``,
``store:points/<table>``, ``store:missing artifacts of …``, ``store:left <table>``; those of one run or model begin with
its id, see ``subjects`` and ``artifacts``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from syncd.core.facts import Fact, ProblemFound, Reading
from syncd.errors import SourceError
from syncd.sources.base import Cursors
from syncd.sources.mlflow_db.artifacts import Artifacts
from syncd.sources.mlflow_db.connection import COPY_LIMIT_BYTES, Database, Version
from syncd.sources.mlflow_db.points import CHUNK_ROWS
from syncd.sources.mlflow_db.reader import MODELS, RUNS, Reader
from syncd.sources.mlflow_db.rows import experiment_state
from syncd.sources.mlflow_db.subjects import Subjects

DATABASE = "store:database"
EXPERIMENT = "store:experiment/"
LEFT = {
    "registered_models": "registered models stay where they are: syncd registers models by rules, from their runs",
    "trace_info": "traces stay where they are: syncd brings runs and logged models",
}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MlflowDbSource:
    """A read-only, incremental reader of one MLflow database."""

    def __init__(
        self,
        name: str,
        database: Path,
        *,
        temp_dir: Path | None = None,
        copy_limit_bytes: int = COPY_LIMIT_BYTES,
        chunk_rows: int = CHUNK_ROWS,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        """Prepare to read; nothing is opened yet.

        Args:
            name: the source's name in the configuration.
            database: the database file.
            temp_dir: where a private copy is made when a crashed writer left one to recover; None: the system's.
            copy_limit_bytes: largest database (with its journal) that is copied for that.
            chunk_rows: points read in one SELECT.
            now_ms: wall clock, ms since the epoch; compared with the runs' end times.
        """
        self.name = name
        self.path = database.absolute()
        self._database = Database(self.path, temp_dir=temp_dir, copy_limit_bytes=copy_limit_bytes)
        self._reader = Reader(self._database)
        self._runs, self._models = (
            Subjects(family, self._reader, experiments=self._experiments_of, now_ms=now_ms, chunk_rows=chunk_rows)
            for family in (RUNS, MODELS)
        )
        self._artifacts = Artifacts(self.path, self._reader, now_ms=now_ms)
        self._seen: Version | None = None
        self._confirmed = False

    def poll(self, cursors: Cursors, *, full: bool, changed: Collection[str] | None = None) -> Iterator[Reading]:
        """Yield what is new; see ``StoreSource``."""
        version = self._database.version()
        if full or version != self._seen or not self._confirmed:
            try:
                yield from self._read_changes(cursors, version, full=full)
            except SourceError:
                self._reader.forget()
                raise
            # An equal version read twice, or an old one, has hidden no later change in the same clock tick.
            self._confirmed = version == self._seen or self._database.settled(version)
            self._seen = None if self._models.held else version
        for subjects in (self._runs, self._models):
            yield from self._artifacts.poll_active(cursors, subjects, changed or ())
            subjects.rest()
        self._artifacts.rest({*self._runs.warm.hot, *self._models.warm.hot})

    def watch_paths(self) -> Collection[Path]:
        """Return the database's directory and the artifact directories of active runs."""
        return [self.path.parent, *self._artifacts.watched()]

    def close(self) -> None:
        """Close the database and remove private copies."""
        self._database.close()
        self._seen, self._confirmed = None, False

    def _read_changes(self, cursors: Cursors, version: Version, *, full: bool) -> Iterator[Reading]:
        self._reader.probe()
        identity, replacing = b"%d" % version.inode, b"%d replacing" % version.inode
        before = cursors.load(DATABASE)
        replaced = before not in {None, identity}
        if replaced and before != replacing:
            yield Reading((), {**self._rewound(cursors), DATABASE: replacing})
        reading, flipped = self._experiments(cursors)
        if reading.cursors:
            yield reading
        everything = full or replaced or flipped
        for subjects in self._families():
            yield from subjects.poll(cursors, everything=everything, replaced=replaced)
            if everything:
                yield from self._artifacts.poll_all(cursors, subjects)
        if everything:
            yield from self._left(cursors)
        if before != identity:
            yield Reading((), {DATABASE: identity})

    def _left(self, cursors: Cursors) -> Iterator[Reading]:
        """Name what stays where it is, and withdraw what is no longer there."""
        counts = self._reader.left()
        for table, what in LEFT.items():
            where, key = f"{self.path}: {table}", f"store:left {table}"
            text = f"{counts[table]} {what}" if counts.get(table) else ""
            if text.encode() != (cursors.load(key) or b""):
                yield Reading((ProblemFound(where, text),), {key: text.encode() or None})

    def _families(self) -> Iterator[Subjects]:
        yield self._runs
        if self._reader.schema.has_logged_models:
            yield self._models

    def _rewound(self, cursors: Cursors) -> dict[str, bytes | None]:
        return {key: value for subjects in self._families() for key, value in subjects.rewind(cursors).items()}

    def _experiments(self, cursors: Cursors) -> tuple[Reading, bool]:
        """Return what is new of the experiments, and whether one was deleted or restored (then its runs were too)."""
        facts: list[Fact] = []
        states: dict[str, bytes | None] = {}
        flipped = False
        for experiment, alive in self._reader.experiments():
            key = EXPERIMENT + experiment.subject.id
            before = cursors.load(key)
            state = experiment_state(experiment) if alive else b"deleted"
            if state == before:
                continue
            states[key] = state
            flipped = flipped or (before is not None and b"deleted" in {before, state})
            if alive:
                facts.append(experiment)
        return Reading(facts, states), flipped

    def _experiments_of(self, cursors: Cursors, ids: Collection[str]) -> Reading:
        """Return the experiments if one of these was made since this poll began."""
        if all(cursors.load(EXPERIMENT + key) not in {None, b"deleted"} for key in ids):
            return Reading(())
        return self._experiments(cursors)[0]
