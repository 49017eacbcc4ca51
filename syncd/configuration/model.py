"""What syncd is told to do, as frozen values with units in their names. No reading, no checking, no I/O.

Rules
-----
1. Paths are absolute: ``loading`` has resolved them against the directory of the configuration file.
2. Every default of the configuration is a default here, and docs/configuration.md repeats it.
3. A credential is a ``Secret``; ``DestinationSettings.uri`` never holds one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

from syncd.azure.address import WorkspaceAddress
from syncd.azure.clouds import Cloud
from syncd.azure.sign_in import SignIn
from syncd.configuration.broker_settings import (
    MqttSinkSettings,
    MqttSourceSettings,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
)
from syncd.configuration.message_settings import OnDelete, WebhookSettings
from syncd.configuration.relay_settings import RelaySettings
from syncd.configuration.secret import Secret
from syncd.configuration.sink_settings import EventGridSinkSettings, WebhookSinkSettings
from syncd.core.filters import Filter
from syncd.core.limits import Limits
from syncd.rest.streaming import Deadlines

LogFormat = Literal["auto", "json", "plain"]
LogLevel = Literal["debug", "info", "warning", "error"]
Duplicates = Literal["auto", "ignored", "appended"]
MAX_CONCURRENCY = 6
# A workspace is far away and not one small server: what it answers, not what it computes, is waited for.
WORKSPACE_CONCURRENCY = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """Settings of the process as a whole; events come from "syncd/" and ``name``, "" for the host's.

    A point waits at most ``flush_interval_s`` before it is sent; on SIGTERM the backlog is drained for at most
    ``shutdown_grace_s``; beyond ``journal_max_bytes`` intake pauses and sending goes on. The newest ``events_kept``
    events stay although every sink has them.
    """

    name: str = ""
    state_dir: Path = Path("/var/lib/syncd")
    flush_interval_s: float = 0.2
    shutdown_grace_s: float = 20.0
    journal_max_bytes: int = 2 * 1024**3
    events_kept: int = 10_000
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What both kinds of local store have in common.

    ``experiments`` are globs of names to read (empty: all). A run is RUNNING for as long as its store says so; after
    ``stale_after_s`` of silence (None: never) it is marked.
    """

    kind: ClassVar[str] = ""
    name: str
    experiments: tuple[str, ...] = ()
    on_delete: OnDelete = "keep"
    stale_after_s: float | None = None
    poll_interval_s: float = 1.0
    reconcile_interval_s: float = 300.0
    watch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MlrunsSettings(StoreOptions):
    """FileStores in or below one or more directories."""

    kind: ClassVar[str] = "mlruns"
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowDbSettings(StoreOptions):
    """One SQLite store; ``uri`` is ``sqlite:///`` and the absolute ``path``."""

    kind: ClassVar[str] = "mlflow-db"
    uri: str
    path: Path


SourceSettings = MlrunsSettings | MlflowDbSettings
MessageSourceSettings = ServiceBusSourceSettings | MqttSourceSettings | WebhookSettings
SinkSettings = ServiceBusSinkSettings | MqttSinkSettings | WebhookSinkSettings | EventGridSinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreRule:
    """Which artifacts go to a datastore: of these globs (empty: any) that are larger than so much (None: any)."""

    name: str
    artifacts: tuple[str, ...] = ()
    larger_than_bytes: int | None = None

    def takes(self, path: str, size_bytes: int) -> bool:
        """Say whether an artifact of that path and size goes there."""
        named = not self.artifacts or any(fnmatchcase(path, pattern) for pattern in self.artifacts)
        return named and (self.larger_than_bytes is None or size_bytes > self.larger_than_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSettings:
    """What an Azure Machine Learning workspace needs beyond a tracking server.

    ``address`` has no host where the workspace was named by subscription, group and name: Azure tells it. Of
    ``datastores`` the first rule that fits an artifact holds.
    """

    address: WorkspaceAddress
    cloud: Cloud
    sign_in: SignIn
    datastores: tuple[DatastoreRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSettings:
    """One tracking server and how it is spoken to; ``workspace`` is not None where that is Azure Machine Learning's.

    Either ``username`` with ``password``, or ``token``, or none of them. ``limit_overrides`` replace single fields
    of the ``Limits`` that the destination has by its kind. ``bwlimit_bytes_s`` None sets no bound.
    ``duplicates`` says what the server does with an identical point sent again ("auto": find out).
    ``total_timeout_s`` bounds a whole request except the body of an artifact, which ``read_timeout_s`` and
    ``connect_timeout_s`` bound by its stalls. Points that have no place there are gathered for
    ``overflow_interval_s`` before they are written among the run's artifacts.
    """

    name: str
    uri: str
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    ca_file: Path | None = None
    max_concurrency: int = MAX_CONCURRENCY
    bwlimit_bytes_s: int | None = None
    duplicates: Duplicates = "auto"
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    total_timeout_s: float = 180.0
    overflow_interval_s: float = 60.0
    limit_overrides: Mapping[str, int | bool | None] = field(default_factory=dict)
    filter: Filter = field(default_factory=Filter)
    workspace: WorkspaceSettings | None = None

    @property
    def deadlines(self) -> Deadlines:
        """How long to wait for its answers."""
        return Deadlines(connect_s=self.connect_timeout_s, stall_s=self.read_timeout_s, total_s=self.total_timeout_s)

    def limits(self, of_kind: Limits) -> Limits:
        """Return the limits to keep to, given those ``of_kind`` (the destination's defaults)."""
        overrides: dict[str, Any] = dict(self.limit_overrides)
        return dataclasses.replace(of_kind, **overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where the daemon's own HTTP server listens; ``token`` is required unless that is the loopback."""

    host: str = "127.0.0.1"
    port: int = 8700
    token: Secret | None = None
    liveness_window_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One whole configuration. ``file`` is where it was read from; ``warnings`` are for ``syncd validate``.

    ``sources`` are stores, ``message_sources`` what is told by messages; their names are unique together.
    """

    daemon: DaemonSettings
    sources: tuple[SourceSettings, ...]
    destinations: tuple[DestinationSettings | RelaySettings, ...]
    message_sources: tuple[MessageSourceSettings, ...] = ()
    sinks: tuple[SinkSettings, ...] = ()
    http: HttpSettings | None = None
    file: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def servers(self) -> tuple[DestinationSettings, ...]:
        """The destinations that are tracking servers."""
        return tuple(one for one in self.destinations if isinstance(one, DestinationSettings))

    @property
    def relays(self) -> tuple[RelaySettings, ...]:
        """The destinations that are brokers."""
        return tuple(one for one in self.destinations if isinstance(one, RelaySettings))
