"""A relay's topic on a real mosquitto: what counts as sent, and which of several messages is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncd.brokers.mqtt import MqttAddress
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


async def test_of_several_messages_the_one_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with RunningMosquitto(tmp_path, options="max_packet_size 30000") as broker:
        await have_a_session(broker, "t")
        async with relay(broker, "t") as outlet:
            assert (await outlet.probe() or 0) < 30_000
    with RunningMosquitto(tmp_path / "other", options="message_size_limit 20000") as broker:
        await have_a_session(broker, "t")
        async with relay(broker, "t") as outlet:
            large = Parcel("large", b"x" * 20_001)
            small = [Parcel(f"small {number}", b"{}") for number in range(5)]
            sends = [outlet.send(one, session="") for one in (*small, large)]
            answers = await asyncio.gather(*sends, return_exceptions=True)
            assert [isinstance(answer, Rejected) for answer in answers] == [False] * 5 + [True]
            await outlet.send(small[0], session="")  # and it goes on
