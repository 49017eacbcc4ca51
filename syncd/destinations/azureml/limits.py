"""What a workspace takes, as far as it is published.

[D] learn.microsoft.com "resource-limits-capacity", read 2026-11; [I] an error message that a user published (mlflow
issue 11462; azure-sdk-for-python issue 35685; mlflow issue 10694); [M] MLflow's own, since its client checks them too.
Each is a default: ``[destinations.limits]`` replaces it, and a smaller one that the server names in a refusal does.
"""

from __future__ import annotations

from typing import Final

from syncd.core.limits import Limits

AZUREML_LIMITS: Final = Limits(
    batch_metrics=250,  # [D], [I]
    batch_params=100,  # [M]
    batch_tags=100,  # [M]
    metric_key_length=255,  # [D]
    param_key_length=255,  # [M]
    param_value_length=6000,  # [M]
    tag_key_length=100,  # [D]
    tag_value_length=1000,  # [D]
    experiment_tag_value_length=1000,  # [D]
    tags_per_run=50,  # [D]
    params_per_run=200,  # [I]
    metric_names_per_run=50,  # [D]
    metric_rows_per_name=1_000_000,  # [D]
    inputs_per_run=200,  # [D]
    description_length=5000,  # [D]
    run_name_length=256,  # [D]
    experiment_name_length=256,  # [D]
    history_results=999,  # [I] "MaxResults must be less than 1000"
)
