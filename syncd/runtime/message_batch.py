"""What became of a batch of messages, between its commit and its settlement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from syncd.core.messages.envelopes import Received
from syncd.core.messages.statements import Ignored
from syncd.errors import MessageRefused
from syncd.journal.inbox import Taken
from syncd.journal.refused_messages import KeptMessage
from syncd.runtime.message_reading import Read
from syncd.sources.messages import Message


@dataclass(slots=True)
class Committed:
    """What became of a batch."""

    taken: Taken
    complete: list[Message] = field(default_factory=list)
    refused: list[tuple[Message, MessageRefused]] = field(default_factory=list)
    ignored_types: set[str] = field(default_factory=set)


def ignored_types_of(reads: Iterable[Read]) -> set[str]:
    """Return the types of events that syncd does not know."""
    statements = (told.statement for read in reads for told in read.told)
    return {statement.type for statement in statements if isinstance(statement, Ignored)}


def whole_of(message: Message, *, in_part: bool = False) -> KeptMessage:
    """Return a message as it is kept when it is refused; ``in_part`` says that some of its events were taken."""
    received: Received = message
    return KeptMessage(
        id=received.id,
        address=received.address,
        content_type=received.content_type,
        headers=received.headers,
        body=received.body,
        sent_ms=received.sent_ms,
        packet=message.packet,
        in_part=in_part,
    )
