"""What ``syncd status`` and ``GET /api/v1/status`` say, as docs/json.md describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from syncd.journal.report import PACE_SPAN_MS, PACE_SPANS, DestinationReport, JournalReport, SinkReport

_SHORTEST_PACE_MS = (PACE_SPANS - 1) * PACE_SPAN_MS
_LEAST_WINDOW_S = 1.0  # the mean of less says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewpoint:
    """When a journal is looked at, since when the daemon runs (None: it does not), and how large it may grow."""

    now_ms: int
    started_ms: int | None
    journal_max_bytes: int | None


def status(view: Viewpoint, journal: JournalReport) -> dict[str, Any]:
    """Return what the journal says."""
    destinations = journal.destinations(view.now_ms)
    sinks = journal.sinks()
    messages = journal.messages()
    used_bytes = journal.used_bytes()
    windows_s = _windows_s(view, journal, destinations)
    return {
        "journal": {
            "used_bytes": used_bytes,
            "max_bytes": view.journal_max_bytes,
            "full": used_bytes > view.journal_max_bytes if view.journal_max_bytes is not None else None,
            "free_disk_bytes": journal.free_disk_bytes(),
            "set_aside": journal.set_aside(),
        },
        "oldest_unsynced_s": max((_oldest_s(view, one) or 0.0 for one in destinations), default=0.0),
        "dead_letters": sum(one.dead_letters for one in destinations)
        + sum(one.dead_letters for one in sinks)
        + sum(one.dead_letters for one in messages),
        "messages": [asdict(one) for one in messages],
        "paused": [asdict(one) for one in journal.pauses()],
        "sinks": [_sink(view, one) for one in sinks],
        "destinations": [_destination(view, one, windows_s[one.id]) for one in destinations],
        "problems": [
            {"source": one.source, "where": one.where, "what": one.what, "at_ms": one.at_ms}
            for one in journal.problems()
        ],
    }


def _oldest_s(view: Viewpoint, destination: DestinationReport) -> float | None:
    if not destination.waiting:
        return None
    return max(0, view.now_ms - min(waiting.oldest_ms for waiting in destination.waiting)) / 1000


def _windows_s(view: Viewpoint, journal: JournalReport, found: Sequence[DestinationReport]) -> dict[int, float]:
    """Return for each destination the seconds that its rate is the mean of.

    The journal counts over 50 to 60 s. A syncd that was started within them is measured since its start, unless the one
    before it delivered within the same minute: the journal does not say which of the two it was, so both are measured.
    """
    windows_s = {one.id: one.pace.window_s for one in found}
    if view.started_ms is None or view.now_ms - view.started_ms >= _SHORTEST_PACE_MS:
        return windows_s
    up_s = max(_LEAST_WINDOW_S, (view.now_ms - view.started_ms) / 1000)
    for before in journal.destinations(view.started_ms - view.started_ms % PACE_SPAN_MS - 1):
        if not before.pace.points_per_s and not before.pace.bytes_per_s:
            windows_s[before.id] = up_s
    return windows_s


def _destination(view: Viewpoint, report: DestinationReport, window_s: float) -> dict[str, Any]:
    longer = report.pace.window_s / window_s
    return {
        "name": report.name,
        "uri": report.uri,
        "configured": report.active,
        "state": report.state,
        "state_since_ms": report.state_since_ms,
        "last_error": report.last_error or None,
        "last_error_ms": report.last_error_ms,
        "sent": {**asdict(report.sent), "last_ms": report.sent.last_ms or None},
        "rate": {
            "window_s": window_s,
            "points_per_s": round(report.pace.points_per_s * longer, 3),
            "bytes_per_s": round(report.pace.bytes_per_s * longer, 3),
        },
        "waiting": [asdict(waiting) for waiting in report.waiting],
        "oldest_unsynced_s": _oldest_s(view, report),
        "dead_letters": report.dead_letters,
        "overflow": report.overflow,
    }


def _sink(view: Viewpoint, report: SinkReport) -> dict[str, Any]:
    oldest_s = max(0, view.now_ms - report.oldest_ms) / 1000 if report.oldest_ms is not None else None
    return {
        "name": report.name,
        "configured": report.active,
        "state": report.state,
        "state_since_ms": report.state_since_ms,
        "last_error": report.last_error or None,
        "last_error_ms": report.last_error_ms,
        "sent": report.sent,
        "waiting": report.waiting,
        "oldest_waiting_s": oldest_s,
        "dropped": report.dropped,
        "dropped_ms": report.dropped_ms,
        "dead_letters": report.dead_letters,
    }
