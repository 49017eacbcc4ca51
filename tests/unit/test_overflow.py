"""The form of overflow, who has a place, which tags fit, names that are too long, limits that become lower."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.limits import Limits, lowered
from syncd.core.names import held_name
from syncd.core.overflow import (
    INDEX,
    POINTS,
    last_number,
    metric_name,
    numbered,
    overflow_path,
    parse_overflow_path,
    raw_key,
)
from syncd.core.places import MetricPlaces
from syncd.core.run_tags import OWN_TAGS, fit_run_tags
from syncd.core.source_tags import NOTE, PARENT_RUN_ID, RUN_NAME

FEW = Limits(metric_names_per_run=2)


def line(name: str, step: int = 0, value: object = 0.5) -> bytes:
    point = {"key": name, "value": value, "timestamp": 1_700_000_000_000, "step": step}
    return json.dumps(point, separators=(",", ":"), ensure_ascii=False).encode()


# -- paths


@pytest.mark.parametrize("section", ["params", "tags", "artifacts", "inputs", "metrics", INDEX, POINTS])
def test_a_path_says_its_section_and_number(section: str) -> None:
    for number in (1, 2, 10):
        assert parse_overflow_path(overflow_path(section, number)) == (section, number)


def test_other_paths_are_neither_documents_nor_segments() -> None:
    for path in (
        "params.json",
        "syncd/overflow/artifacts/ab.json",
        "syncd/overflow/metrics/x.jsonl",
        "syncd/overflow/a",
    ):
        assert parse_overflow_path(path) is None


def test_documents_are_read_in_the_order_of_their_numbers() -> None:
    paths = [overflow_path("params", number) for number in (10, 2, 1)] + [overflow_path("tags", 3), "other"]
    assert list(numbered(paths, "params")) == [1, 2, 10]
    assert numbered(paths, "params")[2] == "syncd/overflow/params.2.json"
    assert (last_number(paths, "params"), last_number(paths, POINTS)) == (10, 0)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_is_found_without_parsing_the_point(name: str) -> None:
    assert metric_name(raw_key(line(name))) == name


# -- places


def test_the_first_names_have_a_place_and_keep_it() -> None:
    names = MetricPlaces()
    found = names.divide([line("a"), line("b"), line("c"), line("a", 1)], FEW, appends=False)
    assert (found.fits, found.over) == ([line("a"), line("b"), line("a", 1)], [line("c")])
    assert names.divide([line("c", 1), line("b", 1)], FEW, appends=False).fits == [line("b", 1)]


def test_what_the_destination_and_the_journal_say_decides() -> None:
    names = MetricPlaces({"x": (1.0, 0, 0)}, over=["a"])
    found = names.divide([line("a"), line("b"), line("c"), line("x")], FEW, appends=False)
    assert (found.fits, found.over) == ([line("b"), line("x")], [line("a"), line("c")])
    names.found({"c": (1.0, 0, 0), "d": (1.0, 0, 0)})
    assert names.divide([line("b", 1), line("d")], FEW, appends=False).fits == [line("d")]


def test_a_name_that_is_closed_or_too_long_has_no_place() -> None:
    names = MetricPlaces()
    names.close("full")
    found = names.divide([line("full"), line("n" * 251), line("n" * 250)], Limits(), appends=False)
    assert found.fits == [line("n" * 250)]
    assert not names.has_place(line("full", 1), Limits())


def test_without_bounds_nothing_is_looked_at() -> None:
    lines = [line("a"), line("a")]
    assert MetricPlaces().divide(lines, Limits(), appends=False).fits is lines


def test_a_repetition_is_left_out_where_it_would_show() -> None:
    names = MetricPlaces({"a": (0.5, 1_700_000_000_000, 3)})
    names.begin_pass()
    sent = names.divide([line("a", 3), line("a", 4), line("a", 4), line("b"), line("a", 4)], Limits(), appends=True)
    assert sent.fits == [line("a", 4), line("b")]
    names.begin_pass()
    assert names.divide([line("a", 4)], Limits(), appends=True).fits == [line("a", 4)], "it may not have arrived"
    names.all_arrived = True
    names.begin_pass()
    assert names.divide([line("a", 4)], Limits(), appends=True).fits == []


def test_what_is_not_finite_goes_over_where_it_cannot_be_held() -> None:
    found = MetricPlaces().divide([line("a"), line("a", 1, "NaN")], Limits(only_finite=True), appends=False)
    assert (found.fits, found.over) == ([line("a")], [line("a", 1, "NaN")])


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3))), st.integers(0, 4))
def test_every_point_is_in_one_of_both(points: list[tuple[str, int]], most: int) -> None:
    lines = [line(name, step) for name, step in points]
    found = MetricPlaces().divide(lines, Limits(metric_names_per_run=most), appends=False)
    assert {*found.fits, *found.over} == {*lines}
    assert not {*found.fits} & {*found.over}
    assert len({raw_key(one) for one in found.fits}) == min(most, len({name for name, _ in points}))


# -- tags


def test_tags_of_mlflow_come_first_and_room_is_kept_for_syncds_own() -> None:
    limits = Limits(tags_per_run=len(OWN_TAGS) + 2)
    fit = fit_run_tags({"a": "1", "b": "2", "mlflow.user": "me", PARENT_RUN_ID: "p"}, limits, known=())
    assert set(fit.fits) == {"mlflow.user", PARENT_RUN_ID, "a"}
    assert set(fit.over) == {"b"}
    assert set(fit_run_tags({"b": "2", "a": "3"}, limits, known=["a", "mlflow.user"]).fits) == {"a"}


def test_a_note_and_a_name_have_lengths_of_their_own() -> None:
    limits = Limits(tag_value_length=5, description_length=8, run_name_length=3)
    fit = fit_run_tags({NOTE: "x" * 8, RUN_NAME: "four", "other": "x" * 8}, limits, known=())
    assert (set(fit.fits), set(fit.over)) == ({NOTE}, {RUN_NAME, "other"})
    assert set(fit_run_tags({NOTE: "x" * 6}, Limits(tag_value_length=5), known=()).over) == {NOTE}


# -- names and limits


@given(st.text(max_size=300), st.integers(1, 300))
def test_a_held_name_is_short_enough_and_its_own(name: str, longest: int) -> None:
    held = held_name(name, longest)
    assert len(held) <= longest
    assert held == held_name(name, longest)
    assert (held == name) == (len(name) <= longest)


def test_two_long_names_with_one_beginning_stay_two() -> None:
    assert held_name("n" * 300 + "1", 256) != held_name("n" * 300 + "2", 256)
    assert held_name("n" * 300, None) == "n" * 300


def test_a_limit_becomes_lower_and_never_higher() -> None:
    assert lowered(Limits(), "batch_metrics", 250).batch_metrics == 250
    assert lowered(Limits(batch_metrics=250), "batch_metrics", 1000) == Limits(batch_metrics=250)
    assert lowered(Limits(), "tags_per_run", 50).tags_per_run == 50
    assert lowered(Limits(), "batch_metrics", 0).batch_metrics == 1
    assert lowered(Limits(), "inputs_per_run", 0).inputs_per_run == 0
    assert lowered(Limits(), "", 3) == Limits()
    assert lowered(Limits(), "no_such_limit", 3) == Limits()


def test_a_note_is_a_tag_when_the_server_says_how_long_tags_are() -> None:
    found = lowered(Limits(tag_value_length=1000, description_length=5000), "tag_value_length", 1000)
    assert found.description_length == 1000
