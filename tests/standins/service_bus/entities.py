"""Queues and subscriptions: peek-lock, sessions, dead-letter queues, duplicate detection. No I/O, no waiting.

Rules
-----
1. A message is in exactly one entity. It is ready, or locked by one receiver; a lock that ends makes it ready again
   at its old place.
2. With sessions, a receiver holds one session, and only it gets that session's messages. A session's lock stands for
   the locks of all its messages.
3. A message that failed ``max_deliveries`` times goes to the dead-letter queue.
"""

from __future__ import annotations

import heapq
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tests.standins.service_bus.messages import Stored

DEAD_LETTERS = "/$DeadLetterQueue"


@dataclass(frozen=True, slots=True)
class Rules:
    """How an entity behaves; ``remembers_ids_s`` is the window of duplicate detection, 0 for none."""

    lock_s: float = 30.0
    max_deliveries: int = 10
    sessions: bool = False
    remembers_ids_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


class Receiver(Protocol):
    """A link that takes messages; ``session`` is the one it holds."""

    session: str | None

    def wants(self) -> bool:
        """Say whether it may be sent a message now."""
        ...

    def deliver(self, message: Stored) -> None:
        """Send it a message that has been locked for it."""
        ...

    def lose_session(self) -> None:
        """Tell it that its session's lock has ended."""
        ...


class Storage(Protocol):
    """What must be known after a restart."""

    def added(self, entity: str, message: Stored) -> None:
        """Keep a message, or keep it anew."""
        ...

    def removed(self, entity: str, number: int) -> None:
        """Forget a message."""
        ...


@dataclass(slots=True)
class SessionLock:
    """Who holds a session, and until when."""

    holder: Receiver
    until_s: float


class LockLost(Exception):
    """The lock under which something is asked for has ended."""


