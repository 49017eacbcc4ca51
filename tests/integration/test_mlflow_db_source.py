"""MLflow's SQLite store, read by the source: at rest, live, crashed, edited, collected and replaced."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest
from mlflow.entities import Metric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    ProblemFound,
    Reading,
    RunSeen,
    SubjectDeleted,
    TagsDeleted,
    TagsSet,
)
from syncd.errors import SourceError, SourceNotReady
from syncd.sources.memory_cursors import MemoryCursors
from syncd.sources.mlflow_db import MlflowDbSource
from syncd.sources.mlflow_db.connection import Database

T = TypeVar("T")
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "stores"
NOW_MS = 1_800_000_000_000
OLD_MS = NOW_MS - 86_400_000

# The tables as MLflow 3.15 makes them, without those that no run needs.
SCHEMA = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
CREATE TABLE experiments (experiment_id INTEGER NOT NULL, name VARCHAR(256) NOT NULL, artifact_location VARCHAR(256),
  lifecycle_stage VARCHAR(32), PRIMARY KEY (experiment_id));
CREATE TABLE experiment_tags ("key" VARCHAR(250) NOT NULL, value VARCHAR(5000), experiment_id INTEGER NOT NULL,
  PRIMARY KEY ("key", experiment_id));
CREATE TABLE runs (run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250), user_id VARCHAR(256), status VARCHAR(9),
  start_time BIGINT, end_time BIGINT, lifecycle_stage VARCHAR(20), artifact_uri VARCHAR(200), experiment_id INTEGER,
  PRIMARY KEY (run_uuid));
CREATE TABLE metrics ("key" VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT NOT NULL,
  run_uuid VARCHAR(32) NOT NULL, step BIGINT DEFAULT '0' NOT NULL, is_nan BOOLEAN DEFAULT '0' NOT NULL,
  PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan));
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE TABLE params ("key" VARCHAR(250) NOT NULL, value VARCHAR(8000) NOT NULL, run_uuid VARCHAR(32) NOT NULL,
  PRIMARY KEY ("key", run_uuid));
CREATE TABLE tags ("key" VARCHAR(250) NOT NULL, value VARCHAR(8000), run_uuid VARCHAR(32) NOT NULL,
  PRIMARY KEY ("key", run_uuid));
CREATE INDEX index_params_run_uuid ON params (run_uuid);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
"""


class Store:
    """A writer's side: a database made by hand, with MLflow's tables."""

    def __init__(self, path: Path, schema: str = SCHEMA, journal_mode: str = "DELETE") -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.db.execute(f"PRAGMA journal_mode={journal_mode}")
        self.db.executescript(schema)
        self.sql("INSERT INTO experiments VALUES (1, 'first', '', 'active')")

    def sql(self, statement: str, *parameters: Any) -> None:
        self.db.execute(statement, parameters)

    def run(self, run_id: str, *, status: str = "FINISHED", end: int | None = OLD_MS, experiment: int = 1) -> str:
        self.sql(
            "INSERT INTO runs VALUES (?, ?, 'u', ?, ?, ?, 'active', '', ?)",
            run_id, f"name of {run_id}", status, OLD_MS, end, experiment,
        )  # fmt: skip
        return run_id

    def points(self, run_id: str, count: int, *, key: str = "loss", first: int = 0) -> None:
        self.db.execute("BEGIN")
        self.db.executemany(
            "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)",
            [(key, i * 0.1, OLD_MS + i, run_id, i) for i in range(first, first + count)],
        )
        self.db.execute("COMMIT")

    def tag(self, run_id: str, key: str, value: str) -> None:
        self.sql("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", key, value, run_id)


