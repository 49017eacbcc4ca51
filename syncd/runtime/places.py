"""What of each run has a place on a destination, remembered for the runs that were sent last.

Asked of the destination once for a run and process, and again when it refuses what should have fitted: whoever else
writes to the run takes places, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from syncd.core.limits import Limits
from syncd.core.places import MetricPlaces, RunPlaces
from syncd.destinations.base import RemoteRun
from syncd.journal import overflow
from syncd.journal.bindings import Binding
from syncd.runtime.channel import Channel

REMEMBERED_RUNS = 256


class Places:
    """The places of the runs of one destination."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._runs: OrderedDict[int, RunPlaces] = OrderedDict()

    async def of(
        self, subject_id: int, binding: Binding, *, held: RemoteRun | None, created_tags: Mapping[str, str]
    ) -> RunPlaces:
        """Return the places of a run.

        Args:
            subject_id: the run.
            binding: its identity there.
            held: what the destination was just found to hold, if that was asked.
            created_tags: the tags that this process has just created it with; empty if it did not.
        """
        known = self._runs.get(subject_id)
        if known is None or held is not None:
            known = await self._found(subject_id, binding, held, created_tags)
        self._runs[subject_id] = known
        self._runs.move_to_end(subject_id)
        if len(self._runs) > REMEMBERED_RUNS:
            self._runs.popitem(last=False)
        return known

    async def _found(
        self, subject_id: int, binding: Binding, held: RemoteRun | None, created_tags: Mapping[str, str]
    ) -> RunPlaces:
        names = await self._channel.journal.do(overflow.kept, self._channel.id, subject_id, "metrics")
        if held is None and not created_tags and are_limited(self._channel.limits):
            held = await self.ask(binding)
        if held is None:
            return RunPlaces(MetricPlaces(over=names), tags=set(created_tags))
        return RunPlaces(
            MetricPlaces(held.latest, over=names),
            set(held.params),
            set(held.tags),
            {(dataset.name, dataset.digest) for dataset in held.datasets},
        )

    async def ask(self, binding: Binding) -> RemoteRun:
        """Return what the destination tells of the run."""
        return await self._channel.courier.call(lambda: self._channel.reader.run(binding.remote_id))


def are_limited(limits: Limits) -> bool:
    """Whether a destination takes only so many of anything that is counted by run."""
    bounds = (limits.metric_names_per_run, limits.params_per_run, limits.tags_per_run, limits.inputs_per_run)
    return any(bound is not None for bound in bounds)
