"""What every destination must do: one suite over the in-memory fake and a real MLflow server."""

from __future__ import annotations

import asyncio
import math
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from syncd.core.facts import DatasetInput
from syncd.core.requests import (
    CreateModel,
    CreateRun,
    DeleteRun,
    DeleteTags,
    FinalizeModel,
    LogBatch,
    LogInputs,
    LogModelParams,
    LogOutputs,
    Request,
    SetExperimentTags,
    SetModelTags,
    UpdateRun,
)
from syncd.core.source_tags import SESSION, SOURCE_MODEL_ID, SOURCE_RUN_ID
from syncd.destinations.base import (
    Destination,
    DestinationReader,
    RemoteExperiment,
    RemoteModel,
    RemoteSubject,
    ServerFacts,
)
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import FOREIGN_AT_MOST, MlflowServer
from syncd.errors import Rejected, SubjectGone, Transient
from syncd.rest.uploads import BytesUpload
from tests.standins.fake_destination import FakeDestination


@dataclass
class Both:
    writer: Destination
    reader: DestinationReader
    experiment: RemoteExperiment
    facts: ServerFacts

    async def new_run(self, source_id: str = "", **changes: Any) -> RemoteSubject:
        values: dict[str, Any] = {
            "experiment_id": self.experiment.id,
            "name": "a run",
            "user_id": "someone",
            "start_time_ms": 1_600_000_000_123,
            "tags": {SOURCE_RUN_ID: source_id or uuid.uuid4().hex, "team": "ü"},
        }
        return await self.writer.create(CreateRun(**(values | changes)))

    async def new_model(self, source_id: str, run_id: str = "") -> RemoteSubject:
        if not self.facts.logged_models:
            pytest.skip(f"MLflow {self.facts.version} has no logged models")
        tags = {SOURCE_MODEL_ID: source_id}
        return await self.writer.create(
            CreateModel(self.experiment.id, "a-model", "classifier", run_id, {"depth": "3"}, tags)
        )

    async def model(self, source_id: str) -> RemoteModel:
        (found,) = await self.reader.models_by_source(self.experiment.id, source_id, "")
        return found

    async def points(self, run_id: str, key: str) -> list[tuple[float, int, int]]:
        return sorted([p async for p in self.reader.history(run_id, key)], key=lambda p: (p[2], p[1], repr(p[0])))

    async def stored(self, subject: RemoteSubject, path: str) -> bytes:
        return b"".join([piece async for piece in self.reader.content(subject, path)])


