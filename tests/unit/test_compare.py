"""The comparison itself, and the two places where it keeps points that do not fit into memory."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.cli.verify import difference_line
from syncd.core.compare.artifacts import compare_paths
from syncd.core.compare.findings import Difference, Place
from syncd.core.compare.heads import RunHead, compare_heads, compare_parents
from syncd.core.compare.links import compare_datasets, compare_links, compare_output_steps
from syncd.core.compare.points import (
    ModelPoint,
    ToldPoint,
    compare_model_points,
    compare_points,
    point_identity,
    told_point,
)
from syncd.core.compare.shown import shown_pair
from syncd.core.compare.values import compare_experiment_tags, compare_run_tags, compare_values
from syncd.core.facts import (
    ArtifactSeen,
    DatasetInput,
    MetricsLogged,
    ParamsLogged,
    ProblemFound,
    Reading,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.sources.memory_cursors import MemoryCursors
from syncd.verification.point_sort import PointSort
from syncd.verification.spool import Spool

NAN = float("nan")
MAX = sys.float_info.max


def brief(differences: object) -> list[tuple[str, str, str]]:
    return [(d.kind, d.part, d.key) for d in differences]  # type: ignore[attr-defined]


# -- heads and parents


HEAD = RunHead("name", "FINISHED", 1, 2, "me")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"name": "other"}, "name"),
        ({"status": "FAILED"}, "status"),
        ({"start_time_ms": 5}, "start time"),
        ({"end_time_ms": None}, "end time"),
        ({"user_id": ""}, "user"),
    ],
)
def test_each_field_of_a_head_counts(change: dict[str, object], part: str) -> None:
    assert compare_heads(HEAD, HEAD) == []
    assert brief(compare_heads(HEAD, replace(HEAD, **change))) == [("different", part, "")]


def test_a_time_of_zero_is_no_time() -> None:
    assert compare_heads(replace(HEAD, end_time_ms=None), replace(HEAD, end_time_ms=0)) == []
    assert compare_heads(replace(HEAD, start_time_ms=0), replace(HEAD, start_time_ms=None)) == []


@pytest.mark.parametrize(
    ("wanted", "held", "is_in_source", "of_held", "kinds"),
    [
        ("", "", False, "", []),
        ("p", "there", True, "p", []),
        ("p", "there", True, "q", ["different"]),
        ("p", "p", True, "", ["different"]),
        ("p", "p", False, "", []),
        ("p", "there", False, "p", ["different"]),
        ("p", "", True, "", ["missing"]),
        ("", "there", False, "", ["extra"]),
    ],
)
def test_parents(wanted: str, held: str, is_in_source: bool, of_held: str, kinds: list[str]) -> None:
    found = compare_parents(wanted, held, is_in_source=is_in_source, source_id_of_held=of_held)
    assert [d.kind for d in found] == kinds


# -- params and tags


def test_values_missing_changed_and_extra() -> None:
    found = compare_values("param", {"a": "1", "b": "2", "c": ""}, {"a": "1", "b": "3", "d": "4"}, {})
    assert brief(found.differences) == [("different", "param", "b"), ("missing", "param", "c"), ("extra", "param", "d")]
    assert found.in_overflow == 0


def test_a_value_in_the_overflow_is_held_only_if_it_is_whole() -> None:
    whole = compare_values("param", {"a": "long"}, {}, {"a": "long"})
    assert (whole.differences, whole.in_overflow) == ([], 1)
    stale = compare_values("param", {"a": "long"}, {"a": "old"}, {"a": "long"})
    assert (stale.differences, stale.in_overflow, len(stale.notes)) == ([], 1, 1)
    assert brief(compare_values("param", {"a": "long"}, {}, {"a": "lo"}).differences) == [("different", "param", "a")]
    assert brief(compare_values("param", {}, {}, {"a": "x"}).differences) == [("extra", "param", "a")]


def test_tags_that_syncd_and_servers_add_are_no_difference() -> None:
    held = {"t": "1", "syncd.source_run_id": "r", "syncd.overflow.tags": "1", "mlflow.runName": "n", "syncd.new": ""}
    assert compare_run_tags({"t": "1"}, held, {}, name="n").differences == []
    assert brief(compare_run_tags({"t": "1"}, {**held, "mlflow.runName": "m"}, {}, name="n").differences) == [
        ("different", "tag", "mlflow.runName")
    ]


def test_a_syncd_tag_of_the_users_own_is_compared() -> None:
    assert brief(compare_run_tags({"syncd.mine": "1"}, {}, {}, name="n").differences) == [
        ("missing", "tag", "syncd.mine")
    ]
    assert compare_run_tags({"syncd.source_run_id": "older"}, {}, {}, name="n").differences == []


def test_the_name_tag_follows_the_name() -> None:
    renamed = compare_run_tags({"mlflow.runName": "old"}, {"mlflow.runName": "new"}, {}, name="new")
    assert (renamed.differences, len(renamed.notes)) == ([], 1)
    assert brief(compare_run_tags({"mlflow.runName": "n"}, {}, {}, name="n").differences) == [
        ("missing", "tag", "mlflow.runName")
    ]


def test_the_parents_tag_is_left_to_the_parents() -> None:
    assert compare_run_tags({"mlflow.parentRunId": "a"}, {"mlflow.parentRunId": "b"}, {}, name="n").differences == []


def test_experiment_tags_of_several_stores() -> None:
    def compare(wanted: list[dict[str, str]], held: dict[str, str]) -> list[tuple[str, str, str]]:
        return brief(compare_experiment_tags(wanted, held, key_length=5, value_length=10).differences)

    assert compare([{"a": "1"}], {"a": "1"}) == []
    assert compare([{"a": "1"}], {"a": "2"}) == [("different", "tag", "a")]
    assert compare([{"a": "1"}], {}) == [("missing", "tag", "a")]
    assert compare([{"a": "1"}, {"a": "2", "b": "2"}], {"a": "2", "b": "2"}) == []
    assert compare([{"a": "x" * 11, "toolong": "1"}], {}) == []  # cannot be held: a note
    assert compare([{"a": "x" * 11}], {"a": "x" * 10}) == [("different", "tag", "a")]  # cut


def test_an_experiments_tag_of_another_store_is_a_note() -> None:
    found = compare_experiment_tags([{"a": "1"}], {"a": "1", "b": "2", "syncd.x": "3"}, key_length=5, value_length=10)
    assert (found.differences, [note.key for note in found.notes]) == ([], ["b"])


# -- datasets and links


DATASET = DatasetInput("train", "d1", "local", "{}", "schema", "profile", {"context": "a"})


def test_datasets() -> None:
    assert compare_datasets([DATASET], [DATASET]).differences == []
    assert brief(compare_datasets([DATASET], []).differences) == [("missing", "dataset", "train d1")]
    assert brief(compare_datasets([], [DATASET]).differences) == [("extra", "dataset", "train d1")]
    assert brief(compare_datasets([DATASET], [DATASET, DATASET]).differences) == [("twice", "dataset", "train d1")]


@pytest.mark.parametrize("change", [{"tags": {}}, {"source": "x"}, {"profile": "x"}])
def test_what_the_first_of_several_equal_datasets_decides_is_a_note(change: dict[str, object]) -> None:
    found = compare_datasets([DATASET], [replace(DATASET, **change)])  # type: ignore[arg-type]
    assert (found.differences, len(found.notes)) == ([], 1)


@pytest.mark.parametrize("part", ["schema", "source_type"])
def test_another_schema_is_a_difference(part: str) -> None:
    found = compare_datasets([DATASET], [replace(DATASET, **{part: "x"})])  # type: ignore[arg-type]
    assert brief(found.differences) == [("different", f"dataset {part}", "train d1")]


def test_links_to_models() -> None:
    assert compare_links("model output", ["m1"], {"r1": "m1"}, {"m1"}) == []
    assert brief(compare_links("model output", ["m1"], {}, {"m1"})) == [("missing", "model output", "m1")]
    assert brief(compare_links("model output", [], {"r1": None}, {})) == [("extra", "model output", "r1")]


def test_the_step_of_an_output_counts_where_both_sides_tell_it() -> None:
    assert compare_output_steps({"m1": 3}, [("m1", 3), (None, 4), ("m2", 4)]) == []
    assert compare_output_steps({"m1": 3}, [("m1", None)]) == []
    [difference] = compare_output_steps({"m1": 3}, [("m1", 0)])
    assert (difference.part, difference.key) == ("model output step", "m1")
    assert (difference.source_value, difference.destination_value) == ("3", "0")


# -- points


points = st.lists(
    st.builds(
        told_point,
        st.one_of(st.sampled_from([NAN, 0.0, -0.0, math.inf, -math.inf, MAX, 1.5]), st.floats()),
        st.integers(0, 3),
        st.integers(-1, 2),
    ),
    max_size=30,
)


@given(wanted=points, optional=points, held=points)
def test_points_compare_as_sets_do(wanted: list[ToldPoint], optional: list[ToldPoint], held: list[ToldPoint]) -> None:
    stream = sorted([(point, True) for point in set(wanted)] + [(point, False) for point in optional])
    told_held = sorted(held)
    compared, comparison = compare_points("k", stream, told_held)
    counts = {difference.kind: difference.count for difference in comparison.differences}
    spellings = Counter(map(point_identity, set(wanted)))
    wanted, optional, held = ([point_identity(told) for told in side] for side in (wanted, optional, held))
    expected = {
        "missing": len(set(wanted) - set(held)),
        "extra": len(set(held) - set(wanted) - set(optional)),
        "twice": sum(
            1 for point, n in Counter(held).items() if n > max(1, spellings[point]) and point in {*wanted, *optional}
        ),
    }
    assert compared == len(set(wanted))
    assert counts == {kind: count for kind, count in expected.items() if count}


def test_what_equals() -> None:
    def identity(value: float) -> ToldPoint:
        return point_identity(told_point(value, 1, 2))

    assert identity(NAN) == identity(-NAN)
    assert math.copysign(1, identity(-0.0)[3]) == 1
    assert identity(math.inf) == identity(MAX) != identity(-math.inf)
    assert identity(NAN) != identity(0.0)


@given(told=points)
def test_points_that_are_sorted_have_sorted_identities(told: list[ToldPoint]) -> None:
    identities = [point_identity(point) for point in sorted(told)]
    assert identities == sorted(identities)


def test_an_infinity_held_as_the_largest_double_is_a_note() -> None:
    def notes(wanted: list[float], held: list[float]) -> list[str]:
        stream = sorted((told_point(value, 7, 0), True) for value in wanted)
        _, found = compare_points("k", stream, sorted(told_point(value, 7, 0) for value in held))
        assert found.differences == []
        return [note.what for note in found.notes]

    largest = "held as the largest double, ±1.797e308"
    assert notes([math.inf, -math.inf], [MAX, -MAX]) == [
        f"2 infinities are {largest}: -inf at step 0, 7 ms; inf at step 0, 7 ms"
    ]
    assert notes([math.inf, MAX], [MAX]) == [f"1 infinity is {largest}: inf at step 0, 7 ms"]
    assert notes([math.inf], [math.inf]) == []
    assert notes([MAX], [MAX]) == []
    assert notes([MAX], [math.inf]) == []


def test_an_infinity_that_is_not_there_is_missing_and_no_note() -> None:
    _, found = compare_points("k", [(told_point(math.inf, 7, 0), True)], [])
    assert (brief(found.differences), found.notes) == ([("missing", "points", "k")], [])


def test_an_infinity_of_a_model_held_as_the_largest_double_is_a_note() -> None:
    def notes(wanted: float, held: float) -> list[str]:
        found = compare_model_points([model_point(wanted)], [model_point(held)], latest_only=False)
        assert found.differences == []
        return [note.what for note in found.notes]

    assert notes(-math.inf, -MAX) == [
        "1 infinity is held as the largest double, ±1.797e308: -inf at step 0, 5 ms, of run r"
    ]
    assert notes(math.inf, math.inf) == notes(MAX, MAX) == []


def test_points_are_named_with_the_first_few() -> None:
    wanted = [(told_point(float(step), 7, step), True) for step in range(10)]
    _, found = compare_points("k", wanted, [])
    [missing] = found.differences
    assert (missing.kind, missing.part, missing.key, missing.count) == ("missing", "points", "k", 10)
    assert list(missing.examples) == ["0.0 at step 0, 7 ms", "1.0 at step 1, 7 ms", "2.0 at step 2, 7 ms"]


def test_two_spellings_of_one_value_may_be_there_twice() -> None:
    point = told_point(0.0, 1, 1)
    assert compare_points("k", [(point, True), (point, True)], [point, point])[1].differences == []
    assert brief(compare_points("k", [(point, True)], [point, point])[1].differences) == [("twice", "points", "k")]


def model_point(value: float, step: int = 0, run: str = "r") -> ModelPoint:
    return "acc", run, told_point(value, 5, step)


def test_model_points() -> None:
    def compare(wanted: list[ModelPoint], held: list[ModelPoint], *, latest_only: bool = False) -> list[str]:
        return [d.kind for d in compare_model_points(wanted, held, latest_only=latest_only).differences]

    assert compare([model_point(1)], [model_point(1)]) == []
    assert compare([model_point(1)], [model_point(2)]) == ["missing", "extra"]
    assert compare([model_point(1)], [model_point(1, run="other")]) == ["missing", "extra"]
    assert compare([model_point(NAN)], [model_point(0.0)]) == []
    assert compare([model_point(0.0)], [model_point(NAN)]) == ["missing", "extra"]
    assert compare([model_point(NAN)], []) == ["missing"]
    assert compare([model_point(1, 1), model_point(2, 2)], [model_point(2, 2)]) == ["missing"]
    assert compare([model_point(1, 1), model_point(2, 2)], [model_point(2, 2)], latest_only=True) == []
    assert compare([model_point(1, 1), model_point(2, 2)], [model_point(1, 1)], latest_only=True) == ["missing"]


# -- artifacts


def test_paths() -> None:
    found = compare_paths({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 9, "d": 4, "syncd/overflow/tags.json": 5}, {})
    assert brief(found.differences) == [
        ("different", "artifact", "b"),
        ("missing", "artifact", "c"),
        ("extra", "artifact", "d"),
    ]
    assert found.to_read == [("a", "a")]
    assert compare_paths({"a": 1}, {"a": None}, {}).to_read == [("a", "a")]


def test_a_name_that_cannot_be_held_is_looked_for_where_it_is_stored() -> None:
    stored = {"a#b": "syncd/overflow/artifacts/1"}
    found = compare_paths({"a#b": 1}, {"syncd/overflow/artifacts/1": 1}, stored)
    assert (found.differences, found.to_read, found.in_overflow) == (
        [],
        [("a#b", "syncd/overflow/artifacts/1")],
        1,
    )
    assert brief(compare_paths({"a#b": 1}, {}, stored).differences) == [("missing", "artifact", "a#b")]
    assert brief(compare_paths({}, {}, stored).differences) == [("extra", "artifact", "a#b")]


# -- for people


def test_long_values_are_shown_where_they_differ() -> None:
    ours, theirs = shown_pair("x" * 5000 + "A" + "y" * 5000, "x" * 5000 + "B" + "y" * 5000)
    assert "A" in ours
    assert "B" in theirs
    assert len(ours) < 160
    assert shown_pair("a\nb", None) == ("'a\\nb'", "none")


def test_a_line_for_people() -> None:
    place = Place("s", "run", "abc", "first\nrun", "remote")
    line = difference_line(place, Difference("different", "tag", "t", "1", "2"))
    assert line == "different  run abc 'first\\\\nrun': tag t: source 1, destination 2"


# -- sorting


@given(wanted=points)
def test_sorting_keeps_every_point(tmp_path_factory: pytest.TempPathFactory, wanted: list[ToldPoint]) -> None:
    with PointSort(tmp_path_factory.getbasetemp(), segment_points=4) as sort:
        for point in wanted:
            sort.add(point)
        assert list(sort) == sorted(wanted)


# -- the spool


RUN = SubjectKey("run", "r1")
EXPERIMENT = SubjectKey("experiment", "0")
SEEN = RunSeen(RUN, EXPERIMENT, "n", "RUNNING", 1, None)


def line(key: str, value: object, timestamp: int = 1, step: int = 0, **more: str) -> bytes:
    return json.dumps({"key": key, "value": value, "timestamp": timestamp, "step": step, **more}).encode()


def logged(subject: SubjectKey, *lines: bytes) -> MetricsLogged:
    return MetricsLogged(subject, b"\n".join(lines), len(lines))


def test_facts_merge_in_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.take(0, Reading([SEEN, TagsSet(RUN, {"a": "1", "b": "2"}), ParamsLogged(RUN, {"\udc80": "x"})]))
    spool.take(0, Reading([ProblemFound("w1", "why"), ProblemFound("w2", "why"), ProblemFound("w1", "")]))
    spool.take(0, Reading([replace(SEEN, status="FINISHED"), TagsDeleted(RUN, ["a"]), TagsSet(RUN, {"b": "3"})]))
    spool.take(0, Reading([ArtifactSeen(RUN, "f\udc80", "/r", 1, 2), ArtifactSeen(RUN, "f\udc80", "/r", 3, 4)]))
    spool.take(1, Reading([SEEN, SubjectDeleted(RUN)]))
    spool.seal()
    [number] = spool.numbers("run")
    spooled = spool.subject(number)
    assert isinstance(spooled.head, RunSeen)
    assert (spooled.head.status, spooled.tags, spooled.params) == ("FINISHED", {"b": "3"}, {"\udc80": "x"})
    assert {path: seen.size_bytes for path, seen in spooled.artifacts.items()} == {"f\udc80": 3}
    assert spool.problems() == [(0, "w2", "why")]
    assert spool.is_stated(0, "run", "r1")
    assert not spool.is_stated(1, "run", "r1")
    spool.close()


def test_points_come_sorted_and_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    model = SubjectKey("model", "m1")
    spool.take(0, Reading([SEEN, logged(RUN, line("k", 2.0, 9), line("k", "NaN"), line("k", 1.0), line("k", 1.0))]))
    spool.take(0, Reading([logged(RUN, line("k", "Infinity", 5), line("k", MAX, 5), line("other", 1))]))
    spool.take(0, Reading([logged(model, line("k", 7.0, 20, run_id="r1"), line("only", 7.0, run_id="r1"))]))
    spool.seal()
    [number] = spool.numbers("run")
    assert spool.metrics(number) == ["k", "only", "other"]
    assert list(spool.points(number, "k")) == [
        ((1, 0, 0, 1.0), True),
        ((1, 0, 1, 0.0), True),
        ((5, 0, 0, MAX), True),
        ((5, 0, 0, math.inf), True),  # told apart here, though they compare equal
        ((9, 0, 0, 2.0), True),
        ((20, 0, 0, 7.0), False),
    ]
    assert list(spool.points(number, "none")) == []
    spool.close()


def test_cursors_in_memory() -> None:
    cursors = MemoryCursors()
    cursors.commit(Reading([], {"r1/a": b"1", "r1/b": b"2", "r10/a": b"3", "store:x": b"4"}))
    assert list(cursors.keys("r1/")) == ["r1/a", "r1/b"]
    assert list(cursors.keys("r1")) == ["r1/a", "r1/b", "r10/a"]
    assert list(cursors.keys("")) == ["r1/a", "r1/b", "r10/a", "store:x"]
    cursors.commit(Reading([], {"r1/a": None, "gone/a": None}))
    assert (cursors.load("r1/a"), cursors.load("r1/b"), len(cursors)) == (None, b"2", 3)
