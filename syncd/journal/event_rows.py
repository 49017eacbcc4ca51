"""Events as rows of the journal."""

from __future__ import annotations

import json

from syncd.core.events import Event


def event_of(seq: int, id_: str, type_: str, source: str, subject: str, at_ms: int, data: str) -> Event:
    """Return an event as the outbox has it."""
    told = json.loads(data)
    return Event(id=id_, type=type_, source=source, subject=subject, time_ms=at_ms, data=told, seq=seq)
