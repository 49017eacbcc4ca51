"""What messages say, as frozen values.

Rules
-----
1. A statement speaks of one run, gives one command, or tells of something that happened elsewhere.
2. ``time_ms`` orders what is said of the same thing: when the message says it was made, ms since the epoch, UTC.
3. Nothing here has been permitted yet: whether a source may give a command or name a path is for its reader to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from syncd.core.facts import RunStatus
from syncd.core.relay.values import RelayedChunk, RelayedFacts

CommandName = Literal["sync", "register", "deploy", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run: its id, which a message gives or which follows from source, device and name; "" for no name, no device."""

    id: str
    name: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class InlineArtifact:
    """A file whose bytes the message carries; ``path`` is relative, with "/", and leads nowhere else."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class LocalArtifact:
    """A file that lies on the reader's machine at ``root``/``path``; only below roots that its source may name."""

    path: str
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptArtifact:
    """An artifact whose bytes lie in a file, ``root``/``path``, as it was when it was put or found there.

    ``digest`` tells one content from another. ``spooled`` says that the root is syncd's own and goes when nobody needs
    it.
    """

    path: str
    root: str
    size_bytes: int
    mtime_ns: int
    digest: str
    spooled: bool


def local_digest(*, root: str, size_bytes: int, mtime_ns: int) -> str:
    """Return the digest of a file on the reader's machine: its bytes are not read for it."""
    return f"{root}\n{size_bytes}\n{mtime_ns}"


Artifact = InlineArtifact | LocalArtifact | KeptArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLogged:
    """Metrics, params, tags and artifacts of a run. ``lines`` are points in wire form, ``count`` of them."""

    run: RunRef
    time_ms: int
    experiment: str = ""
    lines: bytes = b""
    count: int = 0
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[Artifact] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run has started at ``start_time_ms``."""

    run: RunRef
    time_ms: int
    start_time_ms: int
    experiment: str = ""
    parent_run_id: str = ""
    user_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A run has ended at ``end_time_ms`` with a terminal status."""

    run: RunRef
    time_ms: int
    end_time_ms: int
    status: RunStatus
    experiment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Somebody wants something done; ``arguments`` are those of its schema."""

    name: CommandName
    time_ms: int
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEvent:
    """Something happened in another service, such as ``azureml.run_completed`` or ``mlflow.model_version_created``.

    ``subject`` is what it happened to, in that service's words; ``data`` is JSON with names in lower case with "_".
    """

    name: str
    time_ms: int
    source: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message of a type that syncd does not know."""

    type: str


@dataclass(frozen=True, slots=True)
class Relayed:
    """What another syncd says, not read yet: its permission is asked first. ``type`` is the CloudEvent's."""

    type: str
    identity: str
    packed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptChunk:
    """A chunk whose bytes lie in the spool below ``root``, and what is there of its file by now.

    ``chunk`` has no content any more. ``pieces`` are half-open ranges of bytes. ``whole`` is the file once nothing of
    it is missing. What came of it:

    - ``known``: nothing that was not known;
    - ``confirmed``: the file is whole already, and was told again by a later word;
    - ``part``: more of the file is there;
    - ``whole``: all of it is there;
    - ``broken``: all of it is there and not what its digest says: it is forgotten.
    """

    chunk: RelayedChunk
    outcome: Literal["known", "confirmed", "part", "whole", "broken"]
    session: str = ""
    root: str = ""
    pieces: Sequence[tuple[int, int]] = ()
    whole: KeptArtifact | None = None


RunStatement = RunLogged | RunStarted | RunEnded
RelayStatement = RelayedFacts | KeptChunk
Statement = RunStatement | Command | ForeignEvent | Relayed | RelayStatement | Ignored


@dataclass(frozen=True, slots=True)
class Said:
    """One statement with the identity of the event that made it; the same identity is the same event, told again.

    ``identity`` "" means that nothing tells it from another of the same content. ``index`` is the event's in its batch.
    """

    identity: str
    statement: Statement
    index: int = 0
