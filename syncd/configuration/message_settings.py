"""Settings that all sources of messages share, and those of webhooks. Values, as in ``model``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from syncd.configuration.secret import Secret

AllowedCommand = Literal["sync", "pause", "resume"]
StaleStatus = Literal["FAILED", "KILLED"]
OnDelete = Literal["keep", "delete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOptions:
    """How the messages of a source are understood, and what they may ask for.

    A run that names no experiment belongs to ``experiment`` ("": the source's name). ``topic_pattern`` says which
    levels of a topic are device and run. ``commands`` are allowed, no others; a message may name files below ``roots``.
    A run is created when its start has come or ``start_patience_s`` have passed. After ``stale_after_s`` of silence it
    is marked, and taken to have ended as ``end_stale_as`` where that is set.
    ``relay``: whether messages of another syncd are taken; a run that was deleted there is kept or deleted here as
    ``on_delete`` says.
    ``broker_keeps_refused``: whether the broker has a place for messages that are refused.
    """

    kind: ClassVar[str] = ""
    broker_keeps_refused: ClassVar[bool] = False
    name: str
    experiment: str = ""
    topic_pattern: str = "syncd/{device}/{run}/metrics"
    commands: tuple[AllowedCommand, ...] = ()
    roots: tuple[Path, ...] = ()
    max_message_bytes: int = 4 * 1024**2
    start_patience_s: float = 2.0
    stale_after_s: float | None = None
    end_stale_as: StaleStatus | None = None
    relay: bool = False
    on_delete: OnDelete = "keep"

    @property
    def is_shared(self) -> bool:
        """Whether other daemons may be handed messages about the same runs."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings(MessageOptions):
    """Requests to ``/hooks/NAME``; at least one of ``secrets`` (of signatures), ``token`` and ``password``."""

    kind: ClassVar[str] = "webhook"
    secrets: tuple[Secret, ...] = ()
    token: Secret | None = None
    username: str | None = None
    password: Secret | None = None
