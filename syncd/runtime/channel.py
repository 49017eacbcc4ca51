"""A channel: all that belongs to one configured destination at run time, and what a tracking server has beyond."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import structlog

from syncd.core.facts import ArtifactSeen
from syncd.core.filters import Filter
from syncd.core.limits import Limits, lowered
from syncd.destinations.base import Destination, DestinationReader, Upload
from syncd.errors import OverLimit
from syncd.runtime.courier import Courier
from syncd.runtime.held_points import RememberedPoints
from syncd.runtime.journal_thread import JournalThread

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Supply:
    """What every destination has at run time: its courier, its wishes, and the journal.

    ``on_delete`` maps a source id to "keep" or "delete", ``source_experiments`` to globs of what is sent of it.
    ``open_artifact`` opens a local file for sending.
    ``read_again`` is told the (source id, run or model id) whose source must be looked at again soon; that does not
    help with sources in ``told_once``, which are told by messages; other daemons may be told those in ``shared`` too.
    ``is_yet_to_be_read`` says whether a source that is read has not been read wholly since it stated that change.
    ``rests`` says whether nothing is to be sent just now; ``hurries`` that everything is to be sent now.
    ``in_flight`` is how much one subject has under way at most; ``begun_s`` is when this began (monotonic).
    """

    id: int
    name: str
    courier: Courier
    journal: JournalThread
    open_artifact: Callable[[ArtifactSeen], Upload]
    read_again: Callable[[int, str], Awaitable[None]]
    source_names: Mapping[int, str]
    filter: Filter = field(default_factory=Filter)
    on_delete: Mapping[int, str] = field(default_factory=dict)
    source_experiments: Mapping[int, Sequence[str]] = field(default_factory=dict)
    told_once: Collection[int] = ()
    shared: Collection[int] = ()
    is_yet_to_be_read: Callable[[int, int], bool] = lambda source_id, seq: False
    rests: Callable[[], bool] = lambda: False
    in_flight: int = 8
    hurries: bool = False
    begun_s: float = field(default_factory=time.monotonic)

    def takes_experiment(self, source_id: int, name: str) -> bool:
        """Return whether this source's experiment of that name is to be sent here."""
        of_source = Filter(experiments=tuple(self.source_experiments.get(source_id, ())))
        return of_source.takes_experiment(name) and self.filter.takes_experiment(name)

    def named(self) -> dict[str, Any]:
        """Return all of it by name, for what a kind of destination adds to it."""
        return {one.name: getattr(self, one.name) for one in fields(Supply)}


@dataclass(slots=True, kw_only=True)
class Channel(Supply):
    """A tracking server: its doors and its limits beside what every destination has.

    ``limits`` become lower where the destination says so. Points that have no place there are gathered for
    ``overflow_interval_s`` before they make a segment, unless everything is to be sent now.
    """

    destination: Destination
    reader: DestinationReader
    limits: Limits
    logged_models: bool
    replaces_artifacts: bool = True
    overflow_interval_s: float = 60.0
    remembered_points: RememberedPoints = field(default_factory=RememberedPoints)

    def learn(self, error: OverLimit) -> bool:
        """Lower the limit that the destination has named; return whether it was higher before.

        It is remembered as long as the process: the first request of the next one that is too large learns it again.
        """
        found = lowered(self.limits, error.limit_name, error.limit)
        if found == self.limits:
            return False
        log.warning(
            "the destination takes less than expected", destination=self.name, limit=error.limit_name, now=error.limit
        )
        self.limits = found
        return True
