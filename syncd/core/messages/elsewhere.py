"""Events of other services as ``ForeignEvent``: Azure Machine Learning's (Event Grid), MLflow's and Databricks'.

Names of Azure's types and fields: learn.microsoft.com, "Azure Machine Learning as an Event Grid source", as gathered in
2026-11; none was seen from the real service, so a missing field is "" and an unknown one is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from syncd.core.messages.envelopes import Envelope, Refused
from syncd.core.messages.statements import ForeignEvent
from syncd.core.wrong import Wrong, found_text, pointer

AZUREML_PREFIX: Final = "Microsoft.MachineLearningServices."
PREFIXES: Final = ("mlflow.", "databricks.")  # as ``envelopes`` names them; their data are as they come
_MOST_CHARACTERS: Final = 10_000
_Read = Callable[[Any], Any]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(one) for key, one in value.items()} if isinstance(value, dict) else {}


def _list(value: Any) -> list[str]:
    return [one.strip() for one in _text(value).split(",") if one.strip()]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


_RUN: Final[Mapping[str, tuple[str, _Read]]] = {
    "experimentid": ("experiment_id", _text),
    "experimentname": ("experiment_name", _text),
    "runid": ("run_id", _text),
    "runtype": ("run_type", _text),
    "runtags": ("run_tags", _texts),
    "runproperties": ("run_properties", _texts),
    "runstatus": ("run_status", _text),
}
# Type: what rules call it, and its fields: Azure's name in lower case, ours, and how it is read.
_AZUREML: Final[Mapping[str, tuple[str, Mapping[str, tuple[str, _Read]]]]] = {
    "RunCompleted": ("azureml.run_completed", _RUN),
    "RunStatusChanged": ("azureml.run_status_changed", _RUN),
    "ModelRegistered": (
        "azureml.model_registered",
        {
            "modelname": ("model_name", _text),
            "modelversion": ("model_version", _text),
            "modeltags": ("model_tags", _texts),
            "modelproperties": ("model_properties", _texts),
        },
    ),
    "ModelDeployed": (
        "azureml.model_deployed",
        {
            "servicename": ("service_name", _text),
            "servicecomputetype": ("service_compute_type", _text),
            "modelids": ("model_ids", _list),
            "servicetags": ("service_tags", _texts),
            "serviceproperties": ("service_properties", _texts),
        },
    ),
    "DatasetDriftDetected": (
        "azureml.dataset_drift_detected",
        {
            "datadriftid": ("data_drift_id", _text),
            "datadriftname": ("data_drift_name", _text),
            "runid": ("run_id", _text),
            "basedatasetid": ("base_dataset_id", _text),
            "targetdatasetid": ("target_dataset_id", _text),
            "driftcoefficient": ("drift_coefficient", _number),
            "starttime": ("start_time", _text),
            "endtime": ("end_time", _text),
        },
    ),
}


def foreign_event_of(event: Envelope, *, time_ms: int) -> ForeignEvent | None:
    """Return what an event of another service tells, None if its type is none of these.

    Raises:
        Refused: its data are no object, or too long.
    """
    if event.type.startswith(AZUREML_PREFIX):
        known = _AZUREML.get(event.type.removeprefix(AZUREML_PREFIX))
        return None if known is None else _foreign_event(event, known[0], _fields(event, known[1]), time_ms)
    if event.type.startswith(PREFIXES):
        return _foreign_event(event, event.type, _object(event), time_ms)
    return None


def _foreign_event(event: Envelope, name: str, data: Mapping[str, Any], time_ms: int) -> ForeignEvent:
    size = len(json.dumps(data))
    if size > _MOST_CHARACTERS:
        raise Refused(Wrong(pointer(event.place), f"expected at most {_MOST_CHARACTERS} characters, found {size}"))
    return ForeignEvent(name=name, time_ms=time_ms, source=event.source, subject=event.subject, data=data)


def _fields(event: Envelope, fields: Mapping[str, tuple[str, _Read]]) -> dict[str, Any]:
    given = {key.lower(): value for key, value in _object(event).items()}
    return {ours: read(given.get(theirs)) for theirs, (ours, read) in fields.items()}


def _object(event: Envelope) -> dict[str, Any]:
    if not isinstance(event.data, dict):
        raise Refused(Wrong(pointer(event.place), f"expected an object, found {found_text(event.data)}"))
    return event.data
