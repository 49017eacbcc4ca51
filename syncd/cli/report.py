"""Printing: one JSON object for machines, lines and aligned columns for people."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from syncd.errors import SyncdError

JSON_SCHEMA = 1  # raised when a field changes its meaning or goes; new fields do not raise it

_MOST_ALIKE = 3
_EXAMPLES = 2
_IN_BRACKETS = re.compile(r"\([^()]*\)")
_PARTICULAR = re.compile(r"[0-9/\\]")

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def print_json(command: str, content: Mapping[str, Any], *, out: TextIO | None = None) -> None:
    """Print exactly one object: ``schema``, ``command`` and the content. NaN and infinities are an error here."""
    whole = {"schema": JSON_SCHEMA, "command": command, **content}
    text = json.dumps(whole, default=_plain, ensure_ascii=False, allow_nan=False)
    # Names of files need not be UTF-8: what is not becomes \udcXX, as JSON writes it.
    print(text.encode("utf-8", "backslashreplace").decode(), file=out or sys.stdout)


def error_mapping(error: SyncdError, code: int) -> dict[str, Any]:
    """Return what is printed of an error that ended a command, as docs/json.md describes it."""
    told = {"message": error.message, "doing": error.doing, "target": error.target, "hint": error.hint}
    return {"error": {"kind": type(error).__name__, **told, "exit_code": int(code)}}


def print_problems(problems: Sequence[tuple[str, str]]) -> None:
    """Print what could not be read, (where, what), on standard error; of many alike their number and two examples."""
    kinds: dict[str, list[str]] = {}
    for where, what in problems:
        kinds.setdefault(_kind_of(what), []).append(_one_line(f"{where}: {what}"))
    for lines in kinds.values():
        if len(lines) <= _MOST_ALIKE:
            for line in lines:
                print(f"could not be read: {line}", file=sys.stderr)
            continue
        print(f"could not be read, {len(lines)} alike (--json lists each), for example:", file=sys.stderr)
        for line in lines[:_EXAMPLES]:
            print(f"  {line}", file=sys.stderr)


def _kind_of(what: str) -> str:
    """Return a problem's text without what differs between problems of one kind: places, ids, numbers."""
    words = _IN_BRACKETS.sub("(...)", what).split()
    return " ".join("..." if _PARTICULAR.search(word) else word for word in words)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "", out: TextIO | None = None
) -> None:
    """Print rows below headings in aligned columns; numbers to the right."""
    texts = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headings), *texts]) for column in range(len(headings))]
    print(indent + _join(headings, widths, [False] * len(widths)), file=out or sys.stdout)
    for row, cells in zip(rows, texts, strict=True):
        right = [isinstance(cell, int | float) and not isinstance(cell, bool) for cell in row]
        print(indent + _join(cells, widths, right), file=out or sys.stdout)


def size_text(size_bytes: float) -> str:
    """Return a size for people: "3.4 MiB"."""
    size = float(size_bytes)
    for unit in _SIZES[:-1]:
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_SIZES[-1]}"


def duration_text(duration_s: float) -> str:
    """Return a duration for people: "0.2 s", "3 min 20 s", "2 d 4 h"."""
    if duration_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{duration_s:.0f} s"
    whole = int(duration_s)
    for larger, smaller, size, step in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // step
            return f"{whole // size} {larger}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError("unreachable: whole is at least 60")


def _join(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def printable(text: str) -> str:
    """Return text that came from outside without what a terminal would obey or cannot show; lines stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def _one_line(cell: object) -> str:
    return "-" if cell is None else printable(" ".join(str(cell).split()))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    return str(value)  # a Secret shows nothing
