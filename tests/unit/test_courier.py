"""The courier, in virtual time: it tries for ever what may pass, and gives back at once what is refused."""

from __future__ import annotations

import asyncio
from functools import wraps
from itertools import pairwise

import pytest

from syncd.errors import AuthFailed, OutcomeUnknown, Rejected, Transient
from syncd.runtime.courier import FORBIDDEN_ALONE, POISON_FAULTS, Courier
from tests.virtual_time import HOUR_S, run_virtually


def virtually(test):
    @wraps(test)
    def run(*arguments, **options):
        return run_virtually(test(*arguments, **options))

    return run


class Server:
    """Answers by a script of errors (None: success), then with success; knows when it was called."""

    def __init__(self, *script):
        self.script = list(script)
        self.calls: list[float] = []
        self.in_flight = self.most_in_flight = 0

    async def send(self):
        self.calls.append(now_s())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return "answer"


def now_s():
    return asyncio.get_running_loop().time()


def courier(most=8, ask=None):
    states = []

    async def on_state(state):
        states.append(state.name)

    made = Courier("there", most=most, on_state=on_state, ask=ask, monotonic=now_s)
    return made, states


@virtually
async def test_an_outage_of_days_changes_only_when():
    made, states = courier()

    async def send():
        if now_s() < 72 * HOUR_S:
            raise Transient("connection refused")
        return "answer"

    assert await made.call(send) == "answer"
    assert now_s() < 72 * HOUR_S + 61
    assert states == ["down", "up"]


@virtually
async def test_a_refusal_comes_back_at_once():
    made, _ = courier()
    server = Server(Rejected("no such metric name"))
    with pytest.raises(Rejected, match="no such metric name"):
        await made.call(server.send)
    assert len(server.calls) == 1


@virtually
async def test_an_unknown_outcome_is_repeated_only_where_allowed():
    made, _ = courier()
    server = Server(OutcomeUnknown("reset"))
    with pytest.raises(OutcomeUnknown):
        await made.call(server.send, repeat_unknown=False)
    server = Server(OutcomeUnknown("reset"), OutcomeUnknown("reset"))
    assert await made.call(server.send) == "answer"
    assert len(server.calls) == 3


@virtually
async def test_retry_after_quiets_the_destination_as_a_whole():
    made, states = courier()
    throttled = Server(Transient("429", retry_after_s=30.0, throttled=True))
    other = Server()

    async def later():
        await asyncio.sleep(1.0)
        return await made.call(other.send)

    await asyncio.gather(made.call(throttled.send), later())
    assert throttled.calls[1] - throttled.calls[0] >= 30
    assert other.calls[0] >= 30
    assert states == ["throttled", "up"]


@virtually
async def test_one_failed_call_between_answers_is_no_outage():
    made, states = courier()
    await made.call(Server().send)
    failing = asyncio.create_task(made.call(Server(*[Transient("busy")] * 5).send))
    await asyncio.sleep(0.02)
    assert made.state.failing_since_s is not None
    await made.call(Server().send)
    assert made.state.failing_since_s is None
    assert states == ["up"]
    assert await failing == "answer"


@virtually
async def test_what_alone_is_forbidden_comes_back_while_others_are_answered():
    made, _ = courier()
    forbidden = Server(*[AuthFailed("403")] * 1000)
    working = asyncio.create_task(call_again_and_again(made, Server()))
    with pytest.raises(AuthFailed, match="403"):
        await made.call(forbidden.send)
    working.cancel()
    assert len(forbidden.calls) == FORBIDDEN_ALONE


@virtually
async def test_what_is_forbidden_comes_back_where_no_other_call_is_made():
    asked = Server()
    made, states = courier(ask=asked.send)
    forbidden = [Server(*[AuthFailed("403")] * 1000) for _ in range(8)]
    refused = await asyncio.gather(*[made.call(server.send) for server in forbidden], return_exceptions=True)
    assert [str(error) for error in refused] == ["403"] * 8
    assert [len(server.calls) for server in forbidden] == [FORBIDDEN_ALONE] * 8
    assert len(asked.calls) == FORBIDDEN_ALONE
    assert now_s() < 10
    assert states == ["up"]


