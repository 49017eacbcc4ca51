"""Requests to an entity's ``$management`` node: renewing locks, settling after a reconnect."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.standins.service_bus.codec import Array, Int, Symbol, Timestamp
from tests.standins.service_bus.entities import Entity, LockLost

PREFIX = "com.microsoft:"


class Answer(NamedTuple):
    """A status as in HTTP, and a body; ``condition`` is the error's name."""

    status: int
    body: Any
    condition: str = ""
    description: str = "OK"

    def properties(self) -> dict[str, Any]:
        """Return the application properties of the answer."""
        found: dict[str, Any] = {"statusCode": Int(self.status), "statusDescription": self.description}
        if self.condition:
            found["errorCondition"] = Symbol(PREFIX + self.condition)
        return found


def answer(entity: Entity | None, operation: str, body: Mapping[str, Any]) -> Answer:
    """Do what is asked for."""
    if entity is None:
        return Answer(404, {}, "entity-not-found", "The messaging entity could not be found.")
    operations = {
        "renew-lock": _renew_locks,
        "renew-session-lock": _renew_session,
        "update-disposition": _settle,
    }
    do = operations.get(operation.removeprefix(PREFIX))
    if do is None:
        return Answer(501, {}, "not-implemented", f"this stand-in knows no {operation}")
    try:
        return Answer(200, do(entity, body))
    except LockLost:
        lost = "session-lock-lost" if "session-id" in body else "message-lock-lost"
        return Answer(410, {}, lost, "The lock supplied is invalid.")


def _renew_locks(entity: Entity, body: Mapping[str, Any]) -> dict[str, Any]:
    until_s = [entity.renew(entity.by_token(token)) for token in _tokens(body)]
    return {"expirations": Array(Timestamp(moment_s * 1000) for moment_s in until_s)}


def _renew_session(entity: Entity, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"expiration": Timestamp(entity.renew_session(body["session-id"]) * 1000)}


def _settle(entity: Entity, body: Mapping[str, Any]) -> dict[str, Any]:
    for message in [entity.by_token(token) for token in _tokens(body)]:
        match body["disposition-status"]:
            case "completed":
                entity.complete(message)
            case "abandoned":
                entity.release(message, failed=True)
            case "suspended":
                entity.dead_letter(
                    message,
                    reason=str(body.get("deadletter-reason") or ""),
                    description=str(body.get("deadletter-description") or ""),
                )
    return {}


def _tokens(body: Mapping[str, Any]) -> list[uuid.UUID]:
    return list(body.get("lock-tokens") or [])
