"""How long a hint is waited for once something has changed: inotify itself, sleeping only noted down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.runtime import watcher as watching
from syncd.runtime.watcher import SETTLE_S, Watcher


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    with Watcher() as opened:
        opened.watch([tmp_path])
        yield opened


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept_s: list[float] = []

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept_s


async def test_what_was_written_during_a_long_reading_is_not_read_at_once(
    tmp_path: Path, watcher: Watcher, slept_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "GATHER_S", 600.0)
    (tmp_path / "loss").touch()
    assert await watcher.changed() == {str(tmp_path / "loss")}
    assert slept_s == [pytest.approx(600.0, abs=60.0)]


async def test_what_is_written_after_a_silence_is_read_soon(
    tmp_path: Path, watcher: Watcher, slept_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "GATHER_S", 0.0)
    (tmp_path / "loss").touch()
    assert await watcher.changed() == {str(tmp_path / "loss")}
    assert slept_s == [SETTLE_S]
