"""Faults that a broker is told to show: each so many times, then it is well again."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Fault(StrEnum):
    """What can go wrong on command."""

    SEND_BUSY = "send: server busy"
    SEND_DROPPED = "send: the connection drops before the message is taken"
    SEND_UNANSWERED = "send: the message is taken, then the connection drops"
    SETTLE_DROPPED = "settle: the connection drops before it is settled"
    SETTLE_UNANSWERED = "settle: it is settled, then the connection drops"
    ATTACH_BUSY = "attach: server busy"
    BAD_TOKEN = "token: refused"


class Faults:
    """How often each fault is still to be shown."""

    def __init__(self) -> None:
        self._left: Counter[Fault] = Counter()

    def set(self, fault: Fault, times: int) -> None:
        """Show a fault so many times from now on."""
        self._left[fault] = times

    def take(self, fault: Fault) -> bool:
        """Say whether the fault is to be shown now, and count it."""
        if self._left[fault] <= 0:
            return False
        self._left[fault] -= 1
        return True
