"""Settings of all sinks of events, and of those that are spoken to by HTTP. Values, as in ``model``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from syncd.azure.sign_in import SignIn
from syncd.configuration.secret import Secret

Begin = Literal["now", "beginning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """What all sinks have in common: which events they get; empty tuples mean all.

    ``types`` are patterns of types without "dev.syncd." ("run.*"), ``experiments`` patterns of experiments' names.
    ``begin`` says where a sink begins that is new: behind the newest event, or with the oldest that is kept.
    """

    kind: ClassVar[str] = ""
    name: str
    types: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    begin: Begin = "now"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSinkSettings(SinkOptions):
    """Events to a URL, one a request, signed by every one of ``secrets`` as Standard Webhooks says (none: unsigned)."""

    kind: ClassVar[str] = "webhook"
    url: str
    secrets: tuple[Secret, ...] = ()
    ca_file: Path | None = None
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGridSinkSettings(SinkOptions):
    """Events to an Event Grid topic whose input schema is CloudEvents 1.0; without ``key`` a token is signed in for."""

    kind: ClassVar[str] = "event-grid"
    endpoint: str
    key: Secret | None = None
    sign_in: SignIn | None = None
    ca_file: Path | None = None
    timeout_s: float = 30.0
