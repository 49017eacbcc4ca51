"""What the workspace takes at most, and which of its habits are assumed rather than known.

Sources: [D] learn.microsoft.com "resource-limits-capacity" (read 2026-11), [I] an error message that a user published,
[A] assumed. A test may set any of them while the stand-in runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.standins.azureml.refusals import over_limit


@dataclass
class Limits:
    """Counts are of items, lengths of characters, sizes of bytes."""

    metric_names_per_run: int = 50  # [D]
    metric_rows_per_name: int = 1_000_000  # [D]
    metric_rows_per_batch: int = 250  # [D] and [I]: mlflow issue 11462, FieldName=MetricV2Dto.Value/Count
    metric_name_length: int = 255  # [D]
    params_per_run: int = 200  # [I] azure-sdk-for-python issue 35685, FieldName=Parameters
    params_per_batch: int = 100  # MLflow's own
    param_key_length: int = 255  # [A]
    param_value_length: int = 6000  # [A] MLflow's own
    tags_per_run: int = 50  # [D]
    tags_per_batch: int = 100  # MLflow's own
    tag_key_length: int = 100  # [D]
    tag_value_length: int = 1000  # [D]
    experiment_name_length: int = 256  # [D]
    run_name_length: int = 256  # [D]
    inputs_per_run: int = 200  # [D]
    artifact_path_length: int = 5000  # [D]
    artifacts_per_batch: int = 100  # [I] ultralytics issue 3223: "exceeded the limit of 100"; clients send 50
    history_results: int | None = 1000  # [I] mlflow issue 10694: "must be less than 1000"; None: any number
    search_results: int = 1000  # [A] of one page of a search


@dataclass
class Habits:
    """What the real service is thought to do; a test may show syncd the other way too."""

    system_tags_count: bool = True  # [A] tags "mlflow.…" count towards tags_per_run
    registered_again_conflicts: bool = True  # [I] a path in batch/metadata twice: errors "Resource Conflict"
    write_offered: bool = (
        True  # [A] artifacts/…/write tells a SAS to write over (in azureml-mlflow's REST client, unused)
    )
    content_permissions: str = "r"  # [I] for run logs; [A] for the rest: rights of a SAS from contentinfo
    listed_before_uploaded: bool = True  # [A] the list names what was registered, uploaded or not
    artifacts_page: int = 500  # [A] names in one page of a listing
    datastores_page: int = 30  # [A] datastores in one page


def check(field: str, limit: int, size: int) -> None:
    """Raise the service's refusal when ``size`` is over ``limit``."""
    if size > limit:
        raise over_limit(field, limit, size)
