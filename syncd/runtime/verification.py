"""``syncd verify``: both sides are read anew, no journal is asked, and every difference is named.

Theory of operation
-------------------
The sources are read whole into a spool (a temporary database). Then experiments, logged models and runs are compared
side by side, a few at a time, each by what the destination tells of it now. Points come from both sides as sorted
streams and artifacts as digests of streamed bytes, so memory does not grow with either.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from syncd.core import source_tags
from syncd.core.compare import (
    Comparison,
    Difference,
    ModelHead,
    ModelPoint,
    Note,
    Place,
    RunHead,
    compare_datasets,
    compare_experiment_tags,
    compare_heads,
    compare_links,
    compare_model_points,
    compare_model_tags,
    compare_parents,
    compare_points,
    compare_run_tags,
    compare_values,
    point_identity,
)
from syncd.core.facts import ExperimentSeen, ModelSeen, RunSeen
from syncd.core.first_cause import first_cause
from syncd.core.reconcile import parse_line
from syncd.destinations.base import RemoteExperiment, RemoteModel, RemoteRun, RemoteSubject, ServerFacts
from syncd.errors import Rejected, SourceNotReady
from syncd.runtime.assembly import StoreOpening
from syncd.runtime.reading_back import ReadBack
from syncd.runtime.spool import Spool, Spooled
from syncd.runtime.verification_artifacts import ArtifactVerification, OverflowContent
from syncd.sources.memory_cursors import MemoryCursors

T = TypeVar("T")

SUBJECTS_AT_ONCE = 8
KEYS_AT_ONCE = 8
# A store in the middle of something is waited for this often and long.
SOURCE_TRIES = 10
SOURCE_WAIT_S = 1.0
# A run that is not in its experiment is looked for in the others, but not when they are missing in hundreds.
LOOKED_FOR_ELSEWHERE = 50

Watch = Callable[[str, int, int | None], None]
"""Told the step ("reading", "models", "runs"), how many are done and how many there are (None: not known)."""


@dataclass(slots=True)
class Compared:
    """How much of the sources was compared; ``bytes`` are those of artifacts that were read on both sides."""

    experiments: int = 0
    runs: int = 0
    models: int = 0
    points: int = 0
    params: int = 0
    tags: int = 0
    datasets: int = 0
    artifacts: int = 0
    bytes: int = 0


@dataclass(slots=True)
class InOverflow:
    """How many values and files only the overflow holds."""

    params: int = 0
    tags: int = 0
    artifacts: int = 0
    points: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read in a source, and so was not compared."""

    source: str
    where: str
    what: str


