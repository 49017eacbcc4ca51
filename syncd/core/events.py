"""Events: what syncd tells the world, as CloudEvents 1.0 values and their JSON.

Rules
-----
1. An event is a frozen value, made from a change in the same transaction in which the change is committed.
2. Its ``id`` follows from what it tells, so the same occurrence told twice has the same id.
3. What is told is valid JSON and UTF-8 whatever a store holds, and small (``occurrences.text_of``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

TYPE_PREFIX = "dev.syncd."
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"

RUN_DISCOVERED: Final = "dev.syncd.run.discovered"
RUN_STARTED: Final = "dev.syncd.run.started"
RUN_SYNCED: Final = "dev.syncd.run.synced"
RUN_FINISHED: Final = "dev.syncd.run.finished"
RUN_FAILED: Final = "dev.syncd.run.failed"
RUN_KILLED: Final = "dev.syncd.run.killed"
ARTIFACT_UPLOADED: Final = "dev.syncd.artifact.uploaded"
MODEL_LOGGED: Final = "dev.syncd.model.logged"
DEAD_LETTER_ADDED: Final = "dev.syncd.dead_letter.added"
OVERFLOW_ADDED: Final = "dev.syncd.overflow.added"
DESTINATION_DOWN: Final = "dev.syncd.destination.down"
DESTINATION_UP: Final = "dev.syncd.destination.up"

TYPES: Final = (
    RUN_DISCOVERED,
    RUN_STARTED,
    RUN_SYNCED,
    RUN_FINISHED,
    RUN_FAILED,
    RUN_KILLED,
    ARTIFACT_UPLOADED,
    MODEL_LOGGED,
    DEAD_LETTER_ADDED,
    OVERFLOW_ADDED,
    DESTINATION_DOWN,
    DESTINATION_UP,
)
# Named by the contract, with schemas; this version tells none of them.
TYPES_NOT_YET: Final = tuple(
    f"{TYPE_PREFIX}{name}"
    for name in (
        "model.registered",
        "model.deployed",
        "deployment.failed",
        "job.started",
        "job.finished",
        "job.failed",
        "drift.detected",
        "performance.degraded",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One CloudEvent. ``type`` is whole ("dev.syncd.run.finished"), ``time_ms`` ms since the epoch, UTC.

    ``seq`` is its place in the outbox (0: none yet); ``data`` is JSON.
    """

    id: str
    type: str
    source: str
    subject: str
    time_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0

    @property
    def short_type(self) -> str:
        """The type without "dev.syncd."."""
        return self.type.removeprefix(TYPE_PREFIX)

    @property
    def run_id(self) -> str:
        """The source's id of the run that it is about, "" for none."""
        return str(self.data.get("run_id") or "")

    @property
    def experiment(self) -> str:
        """The name of the experiment that it is about, "" for none (or one whose name was not known yet)."""
        return str(self.data.get("experiment_name") or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events somebody wants. Empty means all; ``types`` are patterns of types with or without "dev.syncd.".

    ``experiments`` are patterns of names; what is about no experiment (a destination) passes them.
    """

    types: Sequence[str] = ()
    experiments: Sequence[str] = ()

    def takes(self, event: Event) -> bool:
        """Return whether the event is wanted."""
        if self.types and not any(fnmatchcase(event.short_type, one.removeprefix(TYPE_PREFIX)) for one in self.types):
            return False
        if not self.experiments or "experiment_id" not in event.data:
            return True
        return any(fnmatchcase(event.experiment, pattern) for pattern in self.experiments)


def cloud_event(event: Event) -> dict[str, Any]:
    """Return an event as the JSON object of CloudEvents 1.0 (its structured content mode)."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": rfc3339(event.time_ms),
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }


def encode_structured(event: Event) -> bytes:
    """Return the body of one event, of content type ``STRUCTURED``."""
    return _json(cloud_event(event))


def encode_batch(events: Sequence[Event]) -> bytes:
    """Return the body of several events, of content type ``BATCH``."""
    return _json([cloud_event(event) for event in events])


def rfc3339(at_ms: int) -> str:
    """Return a time of the journal as RFC 3339 writes it, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
