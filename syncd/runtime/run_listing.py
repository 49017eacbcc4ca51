"""What ``syncd runs`` and ``GET /api/v1/runs`` say of a run, as docs/json.md describes it."""

from __future__ import annotations

from typing import Any

from syncd.journal.report import JournalReport
from syncd.journal.run_reports import RunOnDestination, RunReport
from syncd.runtime.run_state import state_of


def answering_destinations(journal: JournalReport, now_ms: int) -> set[int]:
    """Return the destinations that answered when they were last asked, and that no command has paused."""
    resting = {one.name for one in journal.pauses() if one.kind == "destination"}
    found = (one for one in journal.destinations(now_ms) if one.active and one.name not in resting)
    return {one.id for one in found if one.state in ("up", "throttled")}


def run_as_json(run: RunReport, delivering: set[int]) -> dict[str, Any]:
    """Return a run as docs/json.md describes it."""
    return {
        "source": run.source,
        "run_id": run.run_id,
        "name": run.name,
        "device": run.device or None,
        "experiment": run.experiment,
        "status": run.head.status if run.head else None,
        "start_time_ms": run.head.start_time_ms if run.head else None,
        "end_time_ms": run.head.end_time_ms if run.head else None,
        "parent_run_id": (run.head.parent_run_id or None) if run.head else None,
        "destinations": [_there_as_json(run, there, delivering) for there in run.destinations],
    }


def _there_as_json(run: RunReport, there: RunOnDestination, delivering: set[int]) -> dict[str, Any]:
    return {
        "destination": there.destination,
        "configured": there.active,
        "run_id": there.remote_id or None,
        "state": state_of(run, there, delivering=there.destination_id in delivering),
        "note": there.note,
        "sent": {
            "points": there.points,
            "artifacts": there.artifacts,
            "bytes": there.bytes,
            "last_ms": there.sent_ms or None,
        },
        "waiting": {
            "changes": there.changes_waiting,
            "points": there.points_waiting,
            "artifacts": there.artifacts_waiting,
            "bytes": there.bytes_waiting,
            "oldest_ms": there.oldest_ms,
        },
        "dead_letters": there.dead_letters,
        "overflow": there.overflow,
    }
