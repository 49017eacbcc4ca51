"""The circuit breaker's state: closed while the destination answers, open after failures in a row.

While it is open one request at a time is let through as a probe; the first answer closes it. The server is then not
met by everything that waited, and the log says "down" once and not once per request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row; ``answers`` counts answers since the beginning."""

    threshold: int = 3
    failures: int = 0
    answers: int = 0

    @property
    def is_open(self) -> bool:
        """Whether only probes may pass."""
        return self.failures >= self.threshold

    def answered(self) -> bool:
        """Take note of an answer; return whether that closed the breaker."""
        was_open = self.is_open
        self.failures = 0
        self.answers += 1
        return was_open

    def failed(self) -> bool:
        """Take note of a failure; return whether that opened the breaker."""
        self.failures += 1
        return self.failures == self.threshold


@dataclass(slots=True)
class IsolatedFailures:
    """Counts the failures of one call between which the destination answered others.

    What was under way when a server breaks down is answered after the first failures of others. So one answer says
    nothing; an answer before each further failure says that the failures are the call's own.
    """

    count: int = 0
    _answers: int = 0

    def failed(self, answers: int) -> None:
        """Take note of a failure, ``answers`` being the breaker's count."""
        if self.count == 0 or answers > self._answers:
            self.count += 1
        self._answers = answers