@dataclass(slots=True)
class Report:
    """What ``verify`` found."""

    differences: list[tuple[Place, Difference]] = field(default_factory=list)
    notes: list[tuple[Place, Note]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    compared: Compared = field(default_factory=Compared)
    overflow: InOverflow = field(default_factory=InOverflow)


async def verify(
    openings: Sequence[StoreOpening], back: ReadBack, *, folder: Path, watch: Watch = lambda _step, _done, _total: None
) -> Report:
    """Compare sources with a destination.

    Args:
        openings: the stores of the sources.
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
        await _read_sources(openings, spool, watch)
        names = [opening.source.name for opening in openings]
        return await Verification(spool, back, facts, names, watch).run()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors
    finally:
        spool.close()


# -- the source's side --------------------------------------------------------------------------------------------


async def _read_sources(openings: Sequence[StoreOpening], spool: Spool, watch: Watch) -> None:
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def tell(readings: int) -> None:
        loop.call_soon_threadsafe(watch, "reading", readings, None)

    reading = loop.run_in_executor(None, _spool_sources, openings, spool, tell, stop)
    try:
        await asyncio.shield(reading)
    finally:
        stop.set()  # if this was cancelled, the thread ends at its next reading
        await asyncio.gather(reading, return_exceptions=True)


def _spool_sources(
    openings: Sequence[StoreOpening], spool: Spool, tell: Callable[[int], None], stop: threading.Event
) -> None:
    count = 0
    for number, opening in enumerate(openings):
        cursors = MemoryCursors()
        for attempt in range(SOURCE_TRIES):
            source = opening.open()
            try:
                for reading in source.poll(cursors, full=True):
                    spool.take(number, reading)
                    cursors.commit(reading)
                    count += 1
                    tell(count)
                    if stop.is_set():
                        return
                break
            except SourceNotReady:
                if attempt == SOURCE_TRIES - 1:
                    raise
                time.sleep(SOURCE_WAIT_S)
            finally:
                source.close()
    spool.seal()


# -- both sides ---------------------------------------------------------------------------------------------------


class Verification:
    """One comparison of a spool with a destination; ``run`` may be called once."""

    def __init__(self, spool: Spool, back: ReadBack, server: ServerFacts, sources: Sequence[str], watch: Watch) -> None:
        self._spool = spool
        self._back = back
        self._server = server
        self._sources = sources
        self._watch = watch
        self._report = Report()
        self._experiments: dict[str, RemoteExperiment] = {}
        self._models: dict[int, set[str]] = {}  # source -> its models that are there
        self._model_sources: dict[str, str] = {}  # id there -> source's model id
        self._run_sources: dict[str, str] = {}  # id there -> source's run id, "" for none
        self._missing_runs = 0
        self._artifacts = ArtifactVerification(back, served=server.proxied_artifacts)

    async def run(self) -> Report:
        """Compare everything."""
        self._experiments = dict(await self._back.experiments())
        self._compare_experiments()
        await self._compare_all("models", self._spool.numbers("model"), self._compare_model)
        await self._compare_all("runs", self._spool.numbers("run"), self._compare_run)
        self._report.problems = [
            Problem(self._sources[source], where, what) for source, where, what in self._spool.problems()
        ] + [
            Problem(place.source, f"{place.subject} {place.id}: {path}", what)
            for place, path, what in self._artifacts.unread
        ]
        order = {"experiment": 0, "model": 1, "run": 2}
        self._report.differences.sort(key=lambda at: order[at[0].subject])
        return self._report

    async def _compare_all(
        self, step: str, numbers: Sequence[int], compare: Callable[[Spooled, _Findings], Awaitable[None]]
    ) -> None:
        """Compare subjects side by side; what is found is kept in the order of the subjects."""
        found: dict[int, _Findings] = {}
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            spooled = await asyncio.to_thread(self._spool.subject, number)
            findings = found[number] = _Findings(self._place(spooled))
            try:
                await compare(spooled, findings)
            except Rejected as error:
                findings.differences.append(Difference("unreadable", findings.place.subject, detail=str(error)))
            done += 1
            self._watch(step, done, len(numbers))

        self._watch(step, 0, len(numbers))
        await side_by_side(numbers, one, most=SUBJECTS_AT_ONCE)
        for number in numbers:
            findings = found[number]
            self._report.differences += [(findings.place, difference) for difference in findings.differences]
            self._report.notes += [(findings.place, note) for note in findings.notes]

    def _place(self, spooled: Spooled) -> Place:
        head = spooled.head
        return Place(self._sources[spooled.source], head.subject.kind, head.subject.id, head.name)

    # -- experiments -----------------------------------------------------------------------------------------------

    def _compare_experiments(self) -> None:
        groups: dict[str, list[Spooled]] = {}
        for number in self._spool.numbers("experiment"):
            spooled = self._spool.subject(number)
            groups.setdefault(spooled.head.name, []).append(spooled)
        limits = self._server.limits
        for name, group in groups.items():
            heads = [spooled.head for spooled in group if isinstance(spooled.head, ExperimentSeen)]
            remote = self._experiments.get(name)
            findings = _Findings(self._place(group[0]))
            if remote is None:
                findings.differences.append(Difference("missing", "experiment", "", name))
            else:
                findings.found(remote.id)
                findings.take(
                    compare_experiment_tags(
                        [head.tags for head in heads],
                        remote.tags,
                        key_length=limits.tag_key_length,
                        value_length=limits.experiment_tag_value_length,
                    )
                )
            self._report.compared.experiments += 1
            self._report.differences += [(findings.place, difference) for difference in findings.differences]
            self._report.notes += [(findings.place, note) for note in findings.notes]

    def _experiment_of(self, spooled: Spooled) -> str:
        """Return the name of a run's or model's experiment, "" if the source does not state it."""
        assert not isinstance(spooled.head, ExperimentSeen)
        head = self._spool.experiment(spooled.source, spooled.head.experiment)
        return head.name if head else ""

    # -- runs ------------------------------------------------------------------------------------------------------

    async def _compare_run(self, spooled: Spooled, findings: _Findings) -> None:
        self._report.compared.runs += 1
        head = spooled.head
        assert isinstance(head, RunSeen)
        remote = await self._find_run(spooled, findings)
        if remote is None:
            return
        findings.found(remote.id)
        name = head.name or head.subject.id
        findings.differences += compare_heads(
            RunHead(name, head.status, head.start_time_ms, head.end_time_ms, head.user_id),
            RunHead(remote.name, remote.status, remote.start_time_ms, remote.end_time_ms, remote.user_id),
        )
        held_parent = remote.tags.get(source_tags.PARENT_RUN_ID, "")
        findings.differences += await self._compare_link(spooled, head.parent_run_id, held_parent, "parent")
        subject = RemoteSubject(remote.id, remote.artifact_root)
        overflow = await self._compare_artifacts(spooled, subject, findings)
        self._compare_small(spooled, remote, overflow, findings, name)
        self._compare_model_links(spooled, remote, findings)
        await self._compare_all_points(spooled, remote, findings)

    async def _find_run(self, spooled: Spooled, findings: _Findings) -> RemoteRun | None:
        """Return the one run that has this source id; name it when there is none, or more than one."""
        key = spooled.head.subject.id
        name = self._experiment_of(spooled)
        experiment = self._experiments.get(name)
        runs = await self._runs_in(experiment, key)
        if not runs:
            detail = await self._elsewhere(key, experiment)
            findings.differences.append(Difference("missing", "run", "", name, detail=detail))
            return None
        if len(runs) > 1:
            ids = ", ".join(run.id for run in runs)
            detail = "nothing else of it was compared"
            findings.differences.append(Difference("twice", "run", "", key, ids, len(runs), detail=detail))
            return None
        return await self._back.run(runs[0].id)

    async def _runs_in(self, experiment: RemoteExperiment | None, key: str) -> list[RemoteRun]:
        runs = await self._back.runs(experiment.id, key) if experiment else []
        active = [run for run in runs if run.lifecycle_stage == "active"]
        self._run_sources.update((run.id, key) for run in active)
        return active

    async def _elsewhere(self, key: str, but: RemoteExperiment | None) -> str:
        """Say in which other experiments the run is."""
        self._missing_runs += 1
        if self._missing_runs > LOOKED_FOR_ELSEWHERE:
            return "not looked for in other experiments, as many runs are missing"
        found: list[str] = []

        async def look(experiment: RemoteExperiment) -> None:
            try:
                runs = await self._runs_in(experiment, key)
            except Rejected:  # of another experiment nothing is claimed
                return
            found.extend(f"{run.id} in experiment {experiment.name!r}" for run in runs)

        others = [experiment for experiment in self._experiments.values() if experiment is not but]
        await side_by_side(others, look, most=KEYS_AT_ONCE)
        return f"it is {' and '.join(sorted(found))}" if found else ""

    async def _compare_link(self, spooled: Spooled, wanted: str, held: str, part: str) -> list[Difference]:
        in_source = bool(wanted) and await asyncio.to_thread(self._spool.is_stated, spooled.source, "run", wanted)
        of_held = await self._source_of_run(held) if held and in_source else ""
        return compare_parents(wanted, held, is_in_source=in_source, source_id_of_held=of_held, part=part)

    async def _source_of_run(self, run_id: str) -> str:
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

    async def _compare_artifacts(
        self, spooled: Spooled, subject: RemoteSubject, findings: _Findings
    ) -> OverflowContent:
        result = await self._artifacts.compare(findings.place, spooled.artifacts, subject)
        findings.differences += result.differences
        findings.notes += result.notes
        self._report.compared.artifacts += len(spooled.artifacts)
        self._report.compared.bytes += result.size_bytes
        self._report.overflow.artifacts += result.in_overflow
        return result.overflow

    def _compare_small(
        self,
        spooled: Spooled,
        remote: RemoteRun,
        overflow: OverflowContent,
        findings: _Findings,
        name: str,
    ) -> None:
        params = compare_values("param", spooled.params, remote.params, overflow.params)
        tags = compare_run_tags(spooled.tags, remote.tags, overflow.tags, name=name)
        datasets = compare_datasets(spooled.datasets, remote.datasets)
        for comparison in (params, tags, datasets):
            findings.take(comparison)
        self._report.compared.params += len(spooled.params)
        self._report.compared.tags += len(spooled.tags)
        self._report.compared.datasets += len(spooled.datasets)
        self._report.overflow.params += params.in_overflow
        self._report.overflow.tags += tags.in_overflow

    def _compare_model_links(self, spooled: Spooled, remote: RemoteRun, findings: _Findings) -> None:
        present = self._models.get(spooled.source, set())
        for part, wanted, held in (
            ("model input", spooled.model_inputs, remote.model_inputs),
            ("model output", spooled.model_outputs, remote.model_outputs),
        ):
            sources = {model: self._model_sources.get(model) for model in held}
            findings.differences += compare_links(part, wanted, sources, present)

    async def _compare_all_points(self, spooled: Spooled, remote: RemoteRun, findings: _Findings) -> None:
        keys = await asyncio.to_thread(self._spool.metrics, spooled.number)
        keys += sorted(remote.latest.keys() - set(keys))
        found: dict[str, list[Difference]] = {}

        async def one(key: str) -> None:
            found[key] = await self._compare_points(spooled.number, remote.id, key)

        await side_by_side(keys, one, most=KEYS_AT_ONCE)
        for key in keys:
            findings.differences += found[key]

    async def _compare_points(self, number: int, run_id: str, key: str) -> list[Difference]:
        refusal = ""
        try:
            held = await self._back.history(run_id, key)
        except Rejected as error:
            refusal, held = str(error), None
        try:
            compared, differences = await asyncio.to_thread(
                lambda: compare_points(key, self._spool.points(number, key), held or ())
            )
        finally:
            if held is not None:
                held.close()
        self._report.compared.points += compared
        if refusal:
            differences.append(Difference("unreadable", "points", key, detail=refusal))
        return differences

    # -- models ----------------------------------------------------------------------------------------------------

    async def _compare_model(self, spooled: Spooled, findings: _Findings) -> None:
        self._report.compared.models += 1
        head = spooled.head
        assert isinstance(head, ModelSeen)
        experiment = self._experiments.get(self._experiment_of(spooled))
        remote = await self._find_model(spooled, experiment, findings)
        if remote is None or experiment is None:
            return
        findings.found(remote.id)
        self._models.setdefault(spooled.source, set()).add(head.subject.id)
        self._model_sources[remote.id] = head.subject.id
        findings.differences += compare_heads(
            ModelHead(head.name or remote.name, head.model_type, head.status),
            ModelHead(remote.name, remote.model_type, remote.status),
        )
        await self._compare_model_run(spooled, head, remote, findings)
        overflow = await self._compare_artifacts(spooled, RemoteSubject(remote.id, remote.artifact_root), findings)
        params = compare_values("param", head.params, remote.params, overflow.params)
        tags = compare_model_tags(head.tags, remote.tags, overflow.tags)
        findings.take(params)
        findings.take(tags)
        self._report.compared.params += len(head.params)
        self._report.compared.tags += len(head.tags)
        self._report.overflow.params += params.in_overflow
        self._report.overflow.tags += tags.in_overflow
        await self._compare_model_metrics(spooled, remote, experiment, overflow, findings)

    async def _find_model(
        self, spooled: Spooled, experiment: RemoteExperiment | None, findings: _Findings
    ) -> RemoteModel | None:
        key = spooled.head.subject.id
        models = await self._back.models(experiment.id, key) if experiment else []
        if not models:
            detail = "" if self._server.logged_models else "this server has no logged models (they came with MLflow 3)"
            findings.differences.append(Difference("missing", "model", "", self._experiment_of(spooled), detail=detail))
            return None
        if len(models) > 1:
            ids = ", ".join(model.id for model in models)
            detail = "nothing else of it was compared"
            findings.differences.append(Difference("twice", "model", "", key, ids, len(models), detail=detail))
            self._model_sources.update((model.id, key) for model in models)
            return None
        return models[0]

    async def _compare_model_run(
        self, spooled: Spooled, head: ModelSeen, remote: RemoteModel, findings: _Findings
    ) -> None:
        wanted, held = head.source_run_id, remote.source_run_id
        if wanted and not held and not self._spool.is_stated(spooled.source, "run", wanted):
            findings.notes.append(Note("source run", wanted, "it is not in the source, so the model has none there"))
            return
        findings.differences += await self._compare_link(spooled, wanted, held, "source run")

    async def _compare_model_metrics(
        self,
        spooled: Spooled,
        remote: RemoteModel,
        experiment: RemoteExperiment,
        overflow: OverflowContent,
        findings: _Findings,
    ) -> None:
        wanted = await asyncio.to_thread(self._spool.model_points, spooled.number)
        held = [
            (key, await self._source_of_run(run) if run else "", point_identity(value, timestamp_ms, step))
            for key, value, timestamp_ms, step, run in remote.metrics
        ]
        kept = [_model_point(line) for line in overflow.metrics.values()]
        self._report.overflow.points += len(kept)
        findings.take(compare_model_points(wanted, [*held, *kept], latest_only=experiment.appends))
        self._report.compared.points += len(wanted)


class _Findings:
    """What was found of one subject."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.differences: list[Difference] = []
        self.notes: list[Note] = []

    def found(self, destination_id: str) -> None:
        """Take note of what the subject is called there."""
        at = self.place
        self.place = Place(at.source, at.subject, at.id, at.name, destination_id)

    def take(self, comparison: Comparison) -> None:
        """Add what a comparison came to."""
        self.differences += comparison.differences
        self.notes += comparison.notes


def _model_point(line: str) -> ModelPoint:
    """Return a point of an overflow document, which is in the source's ids."""
    key, value, timestamp_ms, step = parse_line(line.encode())
    return key, json.loads(line).get("run_id", ""), point_identity(value, timestamp_ms, step)


async def side_by_side(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, most: int) -> None:
    """Do the work for each item, at most so many at once."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as workers:
        for _ in range(most):
            workers.create_task(worker())
