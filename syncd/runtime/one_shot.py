"""``syncd sync``: bring everything that is there to one destination, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncd.core.first_cause import first_cause
from syncd.errors import AuthFailed, SourceError, SyncdError, Transient
from syncd.runtime.courier import Courier
from syncd.runtime.intake import Intake
from syncd.runtime.pipeline import Pipeline

LOOK_S = 0.25


class Unreachable(Transient):
    """The destination stayed unreachable for too long; exit code 75."""


class CredentialsRefused(AuthFailed):
    """The destination answers and refuses the credentials; exit code 75."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A source that could not be read, and why."""

    source: str
    error: SyncdError


async def sync_once(
    pipeline: Pipeline, *, patience_s: float, watch: Callable[[bool], None] | None = None
) -> list[Unread]:
    """Read every source once and deliver everything; return the sources that could not be read beside others.

    Args:
        pipeline: the pipeline; its sources and its one destination.
        patience_s: how long the destination may fail to answer.
        watch: called a few times a second, with whether the sources are still being read.

    Raises:
        SourceError: no source can be read; the error is that of the first.
        Unreachable: the destination did not answer for ``patience_s``.
        CredentialsRefused: it answered, but took no request for ``patience_s``.
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
            unread = await _read_and_drain(pipeline, reading)
            for task in [*uploads, *guards]:
                task.cancel()
            return unread
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors


async def _read_and_drain(pipeline: Pipeline, reading: asyncio.Event) -> list[Unread]:
    """Read all; deliver all; and again if delivering has shown that something must be read once more.

    What is written while this goes on (a store in use) is looked for once more at the end. A source that cannot be
    read is left out from then on, and returned.
    """
    unread: dict[Intake, Unread] = {}
    full = True
    looked_again = False
    while True:
        more = await _read_each(pipeline.intakes, unread, full=full)
        reading.clear()
        await asyncio.sleep(0)  # lets the announcements of the last commits in
        await pipeline.drained()
        gave_way = await pipeline.settle_twins()
        full = any(intake.wants_look for intake in pipeline.intakes if intake not in unread)
        if not gave_way and not full and (looked_again or not more):
            return list(unread.values())
        looked_again = True


async def _read_each(intakes: Sequence[Intake], unread: dict[Intake, Unread], *, full: bool) -> bool:
    """Read what can be read, add the rest to ``unread``; return whether there was anything new.

    Raises:
        SourceError: there is nothing that can be read.
    """
    more = False
    for intake in intakes:
        if intake in unread:
            continue
        intake.begin_look()
        try:
            more = await intake.read_once(full=full) or more
        except SourceError as error:
            unread[intake] = Unread(intake.name, error)
            if len(unread) == len(intakes):
                raise next(iter(unread.values())).error from error
    return more


async def _give_up_on(courier: Courier, patience_s: float) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        state = courier.state
        # A server that says when to come again is there.
        if state.failing_since_s is None or state.name == "throttled":
            continue
        if time.monotonic() - state.failing_since_s <= patience_s:
            continue
        if state.name == "auth":
            raise CredentialsRefused(
                f"refused for {patience_s:.0f} s: {state.error}",
                hint="give a token or password that may write there, then run the same command again; nothing is lost",
            )
        raise Unreachable(
            f"no answer for {patience_s:.0f} s: {state.error}",
            hint="nothing is lost: what was read is in the journal, run the same command again",
        )


async def _watch(watch: Callable[[bool], None], reading: asyncio.Event) -> None:
    while True:
        watch(reading.is_set())
        await asyncio.sleep(LOOK_S)
