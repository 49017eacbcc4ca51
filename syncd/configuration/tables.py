"""Read one [[sources]], [[destinations]] or [[sinks]] table.

Rules
-----
1. A kind or scheme of the contract that this version does not have is refused by its name: to ignore it silently
   would be to promise what is not done.
2. The reader of a table asks for every key it knows before it refuses the rest (see ``reading``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, get_args
from urllib.parse import unquote, urlsplit

from syncd.configuration.broker_settings import (
    MqttSinkSettings,
    MqttSourceSettings,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
)
from syncd.configuration.broker_tables import (
    read_mqtt_sink,
    read_mqtt_source,
    read_service_bus_sink,
    read_service_bus_source,
)
from syncd.configuration.credentials import is_loopback, split_userinfo
from syncd.configuration.filter_tables import read_filter
from syncd.configuration.message_settings import OnDelete, WebhookSettings
from syncd.configuration.message_tables import read_webhook
from syncd.configuration.model import (
    MAX_CONCURRENCY,
    WORKSPACE_CONCURRENCY,
    DestinationSettings,
    Duplicates,
    MessageSourceSettings,
    MlflowDbSettings,
    MlrunsSettings,
    SinkSettings,
    SourceSettings,
    StoreOptions,
)
from syncd.configuration.reading import Table, refers_to_environment, suggestion, warn_of_written_secret
from syncd.configuration.relay_settings import RelaySettings
from syncd.configuration.relay_tables import read_relay
from syncd.configuration.secret import Secret, SecretOrigin
from syncd.configuration.sink_settings import EventGridSinkSettings, WebhookSinkSettings
from syncd.configuration.sink_tables import read_event_grid_sink, read_webhook_sink
from syncd.configuration.workspace import names_workspace, read_workspace, refuse_workspace_keys
from syncd.core.filters import Filter
from syncd.core.limits import Limits

SOURCE_KINDS = (
    MlrunsSettings.kind,
    MlflowDbSettings.kind,
    ServiceBusSourceSettings.kind,
    MqttSourceSettings.kind,
    WebhookSettings.kind,
)
SOURCE_KINDS_NOT_YET = ("databricks",)
SINK_KINDS = (
    ServiceBusSinkSettings.kind,
    MqttSinkSettings.kind,
    WebhookSinkSettings.kind,
    EventGridSinkSettings.kind,
)
DESTINATION_SCHEMES = ("http", "https", "azureml")
DESTINATION_SCHEMES_NOT_YET = ("databricks",)
UNLIMITED = "unlimited"
_MAY_BE_UNLIMITED = frozenset(field.name for field in dataclasses.fields(Limits) if field.default is None)
_SQLITE_SCHEMES = ("sqlite", "sqlite+pysqlite")


class _StoreKeys(TypedDict):
    name: str
    experiments: tuple[str, ...]
    on_delete: OnDelete
    stale_after_s: float | None
    poll_interval_s: float
    reconcile_interval_s: float
    watch: bool


class _DestinationKeys(TypedDict):
    name: str
    ca_file: Path | None
    max_concurrency: int
    bwlimit_bytes_s: int | None
    duplicates: Duplicates
    connect_timeout_s: float
    read_timeout_s: float
    total_timeout_s: float
    limit_overrides: dict[str, int | bool | None]
    overflow_interval_s: float
    filter: Filter


def read_source(table: Table) -> SourceSettings | MessageSourceSettings | None:
    """Return the settings of a source, None if its kind is not one of this version's (a problem is noted)."""
    kind = table.text("kind")
    if not table.has("kind"):
        for key in (*_StoreKeys.__annotations__, "path", "paths", "uri"):
            table.has(key)
        table.refuse_unknown_keys(of=f"a source (kinds: {', '.join(SOURCE_KINDS)})")
    elif kind in _SOURCE_READERS:
        return _SOURCE_READERS[kind](table)
    else:
        _refuse_kind(table, kind, "source", supported=SOURCE_KINDS, not_yet=SOURCE_KINDS_NOT_YET)
    return None


def read_sink(table: Table) -> SinkSettings | None:
    """Return the settings of a sink, None if its kind is not one of this version's (a problem is noted)."""
    kind = table.text("kind")
    if not table.has("kind"):
        for key in table.content:
            table.has(key)
        table.refuse_unknown_keys(of=f"a sink (kinds: {', '.join(SINK_KINDS)})")
    elif kind in _SINK_READERS:
        return _SINK_READERS[kind](table)
    else:
        _refuse_kind(table, kind, "sink", supported=SINK_KINDS, not_yet=())
    return None