class Follower:
    """The journal's side: commits every reading and keeps what was stated."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.cursors = MemoryCursors()
        self.path = path
        self.options = {"now_ms": lambda: NOW_MS, **options}
        self.source = MlflowDbSource("db", path, **self.options)

    def poll(self, *, full: bool = False) -> list[Fact]:
        facts: list[Fact] = []
        for reading in self.source.poll(self.cursors, full=full):
            self.cursors.commit(reading)
            facts += reading.facts
        return facts

    def forget(self, prefix: str) -> None:
        """Forget cursors, as the journal does when a filter changes."""
        self.cursors.commit(Reading((), dict.fromkeys(self.cursors.keys(prefix))))

    def restart(self) -> None:
        self.source.close()
        self.source = MlflowDbSource("db", self.path, **self.options)


def of(kind: type[T], facts: Collection[Fact]) -> list[T]:
    return [fact for fact in facts if isinstance(fact, kind)]


def points(facts: Collection[Fact]) -> Counter[tuple[str, str]]:
    return Counter(
        (fact.subject.id, line) for fact in of(MetricsLogged, facts) for line in fact.lines.decode().split("\n")
    )


def steps(facts: Collection[Fact], run_id: str) -> list[int]:
    return sorted(json.loads(line)["step"] for key, line in points(facts).elements() if key == run_id)


def directory(path: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(path)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in path.rglob("*")
        if p.is_file()
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    made = Store(tmp_path / "store" / "mlflow.db")
    yield made
    made.db.close()


@pytest.fixture
def follower(store: Store) -> Iterator[Follower]:
    made = Follower(store.path)
    yield made
    made.source.close()


# --- what a store holds ----------------------------------------------------------------------------------------------


def test_a_store_is_stated_whole_and_once(store: Store, follower: Follower) -> None:
    store.run("a")
    store.points("a", 2500)
    store.sql("INSERT INTO params VALUES ('lr', '0.1', 'a')")
    store.tag("a", "mlflow.parentRunId", "p")
    store.sql("INSERT INTO experiment_tags VALUES ('mlflow.note.content', 'a note', 1)")
    facts = follower.poll()
    assert of(ExperimentSeen, facts)[0].tags == {"mlflow.note.content": "a note"}
    head = of(RunSeen, facts)[0]
    assert (head.name, head.status, head.user_id, head.parent_run_id) == ("name of a", "FINISHED", "u", "p")
    assert (head.start_time_ms, head.end_time_ms, head.experiment.id) == (OLD_MS, OLD_MS, "1")
    assert of(ParamsLogged, facts)[0].params == {"lr": "0.1"}
    assert steps(facts, "a") == list(range(2500))
    assert all(fact.count <= 1000 and fact.count == fact.lines.count(b"\n") + 1 for fact in of(MetricsLogged, facts))
    assert not any(fact.again for fact in of(MetricsLogged, facts))
    assert follower.poll() == follower.poll(full=True) == []


def test_facts_come_after_what_they_belong_to(store: Store, follower: Follower) -> None:
    store.run("a")
    store.points("a", 3)
    kinds = [type(fact) for fact in follower.poll()]
    assert kinds == [ExperimentSeen, RunSeen, MetricsLogged]


@pytest.mark.parametrize(
    ("value", "is_nan", "wire"),
    [
        (0.0, 1, '"NaN"'), (1.7976931348623157e308, 0, "1.7976931348623157e+308"), (9e999, 0, '"Infinity"'),
        (-9e999, 0, '"-Infinity"'),  (5e-324, 0, "5e-324"), (0.1 + 0.2, 0, "0.30000000000000004"),
        ("text", 0, '"NaN"'), (3, 0, "3.0"),
    ],
)  # fmt: skip
def test_values_keep_their_bits(store: Store, follower: Follower, value: Any, is_nan: int, wire: str) -> None:
    store.run("a")
    store.sql("INSERT INTO metrics VALUES ('ä/\"loss\"', ?, -5, 'a', -9223372036854775808, ?)", value, is_nan)
    lines = of(MetricsLogged, follower.poll())[0].lines.decode()
    assert lines == f'{{"key":"ä/\\"loss\\"","value":{wire},"timestamp":-5,"step":-9223372036854775808}}'
    json.loads(lines)


def test_texts_that_are_no_utf8_do_not_stop_the_store(store: Store, follower: Follower) -> None:
    store.run("a")
    store.sql("INSERT INTO tags VALUES ('k', CAST(x'ff61' AS TEXT), 'a')")
    store.points("a", 2)
    facts = follower.poll()
    assert of(TagsSet, facts)[0].tags == {"k": "\ufffda"}
    assert steps(facts, "a") == [0, 1]


def test_an_old_schema_is_read_by_its_columns(tmp_path: Path) -> None:
    old = (
        SCHEMA.replace(", is_nan BOOLEAN DEFAULT '0' NOT NULL", "")
        .replace(", value, is_nan)", ", value)")
        .replace("CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);", "")
        .replace("name VARCHAR(250), user_id", "user_id")
        .replace("lifecycle_stage VARCHAR(20), ", "")
    )
    store = Store(tmp_path / "old.db", old)
    store.sql("INSERT INTO runs VALUES ('a', 'u', 'FINISHED', 1, 2, '', 1)")
    store.sql("INSERT INTO metrics VALUES ('m', 0.5, 1, 'a', 7)")
    store.tag("a", "mlflow.runName", "by tag")
    follower = Follower(store.path)
    facts = follower.poll()
    assert of(RunSeen, facts)[0].name == "by tag"
    assert steps(facts, "a") == [7]
    store.sql("INSERT INTO runs VALUES ('b', 'u', 'FINISHED', 1, 2, '', 1)")
    store.sql("INSERT INTO metrics VALUES ('m', 0.5, 1, 'b', 8)")
    assert steps(follower.poll(), "b") == [8]


def test_registered_models_and_traces_are_named_and_no_longer_when_they_are_gone(
    store: Store, follower: Follower
) -> None:
    store.db.executescript("CREATE TABLE registered_models (name TEXT); CREATE TABLE trace_info (request_id TEXT)")
    store.sql("INSERT INTO registered_models VALUES ('a'), ('b')")
    (problem,) = of(ProblemFound, follower.poll(full=True))
    assert problem.what.startswith("2 registered models stay where they are")
    assert of(ProblemFound, follower.poll(full=True)) == []
    store.sql("DELETE FROM registered_models")
    assert of(ProblemFound, follower.poll(full=True)) == [replace(problem, what="")]


def test_a_metrics_table_without_rowid_is_read_by_counting(tmp_path: Path) -> None:
    start = SCHEMA.index("CREATE TABLE metrics")
    end = SCHEMA.index(";", start)
    store = Store(tmp_path / "odd.db", SCHEMA[:end] + " WITHOUT ROWID" + SCHEMA[end:])
    store.run("a")
    store.points("a", 25)
    follower = Follower(store.path, chunk_rows=10)
    assert steps(follower.poll(), "a") == list(range(25))
    assert follower.poll(full=True) == []
    store.points("a", 1, first=25)
    facts = follower.poll()
    assert set(steps(facts, "a")) == set(range(26))
    assert all(fact.again for fact in of(MetricsLogged, facts))


def test_a_run_of_an_unknown_status_or_a_deleted_experiment(store: Store, follower: Follower) -> None:
    store.sql("INSERT INTO experiments VALUES (2, 'gone', '', 'deleted')")
    store.run("a", status="3")
    store.run("b", experiment=2)
    store.points("b", 2)
    facts = follower.poll()
    assert [(head.subject.id, head.status) for head in of(RunSeen, facts)] == [("a", "FINISHED")]
    assert [experiment.name for experiment in of(ExperimentSeen, facts)] == ["first"]
    assert not of(MetricsLogged, facts)
    store.sql("UPDATE experiments SET lifecycle_stage = 'active' WHERE experiment_id = 2")
    facts = follower.poll()
    assert [head.subject.id for head in of(RunSeen, facts)] == ["b"]
    assert steps(facts, "b") == [0, 1]


# --- changes ---------------------------------------------------------------------------------------------------------


def test_points_that_are_appended_are_stated_once(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    stated: Counter[tuple[str, str]] = Counter()
    for batch in range(20):
        store.points("a", batch * 7, key=f"m{batch}")
        stated += points(follower.poll())
        if batch % 5 == 4:
            follower.restart()
    assert sum(stated.values()) == sum(batch * 7 for batch in range(20))
    assert max(stated.values()) == 1


def test_an_unchanged_database_costs_no_sql(store: Store, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    store.run("a", status="RUNNING", end=None)
    follower.poll()
    follower.poll()

    def refused(*_: Any) -> None:
        raise AssertionError("SQL was executed")

    monkeypatch.setattr("syncd.sources.mlflow_db.connection.Database.read", refused)
    assert follower.poll() == []
    store.points("a", 1)
    with pytest.raises(AssertionError, match="SQL"):
        follower.poll()


def test_an_abandoned_poll_loses_nothing(store: Store, follower: Follower) -> None:
    rng = random.Random(5)
    follower.options["chunk_rows"] = 50
    follower.restart()
    for name in "abcdef":
        store.run(name)
        store.points(name, 120)
        store.tag(name, "t", name)
    stated: list[Fact] = []
    for _ in range(200):
        poll = follower.source.poll(follower.cursors, full=rng.random() < 0.3)
        for reading in poll:
            if rng.random() < 0.3:
                poll.close()  # yielded but not committed
                break
            follower.cursors.commit(reading)
            stated += reading.facts
    stated += follower.poll()
    assert all(steps(stated, name) == list(range(120)) for name in "abcdef")
    assert follower.poll(full=True) == []


def test_a_run_that_goes_on_is_followed(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.tag("a", "x", "1")
    store.tag("a", "y", "1")
    follower.poll()
    store.tag("a", "x", "2")
    assert of(TagsSet, follower.poll())[0].tags == {"x": "2"}
    store.sql("DELETE FROM tags WHERE key = 'y'")
    assert of(TagsDeleted, follower.poll())[0].keys == ["y"]
    store.sql("INSERT INTO params VALUES ('p', '1', 'a')")
    assert of(ParamsLogged, follower.poll())[0].params == {"p": "1"}
    store.sql("UPDATE runs SET status = 'FAILED', end_time = ?", NOW_MS)
    assert of(RunSeen, follower.poll())[0].status == "FAILED"
    store.tag("a", "late", "1")
    assert of(TagsSet, follower.poll())[0].tags == {"late": "1"}


def test_edits_after_the_end_are_found_by_a_full_poll(store: Store, follower: Follower) -> None:
    for name in ("a", "b"):
        store.run(name)
        store.tag(name, "t", "1")
        store.tag(name, "u", "1")
    follower.poll()
    store.tag("a", "t", "2")
    store.sql("UPDATE tags SET value = '3' WHERE key = 'u' AND run_uuid = 'b'")
    store.sql("UPDATE runs SET name = 'renamed' WHERE run_uuid = 'b'")
    facts = follower.poll(full=True)
    assert {(fact.subject.id, *fact.tags.items()) for fact in of(TagsSet, facts)} == {
        ("a", ("t", "2")),
        ("b", ("u", "3")),
    }
    assert [head.name for head in of(RunSeen, facts)] == ["renamed"]
    assert follower.poll(full=True) == []


def test_a_new_tag_on_a_finished_run_is_noticed_at_once(store: Store, follower: Follower) -> None:
    store.run("a")
    follower.poll()
    store.tag("a", "verdict", "good")
    assert of(TagsSet, follower.poll())[0].tags == {"verdict": "good"}


def test_the_end_of_a_quiet_run_is_noticed_at_once(store: Store, follower: Follower) -> None:
    now = [NOW_MS]
    follower.options["now_ms"] = lambda: now[0]
    follower.restart()
    store.run("a", status="RUNNING", end=None)
    store.run("other")
    follower.poll()
    for step in range(3):
        now[0] += 3_600_000
        store.points("other", 1, first=step)
        follower.poll()
    assert "a" in follower.source._runs.warm.quiet
    store.sql("UPDATE runs SET status = 'KILLED', end_time = ? WHERE run_uuid = 'a'", now[0])
    assert [head.status for head in of(RunSeen, follower.poll())] == ["KILLED"]


def test_delete_and_restore(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.run("b")
    store.points("a", 10)
    follower.poll()
    store.sql("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = 'a'")
    assert [fact.subject.id for fact in of(SubjectDeleted, follower.poll())] == ["a"]
    assert not list(follower.cursors.keys("a/"))
    store.points("a", 10, first=10)
    store.points("b", 10)
    facts = follower.poll()
    assert {fact.subject.id for fact in of(MetricsLogged, facts)} == {"b"}
    store.sql("UPDATE runs SET lifecycle_stage = 'active' WHERE run_uuid = 'a'")
    facts = follower.poll(full=True)
    assert [head.subject.id for head in of(RunSeen, facts)] == ["a"]
    assert steps(facts, "a") == list(range(20))
    assert follower.poll(full=True) == []


def test_a_run_deleted_from_the_start_is_read_when_it_is_restored(store: Store, follower: Follower) -> None:
    follower.options["chunk_rows"] = 7
    follower.restart()
    store.run("a")
    store.points("a", 30)
    store.sql("UPDATE runs SET lifecycle_stage = 'deleted'")
    assert not of(RunSeen, follower.poll())
    store.sql("UPDATE runs SET lifecycle_stage = 'active'")
    assert steps(follower.poll(full=True), "a") == list(range(30))


def test_points_before_their_run(store: Store, follower: Follower) -> None:
    store.points("a", 5)
    assert not of(MetricsLogged, follower.poll())
    store.run("a")
    facts = follower.poll()
    assert of(RunSeen, facts)
    assert steps(facts, "a") == list(range(5))


def test_a_forgotten_run_is_stated_wholly_again(store: Store, follower: Follower) -> None:
    for name in ("a", "b"):
        store.run(name)
        store.points(name, 12)
        store.tag(name, "t", "1")
    follower.poll()
    follower.forget("a/")
    facts = follower.poll(full=True)
    assert {fact.subject.id for fact in facts} == {"a"}
    assert {type(fact) for fact in facts} == {RunSeen, TagsSet, MetricsLogged}
    assert steps(facts, "a") == list(range(12))
    assert all(fact.again for fact in of(MetricsLogged, facts))


def test_stating_a_run_again_goes_on_where_it_was_broken_off(store: Store, follower: Follower) -> None:
    follower.options["chunk_rows"] = 10
    follower.restart()
    store.run("a")
    store.points("a", 100)
    follower.poll()
    follower.forget("a/")
    stated: list[Fact] = []
    for reading in follower.source.poll(follower.cursors, full=True):
        follower.cursors.commit(reading)
        stated += reading.facts
        if len(steps(stated, "a")) == 40:
            break
    follower.restart()
    assert steps(follower.poll(full=True), "a") == list(range(40, 100))
    assert follower.poll(full=True) == []


def test_a_forgotten_run_is_stated_wholly_again_when_it_logs(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.points("a", 12)
    follower.poll()
    follower.forget("a/")
    store.points("a", 1, first=12)
    assert steps(follower.poll(), "a") == list(range(13))


@pytest.mark.parametrize("chunk_rows", [3, 7, 5000])
def test_collected_runs_and_rowids_used_again(store: Store, follower: Follower, chunk_rows: int) -> None:
    follower.options["chunk_rows"] = chunk_rows
    follower.restart()
    store.run("a")
    store.points("a", 40)
    store.run("b")
    store.points("b", 20)
    follower.poll()
    for table in ("runs", "metrics"):  # as `mlflow gc` does
        store.sql(f"DELETE FROM {table} WHERE run_uuid = 'b'")
    store.run("c")
    store.points("c", 30)
    facts = follower.poll(full=True)
    assert [fact.subject.id for fact in of(SubjectDeleted, facts)] == ["b"]
    assert steps(facts, "c") == list(range(30))
    assert all(fact.again for fact in of(MetricsLogged, facts) if fact.subject.id == "a")
    assert len(steps(facts, "a")) < 40 or chunk_rows == 5000  # only what the anchors do not vouch for
    assert follower.poll(full=True) == []
    store.points("c", 1, first=30)
    facts = follower.poll()
    assert steps(facts, "c") == [30]
    assert not of(MetricsLogged, facts)[0].again


def test_a_new_run_without_points_at_a_rowid_used_again(store: Store, follower: Follower) -> None:
    for name in "abc":
        store.run(name)
    follower.poll()
    store.sql("DELETE FROM runs WHERE run_uuid IN ('b', 'c')")
    store.run("d")
    assert [head.subject.id for head in of(RunSeen, follower.poll())] == ["d"]


def test_rowids_used_again_by_a_run_that_is_known(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.points("a", 40)
    store.run("b")
    store.points("b", 20)
    follower.poll()
    for table in ("runs", "metrics"):
        store.sql(f"DELETE FROM {table} WHERE run_uuid = 'b'")
    store.points("a", 30, first=40)
    assert set(range(40, 70)) <= set(steps(follower.poll(), "a"))
    store.points("a", 1, first=70)
    assert steps(follower.poll(), "a") == [70]


def test_vacuum_renumbers_the_rows(store: Store, follower: Follower) -> None:
    store.run("a")
    store.run("b")
    store.points("a", 10)
    store.points("b", 10)
    follower.poll()
    for table in ("runs", "metrics"):
        store.sql(f"DELETE FROM {table} WHERE run_uuid = 'a'")
    store.sql("VACUUM")
    store.points("b", 10, first=10)
    assert set(range(10, 20)) <= set(steps(follower.poll(), "b"))


def test_a_database_that_is_replaced_is_read_again(store: Store, follower: Follower, tmp_path: Path) -> None:
    store.run("a")
    store.run("only in the first")
    store.points("a", 10)
    follower.poll()
    other = Store(tmp_path / "other.db")
    other.run("a")
    other.points("a", 15)
    other.db.close()
    store.db.close()
    store.path.unlink()
    with pytest.raises(SourceNotReady):
        follower.poll()
    shutil.move(tmp_path / "other.db", store.path)
    facts = follower.poll()
    assert steps(facts, "a") == list(range(15))
    assert all(fact.again for fact in of(MetricsLogged, facts))
    assert not of(SubjectDeleted, facts)
    assert follower.poll(full=True) == []


# --- safety ----------------------------------------------------------------------------------------------------------


def wal_left_behind(path: Path, *, keep: Collection[str] = ("", "-wal", "-shm")) -> Path:
    """Make a store whose last points are only in its -wal, as a copied or crashed one has it."""
    made = path / "made"
    made.mkdir()
    store = Store(made / "mlflow.db", journal_mode="WAL")
    store.run("a")
    store.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.points("a", 9)
    kept = path / "kept"
    kept.mkdir()
    for suffix in keep:
        shutil.copy(f"{store.path}{suffix}", kept)
    store.db.close()
    return kept / "mlflow.db"


@pytest.mark.parametrize("keep", [("", "-wal", "-shm"), ("", "-wal"), ("",)])
def test_a_wal_store_at_rest_is_not_touched(tmp_path: Path, keep: Collection[str]) -> None:
    path = wal_left_behind(tmp_path, keep=keep)
    before = directory(path.parent)
    follower = Follower(path)
    facts = follower.poll(full=True)
    assert steps(facts, "a") == (list(range(9)) if "-wal" in keep else [])
    assert follower.poll(full=True) == []
    follower.source.close()
    assert directory(path.parent) == before


def test_an_unusable_shm_is_worked_around(tmp_path: Path) -> None:
    path = wal_left_behind(tmp_path)
    path.with_name("mlflow.db-shm").write_bytes(b"")
    before = directory(path.parent)
    assert steps(Follower(path).poll(), "a") == list(range(9))
    assert directory(path.parent) == before


def test_a_rollback_store_at_rest_is_not_touched(store: Store, follower: Follower) -> None:
    store.run("a")
    store.points("a", 100)
    store.db.close()
    before = directory(store.path.parent)
    assert len(steps(follower.poll(full=True), "a")) == 100
    follower.poll(full=True)
    follower.source.close()
    assert directory(store.path.parent) == before


def test_a_live_wal_is_read_and_its_writer_tidies_up(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    store = Store(tmp_path / "s" / "mlflow.db", journal_mode="WAL")
    follower = Follower(store.path)
    store.run("a", status="RUNNING", end=None)
    stated: list[Fact] = []
    for first in range(0, 3000, 100):
        store.points("a", 100, first=first)
        stated += follower.poll(full=first % 500 == 0)
        assert Path(f"{store.path}-wal").exists()  # our closing has not checkpointed it away
    assert steps(stated, "a") == list(range(3000))
    store.db.close()
    assert [p.name for p in store.path.parent.iterdir()] == ["mlflow.db"]
    assert follower.poll(full=True) == []
    assert [p.name for p in store.path.parent.iterdir()] == ["mlflow.db"]


def test_a_read_that_a_commit_overtook_is_made_again(store: Store) -> None:
    store.run("a")
    seen: list[int] = []

    def count(connection: sqlite3.Connection) -> int:
        seen.append(connection.execute("SELECT count(*) FROM metrics").fetchall()[0][0])
        if len(seen) == 1:
            store.points("a", 5)
        return seen[-1]

    assert Database(store.path).read(count) == 5
    assert seen == [0, 5]


def test_a_busy_store_is_read_between_or_under_a_short_lock(store: Store) -> None:
    store.run("a")
    seen: list[int] = []

    def overtaken(connection: sqlite3.Connection) -> int:
        seen.append(connection.execute("SELECT count(*) FROM metrics").fetchall()[0][0])
        store.points("a", 1, first=len(seen))
        return seen[-1]

    paused: list[float] = []
    assert Database(store.path, pause=paused.append).read(overtaken) == seen[-1]
    assert sum(paused) < 0.1


def test_a_transaction_in_the_middle_is_not_seen(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.points("a", 5)
    store.sql("PRAGMA cache_size = 1")
    store.sql("BEGIN IMMEDIATE")
    store.sql("INSERT INTO metrics VALUES ('m', 1.0, 1, 'a', 100, 0)")
    assert store.path.with_name("mlflow.db-journal").exists()
    assert steps(follower.poll(), "a") == list(range(5))
    store.sql("ROLLBACK")
    assert follower.poll(full=True) == []


def test_a_transaction_that_is_being_written_out_is_waited_for(store: Store, follower: Follower) -> None:
    store.run("a", status="RUNNING", end=None)
    store.points("a", 5)
    follower.poll()
    store.sql("PRAGMA cache_size = 2")
    store.sql("BEGIN IMMEDIATE")
    store.db.executemany(
        "INSERT INTO metrics VALUES ('spilled', 1.0, ?, 'a', ?, 0)", [(i, 1000 + i) for i in range(20_000)]
    )
    began = time.monotonic()
    with pytest.raises(SourceNotReady):
        follower.poll()
    assert time.monotonic() - began < 4  # sqlite3 itself would wait for 5
    store.sql("ROLLBACK")
    assert follower.poll(full=True) == []


CRASH = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 2")
db.execute("BEGIN IMMEDIATE")
db.executemany("INSERT INTO metrics VALUES ('lost', 1.0, ?, 'a', ?, 0)", [(i, 1000 + i) for i in range(20000)])
os._exit(9)
"""


