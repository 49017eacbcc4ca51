"""The broker: which entities there are, who is connected, and the clock that ends locks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tests.standins.service_bus.connection import Connection
from tests.standins.service_bus.entities import DEAD_LETTERS, Entity, Rules
from tests.standins.service_bus.faults import Faults
from tests.standins.service_bus.storage import FileStorage

LOOK_AT_LOCKS_S: Final = 0.05
STANDARD_TIER_BYTES: Final = 256 * 1024


class Broker:
    """Serves what is in the folder; what is not there yet is created with ``queue`` and ``subscription``."""

    def __init__(self, folder: Path, *, max_message_bytes: int = STANDARD_TIER_BYTES) -> None:
        self.faults = Faults()
        self.max_message_bytes = max_message_bytes
        self._entities: dict[str, Entity] = {}
        self._topics: dict[str, list[Entity]] = {}
        self._connections: dict[Connection, asyncio.Task[None] | None] = {}
        self._storage = FileStorage(folder / "broker.db")
        for name, topic, rules in list(self._storage.entities()):
            self._open(name, topic, rules)

    def queue(self, name: str, rules: Rules) -> None:
        """Have a queue."""
        self._create(name, "", rules)

    def subscription(self, topic: str, name: str, rules: Rules) -> None:
        """Have a topic and a subscription of it."""
        self._create(f"{topic}/Subscriptions/{name}", topic, rules)

    def _create(self, name: str, topic: str, rules: Rules) -> None:
        self._storage.keep_entity(name, topic=topic, rules=rules)
        self._open(name, topic, rules)

    def _open(self, name: str, topic: str, rules: Rules) -> None:
        dead_letters = Entity(name + DEAD_LETTERS, Rules(lock_s=rules.lock_s), self._storage)
        entity = Entity(name, rules, self._storage, dead_letters=dead_letters)
        for one in (dead_letters, entity):
            self._entities[one.name.lower()] = one
            for message in self._storage.messages(one.name):
                one.add(message)
        if topic:
            self._topics.setdefault(topic.lower(), []).append(entity)

    def entity(self, address: str) -> Entity | None:
        """Return the queue, subscription or dead-letter queue of that address."""
        return self._entities.get(address.lower())

    def targets(self, address: str) -> list[Entity]:
        """Return where a message goes that is sent to that address: nowhere if there is no such entity."""
        entity = self.entity(address)
        return [entity] if entity is not None else self._topics.get(address.lower(), [])

    def drop_connections(self) -> int:
        """Cut all connections; return how many there were."""
        connections = list(self._connections)
        for connection in connections:
            connection.drop()
        return len(connections)

    async def serve(self, port: int) -> asyncio.Server:
        """Listen; the server that is returned has the port if that was 0."""
        server = await asyncio.start_server(self._serve_client, "127.0.0.1", port)
        self._clock = asyncio.create_task(self._end_locks())
        return server

    async def end_connections(self) -> None:
        """Cut all connections, and wait until each has ended."""
        serving = [task for task in self._connections.values() if task is not None]
        self.drop_connections()
        await asyncio.gather(*serving)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._connections[connection] = asyncio.current_task()
        try:
            await connection.serve()
        finally:
            del self._connections[connection]

    async def _end_locks(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_LOCKS_S)
            for entity in list(self._entities.values()):
                entity.end_locks()
