"""What only one of the brokers has: locks and sessions of Service Bus; TLS, shared subscriptions and QoS 0 of MQTT."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.amqp import AmqpAnnotatedMessage
from paho.mqtt.client import MQTTMessage

from syncd.brokers import mqtt_client
from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from syncd.brokers.service_bus import ServiceBusAddress
from syncd.configuration import DaemonSettings, MessageOptions
from syncd.errors import Transient
from syncd.journal.journal import Journal
from syncd.runtime.message_assembly import MessageOpening
from syncd.runtime.pipeline import Pipeline
from syncd.sources import mqtt as mqtt_source
from syncd.sources.messages import Message, MessageSource
from syncd.sources.mqtt import MqttSource
from syncd.sources.service_bus import ServiceBusSource
from syncd.sources.service_bus.source import HOLDING_WAIT_S, SESSION_WAIT_S
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.server import ServiceBus

PATIENCE_S = 60.0
SOME_BYTES = 1_000_000


async def next_of(source: MessageSource, *, most: int = 100) -> Sequence[Message]:
    async with asyncio.timeout(PATIENCE_S):
        return await source.receive(most=most, most_bytes=SOME_BYTES)


async def nothing_comes(source: MessageSource, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await source.receive(most=1, most_bytes=SOME_BYTES)
    except TimeoutError:
        return True
    return False


async def fails(source: MessageSource) -> bool:
    """Receive until that fails for now."""
    try:
        while True:
            await source.complete(await next_of(source))
    except Transient:
        return True


async def drain(source: MessageSource, seconds: float) -> set[bytes]:
    """Complete what comes in that time."""
    found: set[bytes] = set()
    try:
        async with asyncio.timeout(seconds):
            while True:
                messages = await source.receive(most=100, most_bytes=SOME_BYTES)
                found |= {message.body for message in messages}
                await source.complete(messages)
    except TimeoutError:
        return found


@asynccontextmanager
async def closing(*sources: MessageSource) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.gather(*(source.close() for source in sources))


# ---------------------------------------------------------------- Service Bus


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceBus]:
    with ServiceBus(tmp_path_factory.mktemp("service-bus")) as running:
        yield running


def bus_source(bus: ServiceBus, queue: str, *, max_sessions: int = 2) -> ServiceBusSource:
    address = ServiceBusAddress(connection_string=bus.connection_string, queue=queue)
    return ServiceBusSource("bus", address, max_sessions=max_sessions)


@pytest.mark.parametrize("sessions", [False, True], ids=["plain", "sessions"])
async def test_what_is_in_hand_stays_locked_far_beyond_the_lock(bus: ServiceBus, sessions: bool) -> None:
    queue = bus.queue(f"held-{sessions}", lock_s=2.0, sessions=sessions)
    bus.put(queue, [b"a", b"b"], session="s" if sessions else "")
    source = bus_source(bus, queue)
    async with closing(source):
        held = list(await next_of(source, most=1))
        await asyncio.sleep(6)
        while len(held) < 2:
            held += await next_of(source)
        await source.complete(held)
        assert [(message.body, message.deliveries) for message in held] == [(b"a", 1), (b"b", 1)]
    assert bus.count(queue) == 0


async def test_all_links_share_what_is_trusted(bus: ServiceBus, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = ssl.SSLContext.load_verify_locations

    def counted(context: ssl.SSLContext, *given: Any, **named: Any) -> None:
        loaded.append(str(given))
        load(context, *given, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    address = ServiceBusAddress(connection_string=bus.connection_string, queue=bus.queue("trusted"))
    async with address.open_client() as one, address.open_client() as other:
        for client in (one, one, other):
            async with client.get_queue_receiver(address.queue):
                pass
    assert len(loaded) <= 1


async def test_ids_of_bytes_that_are_no_text_are_told_apart(bus: ServiceBus) -> None:
    queue = bus.queue("bytes")
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender(queue) as sender,
    ):
        for message_id in (b"\xfe", b"\xff"):
            await sender.send_messages(AmqpAnnotatedMessage(data_body=b"a", properties={"message_id": message_id}))
    source = bus_source(bus, queue)
    found: list[Message] = []
    async with closing(source):
        while len(found) < 2:
            found += await next_of(source)
        await source.complete(found)
    assert [message.id for message in found] == ["\\xfe", "\\xff"]


async def test_a_wait_for_more_is_cut_short_only_where_nothing_flows(
    bus: ServiceBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float]] = []
    receive = ServiceBusReceiver.receive_messages

    async def recorded(receiver: ServiceBusReceiver, count: int, *, max_wait_time: float) -> Any:
        asked.append((count, max_wait_time))
        return await receive(receiver, count, max_wait_time=max_wait_time)

    monkeypatch.setattr(ServiceBusReceiver, "receive_messages", recorded)
    queue = bus.queue("flowing")
    bus.put(queue, [b"x"] * 600)
    source = bus_source(bus, queue)
    async with closing(source):
        found, held = 0, list[Message]()
        while found < 600:
            messages = await next_of(source)
            await source.complete(held)  # while these are committed
            found, held = found + len(messages), list(messages)
        of_several = [wait_s for count, wait_s in asked if count > 1]
        assert min(of_several) == SESSION_WAIT_S
        assert await nothing_comes(source, 1.0)
        assert asked[-1] == (1, HOLDING_WAIT_S)
        await source.complete(held)
    assert bus.count(queue) == 0


@pytest.mark.parametrize("sessions", [False, True], ids=["plain", "sessions"])
async def test_no_more_is_held_than_a_few_large_messages(bus: ServiceBus, sessions: bool) -> None:
    queue = bus.queue(f"large-{sessions}", sessions=sessions)
    for number in range(40):
        bus.put(queue, [b"a" * 200_000], message_id=str(number), session="s" if sessions else "")
    source = bus_source(bus, queue)
    held: list[Message] = []
    async with closing(source):
        while len(held) < 8:
            held += await next_of(source)
        assert await nothing_comes(source, 1.0)
        assert len(held) <= 10
        await source.complete(held)
        assert await next_of(source)


async def test_a_lost_lock_is_no_error_and_the_message_comes_again(bus: ServiceBus) -> None:
    queue = bus.queue("lost", lock_s=30.0)
    bus.put(queue, [b"a"])
    source = bus_source(bus, queue)
    async with closing(source):
        [first] = await next_of(source)
        bus.drop_connections()
        bus.fault(Fault.ATTACH_BUSY)
        await source.complete([first])
        assert await fails(source)
    # The lock of the lost connection is still held: a restart of the broker forgets it, as its end would.
    bus.stop()
    bus.start()
    another = bus_source(bus, queue)
    async with closing(another):
        [again] = await next_of(another)
        assert (again.body, again.id) == (b"a", first.id)
        await another.complete([again])
    assert bus.count(queue) == 0


async def test_a_settlement_that_is_not_answered_is_settled_all_the_same(bus: ServiceBus) -> None:
    queue = bus.queue("unanswered", lock_s=2.0)
    bus.put(queue, [b"a", b"b"])
    source = bus_source(bus, queue)
    async with closing(source):
        [first] = await next_of(source, most=1)
        bus.fault(Fault.SETTLE_UNANSWERED)
        await source.complete([first])
        found: set[bytes] = set()
        async with asyncio.timeout(PATIENCE_S):
            while bus.count(queue):  # b is locked for the link that failed if it was in hand there by then
                try:
                    messages = await source.receive(most=10, most_bytes=SOME_BYTES)
                except Transient:
                    continue
                found |= {message.body for message in messages}
                await source.complete(messages)
        assert found == {b"b"}


async def test_two_daemons_share_the_sessions_and_one_takes_over(bus: ServiceBus) -> None:
    queue = bus.queue("shared", sessions=True)
    for session in ("s1", "s2", "s3", "s4"):
        bus.put(queue, [str(number).encode() for number in range(20)], session=session)
    one, two = bus_source(bus, queue), bus_source(bus, queue)
    seen: dict[str, list[int]] = {}
    settling: list[asyncio.Task[None]] = []

    async def consume(source: MessageSource, until: int) -> set[str]:
        sessions: set[str] = set()
        while sum(map(len, seen.values())) < until:
            messages = await source.receive(most=7, most_bytes=SOME_BYTES)
            for message in messages:
                seen.setdefault(message.session, []).append(int(message.body))
                sessions.add(message.session)
            settling.append(asyncio.create_task(source.complete(messages)))
            await asyncio.shield(settling[-1])
        return sessions

    async with closing(one, two), asyncio.timeout(PATIENCE_S):
        by_one = asyncio.create_task(consume(one, 80))
        by_two = asyncio.create_task(consume(two, 80))
        await asyncio.wait([by_one, by_two], return_when=asyncio.FIRST_COMPLETED)
        for task in (by_one, by_two):
            task.cancel()
        await asyncio.gather(by_one, by_two, return_exceptions=True)
        await asyncio.gather(*settling)
        assert seen == {session: list(range(20)) for session in ("s1", "s2", "s3", "s4")}
        await one.close()  # gives its sessions back
        bus.put(queue, [b"20"], session="s1")
        bus.put(queue, [b"20"], session="s3")
        await consume(two, 82)
    assert bus.count(queue) == 0


async def test_a_session_that_is_never_silent_does_not_keep_the_others_waiting(
    bus: ServiceBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.sources.service_bus.source.HELD_S", 0.5)
    queue = bus.queue("crowded", sessions=True)
    source = bus_source(bus, queue, max_sessions=1)
    bus.put(queue, [b"0"], session="loud")
    loud: list[int] = []
    async with closing(source), asyncio.timeout(PATIENCE_S):
        while True:
            messages = await source.receive(most=7, most_bytes=SOME_BYTES)
            # It has the next one before these are settled.
            bus.put(queue, [str(len(loud) + 1).encode()], session="loud")
            if len(loud) == 1:
                bus.put(queue, [b"heard"], session="quiet")
            await source.complete(messages)
            if any(message.session == "quiet" for message in messages):
                break
            loud += [int(message.body) for message in messages]
    assert loud == list(range(len(loud)))


async def test_two_daemons_that_can_hold_all_busy_sessions_do_not_take_them_from_each_other(
    bus: ServiceBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.sources.service_bus.source.HELD_S", 0.5)
    queue = bus.queue("busy", sessions=True)
    sources = [bus_source(bus, queue, max_sessions=4) for _ in range(2)]
    owners: dict[str, list[int]] = {f"s{number}": [] for number in range(6)}

    async def feed() -> None:
        while True:
            for session in owners:
                await asyncio.to_thread(bus.put, queue, [b"x"], session=session)
            await asyncio.sleep(0.1)

    async def consume(number: int) -> None:
        while True:
            messages = await sources[number].receive(most=50, most_bytes=SOME_BYTES)
            await sources[number].complete(messages)
            for session in {message.session for message in messages}:
                if owners[session][-1:] != [number]:
                    owners[session].append(number)

    async with closing(*sources), asyncio.timeout(PATIENCE_S):
        working = [asyncio.create_task(one) for one in (feed(), consume(0), consume(1))]
        while not all(owners.values()):  # noqa: ASYNC110 - what changes is a dict
            await asyncio.sleep(0.1)
        await asyncio.sleep(12 * 0.5)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    moves = sum(len(of) - 1 for of in owners.values())
    assert moves <= 4


async def test_what_has_no_id_is_known_when_it_comes_again_and_only_then(bus: ServiceBus, tmp_path: Path) -> None:
    """A sensor says the same thing twice: the first is settled, the second is given back, and comes again."""
    queue = bus.queue("no-ids")
    bus.put(queue, [b'{"run": "r", "metrics": {"m": 1}}'] * 2, message_id="")
    opening = MessageOpening(MessageOptions(name="bus"), lambda: source)
    journal = Journal.open(tmp_path)
    source = bus_source(bus, queue)
    options = {"daemon": DaemonSettings(state_dir=tmp_path), "sources": [], "destinations": []}
    pipeline = Pipeline(journal, messages=[opening], **options)  # type: ignore[arg-type]
    try:
        [intake] = pipeline.message_intakes
        [first] = await next_of(source, most=1)
        [committed] = await intake._commit([first])
        await source.complete(committed.complete)
        [second] = await next_of(source, most=1)
        assert second.deliveries == 1
        await source.release([second])
        [second] = await next_of(source, most=1)
        assert second.deliveries == 2
        for repeated in (0, 1):
            [committed] = await intake._commit([second])
            assert committed.taken.repeated == repeated
    finally:
        await pipeline.close()


async def test_a_subscription_is_received_from_and_a_missing_queue_is_named(bus: ServiceBus) -> None:
    bus.subscription("events", "mine")
    bus.put("events", [b"told"])
    address = ServiceBusAddress(connection_string=bus.connection_string, topic="events", subscription="mine")
    source = ServiceBusSource("bus", address)
    missing = bus_source(bus, "no-such-queue")
    async with closing(source, missing):
        [message] = await next_of(source)
        assert (message.body, message.address) == (b"told", "events/Subscriptions/mine")
        await source.complete([message])
        with pytest.raises(Transient) as caught:
            await next_of(missing)
    assert caught.value.hint == "create it, or correct queue, topic or subscription"
    assert "receiving from queue no-such-queue at 127.0.0.1:" in str(caught.value)


async def test_nothing_relayed_is_taken_from_a_queue_without_sessions(bus: ServiceBus) -> None:
    address = ServiceBusAddress(connection_string=bus.connection_string, queue=bus.queue("no-sessions"))
    bus.put("no-sessions", [b"{}"])
    source = ServiceBusSource("bus", address, relayed=True)
    async with closing(source):
        with pytest.raises(Transient, match="with sessions: a relay needs them"):
            await next_of(source)


# ---------------------------------------------------------------- MQTT


def mqtt_of(broker: RunningMosquitto, topics: Sequence[str], *, client_id: str = "", **more: object) -> MqttSource:
    address = MqttAddress(host=broker.host, port=broker.port, client_id=client_id or uuid.uuid4().hex, **more)  # type: ignore[arg-type]
    return MqttSource("devices", address, topics, session_expiry_s=600)


async def publish(broker: RunningMosquitto, topic: str, *bodies: bytes, qos: int = 1, retain: bool = False) -> None:
    async with aiomqtt.Client(broker.host, broker.port) as client:
        for body in bodies:
            await client.publish(topic, body, qos=qos, retain=retain)


async def begun(source: MqttSource) -> None:
    """Connect once, so that the broker keeps a session for it."""
    assert await nothing_comes(source, 1.0)


@pytest.mark.parametrize("version_5", [True, False], ids=["5", "3.1.1"])
async def test_the_broker_keeps_what_comes_while_the_daemon_is_away(
    mosquitto: RunningMosquitto, version_5: bool
) -> None:
    place = uuid.uuid4().hex
    source = mqtt_of(mosquitto, [f"{place}/+/+/metrics"], client_id=place, version_5=version_5)
    await begun(source)
    await source.close()
    await publish(mosquitto, f"{place}/device-7/run-1/metrics", b"1", b"2")
    again = mqtt_of(mosquitto, [f"{place}/+/+/metrics"], client_id=place, version_5=version_5)
    found: list[Message] = []
    async with closing(again):
        while len(found) < 2:
            found += await next_of(again)
        await again.complete(found)
    assert [(message.body, message.address) for message in found] == [
        (b"1", f"{place}/device-7/run-1/metrics"),
        (b"2", f"{place}/device-7/run-1/metrics"),
    ]


@pytest.mark.parametrize("version_5", [True, False], ids=["5", "3.1.1"])
async def test_messages_keep_their_packets_numbers_over_connections_and_a_broker_s_restart(
    mosquitto: RunningMosquitto, version_5: bool
) -> None:
    place = uuid.uuid4().hex
    source = mqtt_of(mosquitto, [f"{place}/#"], client_id=place, version_5=version_5)
    await begun(source)
    await publish(mosquitto, f"{place}/a", b"same", b"same")
    async with closing(source):
        first = [*await next_of(source)]
        while len(first) < 2:
            first += await next_of(source)
    mosquitto.stop()
    mosquitto.start()
    again = mqtt_of(mosquitto, [f"{place}/#"], client_id=place, version_5=version_5)
    async with closing(again):
        second = [*await next_of(again)]
        while len(second) < 2:
            second += await next_of(again)
        await again.complete(second)
    assert [(one.packet, one.deliveries) for one in second] == [(one.packet, 2) for one in first]
    assert len({one.packet for one in second}) == 2
    assert all(one.packet_returns for one in second)


async def test_shared_subscriptions_divide_the_messages(mosquitto: RunningMosquitto) -> None:
    place = uuid.uuid4().hex
    one, two = (mqtt_of(mosquitto, [f"$share/gateways/{place}/#"]) for _ in range(2))
    async with closing(one, two):
        await asyncio.gather(begun(one), begun(two))
        await publish(mosquitto, f"{place}/x", *(str(number).encode() for number in range(10)))
        found: dict[str, set[bytes]] = {"one": set(), "two": set()}
        async with asyncio.timeout(PATIENCE_S):
            while len(found["one"] | found["two"]) < 10:
                found["one"] |= await drain(one, 0.3)
                found["two"] |= await drain(two, 0.3)
    assert not found["one"] & found["two"]
    assert found["one"]
    assert found["two"]


async def test_what_was_retained_before_is_left_out(mosquitto: RunningMosquitto) -> None:
    place = uuid.uuid4().hex
    await publish(mosquitto, f"{place}/old", b"retained", retain=True)
    for version_5 in (True, False):
        source = mqtt_of(mosquitto, [f"{place}/#"], version_5=version_5)
        async with closing(source):
            await begun(source)
            await publish(mosquitto, f"{place}/new", b"live", retain=True)
            [message] = await next_of(source)
            assert message.body == b"live"
            await source.complete([message])


async def test_too_many_messages_of_qos_0_are_dropped(
    mosquitto: RunningMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_source, "QOS_0_BYTES", 10)
    place = uuid.uuid4().hex
    source = mqtt_of(mosquitto, [f"{place}/#"])
    async with closing(source):
        await begun(source)
        await publish(mosquitto, f"{place}/x", b"123456", b"too much", b"7890", qos=0)
        await publish(mosquitto, f"{place}/x", b"promised", qos=1)
        found: list[bytes] = []
        while b"promised" not in found:
            await asyncio.sleep(0.3)
            found += [message.body for message in await next_of(source)]
    assert found == [b"123456", b"7890", b"promised"]


async def test_messages_are_acknowledged_in_the_order_in_which_they_came(mosquitto: RunningMosquitto) -> None:
    place = uuid.uuid4().hex
    source = mqtt_of(mosquitto, [f"{place}/#"], client_id=place)
    await begun(source)
    await publish(mosquitto, f"{place}/x", b"a", b"b", b"c")
    found: list[Message] = []
    while len(found) < 3:
        found += await next_of(source)
    await source.complete([found[0], found[2]])  # c waits for b
    await source.close()
    again = mqtt_of(mosquitto, [f"{place}/#"], client_id=place)
    left: list[tuple[bytes, int]] = []
    async with closing(again):
        while len(left) < 2:
            messages = await next_of(again)
            left += [(message.body, message.deliveries) for message in messages]
            await again.complete(messages)
    assert left == [(b"b", 2), (b"c", 2)]


@pytest.mark.parametrize("version_5", [True, False], ids=["5", "3.1.1"])
async def test_no_more_is_read_than_may_be_held_until_some_of_it_is_settled(
    mosquitto: RunningMosquitto, monkeypatch: pytest.MonkeyPatch, version_5: bool
) -> None:
    monkeypatch.setattr(mqtt_source, "HELD_BYTES", 3)
    place = uuid.uuid4().hex
    source = mqtt_of(mosquitto, [f"{place}/#"], version_5=version_5)
    bodies = [b"%d" % number for number in range(9)]
    async with closing(source):
        await begun(source)
        await publish(mosquitto, f"{place}/x", *bodies)
        found: list[Message] = []
        while len(found) < 3:
            found += await next_of(source)
        assert await nothing_comes(source, 0.5)
        await source.complete(found[:1])
        more = await next_of(source)
        assert len(more) == 1
        found += more
        await source.complete(found[1:])
        while len(found) < len(bodies):
            messages = await next_of(source)
            found += messages
            await source.complete(messages)
        assert await nothing_comes(source, 0.5)
    assert [message.body for message in found] == bodies


async def test_others_have_their_turn_while_much_is_read(mosquitto: RunningMosquitto) -> None:
    topic, count, turns = uuid.uuid4().hex, 1000, 0
    taken_at: list[int] = []
    all_there = asyncio.Event()

    def take(message: MQTTMessage) -> None:
        taken_at.append(turns)
        if len(taken_at) == count:
            all_there.set()

    address = MqttAddress(host=mosquitto.host, port=mosquitto.port, client_id=topic)
    async with asyncio.timeout(PATIENCE_S), await open_client(address, arrived=take) as client:
        await client.subscribe_to([topic])
        client.pause_reading()
        async with aiomqtt.Client(mosquitto.host, mosquitto.port) as sender:
            for _ in range(count):
                await sender.publish(topic, b"x" * 100)
            await sender.publish(f"{topic}/last", qos=1)  # once it is answered, all are on their way
        client.resume_reading()
        while not all_there.is_set():
            turns += 1
            await asyncio.sleep(0)
    assert max(Counter(taken_at).values()) <= 2 * mqtt_client.PACKETS_AT_ONCE


async def test_a_second_client_of_the_same_id_is_named(mosquitto: RunningMosquitto) -> None:
    first, second = (mqtt_of(mosquitto, ["x"], client_id="same") for _ in range(2))
    async with closing(first, second):
        waiting = asyncio.create_task(next_of(first))
        await asyncio.sleep(1)
        other = asyncio.create_task(next_of(second))
        with pytest.raises(Transient) as caught:
            await waiting
        other.cancel()
    assert "client_id 'same'" in caught.value.hint


async def test_tls_with_a_password_and_with_a_clients_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_ca = trustme.CA()
    client_ca.cert_pem.write_to_path(str(tmp_path / "client-ca.pem"))
    issued = client_ca.issue_cert("device-7")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    options = f"cafile {tmp_path}/client-ca.pem\nrequire_certificate true"
    users = {"device": "secret"}
    with RunningMosquitto(tmp_path / "broker", users=users, tls=True, options=options) as broker:
        login = {"username": "device", "password": "secret", "tls": True}
        with_certificate = {"client_certificate": tmp_path / "cert.pem", "client_key": tmp_path / "key.pem"}
        trusted = mqtt_of(broker, ["x"], **login, ca_file=broker.ca, **with_certificate)
        distrusting = mqtt_of(broker, ["x"], **login, **with_certificate)
        nameless = mqtt_of(broker, ["x"], **login, ca_file=broker.ca)
        async with closing(trusted, distrusting, nameless):
            await begun(trusted)
            with pytest.raises(Transient) as caught:
                await next_of(distrusting)
            assert "check ca_file" in caught.value.hint
            monkeypatch.setattr(mqtt_client, "TIMEOUT_S", 1.0)  # the broker hangs up without a word
            with pytest.raises(Transient):
                await next_of(nameless)
