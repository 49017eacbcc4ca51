"""How many requests may be in flight to one destination: additive increase, multiplicative decrease.

The rule is TCP's: each answer raises the limit a little, so that about one more request is allowed after a full
round, and before the first failure twice as many; a throttled or failed one halves it, at most once per
``cooldown_s``, since requests in flight together fail together. Time is an argument.
"""

from __future__ import annotations


class AdaptiveLimit:
    """The present number of requests that may be in flight, between 1 and ``most``."""

    def __init__(self, *, most: int, start: int = 4, cooldown_s: float = 1.0) -> None:
        self._most = most
        self._limit = float(min(start, most))
        self._cooldown_s = cooldown_s
        self._decreased_at_s = float("-inf")
        self._has_failed = False

    @property
    def value(self) -> int:
        """The limit, a whole number of at least 1."""
        return int(self._limit)

    def succeeded(self) -> None:
        """Take note of an answer."""
        step = 1 / self._limit if self._has_failed else 1.0
        self._limit = min(self._limit + step, float(self._most))

    def failed(self, now_s: float) -> None:
        """Take note of a throttled or failed request at the monotonic time ``now_s``."""
        if now_s - self._decreased_at_s >= self._cooldown_s:
            self._has_failed = True
            self._limit = max(1.0, self._limit / 2)
            self._decreased_at_s = now_s
