"""Events: what syncd tells the world, as CloudEvents 1.0 values.

Rules
-----
1. An event is a frozen value, made from a change in the same transaction in which the change is committed.
2. Its ``id`` follows from what it tells, so the same occurrence told twice has the same id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TYPE_PREFIX = "dev.syncd."


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
