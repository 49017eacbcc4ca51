"""``syncd sync``: bring everything that is there to one destination, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from syncd.core.first_cause import first_cause
from syncd.errors import Transient
from syncd.runtime.courier import Courier
from syncd.runtime.pipeline import Pipeline

LOOK_S = 0.25


class Unreachable(Transient):
    """The destination stayed unreachable for too long; exit code 75."""


async def sync_once(pipeline: Pipeline, *, patience_s: float, watch: Callable[[bool], None] | None = None) -> None:
    """Read every source once and deliver everything.

    Args:
        pipeline: the pipeline; its sources and its one destination.
        patience_s: how long the destination may fail to answer.
        watch: called a few times a second, with whether the sources are still being read.

    Raises:
        SourceError: a source cannot be read.
        Unreachable: the destination did not answer for ``patience_s``.
        JournalError: the journal cannot be used.
    """
    try:
        async with asyncio.TaskGroup() as group:
            uploads = pipeline.start_uploading(group)
            guards = [group.create_task(_give_up_on(courier, patience_s)) for courier in pipeline.couriers.values()]
            reading = asyncio.Event()
            reading.set()
            if watch is not None:
                guards.append(group.create_task(_watch(watch, reading)))
            await _read_and_drain(pipeline, reading)
            for task in [*uploads, *guards]:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors


async def _read_and_drain(pipeline: Pipeline, reading: asyncio.Event) -> None:
    """Read all; deliver all; and again if delivering has shown that something must be read once more.

    What is written while this goes on (a store in use) is looked for once more at the end.
    """
    full = True
    looked_again = False
    while True:
        more = False
        for intake in pipeline.intakes:
            intake.begin_look()
            more = await intake.read_once(full=full) or more
        reading.clear()
        await asyncio.sleep(0)  # lets the announcements of the last commits in
        await pipeline.drained()
        gave_way = await pipeline.settle_twins()
        full = any(intake.wants_look for intake in pipeline.intakes)
        if not gave_way and not full and (looked_again or not more):
            return
        looked_again = True


async def _give_up_on(courier: Courier, patience_s: float) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        since_s = courier.state.failing_since_s
        answers = courier.state.name == "throttled"  # a server that says when to come again is there
        if since_s is not None and not answers and time.monotonic() - since_s > patience_s:
            raise Unreachable(
                f"no answer for {patience_s:.0f} s: {courier.state.error}",
                hint="nothing is lost: what was read is in the journal, run the same command again",
            )


async def _watch(watch: Callable[[bool], None], reading: asyncio.Event) -> None:
    while True:
        watch(reading.is_set())
        await asyncio.sleep(LOOK_S)
