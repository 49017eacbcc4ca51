"""What relayed messages say, as frozen values.

Rules
-----
1. A message can be understood alone: ``about`` holds the heads of its subject and of what that belongs to (its
   experiment, its parent or the run that made it), and the same of the models it links to. They are references; what is
   to be delivered is in ``facts``.
2. ``order`` says which of two words about the same thing is the later one, whatever way and however often messages go:
   it grows with the changes of a journal, and with the journals of a machine.
3. An experiment's id is unique only inside a store; where a message is read its key's ``store`` names the daemon and
   the source as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from syncd.core.changes import Head
from syncd.core.facts import Fact, SubjectKey

FACTS_TYPE: Final = "dev.syncd.relay.facts"
CHUNK_TYPE: Final = "dev.syncd.relay.chunk"
TYPES: Final = (FACTS_TYPE, CHUNK_TYPE)
# What a message holds at most when it is unpacked, in bytes.
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_ABOUT: Final = 256  # heads that it refers to
VERSION: Final = 1
# No journal takes so many changes a second: one that is made later begins above all that the one before has reached.
_CHANGES_PER_S: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class RelayOrigin:
    """Where a message comes from: a journal (its id, and when it was made, s since the epoch), a daemon, its source."""

    journal: str
    journal_made_s: int
    daemon: str
    source: str

    @property
    def scope(self) -> str:
        """With what a store's name begins that is not this machine's (rule 3)."""
        return f"{self.daemon}/{self.source}/"

    def order(self, seq: int) -> int:
        """Return the order of a change of this journal: 64 bits hold it for ever."""
        return self.journal_made_s * _CHANGES_PER_S + seq


@dataclass(frozen=True, slots=True)
class RelayedFact:
    """A fact with its order. Points that may have been told before are so marked (``MetricsLogged.again``)."""

    order: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class RelayedFacts:
    """Facts of one subject, in their order. ``identity`` is that of the message."""

    identity: str
    origin: RelayOrigin
    subject: SubjectKey
    about: Sequence[Head]
    facts: Sequence[RelayedFact]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedChunk:
    """Bytes of an artifact from ``offset`` on; ``digest`` is the SHA-256 of the whole of it, in hex."""

    origin: RelayOrigin
    subject: SubjectKey
    about: Sequence[Head]
    order: int
    path: str
    size_bytes: int
    digest: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message as it travels: a CloudEvent in structured mode. ``id`` follows from what it says.

    ``seqs`` are the changes that are wholly told once this parcel and those before it have arrived.
    """

    id: str
    body: bytes
    seqs: Sequence[int] = ()
