"""The courier: brings one call to a destination, however long it takes.

It alone knows about retrying. Every call waits for a free place (adaptive limit), is let through by the breaker, and
is made again with full-jitter backoff for as long as it fails for reasons that may pass. There is no last attempt: an
outage of any length changes only when a call arrives. Only what the server refuses for good comes back as an error,
and what it has no permission for while it answers others, or what it is asked to tell the two apart, so that one
forbidden experiment does not hold up the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_never
from tenacity.wait import wait_exponential, wait_random_exponential

from syncd.core.breaker import Breaker, IsolatedFailures
from syncd.core.concurrency import AdaptiveLimit
from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, Transient
from syncd.runtime.slots import Slots

T = TypeVar("T")
log = structlog.get_logger(__name__)

BACKOFF = wait_random_exponential(multiplier=0.25, max=60)
AUTH_BACKOFF = wait_exponential(multiplier=2, max=60)
# A request that the server answers with 500 this often and for this long, while it answers others, is itself the
# cause. A server whose database is locked or whose disk is full fails like that for a while, too.
POISON_FAULTS = 5
POISON_AFTER_S = 30.0
# A call that is refused its permission this often, while others are answered in between, is alone in that.
FORBIDDEN_ALONE = 3
# Whether everything is refused is asked at the first refusal, then less and less often; anew after so many quiet waits.
ASK_AGAIN_S = 1.0
ASK_AGAIN_AT_MOST_S = 60.0
QUIET_WAITS = 10


@dataclass(slots=True)
class DestinationState:
    """How a destination does: ``unknown``, ``up``, ``throttled``, ``down`` or ``auth``; since when (monotonic s)."""

    name: str = "unknown"
    error: str = ""
    failing_since_s: float | None = None


class Courier:
    """Makes calls to one destination.

    ``on_state`` is told when the state changes. ``most`` is the largest number of requests in flight. ``ask`` makes one
    request that whoever may use the destination may make: its answer tells a call that is refused its permission from
    credentials that are refused, where no other call does.
    """

    def __init__(
        self,
        name: str,
        *,
        most: int,
        on_state: Callable[[DestinationState], Awaitable[None]],
        ask: Callable[[], Awaitable[object]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._limit = AdaptiveLimit(most=most)
        self._slots = Slots(self._limit)
        self._breaker = Breaker()
        self._probing = asyncio.Lock()
        self._recovered = asyncio.Event()
        self._quiet_until_s = float("-inf")
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked_s = float("-inf")
        self._ask_again_s = ASK_AGAIN_S
        self._ask_was_answered = False
        self._on_state = on_state
        self._monotonic = monotonic
        self.state = DestinationState()

    async def call(self, send: Callable[[], Awaitable[T]], *, repeat_unknown: bool = True, urgent: bool = False) -> T:
        """Make the call until it is answered.

        Args:
            send: makes one attempt.
            repeat_unknown: whether an attempt that may have been applied may simply be made again.
            urgent: whether it goes before the other calls that wait for their turn.

        Raises:
            Rejected: the server refuses the call for good.
            AuthFailed: this call is refused its permission while others are answered; make it again much later.
            OutcomeUnknown: only if ``repeat_unknown`` is false.
        """
        faults, refusals = IsolatedFailures(), IsolatedFailures()
        first_fault_s = float("inf")

        def may_pass(error: BaseException) -> bool:
            if isinstance(error, OutcomeUnknown) and not repeat_unknown:
                return False
            if isinstance(error, AuthFailed):
                return refusals.count < FORBIDDEN_ALONE
            return isinstance(error, Transient)

        async for attempt in AsyncRetrying(
            wait=_wait, stop=stop_never, retry=retry_if_exception(may_pass), sleep=self._sleep
        ):
            with attempt:
                try:
                    return await self._attempt(send, urgent=urgent)
                except AuthFailed:
                    refusals.failed(self._breaker)
                    raise
                except Transient as error:
                    if error.server_fault:
                        faults.failed(self._breaker)
                        first_fault_s = min(first_fault_s, self._monotonic())
                    lasting = self._monotonic() - first_fault_s >= POISON_AFTER_S
                    if faults.count >= POISON_FAULTS and lasting:
                        raise Rejected(
                            f"answered with a server error {faults.count} times while others succeeded: {error}",
                            code="INTERNAL_ERROR",
                            status=500,
                        ) from error
                    raise
        raise AssertionError("stop_never stopped")

    async def _attempt(self, send: Callable[[], Awaitable[T]], *, urgent: bool) -> T:
        async with self._slots.one(urgent=urgent), self._admission():
            attempt = self._breaker.begin()
            try:
                result = await send()
            except Rejected:
                await self._answered(attempt)
                raise
            except DestinationError as error:
                if not (isinstance(error, AuthFailed) and await self._is_refused_alone()):
                    await self._failed(error)
                raise
            await self._answered(attempt)
            return result

    async def _is_refused_alone(self) -> bool:
        """Return whether the destination, when asked last, has answered what it does not refuse these credentials."""
        if self._ask is None:
            return False
        async with self._asking:
            quiet_s = self._monotonic() - self._asked_s
            if quiet_s >= self._ask_again_s:
                long_ago = quiet_s >= QUIET_WAITS * ASK_AGAIN_AT_MOST_S
                self._ask_again_s = ASK_AGAIN_S if long_ago else min(2 * self._ask_again_s, ASK_AGAIN_AT_MOST_S)
                self._ask_was_answered = await self._is_answered(self._ask)
                self._asked_s = self._monotonic()
            return self._ask_was_answered

    async def _is_answered(self, ask: Callable[[], Awaitable[object]]) -> bool:
        attempt = self._breaker.begin()
        try:
            await ask()
        except DestinationError:
            return False
        await self._answered(attempt)
        return True

    @asynccontextmanager
    async def _admission(self) -> AsyncIterator[None]:
        """Let a call through that has its place: what other calls met while it waited for that holds for it too."""
        await self._quiet_is_over()
        if not self._breaker.is_open:
            yield
            return
        async with self._probing:
            await self._quiet_is_over()
            yield

    async def _quiet_is_over(self) -> None:
        while (left_s := self._quiet_until_s - self._monotonic()) > 0:  # noqa: ASYNC110 - it may have been prolonged
            await asyncio.sleep(left_s)

    async def _answered(self, attempt: int) -> None:
        self._limit.succeeded()
        closed = self._breaker.answered(attempt)
        if closed:
            self._recovered.set()
            self._recovered = asyncio.Event()
        if closed or self.state.name != "up":
            if self.state.name not in ("up", "unknown"):
                log.info("the destination answers again", destination=self._name)
            await self._enter(DestinationState("up"))
        elif self.state.failing_since_s is not None:
            # One call failed, but not the destination: who waits to repeat it goes on waiting.
            await self._enter(DestinationState("up"))

    async def _failed(self, error: DestinationError) -> None:
        now_s = self._monotonic()
        if not isinstance(error, AuthFailed):
            self._limit.failed(now_s)
        if isinstance(error, Transient) and error.throttled:
            if error.retry_after_s:
                self._quiet_until_s = max(self._quiet_until_s, now_s + error.retry_after_s)
            await self._enter(DestinationState("throttled", str(error), self.state.failing_since_s or now_s))
            return
        opened = self._breaker.failed()
        name = "auth" if isinstance(error, AuthFailed) else "down" if self._breaker.is_open else self.state.name
        if opened or (name == "auth" != self.state.name):
            log.warning("the destination does not take requests; they wait", destination=self._name, error=str(error))
        await self._enter(DestinationState(name, str(error), self.state.failing_since_s or now_s))

    async def _enter(self, state: DestinationState) -> None:
        changed = state.name != self.state.name
        self.state = state
        if changed:
            await self._on_state(state)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not longer than until the destination answers again."""
        try:
            async with asyncio.timeout(seconds):
                await self._recovered.wait()
        except TimeoutError:
            return


def _wait(retry_state: RetryCallState) -> float:
    """Return how long to wait before the next attempt: the server's wish, or full jitter."""
    error = retry_state.outcome.exception() if retry_state.outcome else None
    if isinstance(error, AuthFailed):
        return AUTH_BACKOFF(retry_state)
    wished_s = error.retry_after_s if isinstance(error, Transient) else None
    return max(wished_s or 0.0, BACKOFF(retry_state))
