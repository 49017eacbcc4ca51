"""Faults on command, and a log of what was asked. Safe to use from the test's thread while the server runs.

A *kind* names a call as its API does: "runs/log-batch", "artifacts/batch/metadata", "blob/put", "blob/put-block",
"blob/put-block-list", "arm/workspace", "token/managed-identity". A fault for "blob" is also one for "blob/put", a fault
for "" one for all.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

Action = Literal["throttle", "fail", "drop", "lose"]


@dataclass
class Fault:
    """What happens to the next ``times`` calls of a kind.

    ``throttle``  429 with Retry-After (seconds; none when None); nothing is applied
    ``fail``      ``status``; nothing is applied
    ``drop``      the connection is reset; nothing is applied
    ``lose``      the call is applied, then the connection is reset instead of an answer
    """

    action: Action
    kind: str = ""
    times: int = 1
    retry_after_s: float | None = 1.0
    status: int = 503

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"no such fault: {self.action}")


@dataclass(frozen=True)
class Asked:
    """One request as it was answered; ``status`` 0: no answer reached the client. ``authorized``: it had a token."""

    at_s: float
    kind: str
    method: str
    target: str
    request_bytes: int
    status: int
    seconds: float
    authorized: bool = False


@dataclass
class Faults:
    """The switches. ``latency_s`` is added to every answer, ``denied`` are kinds answered with 403."""

    latency_s: float = 0.0
    denied: set[str] = field(default_factory=set)
    pending: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *faults: Fault) -> None:
        """Let these happen, each to the first calls that it is for."""
        with self._lock:
            self.pending.extend(faults)

    def throttle_next(self, times: int, *, kind: str = "", retry_after_s: float | None = 1.0) -> None:
        """Answer the next calls of a kind with 429."""
        self.add(Fault("throttle", kind, times, retry_after_s))

    def lose_answer(self, kind: str, *, times: int = 1) -> None:
        """Carry the next calls of a kind out, then drop the connection."""
        self.add(Fault("lose", kind, times))

    def take(self, kind: str) -> Fault | None:
        """Return the fault that this call meets."""
        with self._lock:
            for fault in self.pending:
                if _is_for(fault.kind, kind):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.pending.remove(fault)
                    return fault
        return None

    def denies(self, kind: str) -> bool:
        """Return whether the caller's role lacks the permission for a kind."""
        return any(_is_for(denied, kind) for denied in tuple(self.denied))

    def clear(self) -> None:
        """Turn everything off."""
        with self._lock:
            self.pending.clear()
            self.denied.clear()
            self.latency_s = 0.0


class RequestLog:
    """All requests but those to the control endpoint, oldest first."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._lock = threading.Lock()

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def of(self, kind: str) -> list[Asked]:
        """Return the requests of a kind, or of all kinds below it."""
        with self._lock:
            return [asked for asked in self.asked if _is_for(kind, asked.kind)]

    def counts(self) -> Counter[str]:
        """Return how many requests came, by kind."""
        with self._lock:
            return Counter(asked.kind for asked in self.asked)

    def clear(self) -> None:
        with self._lock:
            self.asked.clear()


def _is_for(wanted: str, kind: str) -> bool:
    return not wanted or kind == wanted or kind.startswith(f"{wanted}/")
