"""The envelopes in which a message says something: CloudEvents 1.0, Event Grid's own schema, or none.

=====================  ===========================================================================================
form                   how it is told
=====================  ===========================================================================================
CloudEvents, binary    headers ``ce-…`` (HTTP), ``cloudEvents:…`` or ``cloudEvents_…`` (AMQP), or the bare names
                       (MQTT 5 user properties); the body is ``data``
CloudEvents, batch     a JSON array, of any of the following
CloudEvents            a JSON object with ``specversion``
Event Grid             a JSON object with ``eventType`` and ``dataVersion``
MLflow webhook         a JSON object with ``entity``, ``action`` and ``data``
Databricks             a JSON object with ``event_type``, ``run`` and ``job``: a notification about a job
plain                  any other JSON object: the data of ``dev.syncd.log``
=====================  ===========================================================================================
"""

from __future__ import annotations

import base64
import binascii
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from syncd.core.messages.bounded_json import parse_bounded
from syncd.core.messages.times import milliseconds_of
from syncd.core.relay.values import TYPES as RELAY_TYPES
from syncd.core.wrong import Wrong, found_text, pointer
from syncd.errors import MessageRefused

MOST_EVENTS: Final = 10_000
LONGEST_ATTRIBUTE: Final = 1024
SYNCD_TYPES: Final = "dev.syncd."
LOG_TYPE: Final = f"{SYNCD_TYPES}log"
_PREFIXES: Final = ("ce-", "cloudevents:", "cloudevents_", "")


class Received(Protocol):
    """What is known of a message; ``syncd.sources.messages.Message`` is one. Names of headers are in lower case."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102
    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def sent_ms(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One event. ``identity`` "" if the envelope has none; ``place`` are the steps from the body to ``data``.

    ``data`` is a JSON value, of a relayed message bytes, of a regular log message a ``CheckedLog``.
    """

    type: str
    source: str
    identity: str
    subject: str
    time_ms: int | None
    data: Any
    place: tuple[str | int, ...] = ()


class CheckedLog:
    """The data of a ``dev.syncd.log`` that is known to be as its schema wants it, and to hold no artifacts."""

    __slots__ = ()

    @abstractmethod
    def fields(self) -> Mapping[str, Any]:
        """Return what it holds beside its metrics."""

    @abstractmethod
    def lines(self, *, timestamp_ms: int, step: int) -> tuple[bytes, int]:
        """Return its points in wire form, joined by newlines, and their number.

        Args:
            timestamp_ms: of points that have none of their own.
            step: likewise.
        """


@dataclass(frozen=True, slots=True)
class Regular:
    """Reads the log messages that are as most are. Each returns None for whatever else comes, right or wrong.

    ``log`` takes a body that is the data alone, ``events`` one that is an event, or an array of events.
    """

    log: Callable[[bytes], CheckedLog | None]
    events: Callable[[bytes], Sequence[Envelope] | None]


