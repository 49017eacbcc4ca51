"""Read what the [[sources]] tables of all message sources share, and those of webhooks."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypedDict, get_args

from syncd.configuration.message_settings import (
    AllowedCommand,
    MessageOptions,
    OnDelete,
    StaleStatus,
    WebhookSettings,
)
from syncd.configuration.reading import Table, suggestion, warn_of_written_secret
from syncd.configuration.secret import Secret
from syncd.core.messages.topics import TopicPattern
from syncd.core.webhook_signature import key_of

COMMANDS: Final[tuple[AllowedCommand, ...]] = get_args(AllowedCommand)
COMMANDS_NOT_YET: Final = ("register", "deploy")
SHORTEST_SECRET: Final = 16


class MessageKeys(TypedDict):
    """The keys of every source of messages."""

    name: str
    experiment: str
    topic_pattern: str
    commands: tuple[AllowedCommand, ...]
    roots: tuple[Path, ...]
    max_message_bytes: int
    start_patience_s: float
    stale_after_s: float | None
    end_stale_as: StaleStatus | None
    relay: bool
    on_delete: OnDelete


def read_message_keys(table: Table) -> MessageKeys:
    """Return what every source of messages has."""
    default = MessageOptions(name="")
    pattern = table.text("topic_pattern", default.topic_pattern)
    try:
        TopicPattern(pattern)
    except ValueError as exc:
        table.refuse("topic_pattern", str(exc), f'for example "{default.topic_pattern}"')
    stale_after_s = table.optional_seconds("stale_after_s")
    end_stale_as = _end_stale_as(table)
    if end_stale_as is not None and stale_after_s is None:
        table.refuse("end_stale_as", "it says how a run ends after stale_after_s, which is missing")
    relay = table.boolean("relay", default=default.relay)
    if table.has("on_delete") and not relay:
        table.refuse("on_delete", "only another syncd says that a run was deleted", "add relay = true")
    return {
        "name": table.name(),
        "experiment": table.text("experiment", ""),
        "topic_pattern": pattern,
        "commands": _commands(table),
        "roots": tuple(table.document.resolve(root) for root in table.texts("roots")),
        "max_message_bytes": table.size_bytes("max_message_bytes", default.max_message_bytes),
        "start_patience_s": table.seconds("start_patience_s", default.start_patience_s),
        "stale_after_s": stale_after_s,
        "end_stale_as": end_stale_as,
        "relay": relay,
        "on_delete": table.choice("on_delete", get_args(OnDelete), default.on_delete),
    }


def _end_stale_as(table: Table) -> StaleStatus | None:
    return table.choice("end_stale_as", get_args(StaleStatus), "FAILED") if table.has("end_stale_as") else None


def _commands(table: Table) -> tuple[AllowedCommand, ...]:
    allowed: list[AllowedCommand] = []
    for index, text in enumerate(table.texts("commands")):
        known = next((command for command in COMMANDS if command == text), None)
        if known is not None:
            allowed.append(known)
            continue
        place = (*table.place, "commands", index)
        if text in COMMANDS_NOT_YET:
            table.document.refuse(place, f"the command {text!r} is not in this version yet", f"{', '.join(COMMANDS)}")
        else:
            message = f"expected commands out of {', '.join(COMMANDS)}, found {text!r}"
            table.document.refuse(place, message, suggestion(text, COMMANDS))
    return tuple(allowed)


def read_webhook(table: Table) -> WebhookSettings:
    """Return the settings of a source of kind ``webhook``."""
    secrets = table.secrets("secrets")
    for index, secret in enumerate(secrets):
        _check_signing_secret(table, index, secret)
    if table.has("relay"):
        table.refuse("relay", "messages of another syncd are not taken by HTTP", "use a service-bus or mqtt source")
    token, password = table.secret("token"), table.secret("password")
    username = table.text("username") if table.has("username") else None
    for key, written in (("token", token), ("password", password)):
        warn_of_written_secret(table, key, written)
    if (username is None) != (password is None):
        there, missing = ("username", "password") if password is None else ("password", "username")
        table.refuse(there, f"a {there} without a {missing}", f"add {missing}")
    if token is not None and len(token.reveal()) < SHORTEST_SECRET:
        table.refuse("token", f"expected at least {SHORTEST_SECRET} characters: who guesses it may send messages")
    if not (table.has("secrets") or table.has("token") or table.has("password")):
        message = 'anybody could send messages: "secrets", "token", or "username" and "password" are needed'
        table.document.refuse(table.place, message, 'for example secrets = [{ env = "HOOK_SECRET" }]')
    settings = WebhookSettings(
        secrets=secrets, token=token, username=username, password=password, **read_message_keys(table)
    )
    table.refuse_unknown_keys(of='a source of kind "webhook"')
    return settings


def _check_signing_secret(table: Table, index: int, secret: Secret) -> None:
    warn_of_written_secret(table, "secrets", secret, index=index)
    place = (*table.place, "secrets", index)
    try:
        key = key_of(secret.reveal())
    except ValueError as exc:
        table.document.refuse(place, str(exc))
        return
    if len(key) < SHORTEST_SECRET:
        table.document.warn(place, f"a key of {len(key)} bytes can be guessed: take {SHORTEST_SECRET} or more")
