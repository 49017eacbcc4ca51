"""The circuit breaker's state: closed while the destination answers, open after failures in a row.

While it is open one request at a time is let through as a probe; the first answer closes it. The server is then not
met by everything that waited, and the log says "down" once and not once per request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row, and numbers the attempts as they begin; ``begun`` is the last one's number."""

    threshold: int = 3
    failures: int = 0
    begun: int = 0
    _newest_answered: int = 0

    @property
    def is_open(self) -> bool:
        """Whether only probes may pass."""
        return self.failures >= self.threshold

    def begin(self) -> int:
        """Return the number of an attempt that begins now."""
        self.begun += 1
        return self.begun

    def answered(self, attempt: int) -> bool:
        """Take note of the answer to that attempt; return whether that closed the breaker."""
        was_open = self.is_open
        self.failures = 0
        self._newest_answered = max(self._newest_answered, attempt)
        return was_open

    def has_answered_what_followed(self, attempt: int) -> bool:
        """Whether any attempt that was begun after that one has been answered."""
        return self._newest_answered > attempt

    def failed(self) -> bool:
        """Take note of a failure; return whether that opened the breaker."""
        self.failures += 1
        return self.failures == self.threshold


@dataclass(slots=True)
class IsolatedFailures:
    """Counts the failures of one call between which the destination answered others.

    What was under way when a server breaks down, or begins to refuse, is answered after the first failures of others,
    one slow request after the other. So only the answer to an attempt that was begun after the call's last failure
    says that this failure was the call's own.
    """

    count: int = 0
    _begun: int = 0

    def failed(self, breaker: Breaker) -> None:
        """Take note of a failure."""
        if self.count == 0 or breaker.has_answered_what_followed(self._begun):
            self.count += 1
        self._begun = breaker.begun
