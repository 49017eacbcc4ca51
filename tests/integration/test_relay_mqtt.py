"""A relay's topic on a real mosquitto: what counts as sent, and which of several messages is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiomqtt import MqttError

from syncd.brokers import mqtt_client
from syncd.brokers.mqtt import MqttAddress, Refused
from syncd.brokers.mqtt_client import open_client
from syncd.core.relay.values import Parcel
from syncd.destinations.relay.mqtt import MqttRelay
from syncd.errors import Rejected, Transient
from tests.standins.mosquitto import RunningMosquitto


def address(broker: RunningMosquitto, name: str) -> MqttAddress:
    return MqttAddress(host=broker.host, port=broker.port, client_id=f"{name}-{uuid.uuid4()}")


@asynccontextmanager
async def relay(broker: RunningMosquitto, topic: str) -> AsyncIterator[MqttRelay]:
    outlet = MqttRelay(address(broker, "edge"), topic)
    try:
        yield outlet
    finally:
        await outlet.close()


async def have_a_session(broker: RunningMosquitto, topic: str) -> None:
    """Subscribe once, as a gateway does that is away afterwards."""
    async with await open_client(address(broker, "gateway"), session_expiry_s=3600) as client:
        await client.subscribe_to([topic])


async def test_nothing_counts_as_sent_before_a_gateway_has_subscribed(mosquitto: RunningMosquitto) -> None:
    topic = f"syncd/relay/{uuid.uuid4()}"
    async with relay(mosquitto, topic) as outlet:
        with pytest.raises(Transient, match="nobody has subscribed"):
            await outlet.send(Parcel("a", b"{}"), session="")
        await have_a_session(mosquitto, topic)
        await outlet.send(Parcel("a", b"{}"), session="")


async def test_how_large_a_packet_may_be_is_asked(tmp_path: Path) -> None:
    with RunningMosquitto(tmp_path, options="max_packet_size 30000") as broker:
        await have_a_session(broker, "t")
        async with relay(broker, "t") as outlet:
            assert (await outlet.probe() or 0) < 30_000


@pytest.mark.parametrize("option", ["message_size_limit", "max_packet_size"])
async def test_of_several_messages_the_one_that_is_too_large_is_refused(tmp_path: Path, option: str) -> None:
    with RunningMosquitto(tmp_path, options=f"{option} 20000") as broker:
        await have_a_session(broker, "t")
        async with relay(broker, "t") as outlet:
            large = Parcel("large", b"x" * 20_001)
            others = [Parcel(f"small {size}", b"x" * size) for size in (2, 200, 7_000, 9_000, 19_000)]
            sends = [outlet.send(one, session="") for one in (*others, large)]
            answers = await asyncio.gather(*sends, return_exceptions=True)
            assert [isinstance(answer, Rejected) for answer in answers] == [False] * 5 + [True]
            for one in others:  # and it goes on
                await outlet.send(one, session="")


async def test_what_a_broker_says_not_to_take_is_not_sent_to_it(tmp_path: Path) -> None:
    with RunningMosquitto(tmp_path, options="max_packet_size 20000") as broker:
        await have_a_session(broker, "t")
        async with await open_client(address(broker, "edge")) as client:
            for size in range(19_950, 20_000):
                try:
                    await client.publish_confirmed("t", b"x" * size, content_type="a/b")
                except Refused:
                    break
            assert 20_000 - 30 < size < 20_000
            with pytest.raises(Refused):
                await client.publish_confirmed("t", b"x" * 40_000, content_type="a/b")
            await client.publish_confirmed("t", b"x" * (size - 1), content_type="a/b")  # the connection is still there


async def test_a_broker_that_hangs_up_before_it_answers_is_not_waited_for() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(mqtt_client.TIMEOUT_S / 2):
        outlet = MqttRelay(MqttAddress(host="127.0.0.1", port=port, client_id="edge"), "t")
        with pytest.raises(Transient):
            await outlet.send(Parcel("a", b"{}"), session="")


async def test_a_broker_that_is_lost_while_it_is_asked_is_not_waited_for(tmp_path: Path) -> None:
    with RunningMosquitto(tmp_path) as broker:
        async with asyncio.timeout(mqtt_client.TIMEOUT_S / 2), await open_client(address(broker, "gateway")) as client:
            client.pause_reading()  # the answer stays unread
            asking = asyncio.create_task(client.subscribe_to(["t"]))
            await asyncio.sleep(0)
            broker.stop()
            client.resume_reading()
            await asyncio.gather(asking, return_exceptions=True)
            with pytest.raises(MqttError):
                await client.subscribe_to(["t"])
