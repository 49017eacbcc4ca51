"""Marks runs of stores that go on and have been silent for long, until something is heard of them.

Rules
-----
1. A run is never ended by guess: it gets a tag that says when its store last changed it, and keeps its status.
2. The mark is no activity of the run. It is made once for all destinations, whoever of its readers comes first.
"""

from __future__ import annotations

from datetime import UTC, datetime

from syncd.core.facts import SubjectKey, TagsDeleted, TagsSet
from syncd.core.source_tags import LAST_ACTIVITY
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal

_FIRST_S = datetime.min.replace(tzinfo=UTC).timestamp()
_LAST_S = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()


def mark_silent_runs(journal: Journal, source_id: int, *, before_ms: int) -> dict[int, set[int]]:
    """Mark the runs of a store that have not ended and not changed since ``before_ms``; unmark those that have.

    Returns:
        For each destination id the subjects that now wait for it.

    Raises:
        JournalFull: nothing was marked.
    """
    silent = journal._fetch("silent_store_runs", {"source_id": source_id, "before_ms": before_ms})
    heard = [row[:3] for row in journal._fetch("marked_store_runs", {"source_id": source_id}) if _is_heard(*row)]
    if not silent and not heard:
        return {}
    with journal._transaction("marking silent runs"):
        destinations = [row[0] for row in journal._run("active_destinations").fetchall()]
        facts = FactIntake(journal, source_id, destinations, first_reading=False)
        for subject_id, key, changed_ms in silent:
            facts.add(TagsSet(SubjectKey("run", key), {LAST_ACTIVITY: activity_text(changed_ms)}))
            journal._run("set_changed", {"id": subject_id, "changed_ms": changed_ms})
        for subject_id, key, changed_ms in heard:
            facts.add(TagsDeleted(SubjectKey("run", key), [LAST_ACTIVITY]))
            journal._run("set_changed", {"id": subject_id, "changed_ms": changed_ms})
    return dict.fromkeys(destinations, facts.subjects)


def activity_text(at_ms: int) -> str:
    """Return a time, ms since the epoch, as the tag has it: ISO 8601 with milliseconds, UTC.

    A message may have been sent in a year that ISO 8601 cannot write; the nearest time that it can stands for it.
    """
    return datetime.fromtimestamp(max(_FIRST_S, min(at_ms / 1000, _LAST_S)), UTC).isoformat(timespec="milliseconds")


def _is_heard(_subject_id: int, _key: str, changed_ms: int, is_open: int, mark: str) -> bool:
    return not is_open or activity_text(changed_ms) != mark