def crash(store: Store) -> None:
    subprocess.run([sys.executable, "-c", CRASH, str(store.path)], check=False, timeout=200)
    assert store.path.with_name("mlflow.db-journal").stat().st_size > 512


def test_a_hot_journal_is_rolled_back_in_a_private_copy(store: Store, tmp_path: Path) -> None:
    store.run("a")
    store.points("a", 5)
    crash(store)
    before = directory(store.path.parent)
    (tmp_path / "temp").mkdir()
    follower = Follower(store.path, temp_dir=tmp_path / "temp")
    assert steps(follower.poll(), "a") == list(range(5))
    assert follower.poll(full=True) == []
    assert directory(store.path.parent) == before
    follower.source.close()
    assert not list((tmp_path / "temp").iterdir())
    store.points("a", 1, first=5)  # the next writer recovers the store itself
    assert steps(follower.poll(), "a") == [5]


def test_a_hot_journal_that_is_too_large_to_copy(store: Store) -> None:
    store.run("a")
    crash(store)
    with pytest.raises(SourceNotReady, match="too many to copy"):
        Follower(store.path, copy_limit_bytes=1000).poll()


WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
db.execute("PRAGMA synchronous = OFF")
until, step = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    db.execute("BEGIN IMMEDIATE")
    for _ in range(10):
        db.execute("INSERT INTO metrics VALUES ('loss', ?, ?, 'a', ?, 0)", (step / 7, step, step))
        step += 1
    db.execute("COMMIT")
    time.sleep(float(sys.argv[3]))
