"""Load the named statements of the queries*.sql beside this module."""

from __future__ import annotations

import re
from pathlib import Path


def load_statements(text: str) -> dict[str, str]:
    """Return the statements of an SQL text whose sections start with ``-- name: <name>``.

    Raises:
        ValueError: two statements have the same name.
    """
    statements: dict[str, str] = {}
    for section in re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        if name in statements:
            raise ValueError(f"two statements are named {name}")
        statements[name] = "\n".join(lines).strip().rstrip(";")
    return statements


def _text_of(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


SCHEMA = _text_of("schema.sql")
SCHEMA_EVENTS = _text_of("schema_events.sql")
SCHEMA_MESSAGES = _text_of("schema_messages.sql")
SCHEMA_OVERFLOW = _text_of("schema_overflow.sql")
SCHEMA_RELAY = _text_of("schema_relay.sql")
SCHEMA_COMMANDS = _text_of("schema_commands.sql")
SCHEMA_RETRIES = _text_of("schema_retries.sql")
_QUERIES = (
    "queries.sql",
    "queries_events.sql",
    "queries_messages.sql",
    "queries_overflow.sql",
    "queries_relay.sql",
)
STATEMENTS = load_statements("".join(map(_text_of, _QUERIES)))
