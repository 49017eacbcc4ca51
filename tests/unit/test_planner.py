"""The planner: nothing dropped, nothing over a limit, and a change is complete exactly when its last point is."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.limits import Limits
from syncd.core.planner import ENVELOPE_BYTES, Countdown, MetricBatch, Points, cut_points, cut_values, fit_values

LINES = st.lists(st.binary(min_size=1, max_size=60).filter(lambda line: b"\n" not in line), min_size=1, max_size=30)
CHANGES = st.lists(LINES, max_size=12).map(
    lambda groups: [Points(seq, lines) for seq, lines in enumerate(groups, start=1)]
)


def pairs(parts):
    return [(part.seq, line) for part in parts for line in part.lines]


@given(CHANGES, st.integers(1, 50), st.integers(1, 50), st.integers(ENVELOPE_BYTES + 1, ENVELOPE_BYTES + 500))
def test_every_point_is_in_one_batch_in_order_and_no_batch_is_over_a_limit(changes, metrics, items, size_bytes):
    limits = Limits(batch_metrics=metrics, batch_items=items, batch_bytes=size_bytes)
    batches = list(cut_points(changes, limits))
    assert [pair for batch in batches for pair in pairs(batch.parts)] == pairs(changes)
    for batch in batches:
        assert 1 <= batch.count <= min(metrics, items)
        body = sum(len(line) + 1 for line in batch.lines)
        assert body <= size_bytes - ENVELOPE_BYTES or batch.count == 1


@given(CHANGES)
def test_batches_are_as_full_as_the_limits_allow(changes):
    batches = list(cut_points(changes, Limits(batch_metrics=7)))
    assert all(batch.count == 7 for batch in batches[:-1])


@given(CHANGES.filter(lambda changes: sum(len(c.lines) for c in changes) >= 2))
def test_halves_hold_everything_and_both_hold_something(changes):
    batch = MetricBatch(tuple(changes))
    first, second = batch.halves()
    assert pairs(first.parts) + pairs(second.parts) == pairs(changes)
    assert first.count
    assert second.count


@given(CHANGES, st.integers(0, 255))
def test_divide_separates_by_the_test_and_loses_nothing(changes, byte):
    inside, outside = MetricBatch(tuple(changes)).divide(lambda line: line[0] < byte)
    assert all(line[0] < byte for line in inside.lines)
    assert not any(line[0] < byte for line in outside.lines)
    assert sorted(pairs(inside.parts) + pairs(outside.parts)) == sorted(pairs(changes))


@given(CHANGES, st.integers(1, 9), st.randoms())
def test_a_change_is_complete_exactly_when_its_last_point_arrived(changes, most, random):
    batches = list(cut_points(changes, Limits(batch_metrics=most)))
    countdown = Countdown()
    for batch in batches:
        for part in batch.parts:
            countdown.expect(part)
    random.shuffle(batches)
    left = {change.seq: len(change.lines) for change in changes}
    for batch in batches:
        for part in batch.parts:
            left[part.seq] -= len(part.lines)
        complete = countdown.arrived(batch)
        assert sorted(complete) == sorted({part.seq for part in batch.parts if left[part.seq] == 0})


VALUES = st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=20)


@given(VALUES, st.integers(1, 12), st.integers(0, 40), st.one_of(st.none(), st.integers(0, 20)), VALUES)
def test_what_fits_and_what_goes_over_are_all(values, key_length, value_length, room, known):
    fit = fit_values(values, key_length=key_length, value_length=value_length, room=room, known=known)
    assert {**fit.fits, **fit.over} == values
    assert not fit.fits.keys() & fit.over.keys()
    assert all(len(key) <= key_length and len(value) <= value_length for key, value in fit.fits.items())
    if room is not None:
        assert len(fit.fits.keys() | known.keys()) <= max(room, len(known))
    else:
        assert all(len(key) > key_length or len(value) > value_length for key, value in fit.over.items())


@given(VALUES, st.integers(1, 10), st.integers(ENVELOPE_BYTES + 1, ENVELOPE_BYTES + 2000))
def test_groups_of_values_hold_all_and_keep_the_limits(values, most, size_bytes):
    groups = list(cut_values(values, most=most, limits=Limits(batch_bytes=size_bytes)))
    assert {key: value for group in groups for key, value in group.items()} == values
    for group in groups:
        assert 1 <= len(group) <= most
        body = json.dumps([{"key": key, "value": value} for key, value in group.items()])
        assert len(body) <= size_bytes or len(group) == 1
