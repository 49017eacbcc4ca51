"""What an ``EventSink`` promises, asked of every broker that syncd speaks with."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.brokers.mqtt_client import open_client
from syncd.core.events import STRUCTURED, Event
from syncd.errors import AuthFailed, OutcomeUnknown, Rejected, Transient
from syncd.sinks.mqtt import MqttSink
from syncd.sinks.service_bus import ServiceBusSink
from syncd.sources.messages import Message
from tests.contract.message_brokers import (
    USER,
    BrokerUnderTest,
    MosquittoUnderTest,
    ServiceBusUnderTest,
    received,
)
from tests.standins.service_bus.faults import Fault

PATIENCE_S = 60.0


@pytest.fixture(scope="module", params=["service-bus", "mqtt-5", "mqtt-3.1.1"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUnderTest]:
    folder = tmp_path_factory.mktemp(request.param)
    found: BrokerUnderTest
    if request.param == "service-bus":
        found = ServiceBusUnderTest(folder, sessions=False)
    else:
        found = MosquittoUnderTest(folder, version_5=request.param == "mqtt-5")
    yield found
    found.kill()


def event(number: int, *, run: str = "r1", **more: object) -> Event:
    return Event(
        id=f"e-{number}",
        type="dev.syncd.run.finished",
        source="syncd/host",
        subject=f"runs/{run}",
        time_ms=1_700_000_000_000 + number,
        data={"run_id": run, **more},
    )


def sink_to(broker: BrokerUnderTest, place: str) -> ServiceBusSink | MqttSink:
    if isinstance(broker, ServiceBusUnderTest):
        return ServiceBusSink(broker.source(place).address)
    assert isinstance(broker, MosquittoUnderTest)
    return MqttSink(broker.address(f"sink-{uuid.uuid4().hex}"), place)


async def arrived(broker: BrokerUnderTest, place: str, count: int) -> list[Message]:
    source = broker.source(place)
    try:
        async with asyncio.timeout(PATIENCE_S):
            found: list[Message] = []
            while len(found) < count:
                messages = await received(source, 1)
                await source.complete(messages)
                found += messages
    finally:
        await source.close()
    return found


async def test_events_arrive_whole_and_each_run_in_order(broker: BrokerUnderTest) -> None:
    place = await broker.place()
    sink = sink_to(broker, place)
    events = [event(number, run=f"r{number % 3}", text="ü" * 2000) for number in range(90)]
    async with asyncio.timeout(PATIENCE_S):
        await sink.send(events[:60])
        await sink.send(events[60:])
    await sink.close()
    messages = await arrived(broker, place, 90)
    told = [json.loads(message.body) for message in messages]
    for run in ("r0", "r1", "r2"):
        of_run = [one["id"] for one in told if one["data"]["run_id"] == run]
        assert of_run == [one.id for one in events if one.run_id == run]
    assert told[0] == {
        "specversion": "1.0",
        "id": "e-0",
        "type": "dev.syncd.run.finished",
        "source": "syncd/host",
        "subject": "runs/r0",
        "time": "2023-11-14T22:13:20.000Z",
        "datacontenttype": "application/json",
        "data": {"run_id": "r0", "text": "ü" * 2000},
    }
    if broker.has_properties:
        assert {message.content_type for message in messages} == {STRUCTURED}
    if isinstance(broker, ServiceBusUnderTest):
        assert [(message.id, message.session) for message in messages[:2]] == [("e-0", "r0"), ("e-3", "r0")]


async def test_a_run_of_any_id_is_told_of(broker: BrokerUnderTest) -> None:
    place = await broker.place()
    sink = sink_to(broker, place)
    if isinstance(broker, MosquittoUnderTest):
        device = uuid.uuid4().hex
        place = f"syncd/{device}/+"
        async with await open_client(broker.address(device), session_expiry_s=600) as client:
            await client.subscribe_to([place])
        sink = MqttSink(broker.address(f"sink-{device}"), f"syncd/{device}/{{run}}")
    ids = ["r" * 200, "r" * 200, "ü" * 256, "a\x01\x7f\x85b", "ok"]
    async with asyncio.timeout(PATIENCE_S):
        await sink.send([event(number, run=run) for number, run in enumerate(ids)])
    await sink.close()
    messages = await arrived(broker, place, len(ids))
    assert [json.loads(message.body)["data"]["run_id"] for message in messages] == ids


async def test_a_broker_that_is_gone_is_told_and_served_again_once_it_is_back(broker: BrokerUnderTest) -> None:
    place = await broker.place()
    sink = sink_to(broker, place)
    async with asyncio.timeout(PATIENCE_S):
        await sink.send([event(1)])
        await asyncio.sleep(1.5)  # mosquitto writes each second
        broker.kill()
        for _ in range(2):
            with pytest.raises(Transient):
                await sink.send([event(2), event(3)])
        broker.start()
        await sink.send([event(2), event(3)])
    await sink.close()
    assert [json.loads(one.body)["id"] for one in await arrived(broker, place, 3)] == ["e-1", "e-2", "e-3"]


async def test_service_bus_tells_why_it_does_not_take_events(tmp_path: Path) -> None:
    broker = ServiceBusUnderTest(tmp_path, sessions=False)
    place = await broker.place()
    sink = sink_to(broker, place)
    async with asyncio.timeout(PATIENCE_S):
        broker.bus.fault(Fault.BAD_TOKEN)
        with pytest.raises(AuthFailed):
            await sink.send([event(1)])
        broker.bus.fault(Fault.SEND_BUSY)
        with pytest.raises(Transient) as busy:
            await sink.send([event(1)])
        assert busy.value.throttled
        broker.bus.fault(Fault.SEND_UNANSWERED)
        with pytest.raises(OutcomeUnknown):
            await sink.send([event(1)])
        assert broker.bus.count(place) == 1
        with pytest.raises(Rejected):
            await sink.send([event(2, text="x" * 3_000_000)])
        await sink.send([event(3)])
    await sink.close()
    assert [kept.id for kept in broker.bus.messages(place)] == ["e-1", "e-3"]
    broker.kill()


async def test_mqtt_5_tells_what_may_not_be_published_and_where(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text(f"user {USER}\ntopic readwrite allowed/#\n")
    broker = MosquittoUnderTest(tmp_path / "broker", version_5=True, options=f"acl_file {tmp_path}/acl")
    async with asyncio.timeout(PATIENCE_S):
        forbidden = MqttSink(broker.address("sink"), "forbidden/{type}")
        with pytest.raises(AuthFailed, match=r"forbidden/run\.finished"):
            await forbidden.send([event(1)])
        await forbidden.close()
        allowed = MqttSink(broker.address("sink"), "allowed/{type}/{run}")
        await allowed.send([event(1)])
        await allowed.close()
        stranger = MqttSink(broker.address("sink", password="wrong"), "allowed/x")
        with pytest.raises(AuthFailed):
            await stranger.send([event(1)])
        await stranger.close()
    broker.kill()
