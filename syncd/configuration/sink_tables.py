"""Read what every [[sinks]] table has, and those of kind ``webhook`` and ``event-grid`` (rules: see ``tables``)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypedDict, get_args
from urllib.parse import urlsplit

from syncd.configuration.credentials import is_loopback
from syncd.configuration.reading import Table, suggestion, warn_of_written_secret
from syncd.configuration.secret import Secret
from syncd.configuration.sign_in import SIGN_IN_KEYS, read_sign_in
from syncd.configuration.sink_settings import Begin, EventGridSinkSettings, SinkOptions, WebhookSinkSettings
from syncd.core.events import TYPE_PREFIX, TYPES, TYPES_NOT_YET
from syncd.core.webhook_signature import key_of

SHORT_TYPES: Final = tuple(one.removeprefix(TYPE_PREFIX) for one in (*TYPES, *TYPES_NOT_YET))


class SinkKeys(TypedDict):
    """The keys of every sink."""

    name: str
    types: tuple[str, ...]
    experiments: tuple[str, ...]
    begin: Begin


def read_sink_keys(table: Table) -> SinkKeys:
    """Return what every sink has."""
    types = table.texts("types")
    for index, pattern in enumerate(types):
        if pattern.startswith("dev.syncd."):
            short = pattern.removeprefix("dev.syncd.")
            table.document.refuse((*table.place, "types", index), "expected a type without dev.syncd.", f'"{short}"')
        elif not any(fnmatchcase(short, pattern) for short in SHORT_TYPES):
            what = f"no type of event fits {pattern!r}"
            table.document.refuse((*table.place, "types", index), what, suggestion(pattern, SHORT_TYPES))
    return {
        "name": table.name(),
        "types": types,
        "experiments": table.texts("experiments"),
        "begin": table.choice("from", get_args(Begin), SinkOptions(name="").begin),
    }


def read_webhook_sink(table: Table) -> WebhookSinkSettings:
    """Return the settings of a sink of kind ``webhook``."""
    default = WebhookSinkSettings(name="", url="")
    secrets = _read_secrets(table)
    url = _read_url(table, "url")
    if not secrets:
        table.document.warn(table.place, "its events are not signed: who gets them cannot know where they come from")
    settings = WebhookSinkSettings(
        **read_sink_keys(table),
        url=url,
        secrets=secrets,
        ca_file=_read_ca_file(table),
        timeout_s=table.seconds("timeout_s", default.timeout_s),
    )
    table.refuse_unknown_keys(of='a sink of kind "webhook"')
    return settings


def read_event_grid_sink(table: Table) -> EventGridSinkSettings:
    """Return the settings of a sink of kind ``event-grid``."""
    default = EventGridSinkSettings(name="", endpoint="")
    endpoint = _read_url(table, "endpoint")
    key = table.secret("key")
    warn_of_written_secret(table, "key", key)
    signs_in = [name for name in SIGN_IN_KEYS if table.has(name)]
    if table.has("key") and signs_in:
        table.refuse(signs_in[0], "expected either a key or a sign-in, found both")
    settings = EventGridSinkSettings(
        **read_sink_keys(table),
        endpoint=endpoint,
        key=key,
        sign_in=None if table.has("key") else read_sign_in(table),
        ca_file=_read_ca_file(table),
        timeout_s=table.seconds("timeout_s", default.timeout_s),
    )
    table.refuse_unknown_keys(of='a sink of kind "event-grid"')
    return settings


def _read_url(table: Table, key: str) -> str:
    url = table.text(key)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if url and not usable:
        table.refuse(key, "expected an http(s) URL", 'for example "https://hooks.example.org/syncd"')
        return ""
    if url and (parts.username is not None or parts.password is not None):
        table.refuse(key, "expected a URL without user and password")
    if url and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        table.document.warn((*table.place, key), "events go over plain http: anyone on the way can read them")
    return url


def _read_ca_file(table: Table) -> Path | None:
    path = table.path("ca_file") if table.has("ca_file") else None
    if path is not None and not path.is_file():
        table.refuse("ca_file", f"there is no such file: {path}")
    return path


def _read_secrets(table: Table) -> tuple[Secret, ...]:
    """Return the secrets that sign: one, or two while the first is replaced by the second."""
    secrets = table.secrets("secrets")
    for index, secret in enumerate(secrets):
        warn_of_written_secret(table, "secrets", secret, index=index)
        try:
            key_of(secret.reveal())
        except ValueError as error:
            table.document.refuse((*table.place, "secrets", index), str(error))
    return secrets
