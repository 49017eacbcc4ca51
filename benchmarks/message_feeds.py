"""Sources full of messages: brokers that are filled before anybody receives, and a sender of signed webhooks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiomqtt

from benchmarks.bare_receivers import KEY, SESSIONS
from syncd.brokers.mqtt import MqttAddress
from syncd.brokers.mqtt_client import open_client
from syncd.core.webhook_signature import sign
from tests.standins.mosquitto import RunningMosquitto
from tests.standins.ports import free_port
from tests.standins.service_bus.server import ServiceBus

FIRST_MS = 1_790_000_000_000
AT_ONCE = 250
SENDERS = 64


def bodies(count: int, points: int) -> list[bytes]:
    """Return CloudEvents that log so many points each: as names and values up to 3, else as a list."""
    return [_body(number, points) for number in range(count)]


def _body(number: int, points: int) -> bytes:
    at_ms = FIRST_MS + number
    data = {"run": f"run-{number % SESSIONS}", "experiment": "bench", "step": number, "timestamp": at_ms}
    listed = [
        {"key": f"loss/{index % 5}", "value": number / 7 + index, "timestamp": at_ms, "step": number * points + index}
        for index in range(points)
    ]
    named = {f"loss/{index}": number / 7 + index for index in range(points)}
    event = {"specversion": "1.0", "type": "dev.syncd.log", "source": "/bench", "id": str(number)}
    return json.dumps({**event, "data": {**data, "metrics": named if points <= 3 else listed}}).encode()


class Feed(ABC):
    """One way for messages to come. ``bare`` names its receiver; ``address`` is what that connects to.

    ``http_port`` is where the daemon's HTTP server has to listen, 0 where none is needed.
    """

    bare: str
    address: str
    http_port = 0

    @abstractmethod
    def fill(self, name: str, messages: Sequence[bytes]) -> None:
        """Have messages wait for a receiver of that name; each turn has its own."""

    @abstractmethod
    def settings(self, name: str) -> str:
        """Return the source's table in a configuration, without its name."""

    def send(self, port: str, name: str) -> None:
        """Send to a receiver that listens (``port`` "": the daemon) what waits here and not at a broker."""
        del port, name


class ServiceBusFeed(Feed):
    """A queue for each turn, with a session for each run or without sessions."""

    def __init__(self, bus: ServiceBus, *, sessions: bool) -> None:
        self.bare = "sessions" if sessions else "service-bus"
        self.address = bus.connection_string
        self._bus = bus
        self._sessions = sessions

    def fill(self, name: str, messages: Sequence[bytes]) -> None:
        """Put them in the broker's own process: no client takes part."""
        self._bus.queue(name, lock_s=60.0, sessions=self._sessions)
        for first in range(0, len(messages), AT_ONCE * SESSIONS):
            part = messages[first : first + AT_ONCE * SESSIONS]
            for session in range(SESSIONS if self._sessions else 1):
                of_session = part[session::SESSIONS] if self._sessions else part
                self._bus.put(name, of_session, **({"session": f"s{session}"} if self._sessions else {}))

    def settings(self, name: str) -> str:
        """Return the source's table."""
        return f'kind = "service-bus"\nqueue = "{name}"\nconnection_string = "{self.address}"\n'


class MqttFeed(Feed):
    """A topic and a session that the broker keeps for each turn."""

    bare = "mqtt"

    def __init__(self, broker: RunningMosquitto, *, version: str) -> None:
        self.address = f"{broker.port}/{version}"
        self._broker = broker
        self._version = version

    def fill(self, name: str, messages: Sequence[bytes]) -> None:
        """Publish them once the receiver's session is there."""
        asyncio.run(self._fill(name, messages))

    async def _fill(self, name: str, messages: Sequence[bytes]) -> None:
        host, port, is_5 = self._broker.host, self._broker.port, self._version == "5"
        receiver = MqttAddress(host=host, port=port, client_id=name, version_5=is_5)
        async with await open_client(receiver, session_expiry_s=3600) as client:
            await client.subscribe_to([f"{name}/+/+/metrics"])
        async with aiomqtt.Client(host, port, identifier=f"fills-{name}") as sender:
            sender.pending_calls_threshold = AT_ONCE
            for first in range(0, len(messages), AT_ONCE):
                part = messages[first : first + AT_ONCE]
                sent = (sender.publish(f"{name}/device/x/metrics", body, qos=1, timeout=60) for body in part)
                await asyncio.gather(*sent)

    def settings(self, name: str) -> str:
        """Return the source's table."""
        return (
            f'kind = "mqtt"\nhost = "{self._broker.host}"\nport = {self._broker.port}\nclient_id = "{name}"\n'
            f'protocol = "{self._version}"\nsession_expiry_s = 3600\ntopics = ["{name}/+/+/metrics"]\n'
            f'topic_pattern = "{name}/{{device}}/{{run}}/metrics"\n'
        )


class WebhookFeed(Feed):
    """Requests that were written before the turn, sent over ``SENDERS`` connections, one at a time on each."""

    bare = "webhook"
    address = ""

    def __init__(self) -> None:
        self.http_port = free_port()
        self._requests: list[bytes] = []

    def fill(self, name: str, messages: Sequence[bytes]) -> None:
        """Write the requests; they may be sent for five minutes."""
        now_s = int(time.time())
        self._requests = [_request(name, str(number), now_s, body) for number, body in enumerate(messages)]

    def settings(self, name: str) -> str:
        """Return the source's table, and the HTTP server's."""
        return f'kind = "webhook"\nsecrets = ["{KEY.decode()}"]\n[http]\nlisten = "127.0.0.1:{self.http_port}"\n'

    def send(self, port: str, name: str) -> None:
        """Send them all; raise if one was not answered 200."""
        asyncio.run(self._send(int(port or self.http_port)))

    async def _send(self, port: int) -> None:
        left = iter(self._requests)

        async def one_after_another() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for request in left:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"a message was answered {head.decode(errors='replace')}")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.close()

        await asyncio.gather(*(one_after_another() for _ in range(SENDERS)))


def _request(name: str, message_id: str, now_s: int, body: bytes) -> bytes:
    head = (
        f"POST /hooks/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\n"
        f"Content-Length: {len(body)}\r\nwebhook-id: {message_id}\r\nwebhook-timestamp: {now_s}\r\n"
        f"webhook-signature: {sign(KEY, message_id=message_id, timestamp_s=now_s, body=body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def sending(feed: Feed, port: str, name: str) -> Iterator[None]:
    """Send beside what the caller does."""
    thread = threading.Thread(target=feed.send, args=(port, name), daemon=True)
    thread.start()
    yield
    thread.join(60)
