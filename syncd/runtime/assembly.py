"""Assembly: makes sources, destinations and channels from settings. The only place that knows every adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from syncd.configuration.model import DestinationSettings, MlrunsSettings, SourceSettings
from syncd.configuration.relay_settings import RelaySettings
from syncd.configuration.secret import Secret
from syncd.core.facts import ArtifactSeen
from syncd.destinations.base import Destination, DestinationReader, ServerFacts, Upload
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import MlflowServer
from syncd.rest.client import BasicAuth, BearerAuth, TokenProvider
from syncd.runtime.bandwidth import throttle_of
from syncd.runtime.channel import Channel, Supply
from syncd.runtime.lane import ServerLanes
from syncd.runtime.lanes import Lanes
from syncd.sources.base import StoreSource
from syncd.sources.file_store.discovery import tracking_databases_below
from syncd.sources.file_store.source import FileStoreSource
from syncd.sources.mlflow_db.source import MlflowDbSource


@dataclass(frozen=True, slots=True)
class StoreOpening:
    """One store to read: the name of its source, a name of its own for the journal, and how to open it."""

    source: SourceSettings
    journal_name: str
    open: Callable[[], StoreSource]


def store_openings(settings: SourceSettings, *, temp_dir: Path) -> list[StoreOpening]:
    """Return the stores of a source: one, or one for each path of an ``mlruns`` source."""
    if isinstance(settings, MlrunsSettings):
        return [
            StoreOpening(
                settings,
                settings.name if number == 0 else f"{settings.name}:{path}",
                lambda path=path: FileStoreSource(settings.name, path),  # type: ignore[misc]
            )
            for number, path in enumerate(settings.paths)
        ]
    return [
        StoreOpening(
            settings,
            settings.name,
            lambda: MlflowDbSource(settings.name, settings.path, temp_dir=temp_dir),
        )
    ]


def unnamed_databases(sources: Sequence[SourceSettings]) -> list[str]:
    """Return the tracking databases that lie in directories of ``mlruns`` sources and are no sources themselves.

    Since MLflow 3.13 the default store is ``mlflow.db``, often beside the ``mlruns`` of older releases.
    """
    named = {str(settings.path.resolve()) for settings in sources if not isinstance(settings, MlrunsSettings)}
    below = {
        path
        for settings in sources
        if isinstance(settings, MlrunsSettings)
        for directory in settings.paths
        for path in tracking_databases_below(str(directory.resolve()))
    }
    return sorted(below - named)


def open_rest(settings: DestinationSettings) -> MlflowRest:
    """Return a client of an MLflow tracking server; it is closed by the adapter that gets it."""
    auth: BasicAuth | BearerAuth | None = None
    if settings.token is not None:
        auth = BearerAuth(_token_provider(settings.token))
    elif settings.username is not None:
        auth = BasicAuth(settings.username, settings.password.reveal() if settings.password else "")
    return MlflowRest(
        settings.uri,
        auth=auth,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        deadlines=settings.deadlines,
        connections=settings.max_concurrency + 4,
        throttle=throttle_of(settings.bwlimit_bytes_s),
    )


def _token_provider(secret: Secret) -> TokenProvider:
    """Return what hands out the token, reading its file or variable again after it was refused."""
    tokens = [secret]

    async def provide(refused: bool) -> str:
        if refused:
            tokens[0] = tokens[0].renewed()
        return tokens[0].reveal()

    return provide


async def open_doors(settings: DestinationSettings) -> tuple[Destination, DestinationReader]:
    """Return both doors of a destination; closing the first closes all connections.

    Raises:
        DestinationError: the workspace was named without its host, and Azure does not tell it.
    """
    if settings.workspace is not None:
        from syncd.runtime.workspace_clients import WorkspaceClients  # 1 MiB that only a workspace needs

        return await WorkspaceClients(settings, settings.workspace).doors()
    rest = open_rest(settings)
    return MlflowServer(rest, duplicates=settings.duplicates), MlflowReader(rest, duplicates=settings.duplicates)


def open_artifact(artifact: ArtifactSeen) -> Upload:
    """Return a local artifact for sending."""
    return LocalUpload(artifact.root, artifact.path, artifact.size_bytes, artifact.mtime_ns)


class Way(Protocol):
    """A destination and how it is delivered to."""

    async def probe(self) -> str:
        """Reach it with its credentials; return its version, "" if it does not tell."""
        ...

    def lanes(self, supply: Supply) -> Lanes:
        """Return what makes lanes to it; it has been reached."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class ServerWay:
    """A tracking server; a ``Way``."""

    def __init__(self, settings: DestinationSettings) -> None:
        self._settings = settings
        self._doors: tuple[Destination, DestinationReader] | None = None
        self._facts: ServerFacts | None = None

    async def probe(self) -> str:
        """Reach the server; see ``Way``."""
        if self._doors is None:
            self._doors = await open_doors(self._settings)
        self._facts = await self._doors[0].probe()
        return self._facts.version

    def lanes(self, supply: Supply) -> ServerLanes:
        """Return what makes lanes to it; see ``Way``."""
        assert self._doors is not None
        assert self._facts is not None
        destination, reader = self._doors
        channel = Channel(
            **supply.named(),
            destination=destination,
            reader=reader,
            limits=self._settings.limits(self._facts.limits),
            logged_models=self._facts.logged_models,
            replaces_artifacts=self._facts.replaces_artifacts,
            overflow_interval_s=self._settings.overflow_interval_s,
        )
        return ServerLanes(channel)

    async def close(self) -> None:
        """Close all connections."""
        if self._doors is not None:
            await self._doors[0].close()


def open_way(settings: DestinationSettings | RelaySettings, *, daemon: str) -> Way:
    """Return the way to a destination for the daemon of that configured name; nothing is connected yet."""
    if isinstance(settings, RelaySettings):
        from syncd.runtime.relay_assembly import RelayWay  # what only a relay needs

        return RelayWay(settings, daemon=daemon)
    return ServerWay(settings)
