r"""Turn FileStore metric lines into points in wire form, without opening a file.

Rules
-----
1. A line is ``timestamp value step``; what else MLflow ever wrote is understood too (see the table). A line that
   is none of these is named in ``Rendered.bad``; its neighbours are not touched by it.
2. The value's text is passed on as it stands where it is a JSON number, so that it parses to the bit-equal float;
   elsewhere ``repr`` of the float stands for it. What JSON cannot hold is a string, as MLflow's REST API has it:
   ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
3. The regular line is handled a thousand at a time with one match, one split and one join; only irregular lines
   are looked at one by one.

=======  ==========================================  ==================================================
columns  meaning                                     written by
=======  ==========================================  ==================================================
2        seconds, value                              MLflow <= 0.8 (step 0; over 10^11 it must be ms)
3        ms, value, step                             every run since
5+       ms, value, step, dataset name, digest       runs; the name may contain spaces, the digest not
4        ms, value, step, run id                     logged models
6+       ms, value, step, run id, name, digest       logged models
=======  ==========================================  ==================================================

Field names beyond key, value, timestamp and step are those of MLflow's REST message ``Metric``
(service.proto of mlflow 3.15, checked 2026-11): dataset_name, dataset_digest, model_id, run_id.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

SEGMENT_LINES = 1000  # MLflow takes at most 1000 points in one log-batch
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
SAFE_INTEGER = 10**15  # below it a whole number is the same in JSON and as a double
SECONDS_BEFORE = 10**11  # as seconds that is the year 5138, as ms it is 1973
_EXCERPT_CHARACTERS = 120

# Whatever matches is the same token in JSON and cannot leave the range of int64 or float64.
_INTEGER = rb"-?(?:0|[1-9][0-9]{0,17})"
_EXPONENT = rb"[eE](?:-[0-9]{1,3}|\+?[0-9]{1,2})"
_VALUE = (
    rb"(?:-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,40}(?:" + _EXPONENT + rb")?|" + _EXPONENT + rb")"
    rb"|0|-?[1-9][0-9]{0,14})"  # "-0" is left out: a JSON parser may read it as the integer 0
)
_REGULAR_BLOCK = re.compile(
    rb"(?:" + _INTEGER + rb" " + _VALUE + rb" " + _INTEGER + rb"\r?\n){1," + str(SEGMENT_LINES).encode() + rb"}+"
)
_JSON_VALUE = re.compile(_VALUE)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no point: its number in the file (from 1) and why, with an excerpt."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Wire lines in segments of at most 1,000 ``(lines, count)``, bad lines, and how many lines were consumed."""

    segments: Sequence[tuple[bytes, int]]
    bad: Sequence[BadLine]
    line_count: int


