"""What of the destination is the counterpart of what in the sources, as far as it is known yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from syncd.core import source_tags
from syncd.core.compare.findings import Difference
from syncd.core.compare.heads import compare_parents
from syncd.core.facts import ExperimentSeen
from syncd.core.names import held_name
from syncd.destinations.base import RemoteExperiment, RemoteRun
from syncd.errors import Rejected
from syncd.verification.reading_back import ReadBack
from syncd.verification.side_by_side import side_by_side
from syncd.verification.spool import Spool, Spooled

EXPERIMENTS_AT_ONCE = 8
# A run that is not in its experiment is looked for in the others, but not when they are missing in hundreds.
LOOKED_FOR_ELSEWHERE = 50


class Counterparts:
    """Finds experiments and runs by their source, and keeps what was learned of runs and models.

    ``models`` has the models that are there, source by source; ``model_sources`` the source's id of each model there.
    """

    def __init__(
        self, spool: Spool, back: ReadBack, experiments: Mapping[str, RemoteExperiment], *, longest_name: int | None
    ) -> None:
        """Prepare; ``experiments`` are the destination's by name, which holds ``longest_name`` characters of it."""
        self._spool = spool
        self._back = back
        self._experiments = experiments
        self._longest_name = longest_name
        self._run_sources: dict[str, str] = {}  # id there -> source's run id, "" for none
        self._missing_runs = 0
        self.models: dict[int, set[str]] = {}
        self.model_sources: dict[str, str] = {}

    def experiment_name(self, spooled: Spooled) -> str:
        """Return the name of a run's or model's experiment, "" if the source does not state it."""
        assert not isinstance(spooled.head, ExperimentSeen)
        head = self._spool.experiment(spooled.source, spooled.head.experiment)
        return head.name if head else ""

    def experiment(self, name: str) -> RemoteExperiment | None:
        """Return the destination's experiment for that name."""
        return self._experiments.get(held_name(name, self._longest_name))

    async def runs(self, experiment: RemoteExperiment | None, key: str) -> list[RemoteRun]:
        """Return the active runs of that experiment that carry that source id."""
        runs = await self._back.runs(experiment.id, key) if experiment else []
        active = [run for run in runs if run.lifecycle_stage == "active"]
        self._run_sources.update((run.id, key) for run in active)
        return active

    async def elsewhere(self, key: str, but: RemoteExperiment | None) -> str:
        """Say in which other experiments a missing run is."""
        self._missing_runs += 1
        if self._missing_runs > LOOKED_FOR_ELSEWHERE:
            return "not looked for in other experiments, as many runs are missing"
        found: list[str] = []

        async def look(experiment: RemoteExperiment) -> None:
            try:
                runs = await self.runs(experiment, key)
            except Rejected:  # of another experiment nothing is claimed
                return
            found.extend(f"{run.id} in experiment {experiment.name!r}" for run in runs)

        others = [experiment for experiment in self._experiments.values() if experiment is not but]
        await side_by_side(others, look, most=EXPERIMENTS_AT_ONCE)
        return f"it is {' and '.join(sorted(found))}" if found else ""

    async def compare_link(self, spooled: Spooled, wanted: str, held: str, part: str) -> list[Difference]:
        """Compare the run that a subject points at: the source's id of it with the destination's; "" for none."""
        in_source = bool(wanted) and await asyncio.to_thread(self._spool.is_stated, spooled.source, "run", wanted)
        of_held = await self.source_of_run(held) if held and in_source else ""
        return compare_parents(wanted, held, is_in_source=in_source, source_id_of_held=of_held, part=part)

    async def source_of_run(self, run_id: str) -> str:
        """Return the source run id that an active run there carries, "" for none."""
        if run_id not in self._run_sources:
            try:
                run = await self._back.run(run_id)
            except Rejected:
                self._run_sources[run_id] = ""
            else:
                is_active = run.lifecycle_stage == "active"
                self._run_sources[run_id] = run.tags.get(source_tags.SOURCE_RUN_ID, "") if is_active else ""
        return self._run_sources[run_id]
