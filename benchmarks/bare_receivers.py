"""The least that a receiver must do: take each message, settle it, look at nothing. A process of its own.

    python -m benchmarks.bare_receivers service-bus|sessions|mqtt|webhook COUNT ADDRESS NAME

Prints what it listens on (webhook) or an empty line, then, after COUNT messages, what lay between its first settlement
and its last as JSON. Asks for as much at once as syncd does, and settles by as many.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any

import aiomqtt
from aiohttp import web
from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from syncd.brokers.mqtt_client import RECEIVE_MAXIMUM
from syncd.sources.service_bus.source import BATCH, SESSION_BATCH

SESSIONS = 8
WAIT_S = 5.0
KEY = b"benchmark"


class Tally:
    """Counts settled messages; ``done`` is set when they are as many as expected."""

    def __init__(self, expected: int) -> None:
        self.done = asyncio.Event()
        self._expected = expected
        self._settled = 0
        self._first: tuple[int, float, float] | None = None

    def add(self, count: int) -> None:
        """Take note that so many more are settled."""
        self._settled += count
        if self._first is None:
            self._first = self._now()
        if self._settled >= self._expected:
            self.done.set()

    def _now(self) -> tuple[int, float, float]:
        return self._settled, time.perf_counter(), time.process_time()

    def report(self) -> dict[str, float]:
        """Return messages, wall and CPU seconds after the first settlement."""
        assert self._first is not None
        messages, wall_s, cpu_s = (now - then for now, then in zip(self._now(), self._first, strict=True))
        return {"messages": messages, "wall_s": wall_s, "cpu_s": cpu_s}


async def service_bus(tally: Tally, connection_string: str, queue: str) -> None:
    """Receive from a queue without sessions."""
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(queue) as receiver,
    ):
        while not tally.done.is_set():
            await _take(tally, receiver, BATCH)


async def sessions(tally: Tally, connection_string: str, queue: str) -> None:
    """Receive from several sessions of a queue at once."""
    async with ServiceBusClient.from_connection_string(connection_string) as client:

        async def follow() -> None:
            options: dict[str, Any] = {"prefetch_count": SESSION_BATCH - 1, "max_wait_time": 1}
            receiver = client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, **options)
            async with receiver:
                while not tally.done.is_set():
                    await _take(tally, receiver, SESSION_BATCH)

        async def try_to_follow() -> None:
            with suppress(OperationTimeoutError):
                await follow()

        await asyncio.gather(*(try_to_follow() for _ in range(SESSIONS)))


async def _take(tally: Tally, receiver: ServiceBusReceiver, most: int) -> None:
    messages = await receiver.receive_messages(most, max_wait_time=0.5 if receiver.session else WAIT_S)
    await asyncio.gather(*map(receiver.complete_message, messages))
    if messages:
        tally.add(len(messages))


async def mqtt(tally: Tally, address: str, client_id: str) -> None:
    """Receive what a broker has kept for a session; the library acknowledges by itself."""
    port, _, version = address.partition("/")
    options: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": False}
    if version == "5":
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        options = {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": False, "properties": properties}
    async with aiomqtt.Client("127.0.0.1", int(port), identifier=client_id, **options) as client:
        async for _ in client.messages:
            tally.add(1)
            if tally.done.is_set():
                return


async def webhook(tally: Tally, _address: str, _name: str) -> None:
    """Answer 200 to whatever comes, unchecked, by the same server of aiohttp as the daemon's."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        tally.add(1)
        return web.Response(body=b'{"status": "taken"}', content_type="application/json")

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await tally.done.wait()
    await runner.cleanup()


RECEIVERS = {"service-bus": service_bus, "sessions": sessions, "mqtt": mqtt, "webhook": webhook}


async def main(kind: str, count: str, address: str, name: str) -> None:
    """Receive so many messages and print what that took."""
    tally = Tally(int(count))
    if kind != "webhook":
        print(flush=True)
    receiving = asyncio.create_task(RECEIVERS[kind](tally, address, name))
    await asyncio.wait([receiving, asyncio.create_task(tally.done.wait())], return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps(tally.report()), flush=True)
    await receiving


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
