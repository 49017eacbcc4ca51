"""An event loop in which waiting takes no time: the clock jumps to the next timer. For code without threads or I/O."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
HOUR_S = 3600.0


class _JumpingSelector(selectors.DefaultSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits and no timer is set: a deadlock")
        self.now_s += timeout
        if self.now_s > 1000 * HOUR_S:
            raise AssertionError("1000 hours have passed: this does not end")
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; a deadlock is an AssertionError."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)
