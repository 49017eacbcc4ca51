"""Tokens kept until shortly before they end.

Rules
-----
1. One caller at a time renews a token, in its own time: there is no task in the background that could die unseen.
2. A token that is due is renewed ahead by whoever comes first; the others go on with it, and so does that one if the
   renewal fails while the token still lives.
3. A refused token is renewed at most once in ``REFUSED_AGAIN_S`` (or half a token's life, if that is shorter): what is
   refused for a missing permission must not become a storm at the sign-in service.
4. Ages are measured on the monotonic clock. A token that has just been handed out lives, whatever the wall clock says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from syncd.errors import DestinationError

AHEAD_S: Final = 600.0
SHORTEST_LIFE_S: Final = 30.0
TRY_AHEAD_AGAIN_S: Final = 30.0
REFUSED_AGAIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; ``expires_on_s`` and ``refresh_on_s`` (None: not told) are Unix times, as Azure tells them."""

    text: str = field(repr=False)
    expires_on_s: float
    refresh_on_s: float | None = None


@dataclass(slots=True)
class _Slot:
    """The token for one scope. Times are monotonic seconds."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    token: Token | None = None
    due_at_s: float = 0.0
    ends_at_s: float = 0.0
    tried_at_s: float = float("-inf")
    refused_at_s: float = float("-inf")
    refused_again_s: float = REFUSED_AGAIN_S

    def lives(self, now_s: float) -> bool:
        return self.token is not None and now_s < self.ends_at_s


class Tokens:
    """Hands out tokens of each scope; ``acquire`` signs in and returns a new one."""

    def __init__(
        self,
        acquire: Callable[[str], Awaitable[Token]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._acquire = acquire
        self._monotonic = monotonic
        self._now = now
        self._slots: dict[str, _Slot] = {}

    async def get(self, scope: str, *, refused: bool = False) -> Token:
        """Return a token for that scope; ``refused`` says that the last one was not accepted.

        Raises:
            AuthFailed, Transient: signing in failed, and there is no token that still lives.
        """
        slot = self._slots.setdefault(scope, _Slot())
        if slot.token is not None and slot.lives(self._monotonic()) and not refused and not self._is_due(slot):
            return slot.token
        async with slot.lock:
            return await self._renewed(slot, scope, refused=refused)

    def _is_due(self, slot: _Slot) -> bool:
        """Whether the token is to be renewed ahead, and nobody has just begun to."""
        now_s = self._monotonic()
        return now_s >= slot.due_at_s and now_s - slot.tried_at_s >= TRY_AHEAD_AGAIN_S

    async def _renewed(self, slot: _Slot, scope: str, *, refused: bool) -> Token:
        """Return a new token, or the one that is there if that will do after all."""
        now_s = self._monotonic()
        anew = refused and now_s - slot.refused_at_s >= slot.refused_again_s
        kept = slot.token if slot.lives(now_s) and not anew else None
        if kept is not None and not self._is_due(slot):
            return kept
        slot.tried_at_s = now_s
        try:
            token = await self._acquire(scope)
        except DestinationError:
            if kept is None:
                raise
            return kept
        if anew:
            slot.refused_at_s = self._monotonic()
        self._keep(slot, token)
        return token

    def _keep(self, slot: _Slot, token: Token) -> None:
        at_s, wall_s = self._monotonic(), self._now()
        told_s = token.expires_on_s - wall_s
        life_s = max(told_s, SHORTEST_LIFE_S)
        ahead_s = min(AHEAD_S, life_s / 2)
        wished_s = life_s if token.refresh_on_s is None else token.refresh_on_s - wall_s
        slot.token = token
        slot.refused_again_s = min(REFUSED_AGAIN_S, max(told_s, 1.0) / 2)
        slot.ends_at_s = at_s + life_s
        slot.due_at_s = at_s + min(life_s - ahead_s, wished_s)
