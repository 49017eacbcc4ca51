"""Tokens are renewed ahead, by one caller at a time, and not more often than they need be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from syncd.azure.tokens import AHEAD_S, REFUSED_AGAIN_S, TRY_AHEAD_AGAIN_S, Token, Tokens
from syncd.errors import AuthFailed, DestinationError, Transient

HOUR_S = 3600.0


@dataclass
class Authority:
    """Issues numbered tokens; wall and monotonic clock are ``now_s``, the wall off by ``skew_s``."""

    now_s: float = 1000.0
    skew_s: float = 0.0
    life_s: float = HOUR_S
    refresh_in_s: float | None = None
    failure: DestinationError | None = None
    issued: int = 0
    hold: asyncio.Event | None = None
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.issue, monotonic=lambda: self.now_s, now=lambda: self.now_s + self.skew_s)

    async def issue(self, _scope: str) -> Token:
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        self.issued += 1
        refresh_on_s = None if self.refresh_in_s is None else self.now_s + self.refresh_in_s
        return Token(f"t{self.issued}", self.now_s + self.life_s, refresh_on_s)

    async def text(self, scope: str = "s", *, refused: bool = False) -> str:
        return (await self.tokens.get(scope, refused=refused)).text


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def test_a_token_is_kept_until_shortly_before_its_end(authority: Authority) -> None:
    assert await authority.text() == "t1"
    authority.now_s += HOUR_S - AHEAD_S - 1
    assert await authority.text() == "t1"
    authority.now_s += 1
    assert await authority.text() == "t2"


async def test_azures_wish_to_refresh_earlier_is_followed(authority: Authority) -> None:
    authority.refresh_in_s = 600.0
    await authority.text()
    authority.now_s += 600
    assert await authority.text() == "t2"


async def test_each_scope_has_its_own(authority: Authority) -> None:
    assert [await authority.text("a"), await authority.text("b"), await authority.text("a")] == ["t1", "t2", "t1"]


async def test_callers_at_the_same_time_share_one_sign_in(authority: Authority) -> None:
    authority.hold = asyncio.Event()
    callers = [asyncio.create_task(authority.text()) for _ in range(5)]
    await asyncio.sleep(0)
    authority.hold.set()
    assert await asyncio.gather(*callers) == ["t1"] * 5


async def test_a_renewal_ahead_holds_up_only_who_makes_it(authority: Authority) -> None:
    await authority.text()
    authority.now_s += HOUR_S - AHEAD_S
    authority.hold = asyncio.Event()
    renewing = asyncio.create_task(authority.text())
    await asyncio.sleep(0)
    assert await authority.text() == "t1"
    authority.hold.set()
    assert await renewing == "t2"


async def test_a_renewal_ahead_that_fails_is_made_again_later_and_harms_nobody(authority: Authority) -> None:
    await authority.text()
    authority.now_s += HOUR_S - AHEAD_S
    authority.failure = Transient("no answer")
    assert await authority.text() == "t1"
    authority.failure = None
    assert await authority.text() == "t1"
    authority.now_s += TRY_AHEAD_AGAIN_S
    assert await authority.text() == "t2"


async def test_an_ended_token_is_not_handed_out(authority: Authority) -> None:
    await authority.text()
    authority.now_s += HOUR_S
    authority.failure = AuthFailed("no more")
    with pytest.raises(AuthFailed):
        await authority.text()
    authority.failure = None
    assert await authority.text() == "t2"


async def test_a_refused_token_is_renewed_once_for_all_who_were_refused(authority: Authority) -> None:
    await authority.text()
    assert await asyncio.gather(*(authority.text(refused=True) for _ in range(4))) == ["t2"] * 4
    authority.now_s += REFUSED_AGAIN_S - 1
    assert await authority.text(refused=True) == "t2"
    authority.now_s += 1
    assert await authority.text(refused=True) == "t3"


async def test_a_token_that_lives_for_seconds_is_renewed_each_time_it_ends(authority: Authority) -> None:
    authority.life_s = 4.0
    await authority.text()
    for number in (2, 3, 4):
        authority.now_s += 4
        assert await authority.text(refused=True) == f"t{number}"


async def test_a_refused_token_that_cannot_be_renewed_is_an_error_and_tried_again(authority: Authority) -> None:
    await authority.text()
    authority.failure = Transient("no answer")
    with pytest.raises(Transient):
        await authority.text(refused=True)
    authority.failure = None
    assert await authority.text(refused=True) == "t2"


async def test_who_gives_up_waiting_leaves_the_renewal_to_the_next(authority: Authority) -> None:
    authority.hold = asyncio.Event()
    first = asyncio.create_task(authority.text())
    second = asyncio.create_task(authority.text())
    await asyncio.sleep(0)
    first.cancel()
    authority.hold.set()
    assert await second == "t1"
    assert first.cancelled()


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
async def test_a_wrong_wall_clock_neither_kills_nor_revives_a_token(authority: Authority, skew_s: float) -> None:
    authority.skew_s = skew_s
    await authority.text()
    assert await authority.text() == "t1"
    authority.now_s += 3 * HOUR_S
    assert await authority.text() == "t2"


async def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Token("secret", 1.0))
