"""Which of a run's tags a destination takes that takes only so many, or only short ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from syncd.core import source_tags
from syncd.core.limits import Limits
from syncd.core.planner import Fit

# Tags that syncd or the server sets itself and that must find room: the source's id and name, the session, the run's
# name, the parent, and the one that says what is in the overflow.
OWN_TAGS = (
    source_tags.SOURCE_RUN_ID,
    source_tags.SOURCE,
    source_tags.SESSION,
    source_tags.RUN_NAME,
    source_tags.PARENT_RUN_ID,
    source_tags.OVERFLOW,
)


def fit_run_tags(tags: Mapping[str, str], limits: Limits, known: Iterable[str]) -> Fit:
    """Divide a run's tags by the destination's limits; those of MLflow itself get their places first.

    Room is kept for the tags that syncd sets (``OWN_TAGS``).
    """
    present = {*known, *OWN_TAGS}
    room = limits.tags_per_run
    longest = {source_tags.NOTE: limits.description_length, source_tags.RUN_NAME: limits.run_name_length}
    fits: dict[str, str] = {}
    over: dict[str, str] = {}
    for key, value in sorted(tags.items(), key=lambda tag: not tag[0].startswith("mlflow.")):
        is_short = len(value) <= (longest.get(key) or limits.tag_value_length)
        has_room = room is None or key in present or len(present) < room
        if is_short and has_room and len(key) <= limits.tag_key_length:
            fits[key] = value
            present.add(key)
        else:
            over[key] = value
    return Fit(fits, over)
