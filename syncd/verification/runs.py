"""Comparing runs: each with the one run of its experiment that carries its id."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from heapq import merge

from syncd.core import source_tags
from syncd.core.compare.findings import Comparison, Difference
from syncd.core.compare.heads import RunHead, compare_heads
from syncd.core.compare.links import compare_datasets, compare_links, compare_output_steps
from syncd.core.compare.points import compare_points
from syncd.core.compare.values import compare_run_tags, compare_values
from syncd.core.facts import DatasetInput, RunSeen
from syncd.core.limits import Limits
from syncd.core.names import held_name
from syncd.destinations.base import RemoteRun, RemoteSubject
from syncd.errors import Rejected
from syncd.verification.artifacts import ArtifactVerification, OverflowContent
from syncd.verification.counterparts import Counterparts
from syncd.verification.reading_back import ReadBack
from syncd.verification.report import Findings, Report
from syncd.verification.segments import SegmentPoints
from syncd.verification.side_by_side import side_by_side
from syncd.verification.spool import Spool, Spooled

KEYS_AT_ONCE = 8


class RunVerification:
    """Compares runs; models have been compared before."""

    def __init__(
        self,
        spool: Spool,
        back: ReadBack,
        counterparts: Counterparts,
        artifacts: ArtifactVerification,
        report: Report,
        *,
        limits: Limits,
    ) -> None:
        self._spool = spool
        self._back = back
        self._counterparts = counterparts
        self._artifacts = artifacts
        self._report = report
        self._limits = limits

    async def compare(self, spooled: Spooled, findings: Findings) -> None:
        """Compare one run."""
        self._report.compared.runs += 1
        head = spooled.head
        assert isinstance(head, RunSeen)
        remote = await self._find_run(spooled, findings)
        if remote is None:
            return
        findings.found(remote.id)
        name = held_name(head.name or head.subject.id, self._limits.run_name_length)
        findings.differences += compare_heads(
            RunHead(name, head.status, head.start_time_ms, head.end_time_ms, head.user_id),
            RunHead(remote.name, remote.status, remote.start_time_ms, remote.end_time_ms, remote.user_id),
        )
        held_parent = remote.tags.get(source_tags.PARENT_RUN_ID, "")
        findings.differences += await self._counterparts.compare_link(
            spooled, head.parent_run_id, held_parent, "parent"
        )
        subject = RemoteSubject(remote.id, remote.artifact_root)
        overflow = await self._artifacts.compare(spooled.artifacts, subject, findings)
        self._compare_small(spooled, remote, overflow, findings, name)
        self._compare_model_links(spooled, remote, findings)
        with await self._back.segments(subject, overflow.segments) as segments:
            await self._compare_all_points(spooled, remote, segments, findings)

    async def _find_run(self, spooled: Spooled, findings: Findings) -> RemoteRun | None:
        """Return the one run that has this source id; name it when there is none, or more than one."""
        key = spooled.head.subject.id
        name = self._counterparts.experiment_name(spooled)
        experiment = self._counterparts.experiment(name)
        runs = await self._counterparts.runs(experiment, key)
        if not runs:
            detail = await self._counterparts.elsewhere(key, experiment)
            findings.differences.append(Difference("missing", "run", "", name, detail=detail))
            return None
        if len(runs) > 1:
            ids = ", ".join(run.id for run in runs)
            detail = "nothing else of it was compared"
            findings.differences.append(Difference("twice", "run", "", key, ids, len(runs), detail=detail))
            return None
        whole = await self._back.run(runs[0].id)  # which may leave out what it is linked to
        inputs, outputs = whole.model_inputs or runs[0].model_inputs, whole.model_outputs or runs[0].model_outputs
        return replace(whole, model_inputs=inputs, model_outputs=outputs)

    def _compare_small(
        self,
        spooled: Spooled,
        remote: RemoteRun,
        overflow: OverflowContent,
        findings: Findings,
        name: str,
    ) -> None:
        params = compare_values("param", spooled.params, remote.params, overflow.params)
        tags = compare_run_tags(spooled.tags, remote.tags, overflow.tags, name=name)
        kept = [DatasetInput(**json.loads(dataset)) for dataset in overflow.inputs.values()]
        datasets = compare_datasets(spooled.datasets, [*remote.datasets, *kept])
        for comparison in (params, tags, datasets):
            findings.take(comparison)
        self._report.compared.params += len(spooled.params)
        self._report.compared.tags += len(spooled.tags)
        self._report.compared.datasets += len(spooled.datasets)
        self._report.overflow.params += params.in_overflow
        self._report.overflow.tags += tags.in_overflow
        self._report.overflow.datasets += len(kept)

    def _compare_model_links(self, spooled: Spooled, remote: RemoteRun, findings: Findings) -> None:
        present = self._counterparts.models.get(spooled.source, set())
        source_of = self._counterparts.model_sources.get
        for part, wanted, held in (
            ("model input", spooled.model_inputs, remote.model_inputs),
            ("model output", spooled.model_outputs, remote.model_outputs),
        ):
            sources = {model: source_of(model) for model in held}
            findings.differences += compare_links(part, wanted, sources, present)
        steps = [(source_of(model), step) for model, step in remote.model_outputs.items()]
        findings.differences += compare_output_steps(spooled.model_outputs, steps)

    async def _compare_all_points(
        self, spooled: Spooled, remote: RemoteRun, segments: SegmentPoints, findings: Findings
    ) -> None:
        keys = await asyncio.to_thread(self._spool.metrics, spooled.number)
        keys += sorted((remote.latest.keys() | segments.names()) - set(keys))
        found: dict[str, Comparison] = {}

        async def one(key: str) -> None:
            found[key] = await self._compare_points(spooled.number, remote, key, segments)

        await side_by_side(keys, one, most=KEYS_AT_ONCE)
        for key in keys:
            findings.take(found[key])

    async def _compare_points(self, number: int, remote: RemoteRun, key: str, segments: SegmentPoints) -> Comparison:
        """Compare the points of one key with those that the run shows and those in its overflow."""
        refusal = ""
        held = None
        in_overflow = segments.count(key)
        self._report.overflow.points += in_overflow
        try:
            if key in remote.latest or not in_overflow:
                held = await self._back.history(remote.id, key)
        except Rejected as error:
            refusal = str(error)
        try:
            compared, comparison = await asyncio.to_thread(
                lambda: compare_points(key, self._spool.points(number, key), merge(held or (), segments.points(key)))
            )
        finally:
            if held is not None:
                held.close()
        self._report.compared.points += compared
        if refusal:
            refused = Difference("unreadable", "points", key, detail=refusal)
            return Comparison([*comparison.differences, refused], comparison.notes)
        return comparison
