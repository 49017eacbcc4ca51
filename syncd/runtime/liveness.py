"""Whether the daemon moves: there is something to deliver, and something was delivered not too long ago."""

from __future__ import annotations

import time
from collections.abc import Callable


class Liveness:
    """Looks at a backlog again and again. Times are monotonic: a jump of the clock means nothing."""

    def __init__(self, *, window_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._monotonic = monotonic
        self._settled = 0
        self._moved_s = monotonic()

    def look(self, *, is_behind: bool, settled: int) -> None:
        """Take note of whether anything waits that could be delivered, and of how much has been settled so far."""
        if not is_behind or settled != self._settled:
            self._moved_s = self._monotonic()
        self._settled = settled

    @property
    def problem(self) -> str:
        """Why the daemon counts as stuck, "" if it does not."""
        still_s = self._monotonic() - self._moved_s
        if still_s <= self._window_s:
            return ""
        return (
            f"something waits and nothing was delivered for {still_s:.0f} s (liveness_window_s is {self._window_s:g})"
        )
