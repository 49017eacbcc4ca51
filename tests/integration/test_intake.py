"""What an intake says of how far its source was read, with the real journal and its threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path

import pytest

from syncd.core.facts import Reading
from syncd.errors import SourceError
from syncd.journal import deliveries, participants
from syncd.journal.journal import Journal
from syncd.runtime.intake import Intake, IntakeSettings
from syncd.runtime.rests import Rests
from syncd.runtime.uploader import LONG_AGO_S
from syncd.sources.base import Cursors
from tests.journal_filling import experiment, head


class ListSource:
    """A source that states, once each, what was put into it."""

    def __init__(self) -> None:
        self.waiting: list[Reading] = []
        self.error: SourceError | None = None
        self.whole_looks = 0

    def poll(self, cursors: Cursors, *, full: bool = True, changed: Collection[str] | None = None) -> Iterator[Reading]:
        if self.error is not None:
            raise self.error
        self.whole_looks += full
        while self.waiting:
            yield self.waiting.pop(0)

    def watch_paths(self) -> Collection[str]:
        return ()

    def close(self) -> None:
        return


@pytest.fixture
async def source() -> ListSource:
    return ListSource()


@pytest.fixture
async def announced() -> list[float]:
    """Since when what was announced is known."""
    return []


@pytest.fixture
async def intake(tmp_path: Path, source: ListSource, announced: list[float]) -> AsyncIterator[Intake]:
    journal = Journal.open(tmp_path)
    source_id = participants.register_source(journal, "s")
    audience = participants.register_destinations(journal, {"d": "fake:/"})["d"].audience
    yield Intake(
        name="s",
        open_source=lambda: source,  # type: ignore[arg-type, return-value]
        journal=journal,
        source_id=source_id,
        audience=audience,
        settings=IntakeSettings(poll_interval_s=0.05, watch=False),
        announce=lambda waiting, since_s: announced.append(since_s),
        rests=Rests(journal),
    )
    journal.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it comes about in another thread
            await asyncio.sleep(0.02)


async def test_what_was_stated_since_the_last_whole_look_began_is_yet_to_be_read(
    intake: Intake, source: ListSource
) -> None:
    assert intake.is_yet_to_read(1)
    following = asyncio.create_task(intake.run())
    await until(lambda: not intake.is_yet_to_read(0))
    source.waiting.append(Reading([experiment()], {}))
    await until(lambda: deliveries.newest_change(intake._journal) > 0)
    assert intake.is_yet_to_read(deliveries.newest_change(intake._journal))
    intake.look_wholly()
    await until(lambda: not intake.is_yet_to_read(deliveries.newest_change(intake._journal)))
    assert source.whole_looks == 2
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_comes_with_the_end_of_a_run_is_announced_as_known_for_long(
    intake: Intake, source: ListSource, announced: list[float]
) -> None:
    source.waiting.append(Reading([head(1, status="FINISHED")], {}))
    following = asyncio.create_task(intake.run())
    await until(lambda: len(announced) == 1)
    for number, status in enumerate(("RUNNING", "FINISHED", "RUNNING"), start=2):
        source.waiting.append(Reading([head(number, status=status)], {}))
        await until(lambda number=number: len(announced) == number)  # type: ignore[misc]
    assert [since_s == LONG_AGO_S for since_s in announced] == [False, False, True, False]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_who_reads_once_waits_for_no_more(intake: Intake, source: ListSource) -> None:
    source.error = SourceError("gone")
    with pytest.raises(SourceError):
        await intake.read_once()
    assert not intake.is_yet_to_read(10**6)
