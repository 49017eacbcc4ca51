"""Read [destinations.filters]: which experiments, runs and artifacts a destination gets."""

from __future__ import annotations

from syncd.configuration.reading import Table
from syncd.core.filters import Filter


def read_filter(table: Table) -> Filter:
    """Return what a destination's filter takes."""
    experiments, exclude_experiments = _read_patterns(table, "experiments")
    artifacts, exclude_artifacts = _read_patterns(table, "artifacts")
    found = Filter(
        experiments=experiments,
        exclude_experiments=exclude_experiments,
        run_names=table.texts("run_names"),
        tags=table.text_map("tags"),
        artifacts=artifacts,
        exclude_artifacts=exclude_artifacts,
    )
    table.refuse_unknown_keys(of="[destinations.filters]")
    return found


def _read_patterns(filters: Table, key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what to include and what to exclude; a list alone is what to include."""
    if isinstance(filters.content.get(key), list):
        return filters.texts(key), ()
    table = filters.table(key)
    include, exclude = table.texts("include"), table.texts("exclude")
    table.refuse_unknown_keys(of=f"[destinations.filters.{key}]")
    return include, exclude