@pytest.fixture(params=["fake", "mlflow"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[Both]:
    name = f"contract {uuid.uuid4().hex} / ü&?"
    if request.param == "fake":
        fake = FakeDestination()
        yield Both(fake, fake, await fake.ensure_experiment(name), await fake.probe())
        return
    url = request.getfixturevalue("mlflow_url")
    async with MlflowRest(url) as rest:
        server = MlflowServer(rest)
        facts = await server.probe()
        yield Both(server, MlflowReader(rest), await server.ensure_experiment(name), facts)


def line(key: str, value: str, timestamp: int = 1_600_000_000_000, step: int = 0, **more: str) -> bytes:
    extra = "".join(f',"{k}":"{v}"' for k, v in more.items())
    return f'{{"key":"{key}","value":{value},"timestamp":{timestamp},"step":{step}{extra}}}'.encode()


def local(root: Path, path: str, data: bytes) -> LocalUpload:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    seen = file.stat()
    return LocalUpload(str(root), path, seen.st_size, seen.st_mtime_ns)


async def test_probe_tells_what_the_server_can_do(both: Both) -> None:
    facts = both.facts
    assert facts.version
    assert facts.logged_models == (not facts.version.startswith("2."))
    assert facts.proxied_artifacts
    assert facts.limits.batch_metrics == 1000


async def test_an_experiment_is_created_once(both: Both) -> None:
    again = await both.writer.ensure_experiment(both.experiment.name)
    assert (both.experiment.created, again.created) == (True, False)
    assert again.id == both.experiment.id
    assert not again.appends
    assert (await both.reader.experiments())[again.name].id == again.id


async def test_experiment_tags(both: Both) -> None:
    await both.writer.send(SetExperimentTags(both.experiment.id, {"mlflow.note.content": "# ü\n", "a b": ""}))
    tags = (await both.writer.ensure_experiment(both.experiment.name)).tags
    assert {"mlflow.note.content": "# ü\n", "a b": ""}.items() <= tags.items()
    assert (await both.reader.experiments())[both.experiment.name].tags == tags


async def test_a_run_is_created_as_it_was(both: Both) -> None:
    created = await both.new_run("abc")
    run = await both.reader.run(created.id)
    assert (run.name, run.user_id, run.start_time_ms) == ("a run", "someone", 1_600_000_000_123)
    assert run.end_time_ms is None
    assert run.lifecycle_stage == "active"
    assert {SOURCE_RUN_ID: "abc", "team": "ü"}.items() <= run.tags.items()
    assert run.artifact_root == created.artifact_root
    assert not created.adopted


async def test_a_name_wins_over_another_name_in_the_tags(both: Both) -> None:
    created = await both.new_run(name="right", tags={SOURCE_RUN_ID: "n", "mlflow.runName": "wrong"})
    run = await both.reader.run(created.id)
    assert (run.name, run.tags["mlflow.runName"]) == ("right", "right")


async def test_find_by_source_tag(both: Both) -> None:
    assert (await both.writer.find("run", both.experiment.id, ["it's"])).get("it's") is None
    created = await both.new_run("it's")
    found = (await both.writer.find("run", both.experiment.id, ["it's"])).get("it's")
    assert found == RemoteSubject(created.id, created.artifact_root, adopted=True)
    assert [run.id for run in await both.reader.runs_by_source(both.experiment.id, "it's")] == [created.id]


@pytest.mark.parametrize("others", [1, FOREIGN_AT_MOST + 1], ids=["few others", "many others"])
async def test_what_other_sessions_created_is_found_besides_ones_own(both: Both, others: int) -> None:
    experiment = await both.writer.ensure_experiment(f"shared by {others} {uuid.uuid4().hex}")
    of_others = [
        await both.new_run(f"s{number}", experiment_id=experiment.id, tags={SOURCE_RUN_ID: f"s{number}", SESSION: "b"})
        for number in range(others)
    ]
    own = await both.new_run(experiment_id=experiment.id, tags={SOURCE_RUN_ID: "mine", SESSION: "a"})
    for _ in range(2):
        found = await both.writer.find("run", experiment.id, ["s0", "nowhere"], besides="a")
        assert {key: one.id for key, one in found.items()} == {"s0": of_others[0].id}
    assert (await both.writer.find("run", experiment.id, ["mine"], besides="b"))["mine"].id == own.id


async def test_of_two_runs_all_sides_find_the_same_until_one_is_discarded(both: Both) -> None:
    one, two = await both.new_run("twice"), await both.new_run("twice")
    found = (await both.writer.find("run", both.experiment.id, ["twice"])).get("twice")
    assert found is not None
    assert found.id == min(one.id, two.id)
    assert len(await both.reader.runs_by_source(both.experiment.id, "twice")) == 2
    await both.writer.discard("run", found.id)
    await both.writer.discard("run", found.id)
    left = (await both.writer.find("run", both.experiment.id, ["twice"])).get("twice")
    assert left is not None
    assert left.id == max(one.id, two.id)


async def test_points_params_and_tags_arrive_and_a_resend_changes_nothing(both: Both) -> None:
    run = await both.new_run()
    batch = LogBatch(
        run.id,
        [line("loss/a b", "0.1"), line("loss/a b", "0.30000000000000004", step=-5), line("x", "5e-324", 0)],
        {"p": "1", "multi": "a\nb"},
        {"t": "🧪", "empty": ""},
    )
    await both.writer.send(batch)
    await both.writer.send(batch)
    stamp = 1_600_000_000_000
    assert await both.points(run.id, "loss/a b") == [(0.30000000000000004, stamp, -5), (0.1, stamp, 0)]
    got = await both.reader.run(run.id)
    assert got.params == {"p": "1", "multi": "a\nb"}
    assert {"t": "🧪", "empty": ""}.items() <= got.tags.items()
    assert got.latest["x"] == (5e-324, 0, 0)


async def test_a_repeated_nan_neither_fails_nor_doubles(both: Both) -> None:
    run = await both.new_run()
    lines = [line("m", '"NaN"'), line("m", "1.5"), line("m", '"NaN"', step=1), line("m", '"NaN"', step=1)]
    await both.writer.send(LogBatch(run.id, lines[:1]))
    await both.writer.send(LogBatch(run.id, lines, {"p": "1"}))
    await both.writer.send(LogBatch(run.id, lines, {"p": "1"}))
    points = await both.points(run.id, "m")
    assert [(math.isnan(v), step) for v, _, step in points] in (
        [(False, 0), (True, 0), (True, 1)],
        [(True, 0), (False, 0), (True, 1)],
    )
    assert (await both.reader.run(run.id)).params == {"p": "1"}


async def test_a_changed_param_is_rejected_with_the_servers_words(both: Both) -> None:
    run = await both.new_run()
    await both.writer.send(LogBatch(run.id, params={"p": "1"}))
    with pytest.raises(Rejected, match="Changing param values is not allowed") as caught:
        await both.writer.send(LogBatch(run.id, params={"p": "2"}))
    assert not isinstance(caught.value, SubjectGone)
    assert caught.value.status == 400


async def test_a_bad_key_rejects_the_batch_whole(both: Both) -> None:
    run = await both.new_run()
    with pytest.raises(Rejected) as caught:
        await both.writer.send(LogBatch(run.id, [line("good", "1"), line("b@d", "1")]))
    assert caught.value.code == "INVALID_PARAMETER_VALUE"
    assert await both.points(run.id, "good") == []


async def test_a_history_longer_than_a_page(both: Both) -> None:
    run = await both.new_run()
    for start in range(0, 12_000, 1000):
        await both.writer.send(LogBatch(run.id, [line("m", str(i), step=i) for i in range(start, start + 1000)]))
    assert [step for _, _, step in await both.points(run.id, "m")] == list(range(12_000))


async def test_deleted_tags_are_gone_and_missing_ones_no_error(both: Both) -> None:
    run = await both.new_run()
    await both.writer.send(LogBatch(run.id, tags={"a": "1", "b": "2"}))
    await both.writer.send(DeleteTags(run.id, ["a", "never"]))
    await both.writer.send(DeleteTags(run.id, ["a"]))
    tags = (await both.reader.run(run.id)).tags
    assert ("a" in tags, tags["b"]) == (False, "2")


async def test_update_ends_and_resumes_a_run(both: Both) -> None:
    run = await both.new_run()
    await both.writer.send(UpdateRun(run.id, "renamed", "FAILED", 1_600_000_001_000))
    got = await both.reader.run(run.id)
    assert (got.name, got.status, got.end_time_ms) == ("renamed", "FAILED", 1_600_000_001_000)
    await both.writer.send(UpdateRun(run.id, "renamed", "RUNNING", None))
    got = await both.reader.run(run.id)
    assert (got.status, got.end_time_ms) == ("RUNNING", None)


async def test_a_deleted_or_unknown_run_is_gone(both: Both) -> None:
    run = await both.new_run("gone")
    await both.writer.send(DeleteRun(run.id))
    await both.writer.send(DeleteRun(run.id))
    assert (await both.reader.run(run.id)).lifecycle_stage == "deleted"
    assert (await both.writer.find("run", both.experiment.id, ["gone"])).get("gone") is None
    for run_id in (run.id, "f" * 32):
        for request in (
            LogBatch(run_id, [line("m", "1")]),
            UpdateRun(run_id, "n", "FINISHED", 1),
            DeleteTags(run_id, "t"),
        ):
            with pytest.raises(SubjectGone):
                await both.writer.send(request)


async def test_inputs_and_outputs_are_linked_once(both: Both) -> None:
    run = await both.new_run()
    model = await both.new_model("m-in", run.id)
    dataset = DatasetInput("iris", "d1", "local", '{"uri":"x"}', "{}", '{"n":1}', {"mlflow.data.context": "training"})
    for _ in range(2):
        await both.writer.send(LogInputs(run.id, [dataset], [model.id]))
        await both.writer.send(LogOutputs(run.id, [(model.id, 3)]))
    got = await both.reader.run(run.id)
    assert list(got.datasets) == [dataset]
    assert list(got.model_inputs) == [model.id]
    assert dict(got.model_outputs) == {model.id: 3}


async def test_what_two_daemons_send_at_once_is_taken_from_both(both: Both) -> None:
    dataset = DatasetInput("iris", "d1", "local", '{"uri":"x"}', "{}", '{"n":1}', {"mlflow.data.context": "training"})
    for turn in range(5):
        run = await both.new_run()
        model = await both.new_model(f"m-{turn}", run.id)
        wanted: list[Request] = [
            LogInputs(run.id, [replace(dataset, digest=f"d{turn}")], [model.id]),
            LogOutputs(run.id, [(model.id, 3)]),
            LogModelParams(model.id, {"width": "5"}),
            SetModelTags(model.id, {"stage": "ü"}),
            SetExperimentTags(both.experiment.id, {f"team {turn}": "ü"}),
            LogBatch(run.id, params={"depth": "4"}, tags={"by": "two"}),
        ]
        async with asyncio.TaskGroup() as daemons:
            for request in wanted:
                for _ in range(3):
                    daemons.create_task(both.writer.send(request))
        got = await both.reader.run(run.id)
        assert (len(got.datasets), dict(got.model_outputs), dict(got.params)) == (1, {model.id: 3}, {"depth": "4"})
        assert (await both.model(f"m-{turn}")).params == {"depth": "3", "width": "5"}


async def test_a_model_with_params_tags_metrics_and_status(both: Both) -> None:
    run = await both.new_run()
    created = await both.new_model("m-src", run.id)
    for _ in range(2):
        await both.writer.send(LogModelParams(created.id, {"depth": "3", "width": "5"}))
        await both.writer.send(SetModelTags(created.id, {"stage": "ü"}))
        await both.writer.send(FinalizeModel(created.id, "READY"))
    await both.writer.send(LogBatch(run.id, [line("acc", "0.5", step=2, model_id=created.id)]))
    model = await both.model("m-src")
    assert (model.id, model.name, model.model_type, model.status) == (created.id, "a-model", "classifier", "READY")
    assert model.source_run_id == run.id
    assert model.params == {"depth": "3", "width": "5"}
    assert {SOURCE_MODEL_ID: "m-src", "stage": "ü"}.items() <= model.tags.items()
    assert list(model.metrics) == [("acc", 0.5, 1_600_000_000_000, 2, run.id)]
    found = (await both.writer.find("model", both.experiment.id, ["m-src"])).get("m-src")
    assert found == RemoteSubject(created.id, created.artifact_root, adopted=True)
    await both.writer.send(FinalizeModel(created.id, "FAILED"))
    assert (await both.model("m-src")).status == "FAILED"
    with pytest.raises(Rejected):
        await both.writer.send(LogModelParams(created.id, {"depth": "4"}))
    await both.writer.discard("model", created.id)
    assert (await both.writer.find("model", both.experiment.id, ["m-src"])).get("m-src") is None


NAMES = ["plain.txt", "a folder/ü 日本 😀.bin", "a+b&c?d=e;f,g'h\"i:j*k.txt", "a%b", "…/.hidden", "x/[y]{z}~@$|"]


@pytest.mark.parametrize("name", NAMES)
async def test_artifact_names_arrive_exactly(both: Both, tmp_path: Path, name: str) -> None:
    run = await both.new_run()
    await both.writer.upload(run, local(tmp_path, name, b"content"))
    assert [(f.path, f.size_bytes) async for f in both.reader.files(run)] == [(name, 7)]
    assert await both.stored(run, name) == b"content"


@pytest.mark.parametrize("kind", ["run", "model"])
async def test_artifacts_of_all_sizes_and_their_replacement(both: Both, tmp_path: Path, kind: str) -> None:
    run = await both.new_run()
    subject = run if kind == "run" else await both.new_model("m-art", run.id)
    expected = {}
    for size in (0, 1, 1 << 20, (1 << 20) + 1, 5_000_000):
        expected[f"d/{size}"] = os.urandom(size)
        await both.writer.upload(subject, local(tmp_path, f"d/{size}", expected[f"d/{size}"]))
    sizes = {f.path: f.size_bytes async for f in both.reader.files(subject)}
    assert sizes == {path: len(data) for path, data in expected.items()}
    for path, data in expected.items():
        assert await both.stored(subject, path) == data
    await both.writer.upload(subject, BytesUpload("d/1", b"other"))
    assert await both.stored(subject, "d/1") == b"other"


async def test_a_missing_artifact_is_an_error(both: Both) -> None:
    run = await both.new_run()
    with pytest.raises((SubjectGone, Transient)):  # 2.x answers 500
        await both.stored(run, "nothing/here")
