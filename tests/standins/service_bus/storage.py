"""What a broker keeps on disk, so that it may be killed: entities and messages, in an SQLite file.

Written before an answer is sent, without fsync: it survives a killed process, not a lost machine.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.standins.service_bus.entities import Rules
from tests.standins.service_bus.messages import Stored

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entity (name TEXT PRIMARY KEY, topic TEXT NOT NULL, rules TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS message (
    entity TEXT NOT NULL, number INTEGER NOT NULL, payload BLOB NOT NULL, enqueued_s REAL NOT NULL,
    failures INTEGER NOT NULL, dead_letter TEXT NOT NULL, origin TEXT NOT NULL, PRIMARY KEY (entity, number)
) WITHOUT ROWID;
"""


class FileStorage:
    """Entities and messages of one broker."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_SCHEMA}")

    def keep_entity(self, name: str, *, topic: str, rules: Rules) -> None:
        """Keep an entity; ``topic`` is "" for a queue."""
        self._database.execute(
            "INSERT OR REPLACE INTO entity VALUES (?, ?, ?)", (name, topic, json.dumps(rules.as_json()))
        )

    def entities(self) -> Iterator[tuple[str, str, Rules]]:
        """Yield name, topic and rules."""
        for name, topic, rules in self._database.execute("SELECT name, topic, rules FROM entity ORDER BY rowid"):
            yield name, topic, Rules(**json.loads(rules))

    def messages(self, entity: str) -> Iterator[Stored]:
        """Yield the messages of an entity, in order."""
        rows = self._database.execute(
            "SELECT number, payload, enqueued_s, failures, dead_letter, origin FROM message"
            " WHERE entity = ? ORDER BY number",
            (entity,),
        )
        for number, payload, enqueued_s, failures, dead_letter, origin in rows:
            words = tuple(json.loads(dead_letter)) if dead_letter else None
            yield Stored(number, payload, enqueued_s, failures, words, origin)

    def added(self, entity: str, message: Stored) -> None:
        """Keep a message, or keep it anew."""
        self._database.execute(
            "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                entity,
                message.number,
                message.payload,
                message.enqueued_s,
                message.failures,
                json.dumps(message.dead_letter) if message.dead_letter else "",
                message.origin,
            ),
        )

    def removed(self, entity: str, number: int) -> None:
        """Forget a message."""
        self._database.execute("DELETE FROM message WHERE entity = ? AND number = ?", (entity, number))
