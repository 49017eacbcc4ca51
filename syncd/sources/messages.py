"""What a message source is: a broker (or a webhook) that hands messages over and is told what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from syncd.errors import MessageRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as it was handed over; nothing of it has been interpreted.

    ``id`` is the broker's message id, "" when it has none. ``headers`` are application properties, MQTT 5 user
    properties or HTTP headers, names in lower case. ``address`` is the queue, the topic or the path on which it came.
    ``session`` orders messages of one session, "" for none. ``sent_ms`` is when the broker took it, ms since the
    epoch, None if it does not say. ``deliveries`` counts from 1. ``packet`` is the number that it has until it is
    settled: MQTT's packet identifier, which others have after it (``packet_returns``); Service Bus's sequence number.
    ``handle`` is the adapter's own.
    """

    id: str
    body: bytes
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    session: str = ""
    sent_ms: int | None = None
    deliveries: int = 1
    packet: int = 0
    packet_returns: bool = False
    handle: object = field(default=None, compare=False, repr=False)


class MessageSource(Protocol):
    """One entity of one broker. All methods may raise Transient or AuthFailed; none retries by itself.

    Rules: a message is held (locked, unacknowledged) from ``receive`` until exactly one of ``complete``, ``refuse`` and
    ``release``; its holder is kept alive meanwhile. A broker hands over only so many before some are settled
    (mosquitto: 20), so nobody may wait for more before it settles. Redelivery after a lost connection is normal.
    """

    name: str

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages; return at least one, at most ``most``, and no more once ``most_bytes`` are reached.

        None are returned where it has raised before and has just connected again: messages may be long in coming.
        It connects if it is not connected. It may be cancelled: what had arrived is not lost.
        """
        ...

    async def complete(self, messages: Sequence[Message]) -> None:
        """Settle messages whose content has been committed. A lost lock is no error: it is delivered again."""
        ...

    async def refuse(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Dead-letter messages on the broker, where the broker can; else settle them."""
        ...

    async def release(self, messages: Sequence[Message]) -> None:
        """Give messages back unread."""
        ...

    async def close(self) -> None:
        """Release what is held and disconnect."""
        ...
