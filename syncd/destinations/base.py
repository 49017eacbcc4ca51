"""What a destination is: two small doors, one to write through and one to read back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from syncd.core.facts import DatasetInput
from syncd.core.limits import Limits
from syncd.core.requests import CreateModel, CreateRun, Request
from syncd.rest.streaming import Upload

__all__ = [
    "Destination",
    "DestinationReader",
    "RemoteExperiment",
    "RemoteFile",
    "RemoteModel",
    "RemoteRun",
    "RemoteSubject",
    "ServerFacts",
    "Upload",
]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What ``probe`` found: version text ("" when unknown), and what the server can do.

    ``replaces_artifacts`` is false where an artifact, once stored, stays as it is: other bytes under its name are
    refused.
    """

    version: str
    limits: Limits
    logged_models: bool
    proxied_artifacts: bool
    replaces_artifacts: bool = True


@dataclass(frozen=True, slots=True)
class RemoteSubject:
    """A run or model on the destination. ``artifact_root`` is the server's URI of its artifact directory."""

    id: str
    artifact_root: str
    adopted: bool = False  # found by its source tag, not created just now: it may already hold content


@dataclass(frozen=True, slots=True)
class RemoteExperiment:
    """An experiment on the destination. ``appends`` is true unless an identical point sent twice is known to be one."""

    id: str
    name: str
    created: bool
    appends: bool
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """Everything about a run but its history and artifacts, as the server tells it.

    ``latest`` maps each metric key to (value, timestamp_ms, step) of its latest point; ``value`` is a float, NaN
    and infinities included. ``model_outputs`` maps each model's id to its step, None when the server does not say.
    """

    id: str
    experiment_id: str
    name: str
    status: str
    start_time_ms: int | None
    end_time_ms: int | None
    user_id: str
    lifecycle_stage: str
    artifact_root: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    latest: Mapping[str, tuple[float, int, int]]
    datasets: Sequence[DatasetInput] = ()
    model_inputs: Sequence[str] = ()
    model_outputs: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A LoggedModel as the server tells it; ``metrics`` are (key, value, timestamp_ms, step, run_id)."""

    id: str
    experiment_id: str
    name: str
    model_type: str
    status: str
    source_run_id: str
    artifact_root: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Sequence[tuple[str, float, int, int, str]] = ()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in an artifact directory: path relative to it, size in bytes (None when the server does not say).

    ``is_own`` is false for what lies there and is none of the subject's artifacts: files of models among those of a
    run, and what syncd notes beside.
    """

    path: str
    size_bytes: int | None
    is_own: bool = True


class Destination(Protocol):
    """Writes to one tracking server. All methods may raise any DestinationError; none retries by itself."""

    async def probe(self) -> ServerFacts:
        """Reach the server, check the credentials, learn its version and abilities."""
        ...

    async def ensure_experiment(self, name: str) -> RemoteExperiment:
        """Return the experiment of that name, created if it was missing. Rejected if it is deleted there."""
        ...

    async def find(
        self, kind: str, experiment_id: str, source_ids: Collection[str], *, besides: str = ""
    ) -> Mapping[str, RemoteSubject]:
        """Return, by source id, the runs or models ("run", "model") that carry one of these source tags.

        If several exist of one source (a race of two daemons), all sides choose the same one. Source ids of which
        there are only such that carry the session tag ``besides`` may be left out: the caller knows those.
        """
        ...

    async def create(self, request: CreateRun | CreateModel) -> RemoteSubject:
        """Create the run or model. OutcomeUnknown means: ``find`` before another create."""
        ...

    async def send(self, request: Request) -> None:
        """Apply one request. Rejected speaks of the request as a whole: cut it in two and try the halves."""
        ...

    async def upload(self, subject: RemoteSubject, artifact: Upload) -> None:
        """Store the artifact below the subject's artifact root, replacing what is there.

        NameNotHeld where it cannot be kept under its name, or where other bytes are kept there and not replaced.
        """
        ...

    async def discard(self, kind: str, remote_id: str) -> None:
        """Delete a run or model that lost a race of two creates and that holds nothing."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class DestinationReader(Protocol):
    """Reads a tracking server back, for verify and for reconciling. Streams; nothing grows with the server."""

    async def experiments(self) -> Mapping[str, RemoteExperiment]:
        """Return the active experiments by name."""
        ...

    async def runs_by_source(self, experiment_id: str, source_run_id: str) -> Sequence[RemoteRun]:
        """Return all active runs of the experiment that carry that source tag (more than one is a fault)."""
        ...

    async def run(self, run_id: str) -> RemoteRun:
        """Return one run; the models linked to it may be left out."""
        ...

    def history(self, run_id: str, key: str) -> AsyncIterator[tuple[float, int, int]]:
        """Yield (value, timestamp_ms, step) of every point of that key, repeated ones repeatedly, in any order."""
        ...

    async def models_by_source(
        self, experiment_id: str, source_model_id: str, source_run_id: str
    ) -> Sequence[RemoteModel]:
        """Return the logged models that carry that source tag; empty where the server has none.

        ``source_run_id`` is the source's id of the run that made it, "" for none: where to look, for some servers.
        """
        ...

    def files(self, subject: RemoteSubject) -> AsyncIterator[RemoteFile]:
        """Yield every file below the subject's artifact root."""
        ...

    def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of one file in pieces."""
        ...