def _refuse_kind(table: Table, kind: str, what: str, *, supported: tuple[str, ...], not_yet: tuple[str, ...]) -> None:
    if kind in not_yet:
        table.refuse("kind", f"{what}s of kind {kind!r} are not in this version yet", _these_are(supported))
    elif kind:
        message = f"unknown kind of {what} {kind!r}, expected {' or '.join(supported)}"
        table.refuse("kind", message, suggestion(kind, supported))


def read_destination(table: Table) -> DestinationSettings | RelaySettings | None:
    """Return the settings of a destination, None if its scheme is not one of this version's (a problem is noted)."""
    if names_workspace(table):
        return _read_workspace_destination(table)
    if table.content.get("kind") == RelaySettings.kind:
        return read_relay(table)
    written = table.text("uri")
    scheme = written.partition(":")[0].lower()
    if scheme in DESTINATION_SCHEMES_NOT_YET:
        table.refuse("uri", f"{scheme} destinations are not in this version yet", _these_are(DESTINATION_SCHEMES))
        return None
    refuse_workspace_keys(table)
    uri, username, password = _read_uri(table, written)
    if table.has("username"):
        username = table.text("username")
    if table.has("password"):
        password = table.secret("password")
        warn_of_written_secret(table, "password", password)
    token = table.secret("token")
    warn_of_written_secret(table, "token", token)
    settings = DestinationSettings(
        uri=uri, username=username, password=password, token=token, **_read_destination_keys(table)
    )
    _check_credentials(table, settings)
    table.refuse_unknown_keys(of="a destination")
    return settings


def _read_workspace_destination(table: Table) -> DestinationSettings | None:
    for key in ("username", "password"):
        if table.has(key):
            table.refuse(key, "a workspace is signed in to with a token", 'see "credential"')
    workspace = read_workspace(table)
    keys = _read_destination_keys(table, max_concurrency=WORKSPACE_CONCURRENCY)
    table.refuse_unknown_keys(of="a workspace")
    return (
        DestinationSettings(uri=workspace.address.uri, workspace=workspace, **keys) if workspace is not None else None
    )


def _read_destination_keys(table: Table, *, max_concurrency: int = MAX_CONCURRENCY) -> _DestinationKeys:
    default = DestinationSettings(name="", uri="")
    ca_file = table.path("ca_file") if table.has("ca_file") else None
    if ca_file is not None and not ca_file.is_file():
        table.refuse("ca_file", f"there is no such file: {ca_file}")
    return {
        "name": table.name(),
        "ca_file": ca_file,
        "max_concurrency": table.integer("max_concurrency", max_concurrency, minimum=1),
        "bwlimit_bytes_s": table.size_bytes("bwlimit", 0) if table.has("bwlimit") else None,
        "duplicates": table.choice("duplicates", get_args(Duplicates), default.duplicates),
        "connect_timeout_s": table.seconds("connect_timeout_s", default.connect_timeout_s),
        "read_timeout_s": table.seconds("read_timeout_s", default.read_timeout_s),
        "total_timeout_s": table.seconds("total_timeout_s", default.total_timeout_s),
        "overflow_interval_s": table.seconds("overflow_interval_s", default.overflow_interval_s),
        "limit_overrides": _read_limits(table.table("limits")),
        "filter": read_filter(table.table("filters")),
    }


def sqlite_path(uri: str) -> str:
    """Return the path of a ``sqlite:///`` URI ("" if it is none): relative after three slashes, absolute after four."""
    scheme, _, rest = uri.partition("://")
    if scheme not in _SQLITE_SCHEMES or not rest.startswith("/"):
        return ""
    return unquote(rest[1:].partition("?")[0])


def _read_mlruns(table: Table) -> MlrunsSettings:
    document = table.document
    if table.has("paths"):
        paths = tuple(document.resolve(path) for path in table.texts("paths", required=True))
        if table.has("path"):
            table.refuse("path", 'expected either "path" or "paths", found both')
    else:
        paths = (table.path("path"),)
    settings = MlrunsSettings(paths=paths, **_read_store_keys(table))
    table.refuse_unknown_keys(of='a source of kind "mlruns"')
    return settings


