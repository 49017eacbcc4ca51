"""The least that a relay must do: send messages of a size, look at nothing. A process of its own.

    python -m benchmarks.bare_senders service-bus|mqtt ADDRESS NAME COUNT BYTES

Prints what all of them took, wall and CPU seconds, as JSON. Sends over as many links, and has as many under way, as
syncd does by default.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
import time

import aiomqtt
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

LINKS = 6
UNDER_WAY = 6


async def service_bus(address: str, queue: str, bodies: list[bytes]) -> None:
    """Send over several links, one message after another on each."""

    async def link(numbered: list[tuple[int, bytes]]) -> None:
        client = ServiceBusClient.from_connection_string(address)
        async with client, client.get_queue_sender(queue) as sender:
            for number, body in numbered:
                batch = await sender.create_message_batch()
                batch.add_message(ServiceBusMessage(body, message_id=str(number), session_id=str(number % LINKS)))
                await sender.send_messages(batch)

    numbered = list(enumerate(bodies))
    await asyncio.gather(*(link(numbered[first::LINKS]) for first in range(LINKS)))


async def mqtt(address: str, topic: str, bodies: list[bytes]) -> None:
    """Publish with QoS 1, several at once."""
    host, _, port = address.partition(":")
    left = iter(bodies)
    async with aiomqtt.Client(host, int(port), protocol=aiomqtt.ProtocolVersion.V5) as client:

        async def publish() -> None:
            for body in left:
                await client.publish(topic, body, qos=1)

        await asyncio.gather(*(publish() for _ in range(UNDER_WAY)))


def main(kind: str, address: str, name: str, count: str, size_bytes: str) -> None:
    """Send them all."""
    some = [base64.b64encode(os.urandom(int(size_bytes)))[: int(size_bytes)] for _ in range(8)]
    bodies = list(itertools.islice(itertools.cycle(some), int(count)))
    begun_s, before_s = time.perf_counter(), time.process_time()
    asyncio.run({"service-bus": service_bus, "mqtt": mqtt}[kind](address, name, bodies))
    print(json.dumps({"wall_s": time.perf_counter() - begun_s, "cpu_s": time.process_time() - before_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
