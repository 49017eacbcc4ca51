"""The courier under a crowd of callers: what is said to one holds for all."""

from __future__ import annotations

import asyncio
import time

import pytest

from syncd.errors import Transient
from syncd.runtime.courier import Courier, DestinationState


async def _ignore(state: DestinationState) -> None:
    return


async def test_callers_that_already_wait_for_a_place_keep_the_quiet_too() -> None:
    courier = Courier("d", most=4, on_state=_ignore)
    sent_s: list[float] = []
    refused_s: list[float] = []

    async def attempt() -> None:
        sent_s.append(time.monotonic())
        if not refused_s:
            await asyncio.sleep(0.05)
            refused_s.append(time.monotonic())
            raise Transient("429", retry_after_s=0.5, throttled=True)
        await asyncio.sleep(0.1)

    async with asyncio.timeout(60), asyncio.TaskGroup() as callers:
        for _ in range(12):
            callers.create_task(courier.call(attempt))
    early = [t - refused_s[0] for t in sent_s if 0 < t - refused_s[0] < 0.45]
    assert early == []


async def test_an_open_breaker_lets_one_request_at_a_time_through() -> None:
    courier = Courier("d", most=8, on_state=_ignore)
    broken = True
    together = most = 0

    async def attempt() -> None:
        nonlocal together, most
        together += 1
        if courier.state.name == "down":
            most = max(most, together)
        await asyncio.sleep(0.02)
        together -= 1
        if broken:
            raise Transient("reset")

    async with asyncio.timeout(60), asyncio.TaskGroup() as callers:
        tasks = [callers.create_task(courier.call(attempt)) for _ in range(20)]
        while courier.state.name != "down":  # noqa: ASYNC110 - the courier has no event for this
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)  # what was under way when it opened
        most = 0
        await asyncio.sleep(0.7)
        assert most == 1
        broken = False
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize("wish_s", [7 * 86400.0])
async def test_a_success_does_not_end_a_quiet_that_others_were_told(wish_s: float) -> None:
    courier = Courier("d", most=4, on_state=_ignore)
    refusals = 0

    async def refused() -> None:
        nonlocal refusals
        refusals += 1
        raise Transient("429", retry_after_s=wish_s, throttled=True)

    async def slow() -> None:
        await asyncio.sleep(0.05)

    first = asyncio.create_task(courier.call(slow))
    other = asyncio.create_task(courier.call(refused))
    await first
    await asyncio.sleep(0.3)
    assert refusals == 1
    other.cancel()
