"""``python -m tests.standins.service_bus --folder F --port P``: a broker that takes commands from standard input.

A command is a line of JSON, ``[name, {argument: value}]``; each is answered with a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from tests.standins.service_bus.broker import STANDARD_TIER_BYTES, Broker
from tests.standins.service_bus.entities import Entity, Rules
from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.messages import compose

COMMAND_BYTES = 64 * 1024 * 1024


def obey(broker: Broker, name: str, given: dict[str, Any]) -> Any:
    """Do what a command says."""
    match name:
        case "queue":
            return broker.queue(given.pop("name"), Rules(**given))
        case "subscription":
            return broker.subscription(given.pop("topic"), given.pop("name"), Rules(**given))
        case "fault":
            return broker.faults.set(Fault(given["fault"]), given["times"])
        case "drop":
            return broker.drop_connections()
        case "put":
            return _put(broker, given["address"], given["messages"])
        case "count":
            return len(_entity(broker, given["address"]).messages)
        case "messages":
            return [_shown(message) for message in _entity(broker, given["address"]).messages.values()]
    raise ValueError(f"no such command: {name}")


def _entity(broker: Broker, address: str) -> Entity:
    entity = broker.entity(address)
    if entity is None:
        raise ValueError(f"no such entity: {address}")
    return entity


def _put(broker: Broker, address: str, messages: list[dict[str, Any]]) -> None:
    for message in messages:
        payload = compose(base64.b64decode(message.pop("body")), **message)
        for entity in broker.targets(address):
            entity.put(payload)


def _shown(message: Any) -> dict[str, Any]:
    return {
        "id": message.id,
        "session": message.session,
        "body": message.body().decode("utf-8", "replace"),
        "content_type": message.content_type(),
        "properties": message.text_properties(),
        "failures": message.failures,
        "dead_letter": message.dead_letter,
    }


async def main(folder: Path, port: int, max_message_bytes: int) -> None:
    """Serve until standard input ends."""
    broker = Broker(folder, max_message_bytes=max_message_bytes)
    server = await broker.serve(port)
    print(json.dumps(server.sockets[0].getsockname()[1]), flush=True)
    commands = asyncio.StreamReader(limit=COMMAND_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        name, given = json.loads(line)
        print(json.dumps(obey(broker, name, given)), flush=True)
    server.close()
    await broker.end_connections()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, required=True)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--max-message-bytes", type=int, default=STANDARD_TIER_BYTES)
given = parser.parse_args()
asyncio.run(main(given.folder, given.port, given.max_message_bytes))
