"""Comparing sources with a destination: experiments, then logged models, then runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from syncd.core.compare.findings import Difference, Place
from syncd.core.first_cause import first_cause
from syncd.core.limits import Limits
from syncd.destinations.base import RemoteExperiment, ServerFacts
from syncd.errors import Rejected
from syncd.verification.artifacts import ArtifactVerification
from syncd.verification.counterparts import Counterparts
from syncd.verification.experiments import compare_experiment
from syncd.verification.models import ModelVerification
from syncd.verification.reading_back import ReadBack
from syncd.verification.reading_sources import Store, read_sources
from syncd.verification.report import Findings, Problem, Report
from syncd.verification.runs import RunVerification
from syncd.verification.side_by_side import side_by_side
from syncd.verification.spool import Spool, Spooled

SUBJECTS_AT_ONCE = 8

Watch = Callable[[str, int, int | None], None]
"""Told the step ("reading", "models", "runs"), how many are done and how many there are (None: not known)."""


async def verify(
    stores: Sequence[Store], back: ReadBack, *, folder: Path, watch: Watch = lambda _step, _done, _total: None
) -> Report:
    """Compare sources with a destination.

    Args:
        stores: the stores of the sources.
        back: the destination.
        folder: a temporary directory for this call alone.
        watch: told how far it is, in the event loop.

    Raises:
        SourceError: a store cannot be read.
        Transient, AuthFailed: the destination stays out of reach.
    """
    spool = Spool(folder / "spool.db")
    try:
        facts = await back.probe()
        await read_sources(stores, spool, lambda readings: watch("reading", readings, None))
        return await Verification(spool, back, facts, [store.source for store in stores], watch).run()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors
    finally:
        spool.close()


class Verification:
    """One comparison of a spool with a destination; ``run`` may be called once."""

    def __init__(self, spool: Spool, back: ReadBack, server: ServerFacts, sources: Sequence[str], watch: Watch) -> None:
        self._spool = spool
        self._back = back
        self._server = server
        self._sources = sources
        self._watch = watch
        self._report = Report()

    async def run(self) -> Report:
        """Compare everything."""
        spool, back, report = self._spool, self._back, self._report
        experiments = await back.experiments()
        self._compare_experiments(experiments, self._server.limits)
        limits = self._server.limits
        counterparts = Counterparts(spool, back, experiments, longest_name=limits.experiment_name_length)
        artifacts = ArtifactVerification(back, report, served=self._server.proxied_artifacts)
        models = ModelVerification(spool, back, counterparts, artifacts, report, offered=self._server.logged_models)
        runs = RunVerification(spool, back, counterparts, artifacts, report, limits=limits)
        await self._compare_all("models", spool.numbers("model"), models.compare)
        await self._compare_all("runs", spool.numbers("run"), runs.compare)
        report.problems = [Problem(self._sources[source], where, what) for source, where, what in spool.problems()] + [
            Problem(place.source, f"{place.subject} {place.id}: {path}", what) for place, path, what in artifacts.unread
        ]
        return report

    def _compare_experiments(self, held: Mapping[str, RemoteExperiment], limits: Limits) -> None:
        groups: dict[str, list[Spooled]] = {}
        for number in self._spool.numbers("experiment"):
            spooled = self._spool.subject(number)
            groups.setdefault(spooled.head.name, []).append(spooled)
        for group in groups.values():
            self._report.compared.experiments += 1
            findings = Findings(self._place(group[0]))
            compare_experiment(group, held, limits, findings)
            self._report.take(findings)

    async def _compare_all(
        self, step: str, numbers: Sequence[int], compare: Callable[[Spooled, Findings], Awaitable[None]]
    ) -> None:
        """Compare subjects side by side; what is found is kept in the order of the subjects."""
        found: dict[int, Findings] = {}
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            spooled = await asyncio.to_thread(self._spool.subject, number)
            findings = found[number] = Findings(self._place(spooled))
            try:
                await compare(spooled, findings)
            except Rejected as error:
                findings.differences.append(Difference("unreadable", findings.place.subject, detail=str(error)))
            done += 1
            self._watch(step, done, len(numbers))

        self._watch(step, 0, len(numbers))
        await side_by_side(numbers, one, most=SUBJECTS_AT_ONCE)
        for number in numbers:
            self._report.take(found[number])

    def _place(self, spooled: Spooled) -> Place:
        head = spooled.head
        return Place(self._sources[spooled.source], head.subject.kind, head.subject.id, head.name)