print(step)
"""


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_a_writer_that_never_waits_is_not_disturbed(tmp_path: Path, journal_mode: str) -> None:
    store = Store(tmp_path / "mlflow.db", journal_mode=journal_mode)
    store.run("a", status="RUNNING", end=None)
    store.db.close()
    follower = Follower(store.path, chunk_rows=500)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.path), "4", "0.005"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stated: list[Fact] = []
    polls = Counter[str]()
    while writer.poll() is None:
        try:
            stated += follower.poll(full=polls["read"] % 10 == 0)
            polls["read"] += 1
        except SourceNotReady:
            polls["not ready"] += 1
        time.sleep(0.02)
    out, errors = writer.communicate()
    assert (writer.returncode, errors) == (0, b"")  # with a time-out of 0: "database is locked" at the first collision
    assert polls["read"] > 20
    assert len(points(stated)) > 100
    stated += follower.poll()
    assert steps(stated, "a") == list(range(int(out)))


# --- not ready, or not a store --------------------------------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with pytest.raises(SourceError, match="no such file"):
        Follower(path).poll()
    path.write_bytes(b"")
    with pytest.raises(SourceNotReady, match="empty"):
        Follower(path).poll()
    for text in (b"<html>" * 1000, b"<html>"):
        path.write_bytes(text)
        with pytest.raises(SourceError, match="not an SQLite database") as caught:
            Follower(path).poll()
        assert not isinstance(caught.value, SourceNotReady)
    path.write_bytes(b"SQLite for")
    with pytest.raises(SourceNotReady, match="empty"):
        Follower(path).poll()
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE cookies (name)")
    with pytest.raises(SourceError, match="none of MLflow's tables") as caught:
        Follower(path).poll()
    assert not isinstance(caught.value, SourceNotReady)
    other.execute("DROP TABLE cookies")
    other.execute("CREATE TABLE alembic_version (version_num)")
    follower = Follower(path)
    with pytest.raises(SourceNotReady, match="has not created its tables"):
        follower.poll()
    other.executescript(SCHEMA.partition(";")[2])
    assert follower.poll() == []


def test_a_malformed_database_says_so(store: Store) -> None:
    store.run("a")
    store.points("a", 5000)
    store.db.close()
    content = bytearray(store.path.read_bytes())
    content[4096 * 3 : -4096] = os.urandom(len(content) - 4096 * 4)
    store.path.write_bytes(content)
    with pytest.raises(SourceError, match="SQLite says") as caught:
        Follower(store.path).poll(full=True)
    assert not isinstance(caught.value, SourceNotReady)


# --- artifacts -------------------------------------------------------------------------------------------------------


def write(path: Path, text: str, *, age_s: float = 60.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (NOW_MS / 1000 - age_s,) * 2)
    os.utime(path.parent, (NOW_MS / 1000 - age_s,) * 2)


def artifacts(facts: Collection[Fact]) -> list[tuple[str, str]]:
    return sorted((fact.subject.id, fact.path) for fact in of(ArtifactSeen, facts))


@pytest.mark.parametrize(
    "uri",
    [
        "mlruns/1/abc/artifacts", "./mlruns/1/abc/artifacts", "file:///C:/Users/me/mlruns/1/abc/artifacts",
        "/somewhere/else/mlruns/1/abc/artifacts", "mlflow-artifacts:/1/abc/artifacts",
    ],
)  # fmt: skip
def test_artifacts_are_found_beside_the_database(store: Store, follower: Follower, uri: str) -> None:
    store.run("abc")
    store.sql("UPDATE runs SET artifact_uri = ?", uri)
    home = store.path.parent / "mlruns" / "1" / "abc" / "artifacts"
    write(home / "model" / "MLmodel", "x")
    facts = follower.poll(full=True)
    assert artifacts(facts) == [("abc", "model/MLmodel")]
    assert of(ArtifactSeen, facts)[0].root == str(home)
    assert not of(ProblemFound, facts)
    assert follower.poll(full=True) == follower.poll(full=True) == []
    write(home / "model" / "new.bin", "y", age_s=30)
    assert artifacts(follower.poll(full=True)) == [("abc", "model/new.bin")]


def test_artifacts_of_an_active_run_need_no_change_of_the_database(store: Store, follower: Follower) -> None:
    now = [NOW_MS]
    follower.options["now_ms"] = lambda: now[0]
    follower.restart()
    store.run("abc", status="RUNNING", end=None)
    store.sql("UPDATE runs SET artifact_uri = 'mlruns/1/abc/artifacts'")
    home = store.path.parent / "mlruns" / "1" / "abc" / "artifacts"
    assert not artifacts(follower.poll())
    write(home / "a.txt", "1")
    assert artifacts(follower.poll()) == [("abc", "a.txt")]
    assert home in follower.source.watch_paths()
    assert store.path.parent in follower.source.watch_paths()
    write(home / "a.txt", "other", age_s=30)
    os.utime(home, (NOW_MS / 1000 - 60,) * 2)
    now[0] += 10_000
    assert artifacts(follower.poll()) == [("abc", "a.txt")]


def test_artifacts_elsewhere_are_named_once_and_counted_when_many(store: Store, follower: Follower) -> None:
    for i in range(60):
        store.run(f"r{i}")
    store.sql("UPDATE runs SET artifact_uri = 's3://bucket/1/' || run_uuid || '/artifacts'")
    found = of(ProblemFound, follower.poll(full=True))
    assert len(found) == 51
    assert "s3://bucket" in found[0].what
    assert found[-1].what.startswith("10 more")
    assert follower.poll(full=True) == []
    store.sql("UPDATE runs SET artifact_uri = 'mlruns/1/r0/artifacts' WHERE run_uuid = 'r0'")
    write(store.path.parent / "mlruns" / "1" / "r0" / "artifacts" / "x", "x")
    facts = follower.poll(full=True)
    assert [p.what for p in of(ProblemFound, facts) if p.subject and p.subject.id == "r0"] == [""]
    assert artifacts(facts) == [("r0", "x")]


def test_a_run_without_artifacts_is_no_problem_at_home(store: Store, follower: Follower) -> None:
    store.run("a")
    (store.path.parent / "mlruns").mkdir()
    store.sql("UPDATE runs SET artifact_uri = ?", str(store.path.parent / "mlruns" / "1" / "a" / "artifacts"))
    assert not of(ProblemFound, follower.poll(full=True))


# --- stores that MLflow wrote ----------------------------------------------------------------------------------------

RELEASES = sorted(
    path.name.removeprefix("mlflow-").removesuffix("-sqlite.tar.gz") for path in FIXTURES.glob("*-sqlite.*")
)


def stated_by(facts: Collection[Fact]) -> dict[str, Any]:
    """Gather what was stated, in the form of the expected contents."""
    runs: dict[str, dict[str, Any]] = {
        fact.subject.id: {
            "name": fact.name, "status": fact.status, "start": fact.start_time_ms, "end": fact.end_time_ms,
            "experiment": fact.experiment.id, "params": {}, "tags": {}, "metrics": [], "inputs": [],
            "used": [], "made": [], "artifacts": {},
        }
        for fact in of(RunSeen, facts)
    }  # fmt: skip
    models: dict[str, dict[str, Any]] = {
        fact.subject.id: {
            "name": fact.name, "status": fact.status, "type": fact.model_type, "run": fact.source_run_id,
            "created": fact.creation_time_ms, "params": dict(fact.params), "tags": dict(fact.tags), "metrics": [],
            "artifacts": {},
        }
        for fact in of(ModelSeen, facts)
    }  # fmt: skip
    for fact in facts:
        if isinstance(fact, ParamsLogged):
            runs[fact.subject.id]["params"] |= fact.params
        elif isinstance(fact, TagsSet):
            runs[fact.subject.id]["tags"] |= fact.tags
        elif isinstance(fact, InputsLogged):
            runs[fact.subject.id]["inputs"] += [
                (d.name, d.digest, d.source_type, d.source, d.schema, d.profile, dict(d.tags)) for d in fact.datasets
            ]
            runs[fact.subject.id]["used"] += fact.model_inputs
        elif isinstance(fact, OutputsLogged):
            runs[fact.subject.id]["made"] += fact.models
        elif isinstance(fact, ArtifactSeen):
            content = (Path(fact.root) / fact.path).read_bytes()
            where = (models if fact.subject.kind == "model" else runs)[fact.subject.id]
            where["artifacts"][fact.path] = {"sha256": hashlib.sha256(content).hexdigest(), "size": fact.size_bytes}
        elif isinstance(fact, MetricsLogged):
            for line in fact.lines.decode().split("\n"):
                point = json.loads(line)
                values = (point["key"], repr(float(point["value"])), point["timestamp"], point["step"])
                if fact.subject.kind == "run":
                    assert set(point) == {"key", "value", "timestamp", "step"}
                    runs[fact.subject.id]["metrics"].append(values)
                    continue
                assert point["model_id"] == fact.subject.id
                values = (*values, point["run_id"], point.get("dataset_name"), point.get("dataset_digest"))
                models[fact.subject.id]["metrics"].append(values)
    for subject in (*runs.values(), *models.values()):
        subject["metrics"].sort(key=repr)
    experiments = {fact.subject.id: (fact.name, dict(fact.tags)) for fact in of(ExperimentSeen, facts)}
    return {"experiments": experiments, "runs": runs, "models": models}


def expected_of(truth: dict[str, Any]) -> dict[str, Any]:
    """Bring a release's own reading of its store into the same form."""
    experiments = [e for e in truth["experiments"] if e["lifecycle_stage"] == "active"]

    def sorted_points(found: list[list[Any]]) -> list[tuple[Any, ...]]:
        return sorted(((key, repr(float(value)), *rest) for key, value, *rest in found), key=repr)

    return {
        "experiments": {e["experiment_id"]: (e["name"], e["tags"]) for e in experiments},
        "runs": {
            r["run_id"]: {
                "name": r["run_name"], "status": r["status"], "start": r["start_time"], "end": r["end_time"],
                "experiment": e["experiment_id"], "params": r["params"], "tags": r["tags"],
                "metrics": sorted_points(r["metrics"]),
                "inputs": [
                    (*(d[k] or "" for k in ("name", "digest", "source_type", "source", "schema", "profile")), d["tags"])
                    for d in sorted(r["inputs"] or [], key=lambda d: d["name"])
                ],
                "used": r["model_inputs"] or [], "made": [(m["model_id"], m["step"]) for m in r["model_outputs"] or []],
                "artifacts": r["artifacts"],
            }
            for e in experiments for r in e["runs"] if r["lifecycle_stage"] == "active"
        },
        "models": {
            m["model_id"]: {
                "name": m["name"], "status": m["status"], "type": m["model_type"] or "",
                "run": m["source_run_id"] or "", "created": m["creation_timestamp"], "params": m["params"],
                "tags": m["tags"], "metrics": sorted_points(m["metrics"]), "artifacts": m["artifacts"],
            }
            for e in experiments for m in e.get("logged_models") or []
        },
    }  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
