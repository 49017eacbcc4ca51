"""How long a source of messages waits before it connects again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState, wait_exponential, wait_random_exponential

from syncd.errors import AuthFailed

BACKOFF: Final = wait_random_exponential(multiplier=0.25, max=60)
AUTH_BACKOFF: Final = wait_exponential(multiplier=2, max=60)
CALM_S: Final = 60.0


class Backoff:
    """How long to wait after failures in a row; a connection that has held for ``CALM_S`` ends the row.

    One that is made alone does not: two clients of one MQTT client_id would throw each other out without a pause.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._connected_s = math.inf
        self._begin()

    def _begin(self) -> None:
        self._state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]

    def note_connected(self) -> None:
        """Take note that there is a connection now."""
        self._connected_s = self._monotonic()

    def next_s(self, error: BaseException) -> float:
        """Return the seconds to wait after one more failure."""
        if self._monotonic() - self._connected_s >= CALM_S:
            self._begin()
        self._connected_s = math.inf
        wait = AUTH_BACKOFF if isinstance(error, AuthFailed) else BACKOFF
        seconds = wait(self._state)
        self._state.attempt_number += 1
        wished_s = getattr(error, "retry_after_s", None) or 0.0
        return max(seconds, wished_s)