@virtually
async def test_a_token_refused_for_everything_is_asked_about_ever_less_often():
    asked_s = []

    async def refused_for_an_hour():
        if now_s() < HOUR_S:
            raise AuthFailed("401")
        return "answer"

    async def ask():
        asked_s.append(now_s())
        await refused_for_an_hour()

    made, states = courier(ask=ask)
    assert await asyncio.gather(*[made.call(refused_for_an_hour) for _ in range(3)]) == ["answer"] * 3
    assert states == ["auth", "up"]
    pauses_s = [later - earlier for earlier, later in pairwise(asked_s)]
    assert pauses_s[0] < 10
    assert min(pauses_s[10:]) >= 60


@virtually
async def test_a_token_refused_for_everything_is_waited_for():
    made, _ = courier()
    answered_long_ago = Server()
    await made.call(answered_long_ago.send)
    refused = [Server(*[AuthFailed("401")] * 20) for _ in range(3)]
    assert await asyncio.gather(*[made.call(server.send) for server in refused]) == ["answer"] * 3


@virtually
async def test_a_token_that_is_refused_while_slow_requests_are_still_answered_is_waited_for():
    made, _ = courier()

    async def slowly(seconds):
        await asyncio.sleep(seconds)
        return "answer"

    slow = [asyncio.create_task(made.call(lambda s=seconds: slowly(s))) for seconds in range(1, 7)]
    await asyncio.sleep(0.1)
    refused = Server(*[AuthFailed("403")] * 10)
    assert await made.call(refused.send) == "answer"
    assert await asyncio.gather(*slow) == ["answer"] * 6


@virtually
async def test_a_server_fault_of_one_request_while_others_succeed_is_its_own_fault():
    made, _ = courier()
    fault = Transient("500", server_fault=True)
    poison = Server(*[fault] * 100)
    healthy = Server()
    working = asyncio.create_task(call_again_and_again(made, healthy))
    with pytest.raises(Rejected, match="server error"):
        await made.call(poison.send)
    working.cancel()
    assert len(poison.calls) >= POISON_FAULTS


async def call_again_and_again(made, server):
    while True:
        await made.call(server.send)
        await asyncio.sleep(0.5)


@virtually
async def test_server_faults_of_everything_are_an_outage():
    made, _ = courier()
    server = Server(*[Transient("500", server_fault=True)] * 50)
    assert await made.call(server.send) == "answer"
    assert len(server.calls) == 51


@virtually
async def test_while_down_one_probe_at_a_time_and_recovery_wakes_all():
    made, _ = courier()
    down_until_s = 1000.0
    in_flight = most = 0

    async def send():
        nonlocal in_flight, most
        in_flight += 1
        if 100 < now_s() < down_until_s:
            most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        if now_s() < down_until_s:
            raise Transient("refused")

    await asyncio.gather(*(made.call(send) for _ in range(50)))
    assert most == 1
    assert now_s() < down_until_s + 61


@virtually
async def test_a_refused_token_parks_and_is_tried_again():
    made, states = courier()
    server = Server(*[AuthFailed("401")] * 20)
    assert await made.call(server.send) == "answer"
    assert states == ["auth", "up"]
    assert max(b - a for a, b in zip(server.calls, server.calls[1:], strict=False)) <= 61


@virtually
async def test_no_more_in_flight_than_the_most():
    made, _ = courier(most=3)
    server = Server()
    await asyncio.gather(*(made.call(server.send) for _ in range(100)))
    assert server.most_in_flight == 3


@virtually
async def test_cancellation_gives_the_place_back():
    made, _ = courier(most=1)

    async def never():
        await asyncio.sleep(HOUR_S)

    task = asyncio.create_task(made.call(never))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await made.call(Server().send) == "answer"
    assert now_s() < 2
