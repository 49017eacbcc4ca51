"""Turn messages into what the inbox takes: decoded, permitted, artifacts kept. Runs in a thread; touches no broker."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from syncd.core.messages.decode import Rules, decode
from syncd.core.messages.envelopes import Received
from syncd.core.messages.statements import (
    Artifact,
    Command,
    InlineArtifact,
    KeptArtifact,
    LocalArtifact,
    Relayed,
    RelayStatement,
    RunLogged,
    Statement,
    local_digest,
)
from syncd.core.relay.reading import Malformed, read_chunk, read_facts
from syncd.core.relay.values import CHUNK_TYPE
from syncd.errors import ArtifactMissing, JournalError, MessageRefused
from syncd.journal.inbox import Told
from syncd.journal.partials import Partials
from syncd.journal.spool import Spool

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """What messages of one source may ask for: commands, about these sources and destinations, and files below roots.

    ``relay`` says that they may be another syncd's.
    Only ``stores`` among the sources can be told to look again. A source may not pause ``itself``: it could not be told
    to go on.
    """

    commands: Collection[str] = ()
    roots: Sequence[Path] = ()
    stores: Collection[str] = ()
    sources: Collection[str] = ()
    destinations: Collection[str] = ()
    itself: str = ""
    relay: bool = False

    def check(self, command: Command) -> None:
        """Raise ``MessageRefused`` if a command is not permitted, or not of this version."""
        if command.name in ("register", "deploy"):
            raise MessageRefused(f"the command {command.name} is not in this version", reason="NotSupported")
        if command.name not in self.commands:
            hint = f'add it to "commands" of the source {self.itself}'
            raise MessageRefused(f"the command {command.name} is not allowed here", reason="NotAllowed", hint=hint)
        [(kind, name)] = command.arguments.items()
        known = {"source": self.sources, "destination": self.destinations}[kind]
        if name not in (self.stores if command.name == "sync" else known):
            store = " of kind mlruns or mlflow-db" if command.name == "sync" else ""
            raise MessageRefused(f"there is no {kind} {name!r}{store}", reason="NotAllowed")
        if command.name == "pause" and kind == "source" and name == self.itself:
            raise MessageRefused("a source cannot pause itself: nothing could tell it to go on", reason="NotAllowed")

    def check_relay(self) -> None:
        """Raise ``MessageRefused`` if messages of another syncd are not permitted."""
        if not self.relay:
            hint = f"set relay = true at the source {self.itself}"
            raise MessageRefused("messages of another syncd are not taken here", reason="NotAllowed", hint=hint)


@dataclass(slots=True)
class Read:
    """What one message came to: what is told, what was kept for it, and what of it is refused (None: nothing)."""

    told: list[Told] = field(default_factory=list)
    kept: list[KeptArtifact] = field(default_factory=list)
    refusal: MessageRefused | None = None


class MessageReader:
    """Reads the messages of one source."""

    def __init__(self, rules: Rules, permits: Permits, spool: Spool, partials: Partials, *, shared: bool) -> None:
        self._rules = rules
        self._permits = permits
        self._spool = spool
        self._partials = partials
        self._shared = shared

    def read(
        self,
        message: Received,
        *,
        deliveries: int,
        packet: int = 0,
        packet_returns: bool = False,
        now_ms: int,
        session: str = "",
    ) -> Read:
        """Return what a message comes to.

        Args:
            message: the message.
            deliveries: how often its broker has handed it over, this time included.
            packet: its number while it is handed over again, 0 for none.
            packet_returns: whether others have that number once it is settled.
            now_ms: wall clock.
            session: the broker's, in which it came; "" for none.

        Raises:
            JournalError: an artifact could not be kept.
        """
        decoded = decode(message, self._rules, now_ms=now_ms)
        read = Read(refusal=decoded.refusal)
        content = "" if all(said.identity for said in decoded.said) else _content_identity(message, packet)
        for said in decoded.said:
            try:
                read.told.append(
                    Told(
                        identity=said.identity or f"{content}\n{said.index}",
                        statement=self._statement(said.statement, session, read),
                        repeatable=not said.identity,
                        again=deliveries > 1,
                        elsewhere=self._shared and deliveries > 1,
                        returns=packet_returns and not said.identity,
                    )
                )
            except MessageRefused as refusal:
                read.refusal = read.refusal or refusal
            except JournalError:
                self._spool.discard(read.kept)
                raise
        return read

    def _statement(self, statement: Statement, session: str, read: Read) -> Statement:
        """Return what may be said, with its artifacts kept."""
        if isinstance(statement, Command):
            self._permits.check(statement)
        if isinstance(statement, Relayed):
            self._permits.check_relay()
            statement = self._relayed(statement, session, read)
        if isinstance(statement, RunLogged) and statement.artifacts:
            statement = replace(statement, artifacts=[self._kept(one, read) for one in statement.artifacts])
        return statement

    def _relayed(self, said: Relayed, session: str, read: Read) -> RelayStatement:
        try:
            if said.type != CHUNK_TYPE:
                return read_facts(said.packed, identity=said.identity)
            chunk = read_chunk(said.packed)
        except Malformed as exc:
            raise MessageRefused(str(exc.wrong.below("data_base64"))) from exc
        kept = self._partials.keep(chunk, session)
        if kept.outcome == "broken":
            text = f"the bytes of {chunk.path} are not what its digest says: all that came of it is forgotten"
            read.refusal = read.refusal or MessageRefused(text)
        return kept

    def _kept(self, artifact: Artifact, read: Read) -> KeptArtifact:
        match artifact:
            case InlineArtifact():
                kept = self._spool.keep(artifact)
                read.kept.append(kept)
                return kept
            case LocalArtifact():
                return _found(artifact, self._permits.roots)
            case KeptArtifact():
                return artifact


def _content_identity(message: Received, packet: int) -> str:
    """Return what tells a message that has no id from others; the same content may come in many of them."""
    content = hashlib.sha256(message.body).hexdigest()
    return f"content\n{message.address}\n{content}\n{packet}"


def _found(artifact: LocalArtifact, roots: Sequence[Path]) -> KeptArtifact:
    """Return a file that a message names, if it lies below a root that its source may name.

    Links above the named root are followed before that is decided, and none below it: see ``LocalUpload``.
    """
    real = Path(os.path.realpath(artifact.root))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        text = f"the directory {artifact.root} is not below an allowed root"
        raise MessageRefused(text, reason="NotAllowed", hint='add it to "roots" of this source')
    try:
        found = _stat_below(real, artifact.path)
    except (OSError, ArtifactMissing) as exc:
        raise MessageRefused(f"there is no file {artifact.path} in {artifact.root}: {exc}") from exc
    return KeptArtifact(
        path=artifact.path,
        root=str(real),
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digest=local_digest(root=str(real), size_bytes=found.st_size, mtime_ns=found.st_mtime_ns),
        spooled=False,
    )


def _stat_below(root: Path, path: str) -> os.stat_result:
    at = root
    for name in path.split("/"):
        at /= name
        found = at.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise ArtifactMissing("a link on the way is not followed")
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactMissing("it is not a regular file")
    return found
