"""JSON of strangers: depth, surrogates, numbers, and that nothing but MessageRefused comes out."""

from __future__ import annotations

import contextlib
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.messages.bounded_json import MOST_DEPTH, parse_bounded
from syncd.errors import MessageRefused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES)
def test_what_is_within_bounds_is_parsed_as_it_is(value: object) -> None:
    if depth(value) <= MOST_DEPTH:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            text.decode()
        except UnicodeDecodeError:
            return
        assert parse_bounded(text) == value


@given(st.binary(max_size=200) | st.text(alphabet='[]{}"\\,:1e-u0dD8', max_size=200).map(str.encode))
def test_nothing_but_refusals_comes_out(body: bytes) -> None:
    with contextlib.suppress(MessageRefused):
        parse_bounded(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"[":'])
def test_depth_is_bounded_by_what_is_nested_not_by_what_is_written(opening: bytes) -> None:
    with pytest.raises(MessageRefused, match="deeper than 32"):
        parse_bounded(opening * 200_000)
    inside = b"[" * MOST_DEPTH + b'"' + b"[{" * 500 + b'"' + b"]" * MOST_DEPTH
    assert depth(parse_bounded(inside)) == MOST_DEPTH
    with pytest.raises(MessageRefused, match="deeper than 32"):
        parse_bounded(b"[" + inside + b"]")
    assert len(parse_bounded(b"[" + b",".join([b'{"a":["}"]}'] * 5000) + b"]")) == 5000


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 500_000, b'"[' * 300_000, b'{"' * 300_000 + b"\\"])
def test_hostile_texts_cost_no_more_than_their_length(body: bytes) -> None:
    begun_s = time.process_time()
    with pytest.raises(MessageRefused):
        parse_bounded(body)
    assert time.process_time() - begun_s < 5  # quadratic work would take hours


def test_numbers() -> None:
    nan, infinity, minus, large = parse_bounded(b"[NaN, Infinity, -Infinity, 1e400]")
    assert math.isnan(nan)
    assert (infinity, minus, large) == (math.inf, -math.inf, math.inf)
    with pytest.raises(MessageRefused, match="not JSON"):
        parse_bounded(b"1" * 100_000)


def test_what_is_no_text_is_named() -> None:
    with pytest.raises(MessageRefused, match="surrogate"):
        parse_bounded(b'{"a":"\\ud800"}')
    assert parse_bounded(b'"\\ud83d\\ude00"') == "😀"
    with pytest.raises(MessageRefused, match=r"not UTF-8.*byte 1"):
        parse_bounded(b'"\xff"')
