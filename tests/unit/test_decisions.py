"""Concurrency, breaker, filters and reconciling: decisions as values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.breaker import Breaker, IsolatedFailures
from syncd.core.concurrency import AdaptiveLimit
from syncd.core.filters import Filter
from syncd.core.reconcile import by_key, changed_values

VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: (repr(value), value)),
    st.sampled_from([('"NaN"', math.nan), ('"Infinity"', math.inf), ('"-Infinity"', -math.inf)]),
)
POINTS = st.lists(st.tuples(VALUES, st.integers(0, 2**62), st.integers(-(2**62), 2**62)), max_size=20)


def line(point, key="k"):
    (text, _), timestamp_ms, step = point
    return f'{{"key":"{key}","value":{text},"timestamp":{timestamp_ms},"step":{step}}}'.encode()


def test_the_limit_doubles_each_round_until_something_fails_then_rises_by_one_a_round():
    limit = AdaptiveLimit(most=50, start=4)
    for _ in range(4):
        limit.succeeded()
    assert limit.value == 8
    limit.failed(0.0)
    assert limit.value == 4
    for _ in range(5):
        limit.succeeded()
    assert limit.value == 5


def test_the_limit_halves_once_a_cooldown():
    limit = AdaptiveLimit(most=5, start=5, cooldown_s=1.0)
    limit.failed(10.0)
    assert limit.value == 2
    limit.failed(10.5)
    assert limit.value == 2
    limit.failed(11.0)
    limit.failed(12.0)
    limit.failed(13.0)
    assert limit.value == 1


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 20))
def test_the_limit_stays_between_one_and_the_most(answers, most):
    limit = AdaptiveLimit(most=most)
    for second, answered in enumerate(answers):
        limit.succeeded() if answered else limit.failed(float(second))
        assert 1 <= limit.value <= most


def test_the_breaker_opens_after_failures_in_a_row_and_the_first_answer_closes_it():
    breaker = Breaker(threshold=3)
    assert [breaker.failed(), breaker.failed()] == [False, False]
    assert not breaker.answered(breaker.begin())
    assert [breaker.failed(), breaker.failed(), breaker.failed(), breaker.failed()] == [False, False, True, False]
    assert breaker.is_open
    assert breaker.answered(breaker.begin())
    assert not breaker.is_open


def test_only_an_answer_to_what_was_begun_after_a_failure_says_that_the_failure_was_the_calls_own():
    breaker, failures = Breaker(), IsolatedFailures()
    under_way = [breaker.begin() for _ in range(3)]
    for attempt in under_way:
        failures.failed(breaker)
        breaker.answered(attempt)
    assert failures.count == 1
    failures.failed(breaker)
    breaker.answered(breaker.begin())
    failures.failed(breaker)
    assert failures.count == 2


@pytest.mark.parametrize(
    ("wanted", "name", "tags", "takes"),
    [
        (Filter(), "anything", {}, True),
        (Filter(run_names=("a*",)), "abc", {}, True),
        (Filter(run_names=("a*",)), "bc", {}, False),
        (Filter(tags={"team": "vision"}), "x", {"team": "vision"}, True),
        (Filter(tags={"team": "vision"}), "x", {}, False),
        (Filter(run_names=("a",), tags={"t": "1"}), "a", {"t": "2"}, False),
    ],
)
def test_filters_of_runs(wanted, name, tags, takes):
    assert wanted.takes_run(name, tags) is takes


def test_an_excluded_name_is_excluded_even_if_included():
    wanted = Filter(experiments=("prod*",), exclude_experiments=("*-old",), exclude_artifacts=("*.ckpt",))
    assert wanted.takes_experiment("prod-1")
    assert not wanted.takes_experiment("prod-old")
    assert not wanted.takes_experiment("dev")
    assert wanted.takes_artifact("model/MLmodel")
    assert not wanted.takes_artifact("a/b.ckpt")


def test_points_are_grouped_by_their_key_and_only_changed_values_are_sent():
    lines = [line((("1", 1), 1, 1), "a"), line((("1", 1), 1, 1), 'b\\"'), line((("2", 2), 1, 1), "a")]
    assert by_key(lines) == {"a": [lines[0], lines[2]], 'b"': [lines[1]]}
    assert changed_values({"a": "1", "b": "2", "c": ""}, {"a": "1", "b": "3"}) == {"b": "2", "c": ""}