class Entity:
    """One queue or subscription; ``dead_letters`` is None for what is a dead-letter queue itself."""

    def __init__(self, name: str, rules: Rules, storage: Storage, *, dead_letters: Entity | None = None) -> None:
        self.name = name
        self.rules = rules
        self.dead_letters = dead_letters
        self.receivers: list[Receiver] = []
        self.waiting_for_session: list[Callable[[str], None]] = []
        self.sessions: dict[str, SessionLock] = {}
        self.messages: dict[int, Stored] = {}
        self._ready: dict[str | None, list[int]] = defaultdict(list)
        self._locks: list[tuple[float, int, uuid.UUID]] = []
        self._tokens: dict[uuid.UUID, int] = {}
        self._seen_ids: dict[str, float] = {}
        self._last_number = 0
        self._storage = storage

    # -- messages in -----------------------------------------------------------------------------------------------

    def put(self, payload: bytes) -> None:
        """Take a message, unless one of its id was taken lately."""
        message = Stored(self._last_number + 1, payload)
        if self._is_duplicate(message):
            return
        self.add(message)
        self._storage.added(self.name, message)
        self.pump()

    def add(self, message: Stored) -> None:
        """Have a message ready."""
        self._last_number = max(self._last_number, message.number)
        self.messages[message.number] = message
        self._make_ready(message)

    def _is_duplicate(self, message: Stored) -> bool:
        if not self.rules.remembers_ids_s or not message.id:
            return False
        now_s = time.time()
        known = now_s - self._seen_ids.get(message.id, float("-inf")) < self.rules.remembers_ids_s
        self._seen_ids.setdefault(message.id, now_s)
        return known

    def _make_ready(self, message: Stored) -> None:
        message.holder = None
        self._tokens.pop(message.token, None)
        heapq.heappush(self._ready[self._group(message)], message.number)

    def _group(self, message: Stored) -> str | None:
        return message.session or "" if self.rules.sessions else None

    # -- messages out ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what is ready to who wants it, and hand over sessions to who waits for one."""
        while self.waiting_for_session and (session := self.free_session()) is not None:
            self.waiting_for_session.pop(0)(session)
        for receiver in list(self.receivers):
            while receiver.wants() and (message := self._next_ready(receiver.session)) is not None:
                self._lock(message, receiver)
                receiver.deliver(message)
                if receiver.session is None:
                    self.receivers.remove(receiver)  # to the end: receivers share
                    self.receivers.append(receiver)

    def _next_ready(self, session: str | None) -> Stored | None:
        numbers = self._ready[session if self.rules.sessions else None]
        while numbers:
            message = self.messages.get(heapq.heappop(numbers))
            if message is not None and message.holder is None:
                return message
        return None

    def _lock(self, message: Stored, receiver: Receiver) -> None:
        message.holder, message.token = receiver, uuid.uuid4()
        self._tokens[message.token] = message.number
        lock = self.sessions.get(receiver.session) if receiver.session is not None else None
        message.locked_until_s = lock.until_s if lock else time.time() + self.rules.lock_s
        if lock is None:
            heapq.heappush(self._locks, (message.locked_until_s, message.number, message.token))

    def free_session(self) -> str | None:
        """Return the session whose first message is the oldest of those that nobody holds."""
        firsts = [
            (numbers[0], session)
            for session, numbers in self._ready.items()
            if session and session not in self.sessions and numbers
        ]
        return min(firsts)[1] if firsts else None

    # -- settling --------------------------------------------------------------------------------------------------

    def held(self, number: int, receiver: Receiver) -> Stored:
        """Return a message that this receiver has locked; raises LockLost."""
        message = self.messages.get(number)
        if message is None or message.holder is not receiver:
            raise LockLost
        return message

    def by_token(self, token: uuid.UUID) -> Stored:
        """Return the message that is locked under that token; raises LockLost."""
        if token not in self._tokens:
            raise LockLost
        return self.messages[self._tokens[token]]

    def complete(self, message: Stored) -> None:
        """Take a message out."""
        del self.messages[message.number]
        self._tokens.pop(message.token, None)
        self._storage.removed(self.name, message.number)

    def release(self, message: Stored, *, failed: bool) -> None:
        """Have a message ready again."""
        if failed:
            message.failures += 1
            self._storage.added(self.name, message)
            if message.failures >= self.rules.max_deliveries and self.dead_letters is not None:
                words = f"Message could not be consumed after {self.rules.max_deliveries} delivery attempts."
                return self.dead_letter(message, reason="MaxDeliveryCountExceeded", description=words)
        self._make_ready(message)
        return self.pump()

    def dead_letter(self, message: Stored, *, reason: str, description: str) -> None:
        """Move a message to the dead-letter queue."""
        self.complete(message)
        if self.dead_letters is not None:
            moved = Stored(self.dead_letters._last_number + 1, message.payload, failures=message.failures)
            moved.dead_letter, moved.origin = (reason, description), self.name
            self.dead_letters.add(moved)
            self.dead_letters._storage.added(self.dead_letters.name, moved)
            self.dead_letters.pump()

    # -- locks -----------------------------------------------------------------------------------------------------

    def renew(self, message: Stored) -> float:
        """Hold a message longer; return until when."""
        message.locked_until_s = time.time() + self.rules.lock_s
        heapq.heappush(self._locks, (message.locked_until_s, message.number, message.token))
        return message.locked_until_s

    def accept_session(self, session: str, holder: Receiver) -> float | None:
        """Give a session to a receiver; return until when, or None if another one holds it."""
        if session in self.sessions:
            return None
        self.sessions[session] = SessionLock(holder, time.time() + self.rules.lock_s)
        return self.sessions[session].until_s

    def renew_session(self, session: str) -> float:
        """Hold a session longer; return until when; raises LockLost."""
        if session not in self.sessions:
            raise LockLost
        self.sessions[session].until_s = time.time() + self.rules.lock_s
        return self.sessions[session].until_s

    def leave(self, receiver: Receiver) -> None:
        """Take note that a receiver is gone: its session is free at once, its other messages once their locks end."""
        if receiver in self.receivers:
            self.receivers.remove(receiver)
        if receiver.session is not None:
            self._free(receiver.session, receiver)

    def _free(self, session: str, holder: Receiver) -> None:
        if session in self.sessions and self.sessions[session].holder is holder:
            del self.sessions[session]
            for message in list(self._held_by(holder)):
                self._make_ready(message)
            self.pump()

    def _held_by(self, receiver: Receiver) -> Iterator[Stored]:
        return (message for message in self.messages.values() if message.holder is receiver)

    def end_locks(self) -> None:
        """End the locks whose time is over."""
        now_s = time.time()
        while self._locks and self._locks[0][0] <= now_s:
            until_s, number, token = heapq.heappop(self._locks)
            message = self.messages.get(number)
            if message is not None and message.token == token and message.locked_until_s == until_s and message.holder:
                self.release(message, failed=True)
        for session, lock in list(self.sessions.items()):
            if lock.until_s <= now_s:
                lock.holder.lose_session()
                self._free(session, lock.holder)
