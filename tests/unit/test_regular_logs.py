"""The short way for the usual log messages leads where json, the schema and the long way do, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncd.core.messages.decode import Decoded, Rules, decode
from syncd.core.messages.envelopes import Regular
from syncd.core.messages.statements import RunLogged
from syncd.core.messages.topics import TopicPattern
from syncd.schemas.checking import check
from syncd.schemas.regular_logs import REGULAR, regular_events, regular_log
from syncd.sources.messages import Message

NOW_MS = 1_700_000_000_000
LONG_WAY = Rules(
    source="bus",
    topic=TopicPattern("syncd/{device}/{run}/metrics"),
    most_bytes=1_000_000,
    check=check,
    regular=Regular(log=lambda body: None, events=lambda body: None),
)
BINARY = {"ce-specversion": "1.0", "ce-type": "dev.syncd.log", "ce-source": "/gpu", "ce-id": "1"}


def decoded(rules: Rules, body: bytes, headers: Mapping[str, str]) -> Decoded:
    message = Message(id="m", body=body, headers=headers, address="syncd/gpu-7/night/metrics")
    return decode(message, rules, now_ms=NOW_MS)


def comparable(found: Decoded) -> Any:
    """Return what was decoded, the lines as points: two texts may stand for one double."""
    said = []
    for one in found.said:
        points = None
        statement = one.statement
        if isinstance(statement, RunLogged):
            points = [points_of(line) for line in statement.lines.split(b"\n")] if statement.count else []
            assert len(points) == statement.count
            statement = replace(statement, lines=b"", artifacts=list(statement.artifacts))
        said.append((one.identity, statement, points))
    return said, str(found.refusal)


def points_of(line: bytes) -> list[tuple[str, str]]:
    """Return the fields in their order; ``repr`` tells 1 from 1.0, and 0.0 from -0.0."""
    return [(name, repr(value)) for name, value in json.loads(line).items()]


def same_both_ways(body: bytes, headers: Mapping[str, str]) -> None:
    short = decoded(replace(LONG_WAY, regular=REGULAR), body, headers)
    assert comparable(short) == comparable(decoded(LONG_WAY, body, headers))


TEXTS = st.text(max_size=3) | st.sampled_from(
    ['a "b"\n', "ß\\", "k" * 250, "k" * 256, "k" * 257, "k" * 1001, "syncd.source"]
)
NUMBERS = (
    st.floats() | st.integers(-(2**70), 2**70) | st.sampled_from([10**15, 10**15 - 1, -(10**15), 2**63, -0.0, 1e16])
)
ODD = st.none() | st.booleans() | TEXTS | NUMBERS | st.just([]) | st.just({})
VALUES = NUMBERS | st.sampled_from(["NaN", "Infinity", "-Infinity", "nan"])
INT64 = st.integers(-(2**63), 2**63 - 1)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, ODD)


POINTS = st.fixed_dictionaries(
    {"key": mostly(TEXTS), "value": mostly(VALUES)},
    optional={"timestamp": mostly(INT64), "step": mostly(INT64)},
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "run": mostly(TEXTS | st.fixed_dictionaries({"id": TEXTS}, optional={"name": mostly(TEXTS)})),
        "device": mostly(TEXTS),
        "experiment": mostly(TEXTS),
        "metrics": mostly(st.dictionaries(TEXTS, VALUES, max_size=3) | st.lists(POINTS, max_size=3)),
        "step": mostly(INT64),
        "timestamp": mostly(INT64 | st.just("2026-01-02T03:04:05Z")),
        "params": mostly(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        "tags": mostly(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        "stray": ODD,
    },
)
EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "type": st.just("dev.syncd.log"), "source": TEXTS, "id": TEXTS, "data": DATA},
    optional={
        "time": mostly(st.sampled_from(["2026-01-02T03:04:05Z", "2026-01-02", ""])),
        "subject": mostly(TEXTS),
        "datacontenttype": st.sampled_from(["application/json", "text/plain"]),
        "stray": ODD,
    },
)
BODIES = st.one_of(DATA, EVENTS, st.lists(EVENTS, max_size=3)).map(lambda value: json.dumps(value).encode())
USUAL = json.dumps(
    {
        "specversion": "1.0",
        "type": "dev.syncd.log",
        "source": "/gpu/7",
        "id": "1",
        "time": "2026-01-02T03:04:05Z",
        "data": {
            "run": {"id": "r-1", "name": "night"},
            "experiment": "vision",
            "metrics": [{"key": "loss", "value": 0.1, "timestamp": 7, "step": 3}, {"key": "ß", "value": -1}],
            "params": {"lr": "0.1"},
        },
    }
).encode()


@given(BODIES, st.sampled_from([{}, BINARY]))
@example(b'{"metrics": {"loss": NaN}}', {})
@example(b'{"metrics": {"loss": 1e999, "acc": -0}}', {})
@example(b'{"metrics": {"loss": 1}, "metrics": {"acc": 2}, "step": 1, "step": 2}', {})
@example(b'{"metrics": {"a": 1, "b": 2, "a": 3}}', {})
@example(b'{"tags": {"a": "\\ud800"}}', {})
@example(b'{"tags": {"a": "\xed\xa0\x80"}}', {})
@example(b'\xef\xbb\xbf{"metrics": {"loss": 1}}', {})
@example(b'{"specversion": "1.0", "metrics": {"loss": 1}}', {})
def test_the_short_way_leads_where_the_long_way_does(body: bytes, headers: Mapping[str, str]) -> None:
    same_both_ways(body, headers)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(USUAL) - 1), st.binary(max_size=2)), min_size=1, max_size=2))
def test_it_does_for_damaged_bytes(changes: list[tuple[int, bytes]]) -> None:
    body = USUAL
    for at, put in changes:
        body = body[:at] + put + body[at + 1 :]
    same_both_ways(body, {})


REGULAR_BODIES = [
    b'{"metrics": {"loss": 0.1, "acc": 1}, "step": 3}',
    b'{"run": "night", "experiment": "vision", "params": {"lr": "0.1"}, "tags": {"a": "b"}, "timestamp": 7}',
    b'{"run": {"id": "r"}, "metrics": [{"key": "loss", "value": "NaN"}, {"key": "loss", "value": 1e16, "step": 1}]}',
    b"{}",
]


@pytest.mark.parametrize("body", REGULAR_BODIES)
def test_usual_data_takes_the_short_way(body: bytes) -> None:
    assert regular_log(body) is not None
    same_both_ways(body, {})
    same_both_ways(body, BINARY)


def test_usual_events_take_the_short_way() -> None:
    for body, count in ((USUAL, 1), (b"[%s,%s]" % (USUAL, USUAL), 2)):
        events = regular_events(body)
        assert events is not None
        assert len(events) == count
        same_both_ways(body, {})


def edges() -> list[dict[str, Any]]:
    """Return data at each bound and just beyond it."""
    point = {"key": "loss", "value": 1.5, "timestamp": 1, "step": 2}
    found: list[dict[str, Any]] = []
    for more in (0, 1):
        for whole in (-(2**63) - more, 2**63 - 1 + more):
            found += [{"step": whole}, {"timestamp": whole}]
            found += [{"metrics": [{**point, "step": whole}]}, {"metrics": [{**point, "timestamp": whole}]}]
        for value in (10**15 - 1 + more, -(10**15) + 1 - more):
            found += [{"metrics": {"loss": value}}, {"metrics": [{**point, "value": value}]}]
        key = "k" * (1000 + more)
        found += [
            {"metrics": {key: 1}},
            {"metrics": [{**point, "key": key}]},
            {"params": {key: ""}},
            {"tags": {key: ""}},
        ]
        found += [{"params": {str(n): "" for n in range(10_000 + more)}}]
        found += [{name: "é" * (256 + more)} for name in ("run", "device")]
        found += [{"experiment": "é" * (250 + more)}, {"run": {"id": "i" * (256 + more)}}]
        found += [{"run": {"id": "i", "name": "n" * (250 + more)}}]
    for empty in ("run", "device", "experiment"):
        found += [{empty: ""}]
    found += [{"run": {"id": ""}}, {"run": {"id": "i", "name": ""}}, {"run": {"name": "n"}}, {"tags": {"": ""}}]
    return found


@pytest.mark.parametrize("data", edges())
def test_bounds_are_the_same_both_ways(data: dict[str, Any]) -> None:
    same_both_ways(json.dumps(data).encode(), {})
    assert (regular_log(json.dumps(data).encode()) is None) or check("messages/log", data) is None


@pytest.mark.parametrize("length", [0, 1024, 1025])
@pytest.mark.parametrize("name", ["source", "id", "subject", "time"])
def test_bounds_of_attributes_are_the_same_both_ways(name: str, length: int) -> None:
    same_both_ways(json.dumps({**json.loads(USUAL), name: "a" * length}).encode(), {})


def test_points_without_their_own_have_the_messages_time_and_step() -> None:
    points = [
        {"key": "loss", "value": 1.5},
        {"key": "loss", "value": 2, "step": 8},
        {"key": "a", "value": 3, "timestamp": 9},
    ]
    body = json.dumps({"metrics": points, "step": 7, "timestamp": 5}).encode()
    log = regular_log(body)
    assert log is not None
    assert log.lines(timestamp_ms=5, step=7) == (
        b'{"key":"loss","value":1.5,"timestamp":5,"step":7}\n'
        b'{"key":"loss","value":2,"timestamp":5,"step":8}\n'
        b'{"key":"a","value":3,"timestamp":9,"step":7}',
        3,
    )
    same_both_ways(body, {})


@pytest.mark.parametrize(
    "data",
    [
        {"artifacts": []},
        {"timestamp": "2026-01-02T03:04:05Z"},
        {"metrics": {"loss": 10**15}},
        {"metrics": {"loss": True}},
        {"metrics": {"": 1}},
        {"metrics": [{"key": "loss", "value": 1, "step": 1.5}]},
        {"metrics": [{"key": "loss", "value": 1, "timestamp": 2**63}]},
        {"params": {"deep": True}},
        {"run": 7},
        {"stray": 1},
    ],
)
def test_unusual_data_does_not(data: dict[str, Any]) -> None:
    assert regular_log(json.dumps(data).encode()) is None
    same_both_ways(json.dumps(data).encode(), {})
