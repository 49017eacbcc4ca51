"""Comparing logged models: each with the one model of its experiment that carries its id."""

from __future__ import annotations

import asyncio
import json

from syncd.core.compare.findings import Difference, Note
from syncd.core.compare.heads import ModelHead, compare_heads
from syncd.core.compare.points import ModelPoint, compare_model_points, told_point
from syncd.core.compare.values import compare_model_tags, compare_values
from syncd.core.facts import ModelSeen
from syncd.core.reconcile import parse_line
from syncd.destinations.base import RemoteExperiment, RemoteModel, RemoteSubject
from syncd.verification.artifacts import ArtifactVerification, OverflowContent
from syncd.verification.counterparts import Counterparts
from syncd.verification.reading_back import ReadBack
from syncd.verification.report import Findings, Report
from syncd.verification.spool import Spool, Spooled


class ModelVerification:
    """Compares logged models, and tells ``counterparts`` which are there."""

    def __init__(
        self,
        spool: Spool,
        back: ReadBack,
        counterparts: Counterparts,
        artifacts: ArtifactVerification,
        report: Report,
        *,
        offered: bool,
    ) -> None:
        """Prepare; ``offered`` says whether the server has logged models at all."""
        self._spool = spool
        self._back = back
        self._counterparts = counterparts
        self._artifacts = artifacts
        self._report = report
        self._offered = offered

    async def compare(self, spooled: Spooled, findings: Findings) -> None:
        """Compare one model."""
        self._report.compared.models += 1
        head = spooled.head
        assert isinstance(head, ModelSeen)
        experiment = self._counterparts.experiment(self._counterparts.experiment_name(spooled))
        remote = await self._find_model(spooled, experiment, findings)
        if remote is None or experiment is None:
            return
        findings.found(remote.id)
        self._counterparts.models.setdefault(spooled.source, set()).add(head.subject.id)
        self._counterparts.model_sources[remote.id] = head.subject.id
        findings.differences += compare_heads(
            ModelHead(head.name or remote.name, head.model_type, head.status),
            ModelHead(remote.name, remote.model_type, remote.status),
        )
        await self._compare_model_run(spooled, head, remote, findings)
        subject = RemoteSubject(remote.id, remote.artifact_root)
        overflow = await self._artifacts.compare(spooled.artifacts, subject, findings)
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
        self, spooled: Spooled, experiment: RemoteExperiment | None, findings: Findings
    ) -> RemoteModel | None:
        head = spooled.head
        assert isinstance(head, ModelSeen)
        key = head.subject.id
        models = await self._back.models(experiment.id, key, head.source_run_id) if experiment else []
        if not models:
            name = self._counterparts.experiment_name(spooled)
            detail = "" if self._offered else "this server has no logged models (they came with MLflow 3)"
            findings.differences.append(Difference("missing", "model", "", name, detail=detail))
            return None
        if len(models) > 1:
            ids = ", ".join(model.id for model in models)
            detail = "nothing else of it was compared"
            findings.differences.append(Difference("twice", "model", "", key, ids, len(models), detail=detail))
            self._counterparts.model_sources.update((model.id, key) for model in models)
            return None
        return models[0]

    async def _compare_model_run(
        self, spooled: Spooled, head: ModelSeen, remote: RemoteModel, findings: Findings
    ) -> None:
        wanted, held = head.source_run_id, remote.source_run_id
        if wanted and not held and not self._spool.is_stated(spooled.source, "run", wanted):
            findings.notes.append(Note("source run", wanted, "it is not in the source, so the model has none there"))
            return
        findings.differences += await self._counterparts.compare_link(spooled, wanted, held, "source run")

    async def _compare_model_metrics(
        self,
        spooled: Spooled,
        remote: RemoteModel,
        experiment: RemoteExperiment,
        overflow: OverflowContent,
        findings: Findings,
    ) -> None:
        wanted = await asyncio.to_thread(self._spool.model_points, spooled.number)
        held = [
            (key, await self._counterparts.source_of_run(run) if run else "", told_point(value, timestamp_ms, step))
            for key, value, timestamp_ms, step, run in remote.metrics
        ]
        kept = [_model_point(line) for line in overflow.metrics.values()]
        self._report.overflow.points += len(kept)
        findings.take(compare_model_points(wanted, [*held, *kept], latest_only=experiment.appends))
        self._report.compared.points += len(wanted)


def _model_point(line: str) -> ModelPoint:
    """Return a point of an overflow document, which is in the source's ids."""
    key, value, timestamp_ms, step = parse_line(line.encode())
    return key, json.loads(line).get("run_id", ""), told_point(value, timestamp_ms, step)
