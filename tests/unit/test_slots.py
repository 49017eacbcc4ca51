from __future__ import annotations

import asyncio

from syncd.core.concurrency import AdaptiveLimit
from syncd.runtime.slots import Slots


async def holding(slots: Slots, name: str, order: list[str], until: asyncio.Event, *, urgent: bool = False) -> None:
    async with slots.one(urgent=urgent):
        order.append(name)
        await until.wait()


async def test_the_urgent_come_first_and_else_who_waits_longest():
    slots, order = Slots(AdaptiveLimit(most=1)), []
    ends = {name: asyncio.Event() for name in "abcde"}
    tasks = [asyncio.create_task(holding(slots, name, order, ends[name], urgent=name in "de")) for name in "abcde"]
    for name in "adebc":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order[-1] == name
        ends[name].set()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def test_a_limit_that_rises_lets_more_in_and_one_that_falls_fewer():
    limit = AdaptiveLimit(most=4, start=2)
    slots, order, end = Slots(limit), [], asyncio.Event()
    tasks = [asyncio.create_task(holding(slots, str(number), order, end)) for number in range(10)]
    await asyncio.sleep(0)
    assert len(order) == 2
    limit.failed(0.0)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    await asyncio.sleep(0)
    assert len(order) == 3
    for _ in range(20):
        limit.succeeded()
    end.set()
    await asyncio.gather(*tasks[2:])
    assert len(order) == 10


async def test_who_gives_up_waiting_leaves_no_slot_taken():
    slots, order, end = Slots(AdaptiveLimit(most=1)), [], asyncio.Event()
    first, second, third = (asyncio.create_task(holding(slots, name, order, end)) for name in "abc")
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()  # in the same turn in which the second is passed over
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.sleep(0)
    assert order == ["a", "c"]
    end.set()
    await third


async def test_a_slot_granted_to_one_who_is_cancelled_before_he_notices_goes_to_the_next():
    slots, order, end = Slots(AdaptiveLimit(most=1)), [], asyncio.Event()
    first, second, third = (asyncio.create_task(holding(slots, name, order, end)) for name in "abc")
    await asyncio.sleep(0)
    end.set()
    await first  # the second has its slot now, but has not run
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await third
    assert order[0] == "a"
    assert order[-1] == "c"
