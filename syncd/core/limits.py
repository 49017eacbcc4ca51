"""What a destination can hold and how much it takes in one request."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one destination; the defaults are those of an MLflow server (mlflow/utils/validation.py, 3.15).

    ``*_length`` counts characters, ``*_bytes`` bytes of the request body, ``*_per_*`` things. None is no bound.
    ``description_length`` is that of the tag ``mlflow.note.content`` of a run (None: as any tag's);
    ``history_results`` how many points of a metric may be asked for at once; ``only_finite`` says that NaN and
    infinities cannot be held.
    """

    batch_metrics: int = 1000
    batch_params: int = 100
    batch_tags: int = 100
    batch_items: int = 1000
    batch_bytes: int = 1_000_000
    metric_key_length: int = 250
    param_key_length: int = 250
    param_value_length: int = 6000
    tag_key_length: int = 250
    tag_value_length: int = 8000
    experiment_tag_value_length: int = 5000
    history_results: int = 10_000
    tags_per_run: int | None = None
    params_per_run: int | None = None
    metric_names_per_run: int | None = None
    metric_rows_per_name: int | None = None
    inputs_per_run: int | None = None
    description_length: int | None = None
    run_name_length: int | None = None
    experiment_name_length: int | None = None
    only_finite: bool = False


def lowered(limits: Limits, name: str, limit: int) -> Limits:
    """Return the limits with that one no higher than what the destination has named."""
    if name.startswith(("batch_", "history_")):
        limit = max(limit, 1)
    known = getattr(limits, name, None) if name in _LOWERABLE else limit
    changed: dict[str, Any] = {name: limit} if known is None or known > limit else {}
    found = replace(limits, **changed)
    description = found.description_length
    if name == "tag_value_length" and description is not None and description > limit:
        return replace(found, description_length=limit)  # a note is a tag there
    return found


_LOWERABLE = frozenset(field.name for field in fields(Limits) if field.name != "only_finite")