class LineRenderer:
    """Renders the lines of one metric file; holds the key's JSON text so that it is escaped once."""

    def __init__(self, key: str, *, model_id: str = "") -> None:
        """Prepare for a key.

        Args:
            key: the metric's name; must be encodable as UTF-8.
            model_id: source id of the logged model whose lines these are, "" for a run's.

        Raises:
            UnicodeEncodeError: the key holds lone surrogates (a file name that is not UTF-8).
        """
        key.encode()
        self._head = b'{"key":' + json.dumps(key, ensure_ascii=False).encode() + b',"value":'
        self._model_id = model_id

    def render(self, data: bytes, *, first_line: int = 1) -> Rendered:
        """Turn complete lines into wire form.

        Args:
            data: lines, each ended by a newline (a missing last newline is taken as if it were there).
            first_line: number of the first line in its file, for naming bad ones.
        """
        if data and not data.endswith(b"\n"):
            data += b"\n"
        pieces: list[tuple[bytes, int]] = []
        bad: list[BadLine] = []
        number = first_line
        position, end = 0, len(data)
        while position < end:
            block = None if self._model_id else _REGULAR_BLOCK.match(data, position)
            if block is not None:
                lines, count = self._render_regular(block.group())
                pieces.append((lines, count))
                position = block.end()
                number += count
                continue
            line_end = data.index(b"\n", position)
            line = data[position:line_end]
            try:
                rendered = self._render_irregular(line)
            except ValueError as exc:
                bad.append(BadLine(number, f"{exc}: {_excerpt(line)}"))
            else:
                if rendered:
                    pieces.append((rendered, 1))
            position = line_end + 1
            number += 1
        return Rendered(pack(pieces), bad, number - first_line)

    def _render_regular(self, block: bytes) -> tuple[bytes, int]:
        tokens = block.split()
        count = len(tokens) // 3
        out = [self._head, b"", b',"timestamp":', b"", b',"step":', b"", b"}\n"] * count
        out[1::7] = tokens[1::3]
        out[3::7] = tokens[0::3]
        out[5::7] = tokens[2::3]
        out[-1] = b"}"
        return b"".join(out), count

    def _render_irregular(self, line: bytes) -> bytes:
        """Return the wire line, b"" for a blank one.

        Raises:
            ValueError: the line is no point; says why.
        """
        columns = line.strip(b"\r\n").split(b" ")
        if b"" in columns[:3]:
            columns = line.split()
        if not columns:
            return b""
        if len(columns) < 2:
            raise ValueError("a metric line needs a timestamp and a value")
        timestamp = _int64(columns[0], "timestamp")
        value = _json_value(columns[1])
        if len(columns) == 2:
            step = 0
            timestamp = timestamp * 1000 if abs(timestamp) < SECONDS_BEFORE else timestamp
        else:
            step = _int64(columns[2], "step")
        extra = self._extra_fields(columns[3:])
        return self._head + value + b',"timestamp":%d,"step":%d' % (timestamp, step) + extra + b"}"

    def _extra_fields(self, columns: list[bytes]) -> bytes:
        fields: dict[str, str] = {}
        if self._model_id:
            fields["model_id"] = self._model_id
            if columns:
                fields["run_id"] = columns[0].decode("utf-8")
                columns = columns[1:]
        if len(columns) == 1:
            raise ValueError("a dataset name without a digest, or a stray column")
        if columns:
            fields["dataset_name"] = b" ".join(columns[:-1]).decode("utf-8")
            fields["dataset_digest"] = columns[-1].decode("utf-8")
        return b"".join(
            b',"' + name.encode() + b'":' + json.dumps(text, ensure_ascii=False).encode()
            for name, text in fields.items()
        )


def split_complete(data: bytes) -> tuple[bytes, bytes]:
    """Cut data behind its last newline: (complete lines, the torn rest)."""
    cut = data.rfind(b"\n") + 1
    return data[:cut], data[cut:]


def pack(pieces: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Join neighbouring ``(lines, count)`` pieces into segments of at most 1,000 lines, keeping the order."""
    segments: list[tuple[bytes, int]] = []
    gathered: list[bytes] = []
    total = 0
    for lines, count in pieces:
        if gathered and total + count > SEGMENT_LINES:
            segments.append((b"\n".join(gathered), total))
            gathered, total = [], 0
        gathered.append(lines)
        total += count
    if gathered:
        segments.append((b"\n".join(gathered), total))
    return segments


def _json_value(text: bytes) -> bytes:
    if _JSON_VALUE.fullmatch(text):
        return text
    try:
        value = float(text)
    except ValueError:
        raise ValueError("the value is no number") from None
    return wire_value(value)


def wire_value(value: float) -> bytes:
    """Return a number as it stands in wire form: what parses to the same float again.

    Raises:
        OverflowError: a whole number that no double can hold.
    """
    if isinstance(value, int) and -SAFE_INTEGER < value < SAFE_INTEGER:
        return b"%d" % value
    value = float(value)
    if math.isnan(value):
        return b'"NaN"'
    if math.isinf(value):
        return b'"Infinity"' if value > 0 else b'"-Infinity"'
    return repr(value).encode()


def _int64(text: bytes, name: str) -> int:
    if len(text) > 40:  # also keeps int() from quadratic work and its own digit limit
        raise ValueError(f"the {name} is no 64-bit integer")
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"the {name} is no integer") from None
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError(f"the {name} is no 64-bit integer")
    return value


def _excerpt(line: bytes) -> str:
    text = line[: _EXCERPT_CHARACTERS + 1].decode("utf-8", "backslashreplace").rstrip("\r")
    return repr(text[:_EXCERPT_CHARACTERS]) + ("…" if len(line) > _EXCERPT_CHARACTERS else "")
