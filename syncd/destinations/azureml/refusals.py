"""What a workspace's refusals say: its words in any of its shapes, and the limit that one names."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from syncd.errors import OverLimit, Rejected

_LONGEST: Final = 2000
_OVER: Final = re.compile(r"FieldName=(?P<field>[^,\s]+), Limit=(?P<limit>\d+), Size=(?P<size>\d+)")
_HISTORY: Final = re.compile(r"MaxResults must be less than (?P<limit>\d+)")
# The fields that published messages name (2024-05, 2024-06: "Parameters", "MetricV2Dto.Value/Count"), and others in
# the same manner; whether the service calls them so is assumed. What is none of these is found by cutting in two.
_FIELDS: Final = (
    (re.compile(r"Metric\w*\.Value/Count"), "batch_metrics"),
    (re.compile(r"Metric\w*\.(Name|Key)(/Length)?"), "metric_key_length"),
    (re.compile(r"MetricNames?(/Count)?"), "metric_names_per_run"),
    (re.compile(r"MetricRows(/Count)?"), "metric_rows_per_name"),
    (re.compile(r"Parameters(/Count)?"), "params_per_run"),
    (re.compile(r"ParametersInBatch"), "batch_params"),
    (re.compile(r"Parameters\.Key(/Length)?"), "param_key_length"),
    (re.compile(r"Parameters\.Value(/Length)?"), "param_value_length"),
    (re.compile(r"(RunDto\.)?Tags(/Count)?"), "tags_per_run"),
    (re.compile(r"TagsInBatch"), "batch_tags"),
    (re.compile(r"(RunDto\.)?Tags\.Key(/Length)?"), "tag_key_length"),
    (re.compile(r"(RunDto\.)?Tags\.Value(/Length)?"), "tag_value_length"),
    (re.compile(r"(RunDto\.)?Description(/Length)?"), "description_length"),
    (re.compile(r"(RunDto\.)?DisplayName(/Length)?"), "run_name_length"),
    (re.compile(r"ExperimentName(/Length)?"), "experiment_name_length"),
    (re.compile(r"(RunDto\.)?InputDatasets(/Count)?"), "inputs_per_run"),
)


def words(body: bytes) -> tuple[str, str]:
    """Return (code, message) of a refusal by the tracking endpoint, run history or Azure Resource Manager.

    Tracking writes ``{"Error": {"Code", "Message"}, "error_code"}``, MLflow ``{"error_code", "message"}``, the others
    ``{"error": {"code", "message"}}``; anything else is ("", its text).
    """
    try:
        value = json.loads(body)
    except ValueError:
        return "", body[:_LONGEST].decode("utf-8", "replace").strip()
    if not isinstance(value, dict):
        return "", str(value)[:_LONGEST]
    inner = value.get("Error") or value.get("error")
    inner = inner if isinstance(inner, dict) else {}
    code = value.get("error_code") or inner.get("Code") or inner.get("code") or ""
    message = value.get("message") or inner.get("Message") or inner.get("message") or ""
    return str(code), str(message)[:_LONGEST]


def limit_named(error: Rejected) -> Rejected:
    """Return the refusal as ``OverLimit`` if it says that something is over a limit, else as it is."""
    about: dict[str, Any] = {"code": error.code, "status": error.status, "doing": error.doing, "target": error.target}
    if over := _OVER.search(error.message):
        name = next((name for pattern, name in _FIELDS if pattern.fullmatch(over["field"])), "")
        return OverLimit(error.message, limit_name=name, limit=int(over["limit"]), **about)
    if page := _HISTORY.search(error.message):
        return OverLimit(error.message, limit_name="history_results", limit=int(page["limit"]) - 1, **about)
    return error
