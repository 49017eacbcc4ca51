"""A source of messages in memory, for tests of what is sent to syncd: no broker, the same rules.

    source = InMemorySource("bus")
    source.put({"run": "night", "metrics": {"loss": 0.1}})
    opening = MessageOpening(MessageOptions(name="bus"), lambda: source)

It keeps what a broker keeps: a message is held until it is settled, and handed over again when its holder goes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncd.errors import DestinationError, MessageRefused
from syncd.sources.messages import Message


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that was dead-lettered, with the words."""

    message: Message
    reason: str
    description: str


class InMemorySource:
    """A queue. ``failures`` are raised by the next calls of ``receive``, one each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.completed: list[Message] = []
        self.refused: list[RefusedMessage] = []
        self.failures: deque[DestinationError] = deque()
        self._waiting: deque[Message] = deque()
        self._held: dict[int, Message] = {}
        self._numbers = itertools.count(1)
        self._arrived = asyncio.Event()

    def put(self, content: bytes | Mapping[str, Any] | Sequence[Any], **fields: Any) -> Message:
        """Add a message: a body, or what becomes JSON; ``fields`` are those of ``Message``, its id by default new."""
        number = next(self._numbers)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        message = Message(**{"id": f"message-{number}", **fields}, body=body, handle=number)
        self._waiting.append(message)
        self._arrived.set()
        return message

    def hand_over_again(self) -> None:
        """Behave as a broker whose client has gone: what is held is handed over again."""
        for message in self._held.values():
            self._waiting.append(replace(message, deliveries=message.deliveries + 1))
        self._held.clear()
        self._arrived.set()

    @property
    def unsettled(self) -> int:
        """How many messages are waiting or held."""
        return len(self._waiting) + len(self._held)

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages; see ``MessageSource``."""
        if self.failures:
            raise self.failures.popleft()
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
            if self.failures:
                raise self.failures.popleft()
        taken: list[Message] = []
        size_bytes = 0
        while self._waiting and len(taken) < most and size_bytes < most_bytes:
            message = self._waiting.popleft()
            size_bytes += len(message.body)
            self._held[_number(message)] = message
            taken.append(message)
        return taken

    async def complete(self, messages: Sequence[Message]) -> None:
        """Settle messages."""
        for message in messages:
            if self._held.pop(_number(message), None) is not None:
                self.completed.append(message)

    async def refuse(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Dead-letter messages."""
        for message, refusal in refused:
            if self._held.pop(_number(message), None) is not None:
                self.refused.append(RefusedMessage(message, refusal.reason, str(refusal)))

    async def release(self, messages: Sequence[Message]) -> None:
        """Give messages back unread."""
        for message in messages:
            if self._held.pop(_number(message), None) is not None:
                self._waiting.appendleft(message)

    async def close(self) -> None:
        """Hand over again what is held."""
        self.hand_over_again()


def _number(message: Message) -> int:
    assert isinstance(message.handle, int)
    return message.handle
