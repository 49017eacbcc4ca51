"""Read rows through a safe ``Database`` and hand them on as snapshots and points."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from syncd.core.facts import DatasetInput, ExperimentSeen, SubjectKind
from syncd.sources.mlflow_db import queries, rows
from syncd.sources.mlflow_db.connection import Database
from syncd.sources.mlflow_db.schema import Schema, probe, schema_version

T = TypeVar("T")
Query = Callable[..., list[rows.Row]]
LARGEST_ROWID = (1 << 63) - 1
EXPERIMENTS_PAGE = 500


@dataclass(frozen=True, slots=True)
class Family:
    """The queries of one kind of subject."""

    kind: SubjectKind
    table: str
    page: str
    at: str
    present: str
    locations: str
    live: str
    ended: str
    points_table: str
    points: str
    point_at: str
    points_of: str
    points_exist: str
    points_end: str


RUNS = Family(
    kind="run",
    table="runs",
    page=queries.RUNS_PAGE,
    at=queries.RUN_AT,
    present=queries.RUNS_PRESENT,
    locations=queries.RUN_LOCATIONS,
    live=queries.RUNS_LIVE,
    ended=queries.RUNS_ENDED,
    points_table="metrics",
    points=queries.POINTS,
    point_at=queries.POINT_AT,
    points_of=queries.POINTS_OF,
    points_exist=queries.POINTS_EXIST,
    points_end=queries.POINTS_END,
)
MODELS = Family(
    kind="model",
    table="logged_models",
    page=queries.MODELS_PAGE,
    at=queries.MODEL_AT,
    present=queries.MODELS_PRESENT,
    locations=queries.MODEL_LOCATIONS,
    live=queries.MODELS_LIVE,
    ended=queries.MODELS_ENDED,
    points_table="logged_model_metrics",
    points=queries.MODEL_POINTS,
    point_at=queries.MODEL_POINT_AT,
    points_of=queries.MODEL_POINTS_OF,
    points_exist=queries.MODEL_POINTS_EXIST,
    points_end=queries.MODEL_POINTS_END,
)


class Reader:
    """Typed reads of one database. Each method is one short read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schema: Schema | None = None

    @property
    def schema(self) -> Schema:
        """The schema as last probed."""
        if self._schema is None:
            return self.probe()
        return self._schema

    def probe(self) -> Schema:
        """Probe the schema if it changed since the last time."""
        self._schema = self._database.read(self._probed)
        return self._schema

    def forget(self) -> None:
        """Probe the schema anew next time."""
        self._schema = None

    def changed_ms(self) -> int:
        """Return when the database was last written, ms since the epoch."""
        return self._database.version().changed_ns // 1_000_000

    def experiments(self) -> list[tuple[ExperimentSeen, bool]]:
        """Return all experiments with whether each is alive."""
        found: list[tuple[ExperimentSeen, bool]] = []
        after: Any = -(1 << 63)
        while page := self._read(partial(self._experiments, after=after)):
            found += [(experiment, alive) for experiment, alive, _ in page]
            after = page[-1][2]
        return found

    def page(self, family: Family, after: int, limit: int) -> list[tuple[int, str]]:
        """Return rowid and id of the next subjects."""
        return [(row[0], rows.text(row[1])) for row in self._rows(family.page, after, limit)]

    def subject_at(self, family: Family, rowid: int) -> str | None:
        """Return the id of the subject at that rowid."""
        found = self._rows(family.at, rowid)
        return rows.text(found[0][0]) if found else None

    def live(self, family: Family, since_ms: int, limit: int) -> list[str]:
        """Return the newest subjects that are not finished or were changed since."""
        return [rows.text(row[0]) for row in self._rows(family.live, since_ms, limit)]

    def ended(self, family: Family, ids: Collection[str]) -> list[str]:
        """Return those of these live subjects that are live no more."""
        return [rows.text(row[0]) for row in self._rows(family.ended, _array(ids))]

    def present(self, family: Family, ids: Collection[str]) -> set[str]:
        """Return those of these subjects that have a row."""
        return {rows.text(row[0]) for row in self._rows(family.present, _array(ids))}

    def locations(self, family: Family, ids: Collection[str]) -> dict[str, str]:
        """Return the artifact URI of each of these subjects."""
        return {rows.text(row[0]): rows.text(row[1]) for row in self._rows(family.locations, _array(ids))}

    def snapshots(self, family: Family, ids: Collection[str]) -> dict[str, rows.Snapshot]:
        """Return these subjects whole, in the order in which the store has them."""
        return self._read(lambda query: (self._runs if family is RUNS else self._models)(query, _array(ids)))

    def points(self, family: Family, after: int, until: int, limit: int) -> list[rows.Row]:
        """Return the next points of all subjects."""
        return self._rows(family.points, after, until, limit)

    def points_of(self, family: Family, subject_id: str, after: int, until: int, limit: int) -> list[rows.Row]:
        """Return the next points of one subject."""
        return self._rows(family.points_of, subject_id, after, until, limit)

    def point_at(self, family: Family, rowid: int) -> rows.Row | None:
        """Return the point at that rowid."""
        found = self._rows(family.point_at, rowid)
        return found[0] if found else None

    def with_points(self, family: Family, ids: Collection[str], until: int) -> set[str]:
        """Return those of these subjects that have points up to that rowid."""
        query = family.points_exist
        if family is RUNS and "run_uuid" not in self.schema.indexed["metrics"]:
            query = queries.POINTS_EXIST_UNINDEXED
        return {rows.text(row[0]) for row in self._rows(query, _array(ids), until)}

    def points_end(self, family: Family) -> int:
        """Return the greatest rowid of the points."""
        return self._rows(family.points_end)[0][0] or 0

    def counts(self, ids: Collection[str]) -> dict[str, int]:
        """Return how many points these runs have."""
        return {rows.text(row[0]): row[1] for row in self._rows(queries.POINTS_COUNTED, _array(ids))}

    def points_unordered(self, run_id: str, offset: int, limit: int) -> list[rows.Row]:
        """Return a page of one run's points from a table that has no rowid."""
        return self._rows(queries.POINTS_UNORDERED, run_id, limit, offset)

    def left(self) -> dict[str, int]:
        """Return how many rows there are of each kind that is not brought over."""
        return {table: self._rows(query)[0][0] for table, query in queries.LEFT.items() if self.schema.has(table)}

    def hint_end(self, table: str) -> int:
        """Return the greatest rowid of a table that is followed for hints."""
        return self._rows(queries.HINT_ENDS[table])[0][0] or 0

    def hints(self, table: str, after: int, limit: int) -> list[tuple[int, str]]:
        """Return rowid and subject of new rows of a table."""
        return [(row[0], rows.text(row[1])) for row in self._rows(queries.HINTS[table], after, limit)]

    def _rows(self, query: str, *parameters: Any) -> list[rows.Row]:
        return self._read(lambda run: run(query, *parameters))

    def _read(self, work: Callable[[Query], T]) -> T:
        schema = self.schema

        def worked(connection: sqlite3.Connection) -> T:
            return work(lambda query, *parameters: _fetch(connection, schema.sql(query), parameters))

        return self._database.read(worked)

    def _probed(self, connection: sqlite3.Connection) -> Schema:
        if self._schema is not None and self._schema.version == schema_version(connection):
            return self._schema
        return probe(connection, str(self._database.path))

    def _experiments(self, query: Query, after: Any) -> list[tuple[ExperimentSeen, bool, Any]]:
        page = query(queries.EXPERIMENTS, after, EXPERIMENTS_PAGE)
        tags: dict[str, dict[str, str]] = {}
        if self.schema.has("experiment_tags"):
            tags = _by_subject(query(queries.EXPERIMENT_TAGS, json.dumps([row[0] for row in page])))
        return [
            (rows.experiment_seen(key, name, tags.get(rows.text(key), {})), stage != "deleted", key)
            for key, name, stage in page
        ]

    def _runs(self, query: Query, ids: str) -> dict[str, rows.Snapshot]:
        heads = query(queries.RUNS, ids)
        params = _by_subject(query(queries.PARAMS, ids))
        tags = _by_subject(query(queries.TAGS, ids))
        datasets, links = self._inputs(query, ids)
        found: dict[str, rows.Snapshot] = {}
        for row in heads:
            run_id = rows.text(row[0])
            found[run_id] = rows.run_snapshot(
                row, params.get(run_id, {}), tags.get(run_id, {}), datasets[run_id], links[run_id]
            )
        return found

    def _inputs(
        self, query: Query, ids: str
    ) -> tuple[Mapping[str, list[DatasetInput]], Mapping[str, list[tuple[str, str, int]]]]:
        datasets: dict[str, list[DatasetInput]] = defaultdict(list)
        links: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        if self.schema.has("inputs", "datasets"):
            found = query(queries.DATASETS, ids)
            tags: dict[str, dict[str, str]] = {}
            if found and self.schema.has("input_tags"):
                tags = _by_subject(query(queries.INPUT_TAGS, json.dumps([row[1] for row in found])))
            for row in found:
                datasets[rows.text(row[0])].append(rows.dataset_input(row, tags.get(rows.text(row[1]), {})))
            for run_id, kind, model_id, step in query(queries.MODEL_LINKS, ids):
                links[rows.text(run_id)].append((rows.text(kind), rows.text(model_id), rows.number(step) or 0))
        return datasets, links

    def _models(self, query: Query, ids: str) -> dict[str, rows.Snapshot]:
        params = _by_subject(query(queries.MODEL_PARAMS, ids))
        tags = _by_subject(query(queries.MODEL_TAGS, ids))
        return {
            rows.text(row[0]): rows.model_snapshot(
                row, params.get(rows.text(row[0]), {}), tags.get(rows.text(row[0]), {})
            )
            for row in query(queries.MODELS, ids)
        }


def _fetch(connection: sqlite3.Connection, sql: str, parameters: tuple[Any, ...]) -> list[rows.Row]:
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.text_factory = str


def _by_subject(found: list[rows.Row]) -> dict[str, dict[str, str]]:
    """Return {subject: {key: value}}, keys sorted so that equal contents are equal texts."""
    gathered: dict[str, dict[str, str]] = defaultdict(dict)
    for subject_id, key, value in sorted(found, key=lambda row: rows.text(row[1])):
        gathered[rows.text(subject_id)][rows.text(key)] = rows.text(value)
    return dict(gathered)


def _array(ids: Collection[str]) -> str:
    return json.dumps(list(ids))
