"""The pure parts of the source ``mlflow-db``: URIs, rows, anchors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.facts import ExperimentSeen, MetricsLogged, ParamsLogged, RunSeen, SubjectKey, TagsDeleted, TagsSet
from syncd.errors import ConfigError
from syncd.sources.mlflow_db import database_path, rows
from syncd.sources.mlflow_db.points import ANCHORS, FeedPosition, thinned
from syncd.sources.mlflow_db.schema import Schema
from syncd.sources.mlflow_db.subjects import MOST_QUIET, Warm, batches

BASE = Path("/base")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", "/base/mlflow.db"),
        ("sqlite:////data/mlflow.db", "/data/mlflow.db"),
        ("sqlite:///./a%20b.db?timeout=5", "/base/a b.db"),
        ("sqlite+pysqlite:///x.db", "/base/x.db"),
        ("mlflow.db", "/base/mlflow.db"),
        ("/data/mlflow.db", "/data/mlflow.db"),
    ],
)
def test_uri(uri: str, path: str) -> None:
    assert database_path(uri, BASE) == Path(path)


@pytest.mark.parametrize(
    "uri",
    ["postgresql://me:secret@host/db", "mysql+pymysql://h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///", ""],
)
def test_uri_of_something_else(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        database_path(uri, BASE)
    assert "sqlite:///" in str(caught.value)
    assert "secret" not in str(caught.value)


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.text(st.characters(codec="utf-8"), max_size=8), st.floats(), INT64, INT64),
        max_size=60,
    )
)
def test_points_arrive_bit_equal_and_in_order(points: list[tuple[str, str, float, int, int]]) -> None:
    found = [
        (rowid, run, key, 0.0 if math.isnan(value) else value, timestamp, step, int(math.isnan(value)))
        for rowid, (run, key, value, timestamp, step) in enumerate(points)
    ]
    for run in "abc":
        facts = rows.segments("run", found, frozenset((run,)), again=False)
        lines = [line for fact in facts if isinstance(fact, MetricsLogged) for line in fact.lines.split(b"\n")]
        back = [json.loads(line) for line in lines]
        assert [(p["key"], repr(float(p["value"])), p["timestamp"], p["step"]) for p in back] == [
            (key, repr(value), timestamp, step) for of, key, value, timestamp, step in points if of == run
        ]


def test_segments_are_cut_at_a_thousand_lines() -> None:
    found = [(i, "a", "k", 0.5, i, i, 0) for i in range(2001)]
    counts = [f.count for f in rows.segments("run", found, frozenset("a"), again=True) if isinstance(f, MetricsLogged)]
    assert counts == [1000, 1000, 1]


TEXTS = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=5)


def run(params: Mapping[str, str], tags: Mapping[str, str]) -> rows.RunSnapshot:
    return rows.run_snapshot(("r", "n", 1, "u", "RUNNING", 1, None, "", "active", 1, "active"), params, tags, [], [])


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_stating_the_difference_is_stating_the_whole(
    old_params: dict[str, str], old_tags: dict[str, str], params: dict[str, str], tags: dict[str, str]
) -> None:
    _, state = run(old_params, old_tags).against(None)
    facts, new_state = run(params, tags).against(state)
    merged_params, merged_tags = dict(old_params), dict(old_tags)
    for fact in facts:
        if isinstance(fact, ParamsLogged):
            merged_params |= fact.params
        elif isinstance(fact, TagsSet):
            assert all(old_tags.get(key) != value for key, value in fact.tags.items())
            merged_tags |= fact.tags
        elif isinstance(fact, TagsDeleted):
            for key in fact.keys:
                del merged_tags[key]
    assert merged_tags == tags
    assert merged_params == {**old_params, **params}
    assert run(params, tags).against(new_state) == ([], new_state)


@pytest.mark.parametrize(
    ("status", "end", "stated"),
    [("RUNNING", None, "RUNNING"), ("4", 1, "FAILED"), ("odd", None, "RUNNING"), ("odd", 1, "FINISHED"),
     (None, 1, "FINISHED")],
)  # fmt: skip
def test_status(status: Any, end: int | None, stated: str) -> None:
    row = ("r", None, 1, None, status, None, end, None, None, 1, None)
    head = rows.run_snapshot(row, {}, {"mlflow.runName": "by tag"}, [], []).head
    assert (head.status, head.name) == (stated, "by tag")


def test_states_of_equal_experiments_are_equal() -> None:
    one, two = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    subject = SubjectKey("experiment", "1")
    states = {rows.experiment_state(ExperimentSeen(subject, "n", tags)) for tags in (one, two)}
    assert len(states) == 1
    assert rows.experiment_state(ExperimentSeen(subject, "m", one)) not in states


def test_a_head_is_stated_only_when_it_changes() -> None:
    facts, state = run({}, {}).against(None)
    assert [type(fact) for fact in facts] == [RunSeen]
    assert run({}, {}).against(state)[0] == []


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300))
def test_anchors_keep_the_newest_and_reach_far_back(gaps: list[int]) -> None:
    position = FeedPosition()
    rowid = 0
    for gap in gaps:
        rowid += gap
        position = position.advanced((rowid, "r", "k", 0.5, 1, 1, 0))
    assert position.anchors[-1][0] == position.rowid == rowid
    assert len(position.anchors) <= ANCHORS
    assert position.anchors[0][0] == gaps[0]
    assert list(position.anchors) == sorted(position.anchors)
    assert FeedPosition.decoded(position.encoded()) == position


def test_anchors_are_dense_at_the_end() -> None:
    anchors: tuple[tuple[int, str], ...] = ()
    for rowid in range(5000, 5_000_001, 5000):
        anchors = thinned((*anchors, (rowid, "")))
    behind = [5_000_000 - rowid for rowid, _ in anchors]
    assert all(far <= max(4 * near, 20_000) for far, near in pairwise(behind))


def test_queries_are_filled_with_what_the_schema_has() -> None:
    schema = Schema(1, {"runs": frozenset({"name"})}, frozenset(), {})
    assert schema.sql("SELECT r.{runs.name}, {runs.x}, r.{runs.x} FROM runs") == 'SELECT r."name", NULL, NULL FROM runs'


def test_warm_subjects_cool_down_and_stay_bounded() -> None:
    warm = Warm()
    for i in range(MOST_QUIET + 100):
        warm.touch(str(i), 10)
    warm.touch("ended", 10)
    warm.cool(5, lambda _: True)
    assert len(warm.hot) == MOST_QUIET + 101
    warm.cool(11, lambda key: key != "ended")
    assert warm.hot == []
    assert len(warm.quiet) == MOST_QUIET
    assert "ended" not in warm
    warm.touch("5000000", 20)
    assert warm.hot == ["5000000"]


def test_batches() -> None:
    assert list(batches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
