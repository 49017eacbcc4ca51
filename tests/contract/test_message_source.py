"""What a ``MessageSource`` promises, asked of every broker that syncd speaks with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.errors import AuthFailed, MessageRefused, Transient
from syncd.sources.messages import Message
from tests.contract.message_brokers import (
    MEGABYTE,
    BrokerUnderTest,
    MosquittoUnderTest,
    ServiceBusUnderTest,
    received,
)

PATIENCE_S = 60.0
BROKERS = ("service-bus", "service-bus-sessions", "mqtt-5", "mqtt-3.1.1")


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUnderTest]:
    folder = tmp_path_factory.mktemp(request.param)
    found: BrokerUnderTest
    if request.param.startswith("service-bus"):
        found = ServiceBusUnderTest(folder, sessions="sessions" in request.param)
    else:
        found = MosquittoUnderTest(folder, version_5=request.param == "mqtt-5")
    yield found
    found.kill()


@pytest.fixture
async def place(broker: BrokerUnderTest) -> str:
    return await broker.place()


async def bodies_left(broker: BrokerUnderTest, place: str) -> list[bytes]:
    """What the broker hands to the next source, which completes it."""
    source = broker.source(place)
    found: list[bytes] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            await broker.send(place, [b"the end"])
            while b"the end" not in found:
                messages = await source.receive(most=100, most_bytes=MEGABYTE)
                found += [message.body for message in messages]
                await source.complete(messages)
    finally:
        await source.close()
    return found[:-1]


async def test_a_message_arrives_as_it_was_sent_and_goes_once_it_is_completed(
    broker: BrokerUnderTest, place: str
) -> None:
    source = broker.source(place)
    large = b"x" * MEGABYTE
    await broker.send(place, [b'{"n": 1}', large], content_type="application/json", headers={"CE-Type": "t"})
    async with asyncio.timeout(PATIENCE_S):
        first, second = await received(source, 2)
    assert (first.body, second.body) == (b'{"n": 1}', large)
    assert (first.address, first.deliveries) == (place, 1)
    if broker.has_properties:
        assert (first.content_type, first.headers["ce-type"]) == ("application/json", "t")
    await source.complete([first, second])
    await source.close()
    assert await bodies_left(broker, place) == []


async def test_what_is_not_completed_comes_again_in_order(broker: BrokerUnderTest, place: str) -> None:
    sent = [str(number).encode() for number in range(60)]
    source = broker.source(place)
    await broker.send(place, sent)
    async with asyncio.timeout(PATIENCE_S):
        found = await received(source, 10)
        assert [message.body for message in found] == sent[: len(found)]
        await source.complete(found[:7])
    await source.close()
    left = await bodies_left(broker, place)
    assert (left if broker.keeps_order else sorted(left, key=int)) == sent[7:]


async def test_a_cancelled_receive_loses_nothing_and_limits_are_kept(broker: BrokerUnderTest, place: str) -> None:
    source = broker.source(place)
    waiting = asyncio.create_task(source.receive(most=1, most_bytes=1))
    await asyncio.sleep(0.2)
    waiting.cancel()
    sent = [str(number).encode() * 100 for number in range(9)]
    await broker.send(place, sent)
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 9:
            impatient = asyncio.create_task(source.receive(most=3, most_bytes=150))
            done, _ = await asyncio.wait([impatient], timeout=0.02)
            if not done:
                impatient.cancel()
                continue
            messages = await impatient
            assert 1 <= len(messages) <= 2  # the second reaches the limit of bytes
            found += [message.body for message in messages]
            await source.complete(messages)
    await source.close()
    assert found == sent


async def test_what_is_refused_goes_and_what_is_released_comes_again(broker: BrokerUnderTest, place: str) -> None:
    source = broker.source(place)
    await broker.send(place, [b"bad", b"good"])
    async with asyncio.timeout(PATIENCE_S):
        bad, good = await received(source, 2)
        await source.refuse([(bad, MessageRefused("data.metrics: expected a table" + "!" * 5000))])
        await source.release([good])
        [again] = await received(source, 1)
        assert again.body == b"good"
        await source.complete([again])
    await source.close()
    if isinstance(broker, ServiceBusUnderTest):
        [dead] = broker.bus.dead_letters(place)
        assert dead.dead_letter is not None
        reason, description = dead.dead_letter
        assert (dead.body, reason) == ("bad", "Malformed")
        assert description.startswith("data.metrics: expected a table!")
        assert len(description) == 4096
    assert await bodies_left(broker, place) == []


async def test_a_source_that_was_closed_is_received_from_again(broker: BrokerUnderTest, place: str) -> None:
    source = broker.source(place)
    await broker.send(place, [b"a"])
    async with asyncio.timeout(PATIENCE_S):
        await received(source, 1)
        await source.close()
        [again] = await received(source, 1)
        assert again.body == b"a"
        await source.complete([again])
    await source.close()
    assert await bodies_left(broker, place) == []


async def test_many_are_refused_as_fast_as_one(broker: BrokerUnderTest, place: str) -> None:
    source = broker.source(place)
    await broker.send(place, [b"%d" % number for number in range(100)])
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 100:
            messages = await source.receive(most=100, most_bytes=MEGABYTE)
            found += messages
            async with asyncio.timeout(0.05 * len(messages) + 1):  # one after the other they take 0.2 s each
                await source.refuse([(message, MessageRefused(f"bad {message.body!r}")) for message in messages])
    await source.close()
    if isinstance(broker, ServiceBusUnderTest):
        dead = {one.body: one.dead_letter for one in broker.bus.dead_letters(place)}
        assert dead == {str(number): ("Malformed", f"bad b'{number}'") for number in range(100)}
    assert await bodies_left(broker, place) == []


async def test_a_source_says_that_its_broker_is_back_although_no_message_comes(
    broker: BrokerUnderTest, place: str
) -> None:
    source = broker.source(place)
    broker.kill()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Transient):
            await source.receive(most=1, most_bytes=1)
        broker.start()
        assert list(await source.receive(most=1, most_bytes=1)) == []
        waiting = asyncio.create_task(source.receive(most=1, most_bytes=1))  # that is said once
        await broker.send(place, [b"a"])
        assert [message.body for message in await waiting] == [b"a"]
    await source.close()


async def test_a_quiet_source_that_knows_its_sessions_says_it_soon(tmp_path: Path) -> None:
    broker = ServiceBusUnderTest(tmp_path, sessions=True)
    place = await broker.place()
    source = broker.source(place)
    await broker.send(place, [b"a"])
    async with asyncio.timeout(PATIENCE_S):
        await source.complete(await received(source, 1))
        broker.kill()
        with pytest.raises(Transient):
            await source.receive(most=1, most_bytes=1)
    broker.start()
    async with asyncio.timeout(15):  # the service is asked to look for a session for 25 s
        while True:
            with contextlib.suppress(Transient):
                assert list(await source.receive(most=1, most_bytes=1)) == []
                break
    await source.close()
    broker.kill()


async def test_a_broker_that_is_killed_and_comes_back_loses_nothing(broker: BrokerUnderTest, place: str) -> None:
    source = broker.source(place)
    await broker.send(place, [b"a", b"b", b"c"])
    async with asyncio.timeout(PATIENCE_S):
        found = await received(source, 3)
        await asyncio.sleep(1.5)  # mosquitto writes each second
        broker.kill()
        await source.complete(found[:1])  # too late, and no error
        with pytest.raises(Transient):
            await source.receive(most=10, most_bytes=MEGABYTE)
        with pytest.raises(Transient):
            await source.receive(most=10, most_bytes=MEGABYTE)
        broker.start()
        again: list[bytes] = []
        while len(again) < 3:
            try:
                messages = await source.receive(most=10, most_bytes=MEGABYTE)
            except Transient:
                continue
            again += [message.body for message in messages]
            await source.complete(messages)
    await source.close()
    assert again == [b"a", b"b", b"c"]


async def test_wrong_credentials_and_a_missing_broker_are_told(broker: BrokerUnderTest, place: str) -> None:
    for source, expected in (
        (broker.source_with_wrong_password(place), AuthFailed),
        (broker.source_of_nothing(), Transient),
    ):
        with pytest.raises(expected) as caught:
            async with asyncio.timeout(PATIENCE_S):
                await source.receive(most=1, most_bytes=1)
        await source.close()
        assert "secret" not in str(caught.value)
        assert str(caught.value).startswith("receiving from")
