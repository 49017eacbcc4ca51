"""The stand-in of Service Bus, seen by the unmodified azure-servicebus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus import exceptions as errors
from azure.servicebus.aio import ServiceBusClient

from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.frames import Op, frame, read_frame
from tests.standins.service_bus.server import ServiceBus

Names = Callable[[str], str]
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceBus]:
    with ServiceBus(tmp_path_factory.mktemp("service-bus")) as running:
        yield running


@pytest.fixture
async def client(bus: ServiceBus) -> AsyncIterator[ServiceBusClient]:
    async with connected(bus) as found:
        yield found


def connected(bus: ServiceBus, retry_total: int = 2) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(
        bus.connection_string, retry_total=retry_total, retry_backoff_factor=0.1
    )


async def send(client: ServiceBusClient, queue: str, *texts: str, **properties: Any) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(text, **properties) for text in texts])


def texts(messages: list[ServiceBusReceivedMessage]) -> list[str]:
    return [str(message) for message in messages]


async def a_message_arrives_as_it_was_sent_and_goes_when_it_is_completed(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    queue = bus.queue("plain")
    properties = {"text": "v", "number": 3}
    await send(client, queue, "{}", message_id="m1", content_type="application/json", application_properties=properties)
    async with client.get_queue_receiver(queue) as receiver:
        [message] = await receiver.receive_messages(max_wait_time=5)
        assert (str(message), message.message_id, message.content_type) == ("{}", "m1", "application/json")
        assert message.application_properties == {b"text": b"v", b"number": 3}
        assert (message.sequence_number, message.delivery_count) == (1, 0)
        assert message.locked_until_utc is not None
        assert message.locked_until_utc > datetime.now(UTC)
        assert bus.count(queue) == 1
        await receiver.complete_message(message)
    assert bus.count(queue) == 0


async def messages_are_abandoned_and_dead_lettered(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("settling")
    await send(client, queue, "a", "b", "c")
    async with client.get_queue_receiver(queue, prefetch_count=10) as receiver:
        a, b, c = await receiver.receive_messages(3, max_wait_time=5)
        await receiver.abandon_message(a)
        await receiver.dead_letter_message(b, reason="malformed", error_description="not JSON")
        [again] = await receiver.receive_messages(1, max_wait_time=5)
        assert (str(again), again.delivery_count) == ("a", 1)
        await receiver.complete_message(c)
        await receiver.complete_message(again)
    [dead] = bus.dead_letters(queue)
    assert (dead.body, dead.dead_letter) == ("b", ("malformed", "not JSON"))
    async with client.get_queue_receiver(queue, sub_queue="deadletter") as receiver:
        [message] = await receiver.receive_messages(max_wait_time=5)
        assert (message.dead_letter_reason, message.dead_letter_error_description) == ("malformed", "not JSON")
        await receiver.complete_message(message)
    assert bus.dead_letters(queue) == []


async def a_lock_is_renewed_and_ends(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("locks", lock_s=2.0)
    await send(client, queue, "x")
    async with client.get_queue_receiver(queue) as receiver:
        [message] = await receiver.receive_messages(max_wait_time=5)
        await asyncio.sleep(1.2)
        await receiver.renew_message_lock(message)
        await asyncio.sleep(1.2)
        await receiver.complete_message(message)
    assert bus.count(queue) == 0
    await send(client, queue, "y")
    async with client.get_queue_receiver(queue) as receiver:
        [message] = await receiver.receive_messages(max_wait_time=5)
        await asyncio.sleep(2.2)
        with pytest.raises(errors.MessageLockLostError):
            await receiver.complete_message(message)
        [message] = await receiver.receive_messages(max_wait_time=5)
        assert message.delivery_count == 1
        await receiver.complete_message(message)


async def what_fails_too_often_is_dead_lettered(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("poison", max_deliveries=2)
    await send(client, queue, "p")
    async with client.get_queue_receiver(queue) as receiver:
        for _ in range(2):
            [message] = await receiver.receive_messages(max_wait_time=5)
            await receiver.abandon_message(message)
    [dead] = bus.dead_letters(queue)
    assert dead.dead_letter is not None
    assert dead.dead_letter[0] == "MaxDeliveryCountExceeded"


async def each_subscription_gets_what_is_sent_to_the_topic(bus: ServiceBus, client: ServiceBusClient) -> None:
    bus.subscription("topic", "one")
    two = bus.subscription("topic", "two")
    async with client.get_topic_sender("topic") as sender:
        batch = await sender.create_message_batch()
        for number in range(50):
            batch.add_message(ServiceBusMessage(str(number)))
        await sender.send_messages(batch)
    async with client.get_subscription_receiver("topic", "one") as receiver:
        got: list[str] = []
        while len(got) < 50:
            for message in await receiver.receive_messages(30, max_wait_time=5):
                got.append(str(message))
                await receiver.complete_message(message)
    assert got == [str(number) for number in range(50)]
    assert bus.count(two) == 50


async def a_session_is_held_by_one_receiver_in_order(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("sessions", sessions=True, lock_s=20)
    await send(client, queue, "1", "3", session_id="A")
    await send(client, queue, "2", session_id="B")
    with pytest.raises(errors.ServiceBusError, match="requires sessions"):
        async with client.get_queue_receiver(queue):
            pass
    async with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as first:
        assert first.session.session_id == "A"
        found = await first.receive_messages(2, max_wait_time=5)
        assert texts(found) == ["1", "3"]
        await first.session.renew_lock()
        async with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as second:
            assert second.session.session_id == "B"
        for message in found:
            await first.complete_message(message)
    assert [kept.session for kept in bus.messages(queue)] == ["B"]


async def who_waits_for_a_session_gets_the_next_one_at_once(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("waiting", sessions=True)
    receiver = client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=30)
    opening = asyncio.create_task(receiver.__aenter__())
    await asyncio.sleep(1)
    await send(client, queue, "late", session_id="L")
    async with asyncio.timeout(10):
        await opening
    assert texts(await receiver.receive_messages(max_wait_time=5)) == ["late"]
    await receiver.close()
    empty = bus.queue("waiting-empty", sessions=True)
    async with connected(bus, retry_total=0) as patient:
        with pytest.raises(errors.OperationTimeoutError):
            await patient.get_queue_receiver(empty, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1).__aenter__()


async def an_ended_session_lock_frees_the_session(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("short-sessions", sessions=True, lock_s=1.0)
    await send(client, queue, "s", session_id="A")
    async with client.get_queue_receiver(queue, session_id="A") as first:
        [message] = await first.receive_messages(max_wait_time=5)
        await asyncio.sleep(1.3)
        with pytest.raises(errors.SessionLockLostError):
            await first.complete_message(message)
        async with client.get_queue_receiver(queue, session_id="A") as second:
            assert texts(await second.receive_messages(max_wait_time=5)) == ["s"]


async def duplicates_are_dropped_and_large_messages_taken(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("once", remembers_ids_s=60)
    await send(client, queue, "x", "x", message_id="same")
    await send(client, queue, "z" * 200_000, message_id="large")
    assert bus.count(queue) == 2
    with pytest.raises(errors.MessageSizeExceededError):
        await send(client, queue, "z" * 400_000)
    async with client.get_queue_receiver(queue) as receiver:
        found = await receiver.receive_messages(2, max_wait_time=5)
        assert len(str(found[1])) == 200_000


# A client takes a second to close: what needs only a queue of its own runs side by side.
SIDE_BY_SIDE = (
    a_message_arrives_as_it_was_sent_and_goes_when_it_is_completed,
    messages_are_abandoned_and_dead_lettered,
    a_lock_is_renewed_and_ends,
    what_fails_too_often_is_dead_lettered,
    each_subscription_gets_what_is_sent_to_the_topic,
    a_session_is_held_by_one_receiver_in_order,
    who_waits_for_a_session_gets_the_next_one_at_once,
    an_ended_session_lock_frees_the_session,
    duplicates_are_dropped_and_large_messages_taken,
)


async def test_the_unmodified_client_finds_what_it_needs(bus: ServiceBus, client: ServiceBusClient) -> None:
    async with asyncio.TaskGroup() as group:
        for scenario in SIDE_BY_SIDE:
            group.create_task(scenario(bus, client), name=scenario.__name__)


async def test_faults_are_shown_so_many_times(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("faulty")
    bus.fault(Fault.SEND_BUSY)
    bus.fault(Fault.SEND_DROPPED)
    await send(client, queue, "hello")  # the client tries again
    assert bus.count(queue) == 1
    bus.fault(Fault.SEND_UNANSWERED)
    await send(client, queue, "twice")
    assert bus.count(queue) == 3
    async with connected(bus, retry_total=0) as impatient:
        bus.fault(Fault.SEND_BUSY)
        with pytest.raises(errors.ServiceBusServerBusyError):
            await send(impatient, queue, "x")
        bus.fault(Fault.BAD_TOKEN)
        with pytest.raises(errors.ServiceBusAuthenticationError):
            await send(impatient, queue, "x")
        with pytest.raises(errors.MessagingEntityNotFoundError):
            await send(impatient, "no-such-queue", "x")


async def test_a_session_may_be_ended_twice(bus: ServiceBus) -> None:
    """As azure-servicebus 7.15 does when it closes what the other side is just closing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.port)
    writer.write(AMQP_HEADER + frame(0, Op.OPEN, ["client", "localhost"]))
    writer.write(frame(1, Op.BEGIN) + frame(1, Op.END) + frame(1, Op.END) + frame(2, Op.BEGIN))
    async with asyncio.timeout(30):
        assert await reader.readexactly(len(AMQP_HEADER)) == AMQP_HEADER
        answered = [await read_frame(reader) for _ in range(4)]
    assert [(one.channel, one.code) for one in answered] == [(0, Op.OPEN), (1, Op.BEGIN), (1, Op.END), (2, Op.BEGIN)]
    writer.close()


async def test_a_message_is_completed_after_a_reconnect(bus: ServiceBus, client: ServiceBusClient) -> None:
    queue = bus.queue("reconnecting")
    await send(client, queue, "hello")
    async with client.get_queue_receiver(queue) as receiver:
        [message] = await receiver.receive_messages(max_wait_time=5)
        assert bus.drop_connections() >= 1
        await receiver.complete_message(message)
    assert bus.count(queue) == 0


async def test_a_killed_broker_keeps_its_messages_and_its_port(tmp_path: Path) -> None:
    with ServiceBus(tmp_path) as bus:
        queue = bus.queue("kept", sessions=True, max_deliveries=4)
        async with connected(bus) as client:
            await send(client, queue, "a", "b", session_id="S")
        port = bus.port
        bus.kill()
        bus.start()
        assert bus.port == port
        async with connected(bus) as client:
            await send(client, queue, "c", session_id="S")
            async with client.get_queue_receiver(queue, session_id="S") as receiver:
                assert texts(await receiver.receive_messages(3, max_wait_time=5)) == ["a", "b", "c"]
