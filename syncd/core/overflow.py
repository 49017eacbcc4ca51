"""The form of overflow: what a destination cannot hold as it is, kept whole among the run's artifacts.

Rules
-----
1. A *document* maps keys to values: ``syncd/overflow/params.json``. Where artifacts cannot be replaced, what is new
   follows in ``params.2.json`` and so on; of several values of a key the one with the highest number holds, and null
   says that the destination holds it itself by now.
2. A *segment* holds points of a run in wire form, one a line: ``syncd/overflow/metrics/1.jsonl``. Segments are never
   changed. A line that is there twice is one point, as in MLflow.
3. ``syncd/overflow/metrics/index.json`` is a document: of each metric name how many points of it there are and in
   which segments. It may be behind the segments while the run goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from syncd.core.source_tags import OVERFLOW_FOLDER

POINTS: Final = "points"
INDEX: Final = "metrics/index"
_NUMBERED: Final = re.compile(re.escape(OVERFLOW_FOLDER) + r"/(?P<section>.+?)(?:\.(?P<number>[1-9]\d*))?\.json")
_SEGMENT: Final = re.compile(re.escape(OVERFLOW_FOLDER) + r"/metrics/(?P<number>[1-9]\d*)\.jsonl")
_KEY: Final = re.compile(rb'\{"key":("(?:[^"\\]|\\.)*")')


def overflow_path(section: str, number: int) -> str:
    """Return the path of a section's document of that number, or of a segment (section ``POINTS``)."""
    if section == POINTS:
        return f"{OVERFLOW_FOLDER}/metrics/{number}.jsonl"
    return f"{OVERFLOW_FOLDER}/{section}.json" if number == 1 else f"{OVERFLOW_FOLDER}/{section}.{number}.json"


def parse_overflow_path(path: str) -> tuple[str, int] | None:
    """Return section and number of a document or segment, None of any other path."""
    if segment := _SEGMENT.fullmatch(path):
        return POINTS, int(segment["number"])
    document = _NUMBERED.fullmatch(path)
    if document is None or document["section"].startswith("artifacts/"):
        return None
    return document["section"], int(document["number"] or 1)


def numbered(paths: Iterable[str], section: str) -> dict[int, str]:
    """Return the paths of a section's documents, or of all segments, by their number, in its order."""
    found = ((parsed[1], path) for path in paths if (parsed := parse_overflow_path(path)) and parsed[0] == section)
    return dict(sorted(found))


def last_number(paths: Iterable[str], section: str) -> int:
    """Return the highest number of a section among these paths, 0 if there is none."""
    return max(numbered(paths, section), default=0)


def render_document(entries: Mapping[str, object]) -> bytes:
    """Return a document's bytes."""
    return json.dumps(entries, ensure_ascii=False, indent=1, sort_keys=True).encode("utf-8", "surrogatepass")


def raw_key(line: bytes) -> bytes:
    """Return a point's metric name as JSON text, quotes included, without parsing the point."""
    match = _KEY.match(line)
    if match is None:
        return json.dumps(json.loads(line)["key"], ensure_ascii=False).encode()
    return match[1]


def metric_name(raw: bytes) -> str:
    """Return the metric name behind its JSON text."""
    return str(json.loads(raw))
