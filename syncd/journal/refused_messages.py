"""Messages that were refused: told, and what their broker cannot keep listed, tried again or given up as dead letters.

Rules
-----
1. What is kept is bounded in number and bytes; beyond that the oldest go, and how many is logged.
2. What is kept already is not kept again, whether its broker forgot that it was refused (mosquitto, killed, forgets
   seconds) or its sender sends it once more (a webhook's, after a 4xx). Only what a message says tells: its broker's
   mark of a redelivery is forgotten as well.
3. ``syncd dlq`` lists them, and marks them or gives them up, as it does dead letters (``dead_letters``). The daemon
   looks for what is marked, tries it again as if it came now for the first time (but for what was taken of it, and
   when it came), and forgets what was taken in the transaction in which that is committed.
4. What is refused is told in the transaction that keeps it, once for each letter. A broker that keeps it may hand it
   over again before it does; then what is the same each time says that it was told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from syncd.errors import MessageRefused
from syncd.journal.journal import Journal

MOST: Final = 10_000
MOST_BYTES: Final = 64 * 1024 * 1024
READ_AT_ONCE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMessage:
    """A refused message, whole; it can be decoded again (``core.messages.envelopes.Received``).

    ``packet`` is the number that it had with its broker; ``in_part`` says that some of its events were taken.
    """

    number: int = 0
    id: str
    address: str
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes
    sent_ms: int | None = None
    packet: int = 0
    in_part: bool = False


class RefusedMessages:
    """What one source has refused. Where ``broker_keeps`` it, it is only told. Called from one thread at a time."""

    def __init__(self, journal: Journal, source_id: int, *, broker_keeps: bool = False) -> None:
        self._journal = journal
        self._source_id = source_id
        self._broker_keeps = broker_keeps
        # Under which number a message of that digest was kept, if that was committed and it still lies there.
        self._numbers: dict[bytes, int] | None = None

    def keep(self, messages: Sequence[tuple[KeptMessage, MessageRefused]]) -> int:
        """Keep messages with the reasons; return how many older ones were given up for them.

        Raises:
            JournalFull: none was kept.
        """
        with self._journal._transaction("keeping refused messages"):
            return self.keep_within(messages)

    def keep_within(self, messages: Sequence[tuple[KeptMessage, MessageRefused]]) -> int:
        """Do as ``keep`` does in a transaction that is open."""
        for message, refusal in messages:
            number = None if self._broker_keeps else self._keep(message, refusal)
            if number is not None or self._broker_keeps:
                self._tell(message, refusal, number)
        gone = 0
        while self._is_too_much():
            self._journal._run("drop_oldest_refused_message")
            gone += 1
        return gone

    def _tell(self, message: KeptMessage, refusal: MessageRefused, number: int | None) -> None:
        mark = f"{_digest(message).hex()} {message.sent_ms}"
        about = (self._source_id, message.id, message.address, refusal)
        self._journal._telling.refused(*about, letter=number, mark=mark)

    def _keep(self, message: KeptMessage, refusal: MessageRefused) -> int | None:
        """Keep a message; return its number, None if it was kept before."""
        if self._numbers is None or len(self._numbers) > 2 * MOST:
            self._numbers = {_digest(one): one.number for one in self._all()}
        digest = _digest(message)
        parameters = {
            "source_id": self._source_id,
            "message_id": message.id,
            "address": message.address,
            "content_type": message.content_type,
            "headers": json.dumps(dict(message.headers)),
            "body": message.body,
            "reason": refusal.reason,
            "description": str(refusal),
            "sent_ms": message.sent_ms,
            "packet": message.packet,
            "in_part": message.in_part,
            "now_ms": self._journal._wall_ms(),
        }
        last = {**parameters, "id": self._numbers.get(digest)}
        if self._journal._run("is_refused_message", last).fetchone()[0]:
            return None
        number = int(self._journal._run("next_letter").fetchone()[0])
        self._journal._run("add_refused_message", {**parameters, "id": number})
        self._journal._run("begin_letter_numbers")
        self._journal._run("raise_letter_numbers", {"id": number})
        self._numbers[digest] = number
        return number

    def _is_too_much(self) -> bool:
        number, size_bytes = self._journal._run("refused_bytes").fetchone()
        return bool(number > MOST or (number > 1 and size_bytes > MOST_BYTES))

    def to_retry(self, *, limit: int = 100) -> list[KeptMessage]:
        """Return messages that somebody wants to have tried again."""
        return self._fetch("refused_to_retry", limit=limit)

    def _all(self) -> Iterator[KeptMessage]:
        """Yield what is kept, few at a time: all together are 64 MiB."""
        after = 0
        while found := self._fetch("refused_messages", after=after, limit=READ_AT_ONCE):
            yield from found
            after = found[-1].number

    def _fetch(self, name: str, **parameters: int) -> list[KeptMessage]:
        rows = self._journal._fetch(name, {"source_id": self._source_id, **parameters})
        return [
            KeptMessage(
                number=number,
                id=message_id,
                address=address,
                content_type=content_type,
                headers=json.loads(headers),
                body=bytes(body),
                sent_ms=sent_ms,
                packet=packet,
                in_part=bool(in_part),
            )
            for number, message_id, address, content_type, headers, body, sent_ms, packet, in_part in rows
        ]

    def tried(self, number: int, refusal: MessageRefused | None, *, in_part: bool = False) -> None:
        """Record, in a transaction that is open, that a message was tried again, and was taken or is refused again.

        ``in_part`` says that some of its events were taken now.
        """
        if refusal is None:
            self._journal._run("drop_refused_message", {"id": number})
        else:
            words = {"reason": refusal.reason, "description": str(refusal)}
            self._journal._run("refuse_again", {"id": number, "in_part": in_part, **words})

    def refused_again(self, number: int, refusal: MessageRefused) -> None:
        """Record that a message was tried again in vain."""
        with self._journal._releasing("keeping a refused message"):
            self.tried(number, refusal)


def _digest(message: KeptMessage) -> bytes:
    """Return what tells a message from others: its id and body, and if it has no id all that came with the body."""
    beside = [] if message.id else [message.content_type, sorted(message.headers.items())]
    about = json.dumps([message.id, message.address, *beside])
    return hashlib.blake2b(about.encode() + b"\n" + message.body, digest_size=16).digest()