def test_a_store_of_each_release_is_stated_as_the_release_reads_it(release: str, tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / f"mlflow-{release}-sqlite.tar.gz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    before = directory(tmp_path / "store")
    follower = Follower(tmp_path / "store" / "mlflow.db")
    facts = follower.poll(full=True)
    truth = json.loads((FIXTURES / f"mlflow-{release}.json").read_text())["sqlite"]
    assert stated_by(facts) == expected_of(truth)
    assert follower.poll(full=True) == follower.poll() == []
    assert [problem for problem in of(ProblemFound, facts) if "registered models stay" not in problem.what] == []
    follower.source.close()
    assert directory(tmp_path / "store") == before


TRAINING = """
import os, sys, time
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
os.chdir(os.path.dirname(sys.argv[1]))
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1])
mlflow.set_experiment("live")
client = MlflowClient()
with mlflow.start_run(run_name="parent") as parent:
    mlflow.log_params({"lr": "0.1"})
    with mlflow.start_run(run_name="child", nested=True):
        for step in range(60):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            if step == 20:
                mlflow.log_text("hello", "notes/a.txt")
            if step == 30:
                mlflow.set_tag("phase", "late")
    client.log_batch(parent.info.run_id, metrics=[Metric("m", i / 3, 1000 + i, i) for i in range(1000)])
    mlflow.log_input(mlflow.data.meta_dataset.MetaDataset(
        mlflow.data.http_dataset_source.HTTPDatasetSource("https://a.test/x"), name="d"), context="training")
    model = client.create_logged_model(parent.info.experiment_id, name="m", source_run_id=parent.info.run_id)
    client.log_outputs(parent.info.run_id, [mlflow.entities.LoggedModelOutput(model.model_id, 3)]) if hasattr(
        client, "log_outputs") else None
    mlflow.log_metric("of model", float("nan"), step=1, model_id=model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
"""


def test_a_real_training_is_followed_live(tmp_path: Path) -> None:
    home = tmp_path / "training"
    home.mkdir()
    path = home / "mlflow.db"
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=home
    )
    follower = Follower(path, now_ms=lambda: time.time_ns() // 1_000_000)
    facts: list[Fact] = []
    running_points = 0
    while training.poll() is None:
        try:
            facts += follower.poll()
        except SourceError:
            time.sleep(0.1)
        running_points = sum(points(facts).values())
        time.sleep(0.05)
    output = training.communicate()[0].decode()
    assert training.returncode == 0, output
    assert running_points > 60
    time.sleep(2.1)  # a young file is held for two seconds
    facts += follower.poll()
    heads = {fact.name: fact for fact in of(RunSeen, facts)}
    parent, child = heads["parent"], heads["child"]
    assert (parent.status, child.status) == ("FINISHED", "FINISHED")
    assert child.parent_run_id == parent.subject.id
    assert steps(facts, child.subject.id) == list(range(60))
    assert len(steps(facts, parent.subject.id)) == 1001
    assert max(points(facts).values()) == 1
    assert artifacts(facts) == [(child.subject.id, "notes/a.txt")]
    assert any(fact.tags.get("phase") == "late" for fact in of(TagsSet, facts))
    assert of(InputsLogged, facts)[0].datasets[0].tags == {"mlflow.data.context": "training"}
    model = of(ModelSeen, facts)[-1]
    assert (model.status, model.source_run_id) == ("READY", parent.subject.id)
    line = next(fact for fact in of(MetricsLogged, facts) if fact.subject.kind == "model").lines
    assert {"value": "NaN", "model_id": model.subject.id, "run_id": parent.subject.id}.items() <= json.loads(
        line
    ).items()
    assert follower.poll(full=True) == []
    assert sorted(p.name for p in home.iterdir()) == ["mlflow.db", "mlruns"]


class _Half(Exception):
    """The training dies between the two transactions of one `log_metric`."""


@pytest.mark.parametrize("written", ["at last", "never"])
def test_the_nan_of_a_model_is_not_read_before_its_run_says_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    store = SqlAlchemyStore(f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "mlruns").as_uri())
    run_id = store.create_run("0", "me", 1, [], "trained").info.run_id
    model_id = store.create_logged_model("0", "model", source_run_id=run_id).model_id
    store.log_metric(run_id, Metric("before", 0.0, 1, 1, model_id=model_id))
    log_metrics = SqlAlchemyStore._log_metrics
    monkeypatch.setattr(SqlAlchemyStore, "_log_metrics", Mock(side_effect=_Half))
    with pytest.raises(_Half):
        store.log_metric(run_id, Metric("loss", math.nan, 1, 1, model_id=model_id))
    now = [time.time_ns() // 1_000_000]
    follower = Follower(tmp_path / "mlflow.db", now_ms=lambda: now[0])
    facts = follower.poll() + follower.poll()
    assert of_models(facts) == [("before", 0.0)]
    if written == "at last":
        log_metrics(store, run_id, [Metric("loss", math.nan, 1, 1)])
        expected = ("loss", "NaN")
    else:
        now[0] += 10_000
        expected = ("loss", 0.0)
    facts += follower.poll()
    assert of_models(facts) == [("before", 0.0), expected]
    assert of_models(follower.poll() + follower.poll(full=True)) == []
    assert of_models(Follower(tmp_path / "mlflow.db", now_ms=lambda: now[0] + 20_000).poll()) == of_models(facts)
    store.engine.dispose()


def of_models(facts: Collection[Fact]) -> list[tuple[str, float | str]]:
    """Return key and value of the models' points."""
    lines = (fact.lines for fact in of(MetricsLogged, facts) if fact.subject.kind == "model")
    points = [json.loads(line) for some in lines for line in some.decode().split("\n")]
    return [(point["key"], point["value"]) for point in points]


def test_a_version_is_trusted_once_it_is_old_or_seen_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a WAL, a second write within one tick of the file system's clock may leave size and mtime as they were.
    follower = Follower(store.path)
    reads = Counter[str]()
    read = Database.read
    monkeypatch.setattr(Database, "read", lambda self, work: (reads.update(["read"]), read(self, work))[1])
    monkeypatch.setattr(Database, "settled", lambda self, version: False)
    follower.poll()
    after_first = reads["read"]
    follower.poll()
    after_second = reads["read"]
    follower.poll()
    assert after_first < after_second == reads["read"]


def test_a_write_that_leaves_the_file_as_old_and_counted_as_it_was_is_read_all_the_same(store: Store) -> None:
    store.run("a", status="RUNNING", end=None)
    os.utime(store.path)
    written_ns = store.path.stat().st_mtime_ns
    database = Database(store.path, now_ns=lambda: written_ns)
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("PRAGMA locking_mode = EXCLUSIVE")  # the change counter is raised by the first commit alone
    versions = set()
    for name in ("one", "two", "six"):
        writer.execute("UPDATE runs SET name = ?", (name,))
        os.utime(store.path, ns=(written_ns, written_ns))
        versions.add(database.version())
        assert database.read(lambda connection: connection.execute("SELECT name FROM runs").fetchall()) == [(name,)]
    assert len(versions) == 1
    writer.close()
    database.close()


def test_a_store_that_is_migrated_while_it_is_followed(tmp_path: Path) -> None:
    old = SCHEMA.replace(", is_nan BOOLEAN DEFAULT '0' NOT NULL", "").replace(", value, is_nan)", ", value)")
    store = Store(tmp_path / "old.db", old)
    store.run("a", status="RUNNING", end=None)
    follower = Follower(store.path)
    follower.poll()
    store.sql("ALTER TABLE metrics ADD COLUMN is_nan BOOLEAN DEFAULT 0")
    store.sql("INSERT INTO metrics VALUES ('m', 0.0, 1, 'a', 7, 1)")
    assert b'"NaN"' in of(MetricsLogged, follower.poll())[0].lines


def test_the_deletion_of_a_quiet_run_is_noticed_at_once(store: Store, follower: Follower) -> None:
    now = [NOW_MS]
    follower.options["now_ms"] = lambda: now[0]
    follower.restart()
    store.run("a", status="RUNNING", end=None)
    follower.poll()
    now[0] += 3_600_000
    follower.poll()
    assert follower.source._runs.warm.quiet == ["a"]
    store.sql("UPDATE runs SET lifecycle_stage = 'deleted'")
    assert [fact.subject.id for fact in of(SubjectDeleted, follower.poll())] == ["a"]


def test_a_file_overwritten_while_nobody_looked_is_found_after_the_start(store: Store, follower: Follower) -> None:
    store.run("abc")
    store.sql("UPDATE runs SET artifact_uri = 'mlruns/1/abc/artifacts'")
    home = store.path.parent / "mlruns" / "1" / "abc" / "artifacts"
    write(home / "a", "1")
    assert artifacts(follower.poll(full=True)) == [("abc", "a")]
    write(home / "a", "22")
    assert not artifacts(follower.poll(full=True))  # its directory shows nothing
    follower.restart()
    assert artifacts(follower.poll(full=True)) == [("abc", "a")]
