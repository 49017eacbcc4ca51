"""What an uploader needs of a kind of destination: a lane for each pass, and what is to be done about twins.

What every pass does, whatever the kind, is here as well (``make_pass``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Protocol

from syncd.core.first_cause import first_cause
from syncd.destinations.base import RemoteSubject
from syncd.errors import Rejected
from syncd.journal import subjects
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Supply
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.settlement import Settlement
from syncd.runtime.wanted import is_wanted, may_be_wanted_soon

# When a pass that waits for something is made again.
LATER_S = 1.0
# So long a run that comes in messages and is not such as the filter wants may yet become so; and when it is looked at.
HELD_MS = 60_000
HELD_LOOK_S = 10.0


@asynccontextmanager
async def one_error() -> AsyncIterator[None]:
    """Raise what ends tasks inside as the error it is, not as a group."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks together; what ends them is raised as the error it is, not as a group."""
    async with one_error(), asyncio.TaskGroup() as tasks:
        yield tasks


class Outcome(Enum):
    """How a pass ended."""

    DONE = auto()  # all that waited when it began is settled
    LATER = auto()  # something waits for another fact or another pass
    HELD = auto()  # it is not wanted, and may be soon


class HeadUnknown(Exception):
    """The source has not yet stated what this subject is; it will."""


async def make_pass(
    supply: Supply, settlement: Settlement, subject_id: int, deliver: Callable[[Subject], Awaitable[Outcome]]
) -> Outcome:
    """Have a subject delivered, unless the destination does not want it; what ends that for good is recorded.

    Raises:
        JournalError: the journal cannot be used.
    """
    subject = await supply.journal.do(subjects.subject, subject_id)
    if not await is_wanted(supply, subject):
        if not await may_be_wanted_soon(supply, subject):
            await settlement.leave_out()
        elif await settlement.leave_out(before_ms=_held_long_enough_ms(supply)):
            return Outcome.HELD
        return Outcome.DONE
    try:
        return await deliver(subject)
    except HeadUnknown as error:
        await settlement.note(str(error))
        return Outcome.LATER
    except Rejected as error:
        await settlement.bury_all(error)
        return Outcome.DONE
    finally:
        await settlement.flush()


def _held_long_enough_ms(supply: Supply) -> int:
    """Return the time before which what was stated has been held long enough.

    None of it has just after the start: what says more may have waited with the broker.
    """
    return wall_ms_now() - HELD_MS if 1000 * (time.monotonic() - supply.begun_s) >= HELD_MS else 0


class Pass(Protocol):
    """One pass over what waits of one subject.

    ``later_s`` is when one that ended ``LATER`` is to be made again; ``gathers`` that it waits only for more of the
    same; ``has_moved`` whether it has settled anything.
    """

    later_s: float
    gathers: bool

    @property
    def has_moved(self) -> bool:
        """Whether anything was settled."""
        ...

    async def run(self) -> Outcome:
        """Make the pass."""
        ...


class Lanes(Protocol):
    """Makes the lanes of one destination."""

    @property
    def supply(self) -> Supply:
        """What the destination has at run time."""
        ...

    def lane(self, subject_id: int) -> Pass:
        """Return a lane for one pass."""
        ...

    @property
    def twins_after_s(self) -> float:
        """How long after something was created a twin of it may yet come to be there."""
        ...

    async def twins_are_there(self) -> None:
        """Wait until what was created last has its twin, if it gets one."""
        ...

    async def twins(self, before_ms: int) -> Sequence[tuple[int, RemoteSubject]]:
        """Return what was created twice, before that time, and is to be given up here."""
        ...

    async def give_way(self, subject_id: int, other: RemoteSubject) -> None:
        """Go on with the one that another daemon created."""
        ...

    def close(self) -> None:
        """Give back what the lanes held."""
        ...
