"""A journal, an uploader and the destination in memory, all in one event loop: hours pass in virtual time.

    async with Delivering(tmp_path) as rig:        # inside ``run_virtually``
        rig.state(experiment(), head(1), points(1, range(3)))
        await rig.delivered()

The journal is a real file; its calls are made in the loop instead of in a thread, which virtual time could not see.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import structlog.testing

from syncd.core.changes import Head
from syncd.core.facts import Fact, Reading
from syncd.core.filters import Filter
from syncd.journal import committing, deliveries, participants
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal
from syncd.runtime.channel import Channel
from syncd.runtime.courier import Courier, DestinationState
from syncd.runtime.journal_thread import JournalThread
from syncd.runtime.lane import ServerLanes
from syncd.runtime.uploader import Uploader
from tests.journal_filling import NOW_MS
from tests.standins.fake_destination import FakeDestination, FakeModel, FakeRun
from tests.virtual_time import HOUR_S, run_virtually

MINUTE_S = 60.0


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function; it runs in virtual time."""

    @wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        run_virtually(test(*arguments, **options))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def now_s() -> float:
    return asyncio.get_running_loop().time()


class _JournalInTheLoop(JournalThread):
    async def do(self, method: Any, /, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return method(self.journal, *arguments, **options)


class Delivering:
    """What one destination gets of one source. The source is the test: ``state`` commits its facts."""

    def __init__(
        self,
        state: Path,
        fake: FakeDestination | None = None,
        *,
        on_delete: str = "keep",
        filter: Filter | None = None,  # noqa: A002 - the channel's word
        flush_interval_s: float = 0.0,
        is_gateway: bool = False,
    ) -> None:
        state.mkdir(exist_ok=True)
        self.fake = fake or FakeDestination()
        self.journal = Journal.open(state, wall_ms=self.wall_ms)
        self.source_id = participants.register_source(self.journal, "s")
        self.row = participants.register_destinations(self.journal, {"d": "fake:/"})["d"]
        self.read_again: list[str] = []
        self.channel = Channel(
            id=self.row.id,
            name="d",
            destination=self.fake,
            reader=self.fake,
            courier=Courier("d", most=8, on_state=self._on_state, ask=self.fake.probe, monotonic=now_s),
            journal=_JournalInTheLoop(self.journal),
            limits=self.fake.limits,
            logged_models=True,
            open_artifact=None,  # type: ignore[arg-type]  # no artifacts here
            read_again=self._read_again,
            source_names={self.source_id: "s"},
            filter=filter or Filter(),
            on_delete={self.source_id: on_delete},
            replaces_artifacts=self.fake.replaces_artifacts,
            told_once={self.source_id} if is_gateway else (),
            shared={self.source_id} if is_gateway else (),
        )
        lanes = ServerLanes(self.channel, wall_ms=self.wall_ms, monotonic=now_s)
        self.uploader = Uploader(lanes, flush_interval_s=flush_interval_s, wall_ms=self.wall_ms)
        self._patch = pytest.MonkeyPatch()
        self._logs = structlog.testing.capture_logs()  # rendering a traceback takes half a second
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def wall_ms() -> int:
        return NOW_MS + int(now_s() * 1000)

    async def _on_state(self, state: DestinationState) -> None:
        return

    async def _read_again(self, source_id: int, key: str) -> None:
        self.read_again.append(key)

    async def __aenter__(self) -> Self:
        self._logs.__enter__()
        self._patch.setattr("syncd.runtime.uploader.time", SimpleNamespace(monotonic=now_s))
        self._task = asyncio.create_task(self.uploader.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        ended = (await asyncio.gather(self._task, return_exceptions=True))[0]
        self.journal.close()
        self._patch.undo()
        self._logs.__exit__(None, None, None)
        if not isinstance(ended, asyncio.CancelledError) and error[0] is None:
            raise AssertionError("the uploader has ended") from ended

    def state(self, *facts: Fact, first_reading: bool = False, since_s: float | None = None) -> None:
        """Commit facts, as one reading of the source, and announce them, as heard of ``since_s``."""
        waiting = committing.commit(
            self.journal, self.source_id, self.row.audience, [Reading(facts, {})], first_reading=first_reading
        )
        self.uploader.notify(waiting.get(self.row.id, ()), since_s=since_s)

    def refer(self, *heads: Head) -> None:
        """Commit what another syncd has told of only to say what it belongs to."""
        with self.journal._transaction("telling"):
            facts = FactIntake(self.journal, self.source_id, [self.row.id], first_reading=False)
            for head in heads:
                facts.refer(head)

    async def delivered(self, *, within_s: float = HOUR_S) -> None:
        """Wait until nothing waits any longer."""
        try:
            async with asyncio.timeout(within_s):
                while deliveries.waiting_subjects(self.journal, self.row.id):
                    await self.uploader.idle()
                    await asyncio.sleep(1.0)
        except TimeoutError:
            raise AssertionError(f"in {within_s:g} s not delivered: {self.sums}; {self.uploader.faults}") from None

    @property
    def sums(self) -> dict[str, int]:
        return deliveries.sums(self.journal, self.row.id)

    def runs(self, source_id: str) -> list[FakeRun]:
        """Return the runs there, not deleted, of that run of the source."""
        return [
            run
            for run in self.fake.runs.values()
            if not run.deleted and run.tags.get("syncd.source_run_id") == source_id
        ]

    def run(self, source_id: str) -> FakeRun:
        [run] = self.runs(source_id)
        return run

    def model(self, source_id: str) -> FakeModel:
        [model] = [
            model
            for model in self.fake.models.values()
            if not model.deleted and model.tags.get("syncd.source_model_id") == source_id
        ]
        return model
