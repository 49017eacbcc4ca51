"""Assembly: makes sources, destinations and channels from settings. The only place that knows every adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from syncd.azure.arm import ArmRest
from syncd.azure.credentials import Credentials
from syncd.configuration.model import DestinationSettings, MlrunsSettings, SourceSettings, WorkspaceSettings
from syncd.configuration.secret import Secret
from syncd.core.facts import ArtifactSeen
from syncd.core.limits import Limits
from syncd.destinations.base import Destination, DestinationReader, Upload
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import MlflowServer
from syncd.errors import ConfigError
from syncd.rest.client import BasicAuth, BearerAuth, TokenProvider
from syncd.rest.streaming import Deadlines
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
        deadlines=deadlines_of(settings),
        connections=settings.max_concurrency + 4,
        throttle=Bandwidth(settings.bwlimit_bytes_s).take if settings.bwlimit_bytes_s else None,
    )


def deadlines_of(settings: DestinationSettings) -> Deadlines:
    """Return how long to wait for a destination."""
    return Deadlines(
        connect_s=settings.connect_timeout_s, stall_s=settings.read_timeout_s, total_s=settings.total_timeout_s
    )


def _token_provider(secret: Secret) -> TokenProvider:
    """Return what hands out the token, reading its file or variable again after it was refused."""
    tokens = [secret]

    async def provide(refused: bool) -> str:
        if refused:
            tokens[0] = tokens[0].renewed()
        return tokens[0].reveal()

    return provide


def open_credentials(workspace: WorkspaceSettings, ca_file: Path | None) -> Credentials:
    """Return what signs in to that workspace's cloud; nothing is asked for yet."""
    return Credentials(
        workspace.sign_in,
        authority_host=workspace.cloud.authority_host,
        ca_file=str(ca_file) if ca_file else None,
    )


def open_arm(settings: DestinationSettings, workspace: WorkspaceSettings, credentials: Credentials) -> ArmRest:
    """Return a REST client of the workspace's Azure Resource Manager, for ``ArmClient``."""
    return ArmRest(
        workspace.cloud.resource_manager,
        auth=BearerAuth(credentials.provider(workspace.cloud.scope)),
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        deadlines=deadlines_of(settings),
    )


async def open_doors(settings: DestinationSettings) -> tuple[Destination, DestinationReader]:
    """Return both doors of a destination; closing the first closes all connections.

    Raises:
        DestinationError: the workspace was named without its host, and Azure does not tell it.
    """
    if settings.workspace is not None:
        raise ConfigError(
            "workspaces are not in this version yet", doing="opening the destination", target=settings.name
        )
    rest = open_rest(settings)
    return MlflowServer(rest, duplicates=settings.duplicates), MlflowReader(rest, duplicates=settings.duplicates)


def open_artifact(artifact: ArtifactSeen) -> Upload:
    """Return a local artifact for sending."""
    return LocalUpload(artifact.root, artifact.path, artifact.size_bytes, artifact.mtime_ns)


def limits_of(settings: DestinationSettings, found: Limits) -> Limits:
    """Return the limits to keep to, given those that the server was found to have."""
    return settings.limits(found)


class Bandwidth:
    """Hands out bytes at a steady rate (``bwlimit``), at most one second's worth in advance."""

    def __init__(self, bytes_per_s: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._free_at_s = monotonic()

    async def take(self, size_bytes: int) -> None:
        """Wait until this many bytes may be sent."""
        now_s = self._monotonic()
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + size_bytes / self._bytes_per_s
        await asyncio.sleep(max(0.0, self._free_at_s - now_s))