class Refused(Exception):
    """One event of a message is not as expected."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def open_body(message: Received, regular: Regular) -> tuple[Sequence[Any], bool]:
    """Return the events of a message that is not in binary mode, and whether they came as a batch.

    Regular ones are envelopes already, others are to be opened.

    Raises:
        MessageRefused: it is no JSON within bounds, or an array that is empty or too long.
    """
    body = message.body
    if b'"specversion"' in body:
        events = regular.events(body)
        if events is not None:
            return events, body[:1] == b"["
    elif (log := regular.log(body)) is not None:
        return [_log_event(log)], False
    value = parse_bounded(body)
    if not isinstance(value, list):
        return [value], False
    if not 0 < len(value) <= MOST_EVENTS:
        raise MessageRefused(f"expected 1 to {MOST_EVENTS} events, found {len(value)}")
    return value, True


def open_binary(message: Received, regular: Regular) -> Envelope | None:
    """Return the event of a message in binary mode, None if it is not in that mode.

    Raises:
        Refused: an attribute is not as expected.
        MessageRefused: the body is no JSON within bounds.
    """
    headers = message.headers
    prefix = next((prefix for prefix in _PREFIXES if _speaks_cloud_events(headers, prefix)), None) if headers else None
    if prefix is None or message.content_type.lower().startswith("application/cloudevents"):
        return None
    names = ("specversion", "id", "source", "type", "subject", "time")
    attributes = {name: headers[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in headers}
    content_type = message.content_type or headers.get(f"{prefix}datacontenttype", "")
    _require_json(content_type, "datacontenttype")
    data: Any = regular.log(message.body) if attributes.get("type") == LOG_TYPE else None
    if data is None and message.body:
        data = parse_bounded(message.body)
    return _cloud_event(attributes, data, place=())


def _speaks_cloud_events(headers: Mapping[str, str], prefix: str) -> bool:
    """Whether there are attributes of that prefix, also if the one is missing that must be there.

    Else what somebody means to be the start of a run is taken for a log. A bare "type" may be anybody's.
    """
    if f"{prefix}specversion" in headers:
        return True
    type_ = headers.get(f"{prefix}type")
    return type_ is not None and (prefix != "" or type_.startswith(SYNCD_TYPES))


def open_event(value: Any, message: Received) -> Envelope:
    """Return one event that stands in a body.

    Raises:
        Refused: it is none.
    """
    if isinstance(value, Envelope):
        return value
    if not isinstance(value, dict):
        raise Refused(Wrong("", f"expected an object, found {found_text(value)}"))
    if "specversion" in value:
        return _cloud_event(value, _data_of(value), place=("data",))
    if "eventType" in value and "dataVersion" in value:
        return _event_grid(value)
    if {"event_type", "run", "job"} <= value.keys():
        return _databricks_notification(value)
    if {"entity", "action", "data"} <= value.keys():
        return _mlflow_webhook(value, message)
    return _log_event(value)


def _log_event(data: Any) -> Envelope:
    return Envelope(type=LOG_TYPE, source="", identity="", subject="", time_ms=None, data=data)


def _cloud_event(attributes: Mapping[str, Any], data: Any, *, place: tuple[str, ...]) -> Envelope:
    version = attributes.get("specversion")
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        found = found_text(version) if "specversion" in attributes else "nothing"
        raise Refused(Wrong("/specversion", f'expected "1.0", found {found}'))
    source, event_id = _attribute(attributes, "source"), _attribute(attributes, "id")
    return Envelope(
        type=_attribute(attributes, "type"),
        source=source,
        identity=cloud_event_identity(source, event_id),
        subject=_attribute(attributes, "subject", required=False),
        time_ms=_time_of(attributes, "time"),
        data=data,
        place=place,
    )


def cloud_event_identity(source: str, event_id: str) -> str:
    """Return what tells one CloudEvent from another."""
    return f"ce\n{source}\n{event_id}"


def _data_of(event: Mapping[str, Any]) -> Any:
    if "data_base64" not in event:
        _require_json(event.get("datacontenttype") or "", "datacontenttype")
        return event.get("data")
    try:
        data = base64.b64decode(event["data_base64"], validate=True)
        return data if event.get("type") in RELAY_TYPES else parse_bounded(data)
    except (binascii.Error, ValueError, TypeError):
        raise Refused(Wrong("/data_base64", "expected base64")) from None
    except MessageRefused as exc:
        raise Refused(Wrong("/data_base64", exc.message)) from exc


def _event_grid(event: Mapping[str, Any]) -> Envelope:
    topic, event_id = _attribute(event, "topic", required=False), _attribute(event, "id")
    return Envelope(
        type=_attribute(event, "eventType"),
        source=topic,
        identity=f"eg\n{topic}\n{event_id}",
        subject=_attribute(event, "subject", required=False),
        time_ms=_time_of(event, "eventTime"),
        data=event.get("data"),
        place=("data",),
    )


def _mlflow_webhook(event: Mapping[str, Any], message: Received) -> Envelope:
    return Envelope(
        type=f"mlflow.{_attribute(event, 'entity')}_{_attribute(event, 'action')}",
        source="mlflow",
        identity=f"mlflow\n{message.id}" if message.id else "",
        subject="",
        time_ms=_time_of(event, "timestamp"),
        data=event["data"],
        place=("data",),
    )


def _databricks_notification(event: Mapping[str, Any]) -> Envelope:
    """Return what Databricks says of a job, or of a task of one, whose run ``run`` is then.

    Such a notification has no id; but what it says of a run it says once.
    """
    kind, workspace = _attribute(event, "event_type"), _number_or_text(event, "workspace_id")
    job_id, run_id = _number_or_text(event, "job", "job_id"), _number_or_text(event, "run", "run_id")
    return Envelope(
        type=f"databricks.{kind.replace('.', '_')}",
        source=workspace,
        identity=f"databricks\n{workspace}\n{run_id}\n{kind}",
        subject=f"jobs/{job_id}/runs/{run_id}",
        time_ms=None,
        data={key: value for key, value in event.items() if key != "event_type"},
    )


def _number_or_text(values: Mapping[str, Any], *steps: str) -> str:
    value: Any = values
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ATTRIBUTE:
        found = "nothing" if value is None else found_text(value)
        raise Refused(Wrong(pointer(steps), f"expected an id, found {found}"))
    return value


def _attribute(values: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    value = values.get(name)
    if value is None and not required:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and name == "id":
        value = str(value)
    if not isinstance(value, str) or (required and not value) or len(value) > LONGEST_ATTRIBUTE:
        found = "nothing" if value is None else found_text(value)
        raise Refused(Wrong(f"/{name}", f"expected a text of 1 to {LONGEST_ATTRIBUTE} characters, found {found}"))
    return value


def _time_of(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return milliseconds_of(value)
    except ValueError:
        pass
    raise Refused(Wrong(f"/{name}", f'expected a time such as "2026-01-02T03:04:05Z", found {found_text(value)}'))


def _require_json(content_type: Any, name: str) -> None:
    kind = content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else None
    if kind is None or (kind and not (kind.endswith(("/json", "+json")))):
        raise Refused(Wrong(f"/{name}", f"expected a kind of JSON, found {found_text(content_type)}"))
