"""The parser of FileStore metric lines, against Python's own float() and json."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.metric_lines import LineRenderer, split_complete

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
SPELLINGS = st.sampled_from(["{!r}", "{:.3f}", "{:e}", "{:.17g}", "+{!r}", "{:.1e}"])


def bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack(">d", value)


def rendered_points(data: bytes, key: str = "loss", model_id: str = "") -> list[dict[str, object]]:
    rendered = LineRenderer(key, model_id=model_id).render(data)
    assert not rendered.bad, rendered.bad
    points = []
    for lines, count in rendered.segments:
        parsed = [json.loads(line) for line in lines.split(b"\n")]
        assert len(parsed) == count <= 1000
        points += parsed
    return points


@given(st.lists(st.tuples(st.floats(), INT64, INT64), max_size=30), KEYS, st.sampled_from(["\n", "\r\n"]))
def test_what_mlflow_writes_comes_out_bit_equal(points, key, newline):
    data = "".join(f"{timestamp} {value} {step}{newline}" for value, timestamp, step in points).encode()
    out = rendered_points(data, key)
    assert [(bits(float(p["value"])), p["timestamp"], p["step"], p["key"]) for p in out] == [
        (bits(value), timestamp, step, key) for value, timestamp, step in points
    ]


@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), SPELLINGS), max_size=30))
def test_any_spelling_of_a_float_keeps_its_bits(values):
    texts = [spelling.format(value).replace("+-", "-") for value, spelling in values]
    out = rendered_points("".join(f"1 {text} 2\n" for text in texts).encode())
    assert [bits(float(p["value"])) for p in out] == [bits(float(text)) for text in texts]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nan", "NaN"), ("-nan", "NaN"), ("NAN", "NaN"), ("inf", "Infinity"), ("+Inf", "Infinity"),
        ("Infinity", "Infinity"), ("-inf", "-Infinity"), ("-INFINITY", "-Infinity"), ("1e999", "Infinity"),
        ("-1.5e400", "-Infinity"), ("3", 3), ("-7", -7), ("0", 0), ("5e-324", 5e-324), (".5", 0.5), ("1.", 1.0),
        ("1_000.5", 1000.5), ("123456789012345678901234567890", 123456789012345678901234567890.0), ("007", 7.0),
    ],
)  # fmt: skip
def test_odd_values(text, value):
    (point,) = rendered_points(f"1700000000000 {text} 3\n".encode())
    assert point["value"] == value


@pytest.mark.parametrize("text", ["-0.0", "-0", "-0e0", "-0.0e-5"])
def test_negative_zero_keeps_its_sign(text):
    (point,) = rendered_points(f"1 {text} 2\n".encode())
    assert math.copysign(1, float(point["value"])) == -1


@pytest.mark.parametrize(
    ("line", "model", "expected"),
    [
        ("1545332853 0.5", "", {"timestamp": 1545332853000, "step": 0}),
        ("1545332853000 0.5", "", {"timestamp": 1545332853000, "step": 0}),
        ("17 0.5 3 train abc123", "", {"step": 3, "dataset_name": "train", "dataset_digest": "abc123"}),
        ("17 0.5 3 my big  data abc", "", {"step": 3, "dataset_name": "my big  data", "dataset_digest": "abc"}),
        ("17 0.5 3 f00", "m-1", {"step": 3, "run_id": "f00", "model_id": "m-1"}),
        ("17 0.5 3 f00 a b abc", "m-1", {"run_id": "f00", "model_id": "m-1", "dataset_name": "a b",
                                          "dataset_digest": "abc"}),
        ("17 0.5 3 Größe dé", "", {"dataset_name": "Größe", "dataset_digest": "dé"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_other_numbers_of_columns(line, model, expected, newline):
    (point,) = rendered_points((line + newline).encode(), model_id=model)
    assert {name: point[name] for name in expected} == expected
    assert float(point["value"]) == 0.5


@pytest.mark.parametrize(
    "line",
    [
        "1",
        "x 0.5 1",
        "1 y 1",
        "1 0.5 1.5",
        "1 0.5 9223372036854775808",
        "1 0.5 1 stray",
        "\x00\x00\x00",
        "1 0.5 1 a \xff",
    ],
)
def test_a_bad_line_is_named_and_the_others_flow(line):
    data = b"1 0.25 1\n" * 1500 + line.encode("latin-1") + b"\n" + b"2 0.75 2\n"
    rendered = LineRenderer("k").render(data, first_line=11)
    assert [bad.number for bad in rendered.bad] == [1511]
    assert rendered.bad[0].what
    assert sum(count for _, count in rendered.segments) == 1501
    assert rendered.line_count == 1502


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_and_every_line_is_accounted_for(data):
    complete, torn = split_complete(data)
    assert complete + torn == data
    assert b"\n" not in torn
    rendered = LineRenderer("k").render(complete)
    assert rendered.line_count == complete.count(b"\n")
    points = sum(count for _, count in rendered.segments)
    blank = sum(1 for line in complete.split(b"\n")[:-1] if not line.split())
    assert points + len(rendered.bad) + blank >= rendered.line_count
    for lines, _ in rendered.segments:
        for line in lines.split(b"\n"):
            json.loads(line)


def test_segments_hold_at_most_a_thousand_lines_in_order():
    data = b"".join(b"%d 0.5 %d\n" % (i, i) for i in range(2500))
    rendered = LineRenderer("k").render(data)
    assert [count for _, count in rendered.segments] == [1000, 1000, 500]
    assert [p["step"] for p in rendered_points(data)] == list(range(2500))


def test_a_key_that_is_no_unicode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        LineRenderer("\udcff")
