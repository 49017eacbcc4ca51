"""Which points a destination holds: equal as it stores them, found again, in little memory."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.reconcile import parse_line, point_key
from syncd.runtime.held_points import RUNS_REMEMBERED, HeldPoints, RememberedPoints

TOLD = st.tuples(
    st.floats(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.sampled_from([-1, 0, 1, 2**63 - 1]),
)


def line(value: float, timestamp_ms: int, step: int, key: str = "loss") -> bytes:
    text = {math.inf: '"Infinity"', -math.inf: '"-Infinity"'}.get(value, '"NaN"' if math.isnan(value) else repr(value))
    return f'{{"key":"{key}","value":{text},"timestamp":{timestamp_ms},"step":{step}}}'.encode()


def holding(points: object, key: str = "loss") -> HeldPoints:
    held = HeldPoints()
    number = held.begin()
    held.add(number, points)  # type: ignore[arg-type]
    held.finish(number, key)
    return held


@given(st.lists(TOLD, max_size=8), st.lists(TOLD, max_size=8))
def test_missing_are_those_not_held_each_once(pending: list[tuple[float, int, int]], there: list) -> None:  # type: ignore[type-arg]
    held = holding(there)
    missing = [point_key(*parse_line(one)[1:]) for one in held.add_missing("loss", [line(*p) for p in pending])]
    identities = {point_key(*point) for point in there}
    assert len(set(missing)) == len(missing)
    assert set(missing) == {point_key(*point) for point in pending} - identities
    assert held.add_missing("loss", [line(*p) for p in pending]) == []
    held.close()


def test_an_infinity_is_held_as_the_largest_double_and_minus_zero_as_zero() -> None:
    held = holding([(1.7976931348623157e308, 1, 2), (0.0, 1, 3), (math.nan, 1, 4)])
    assert held.add_missing("loss", [line(math.inf, 1, 2), line(-0.0, 1, 3), line(math.nan, 1, 4)]) == []


def test_a_reading_that_was_not_finished_is_of_no_key() -> None:
    held = HeldPoints()
    held.add(held.begin(), [(0.5, 1, 1)])
    assert "loss" not in held
    number = held.begin()
    held.finish(number, "loss")
    assert held.add_missing("loss", [line(0.5, 1, 1)]) == [line(0.5, 1, 1)]


def test_a_key_to_which_others_have_added_is_forgotten() -> None:
    held = holding([(0.5, 1, 1), (math.nan, 2, 2)])
    held.forget_others({"loss": (math.nan, 2, 2)})
    assert "loss" in held
    held.forget_others({"loss": (0.25, 3, 3)})
    assert "loss" not in held
    assert not holding([(0.5, 1, 1)], "gone").forget_others({})


def test_a_long_history_takes_little_memory() -> None:
    tracemalloc.start()
    held = holding((step / 7, step, step) for step in range(200_000))
    assert held.add_missing("loss", [line(step / 7, step, step) for step in range(199_000, 200_001)]) == [
        line(200_000 / 7, 200_000, 200_000)
    ]
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held.close()
    assert most_bytes < 2_000_000


def test_a_few_runs_are_remembered_and_each_is_the_takers_own() -> None:
    remembered = RememberedPoints()
    for number in range(RUNS_REMEMBERED + 1):
        remembered.keep(str(number), holding([(0.5, 1, 1)]))
    assert not remembered.take("0")
    assert remembered.take("1")
    assert not remembered.take("1")
    remembered.close()
