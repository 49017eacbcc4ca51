"""Everything one workspace has, and what an API hands to the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from tests.standins.azureml.artifacts import Artifacts
from tests.standins.azureml.blobs import BlobStore, SharedAccess
from tests.standins.azureml.faults import Faults, RequestLog
from tests.standins.azureml.identity import Identity
from tests.standins.azureml.limits import Habits, Limits
from tests.standins.azureml.place import Place
from tests.standins.azureml.refusals import Family
from tests.standins.azureml.registry import Registry
from tests.standins.azureml.runs import Json
from tests.standins.azureml.tracking import Tracking

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One call: ``path`` as aiohttp writes patterns, ``kind`` as faults and the log name it."""

    family: Family
    kind: str
    method: str
    path: str
    handler: Handler


class State:
    """The parts of a workspace; ``folder`` is where blobs are kept."""

    def __init__(self, place: Place, folder: Path, *, limits: Limits, habits: Habits) -> None:
        self.place = place
        self.limits = limits
        self.habits = habits
        self.identity = Identity(place.tenant, place.client_id, place.client_secret, place.identity_header)
        self.faults = Faults()
        self.log = RequestLog()
        self.blobs = BlobStore(folder / "blobs")
        self.access = SharedAccess()
        self.tracking = Tracking(limits, habits, place.artifact_uri)
        self.registry = Registry()
        self.datastores: dict[str, tuple[Json, Json]] = {}  # beside the two of every workspace: properties and secrets
        self.artifacts = Artifacts(place, limits, habits, blobs=self.blobs, access=self.access)