def _read_mlflow_db(table: Table) -> MlflowDbSettings:
    uri = table.text("uri")
    path = sqlite_path(uri)
    if uri and not path:
        hint = "sqlite:////data/mlflow.db is /data/mlflow.db; other databases are not read"
        table.refuse("uri", "expected sqlite:///PATH", hint)
    absolute = table.document.resolve(path) if path else Path()
    settings = MlflowDbSettings(uri=f"sqlite:///{absolute}", path=absolute, **_read_store_keys(table))
    table.refuse_unknown_keys(of='a source of kind "mlflow-db"')
    return settings


def _read_store_keys(table: Table) -> _StoreKeys:
    default = StoreOptions(name="")
    return {
        "name": table.name(),
        "experiments": table.texts("experiments"),
        "on_delete": table.choice("on_delete", get_args(OnDelete), default.on_delete),
        "stale_after_s": table.optional_seconds("stale_after_s"),
        "poll_interval_s": table.seconds("poll_interval_s", default.poll_interval_s),
        "reconcile_interval_s": table.seconds("reconcile_interval_s", default.reconcile_interval_s),
        "watch": table.boolean("watch", default=default.watch),
    }


def _read_uri(table: Table, written: str) -> tuple[str, str | None, Secret | None]:
    """Return the URI of a tracking server without its credentials, and these."""
    if not written:
        return "", None, None
    raw = table.content["uri"]
    try:
        origin: SecretOrigin = "environment" if refers_to_environment(raw) else "written out"
        uri, username, password = split_userinfo(written, origin=origin)
        parts = urlsplit(uri)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an IPv6 address without its bracket
        usable = False
    if not usable:
        table.refuse("uri", "expected the URI of a tracking server", 'for example "https://mlflow.example.org"')
        return "", None, None
    if parts.query or parts.fragment:
        table.refuse("uri", "expected a URI without ? and #")
    warn_of_written_secret(table, "uri", password)
    return uri.rstrip("/"), username, password


def _check_credentials(table: Table, settings: DestinationSettings) -> None:
    if settings.token is not None and settings.username is not None:
        table.refuse("token", "expected either a token or a username with a password, found both")
    if (settings.username is None) != (settings.password is None):
        there, missing = ("username", "password") if settings.password is None else ("password", "username")
        key = there if there in table.content else "uri"
        if missing not in table.content:  # else its own problem is noted
            table.refuse(key, f"a {there} without a {missing}", f"add {missing}")
    secret = settings.token or settings.password
    if (
        secret is not None
        and settings.uri.startswith("http:")
        and not is_loopback(urlsplit(settings.uri).hostname or "")
    ):
        table.document.warn((*table.place, "uri"), "credentials go over plain http: anyone on the way can read them")


def _read_limits(table: Table) -> dict[str, int | bool | None]:
    """Return the fields of ``Limits`` that are written; "unlimited" where a limit may be absent."""
    overrides: dict[str, int | bool | None] = {}
    for field in dataclasses.fields(Limits):
        if not table.has(field.name):
            continue
        if field.name in _MAY_BE_UNLIMITED and table.content[field.name] == UNLIMITED:
            overrides[field.name] = None
        elif isinstance(field.default, bool):
            overrides[field.name] = table.boolean(field.name, default=field.default)
        elif field.name.endswith("_bytes"):
            overrides[field.name] = table.size_bytes(field.name, 1)
        else:
            overrides[field.name] = table.integer(field.name, 1, minimum=1)
    table.refuse_unknown_keys(of="[destinations.limits]")
    return overrides


def _these_are(supported: tuple[str, ...]) -> str:
    return f"supported now: {', '.join(supported)}"


_SOURCE_READERS: dict[str, Callable[[Table], SourceSettings | MessageSourceSettings]] = {
    MlrunsSettings.kind: _read_mlruns,
    MlflowDbSettings.kind: _read_mlflow_db,
    ServiceBusSourceSettings.kind: read_service_bus_source,
    MqttSourceSettings.kind: read_mqtt_source,
    WebhookSettings.kind: read_webhook,
}
_SINK_READERS: dict[str, Callable[[Table], SinkSettings]] = {
    ServiceBusSinkSettings.kind: read_service_bus_sink,
    MqttSinkSettings.kind: read_mqtt_sink,
    WebhookSinkSettings.kind: read_webhook_sink,
    EventGridSinkSettings.kind: read_event_grid_sink,
}
