"""In one word, where a run stands on a destination. One meaning for the command line and the status page."""

from __future__ import annotations

from typing import Literal

from syncd.journal.run_reports import RunOnDestination, RunReport
from syncd.runtime.settlement import FILTERED

RunState = Literal["synced", "syncing", "waiting", "dead-letters", "filtered", "deleted", "unknown"]


def state_of(run: RunReport, there: RunOnDestination, *, delivering: bool) -> RunState:
    """Return the state of ``run`` on a destination.

    Args:
        run: the run.
        there: where it stands on that destination.
        delivering: whether a daemon runs, and that destination answers and is not paused.

    Returns:
        ``syncing`` or ``waiting``: something is outstanding, and moves or does not; ``dead-letters``: all else is
        there; ``filtered``; ``deleted`` in the store; ``unknown``: its source has not said what it is; ``synced``:
        all that was read of it is there (a run that goes on as well).
    """
    if run.deleted:
        return "deleted"
    if there.changes_waiting:
        return "syncing" if delivering and run.head is not None else "waiting"
    if there.note == FILTERED:
        return "filtered"
    if there.dead_letters:
        return "dead-letters"
    if run.head is None:
        return "unknown"
    return "synced" if there.remote_id else "waiting"
