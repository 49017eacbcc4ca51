"""Logged models in the stand-in of a workspace, which has no API for them: laid into runs, described beside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from syncd.core.requests import (
    CreateModel,
    FinalizeModel,
    LogInputs,
    LogModelParams,
    LogOutputs,
    SetModelTags,
)
from syncd.core.source_tags import SOURCE, SOURCE_MODEL_ID, SOURCE_RUN_ID
from syncd.destinations.azureml.reader import AzuremlReader
from syncd.destinations.azureml.workspace import AzuremlWorkspace
from syncd.destinations.base import RemoteModel, RemoteSubject
from syncd.errors import NameNotHeld, OutcomeUnknown, Rejected, SubjectGone, Transient
from syncd.rest.uploads import BytesUpload
from tests.standins.azureml import RunningWorkspace, Shelf
from tests.standins.azureml.clients import doors_of, new_run

MODEL = "m-0123456789abcdef0123456789abcdef"
OTHER = "m-fedcba9876543210fedcba9876543210"


@dataclass
class Case:
    """A workspace, both doors, and a run whose source's id is ``source-run``."""

    workspace: RunningWorkspace
    writer: AzuremlWorkspace
    reader: AzuremlReader
    run: RemoteSubject
    experiment_id: str

    def request(self, source_id: str = MODEL, *, name: str = "model", of_run: bool = True) -> CreateModel:
        tags = {SOURCE_MODEL_ID: source_id, SOURCE: "local", "note": "ä" * 5000}
        run_id = self.run.id if of_run else ""
        return CreateModel(self.experiment_id, name, "classifier", run_id, {"depth": "3"}, tags)

    async def create(self, source_id: str = MODEL, *, name: str = "model", of_run: bool = True) -> RemoteSubject:
        return await self.writer.create(self.request(source_id, name=name, of_run=of_run))

    async def model(self, source_id: str = MODEL, *, of_run: bool = True) -> RemoteModel:
        source_run = self.source_run if of_run else ""
        (found,) = await self.reader.models_by_source(self.experiment_id, source_id, source_run)
        return found

    @property
    def source_run(self) -> str:
        return self.workspace.state.tracking.run(self.run.id).tags[SOURCE_RUN_ID]

    def stored(self, path: str) -> bytes:
        return self.workspace.state.artifacts.bytes_of(Shelf.of_run(self.run.id), path)

    def paths(self) -> list[str]:
        return sorted(self.workspace.state.artifacts.registered.get(Shelf.of_run(self.run.id), {}))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as workspace:
        yield workspace


@pytest.fixture
async def case(running: RunningWorkspace) -> AsyncIterator[Case]:
    run = new_run(running)
    remote = running.state.tracking.run(run.id)
    remote.tags[SOURCE_RUN_ID] = f"source-{run.id}"
    async with doors_of(running) as (writer, reader):
        yield Case(running, writer, reader, run, remote.experiment_id)
    running.state.faults.clear()
    running.state.habits.__init__()  # type: ignore[misc]


class TestWhatIsKept:
    async def test_the_files_lie_below_the_models_name_and_the_rest_is_told_back(self, case: Case) -> None:
        made = await case.create()
        assert (made.id, made.artifact_root) == (f"{case.run.id}/model", f"{case.run.artifact_root}/model")
        await case.writer.upload(made, BytesUpload("MLmodel", b"flavors: {}"))
        await case.writer.send(LogModelParams(made.id, {"depth": "3", "many": "x" * 7000}))
        await case.writer.send(SetModelTags(made.id, {"team": "blue"}))
        await case.writer.send(FinalizeModel(made.id, "READY"))
        assert case.stored("model/MLmodel") == b"flavors: {}"
        held = await case.model()
        assert (held.id, held.artifact_root) == (made.id, made.artifact_root)
        assert (held.name, held.model_type, held.status) == ("model", "classifier", "READY")
        assert held.source_run_id == case.run.id
        assert held.params == {"depth": "3", "many": "x" * 7000}
        assert held.tags == {SOURCE_MODEL_ID: MODEL, SOURCE: "local", "note": "ä" * 5000, "team": "blue"}
        assert [file.path async for file in case.reader.files(made)] == ["MLmodel"]

    async def test_the_document_is_as_documented(self, case: Case) -> None:
        made = await case.create()
        await case.writer.send(FinalizeModel(made.id, "FAILED"))
        assert json.loads(case.stored("syncd/models/model/2.json")) == {"status": "FAILED"}
        assert json.loads(case.stored("syncd/models/model/1.json")) == {
            "source_id": MODEL,
            "source": "local",
            "name": "model",
            "model_type": "classifier",
            "status": "PENDING",
            "source_run_id": case.run.id,
            "params": {"depth": "3"},
            "tags": {SOURCE_MODEL_ID: MODEL, SOURCE: "local", "note": "ä" * 5000},
        }

    async def test_what_changes_nothing_writes_nothing(self, case: Case) -> None:
        made = await case.create()
        for _ in range(2):
            await case.writer.send(FinalizeModel(made.id, "READY"))
            await case.writer.send(SetModelTags(made.id, {"note": "ä" * 5000}))
            await case.writer.send(LogOutputs(case.run.id, [(made.id, 7)]))
        assert case.paths() == [
            "syncd/model_links/" + case.paths()[0].rpartition("/")[2],
            "syncd/models/model/1.json",
            "syncd/models/model/2.json",
        ]

    async def test_nothing_is_written_over(self, case: Case) -> None:
        case.workspace.state.habits.write_offered = False
        case.workspace.state.log.clear()
        made = await case.create()
        await case.writer.send(SetModelTags(made.id, {"team": "blue"}))
        await case.writer.send(FinalizeModel(made.id, "READY"))
        assert (await case.model()).status == "READY"
        written = [asked.target.partition("?")[0] for asked in case.workspace.state.log.of("blob/put")]
        assert len(set(written)) == len(written) == 3

    async def test_links_with_their_steps_are_told_back(self, case: Case) -> None:
        made, other = await case.create(), await case.create(OTHER, name="another")
        user = new_run(case.workspace)
        case.workspace.state.tracking.run(user.id).tags[SOURCE_RUN_ID] = f"user-{user.id}"
        await case.writer.send(LogOutputs(case.run.id, [(made.id, 3)]))
        await case.writer.send(LogOutputs(case.run.id, [(made.id, 3), (other.id, 0)]))
        await case.writer.send(LogInputs(user.id, models=[made.id]))
        [maker] = await case.reader.runs_by_source(case.experiment_id, case.source_run)
        [using] = await case.reader.runs_by_source(case.experiment_id, f"user-{user.id}")
        assert (maker.model_outputs, using.model_inputs) == ({made.id: 3, other.id: 0}, (made.id,))

    async def test_a_param_is_written_once(self, case: Case) -> None:
        made = await case.create()
        with pytest.raises(Rejected, match="other values: depth"):
            await case.writer.send(LogModelParams(made.id, {"depth": "4", "new": "1"}))
        assert (await case.model()).params == {"depth": "3"}

    async def test_a_models_overflow_lies_beside_it_and_is_read_as_its_own(self, case: Case) -> None:
        made = await case.create()
        await case.writer.upload(made, BytesUpload("syncd/overflow/metrics.json", b"{}"))
        assert case.stored("syncd/models/model/overflow/metrics.json") == b"{}"
        assert [file.path async for file in case.reader.files(made)] == ["syncd/overflow/metrics.json"]
        assert b"".join([piece async for piece in case.reader.content(made, "syncd/overflow/metrics.json")]) == b"{}"

    async def test_a_runs_listing_tells_what_is_there_for_models(self, case: Case) -> None:
        made = await case.create()
        await case.writer.upload(made, BytesUpload("MLmodel", b""))
        await case.writer.upload(case.run, BytesUpload("plots/a.png", b""))
        listed = {file.path: file.is_own async for file in case.reader.files(case.run)}
        assert listed == {"model/MLmodel": False, "plots/a.png": True, "syncd/models/model/1.json": False}


class TestFolders:
    async def test_a_second_model_of_a_name_has_a_folder_of_its_own(self, case: Case) -> None:
        first, second = await case.create(), await case.create(OTHER)
        assert second.artifact_root == f"{case.run.artifact_root}/model-{OTHER}"
        assert (await case.create(OTHER)).id == second.id
        assert (await case.create()).id == first.id

    async def test_a_name_that_the_run_itself_uses_is_left_to_it(self, case: Case) -> None:
        await case.writer.upload(case.run, BytesUpload("model/own.txt", b"own"))
        made = await case.create()
        assert made.artifact_root.endswith(f"/model-{MODEL}")

    async def test_a_runs_artifact_does_not_take_the_place_of_a_models_file(self, case: Case) -> None:
        made = await case.create()
        await case.writer.upload(made, BytesUpload("MLmodel", b"the model's"))
        with pytest.raises(NameNotHeld, match="a model of the run"):
            await case.writer.upload(case.run, BytesUpload("model/MLmodel", b"the run's"))
        await case.writer.upload(case.run, BytesUpload("model/MLmodel", b"the model's"))  # is there already
        for noted in ("syncd/models/x/1.json", "syncd/model_links/x-1.json", "syncd/datastores/x/1.json"):
            with pytest.raises(NameNotHeld, match="kept for what syncd notes"):
                await case.writer.upload(case.run, BytesUpload(noted, b"{}"))
        await case.writer.upload(made, BytesUpload("MLmodel", b"the model's, later"))
        assert case.stored("model/MLmodel") == b"the model's, later"

    async def test_two_that_are_created_at_once_do_not_share_a_folder(self, case: Case) -> None:
        made = await asyncio.gather(*(case.create(f"m-{number}") for number in range(4)))
        assert len({model.id for model in made}) == 4

    @pytest.mark.parametrize("name", ["", "a/b", "..", "syncd", "50%", "a#b", "x" * 300, "a\nb"])
    async def test_a_name_that_is_no_folder_gives_way_to_the_id(self, case: Case, name: str) -> None:
        made = await case.create(name=name)
        assert made.id == f"{case.run.id}/{MODEL}"
        assert (await case.model()).name == name
        assert (await case.create(name=name)).id == made.id

    async def test_a_folder_that_another_models_name_took_is_left_to_it(self, case: Case) -> None:
        await case.create(OTHER)
        taken = await case.create("m-3", name=f"model-{MODEL}")
        made = await case.create()
        assert made.id == f"{case.run.id}/model-{MODEL}-2" != taken.id
        assert (await case.create()).id == made.id


class TestTwice:
    async def test_create_again_finds_the_model(self, case: Case) -> None:
        first = await case.create()
        second = await case.create()
        assert second == RemoteSubject(first.id, first.artifact_root, adopted=True)
        assert len(case.paths()) == 1

    @pytest.mark.parametrize("of_run", [True, False])
    async def test_two_daemons_choose_the_same(self, case: Case, of_run: bool) -> None:
        source_id = f"{MODEL}{case.run.id}"
        async with doors_of(case.workspace) as (second, _), doors_of(case.workspace) as (third, _):
            case.workspace.state.faults.latency_s = 0.02
            doors = (case.writer, second, third)
            made = await asyncio.gather(*(door.create(case.request(source_id, of_run=of_run)) for door in doors))
            chosen = [(await door.find("model", case.experiment_id, [source_id]))[source_id] for door in doors]
            assert len({one.id for one in chosen}) == 1
            for door, own in zip(doors, made, strict=True):
                if own.id != chosen[0].id:
                    await door.discard("model", own.id)
                    await door.discard("model", own.id)
        held = await case.model(source_id, of_run=of_run)
        assert (held.id, held.artifact_root) == (chosen[0].id, chosen[0].artifact_root)
        later = await case.create(source_id, of_run=of_run)
        assert (later.id, later.adopted) == (held.id, True)

    @pytest.mark.parametrize("kind", ["artifacts/batch/metadata", "blob/put"])
    async def test_after_a_lost_answer_there_is_one(self, case: Case, kind: str) -> None:
        case.workspace.state.faults.lose_answer(kind)
        with pytest.raises(OutcomeUnknown):
            await case.create()
        made = await case.create()
        assert (await case.model()).id == made.id
        case.workspace.state.faults.lose_answer(kind)
        with pytest.raises(OutcomeUnknown):
            await case.writer.send(FinalizeModel(made.id, "READY"))
        await case.writer.send(FinalizeModel(made.id, "READY"))
        await case.writer.send(SetModelTags(made.id, {"team": "blue"}))
        held = await case.model()
        assert (held.status, held.tags["team"]) == ("READY", "blue")

    async def test_a_busy_storage_leaves_no_gap(self, case: Case) -> None:
        case.workspace.state.faults.throttle_next(3, kind="blob/put")
        for _ in range(3):
            with pytest.raises(Transient):
                await case.create()
        made = await case.create()
        assert made.id == f"{case.run.id}/model"
        assert case.paths() == ["syncd/models/model/1.json"]

    @pytest.mark.parametrize("listed", [True, False])
    async def test_a_create_that_was_killed_in_between_holds_nobody_up(self, case: Case, listed: bool) -> None:
        case.workspace.state.habits.listed_before_uploaded = listed
        registered = ["syncd/models/model/1.json", f"syncd/models/model-{MODEL}/1.json"]
        case.workspace.state.artifacts.register(Shelf.of_run(case.run.id), registered)
        made = await case.create()
        folder = made.id.partition("/")[2]
        case.workspace.state.artifacts.register(Shelf.of_run(case.run.id), [f"syncd/models/{folder}/2.json"])
        await asyncio.wait_for(case.writer.send(FinalizeModel(made.id, "READY")), 20)
        assert (await case.model()).status == "READY"
        assert (await case.create()).id == made.id

    async def test_two_daemons_that_change_a_model_at_once_lose_nothing(self, case: Case) -> None:
        made = await case.create()
        async with doors_of(case.workspace) as (other, _):
            case.workspace.state.faults.latency_s = 0.02
            await asyncio.gather(
                *(
                    door.send(SetModelTags(made.id, {f"{name}{number}": "x"}))
                    for number in range(3)
                    for name, door in (("a", case.writer), ("b", other))
                )
            )
        assert {f"{name}{number}" for name in "ab" for number in range(3)} <= (await case.model()).tags.keys()


class TestOfNoRun:
    async def test_it_gets_a_run_of_its_own(self, case: Case) -> None:
        made = await case.create(f"{MODEL}-a", of_run=False)
        await case.writer.upload(made, BytesUpload("MLmodel", b"x"))
        await case.writer.send(FinalizeModel(made.id, "READY"))
        holder = case.workspace.state.tracking.run(made.id.partition("/")[0])
        assert (holder.name, holder.status) == ("model", "FINISHED")
        held = await case.model(f"{MODEL}-a", of_run=False)
        assert (held.id, held.source_run_id) == (made.id, "")
        assert (await case.writer.find("model", case.experiment_id, [f"{MODEL}-a", "m-none"])) == {
            f"{MODEL}-a": RemoteSubject(made.id, made.artifact_root, adopted=True)
        }
        assert (await case.create(f"{MODEL}-a", of_run=False)).id == made.id

    async def test_a_lost_answer_makes_no_second_run(self, case: Case) -> None:
        before = len(case.workspace.state.tracking.runs)
        case.workspace.state.faults.lose_answer("runs/create")
        with pytest.raises(OutcomeUnknown):
            await case.create(f"{MODEL}-b", of_run=False)
        await case.create(f"{MODEL}-b", of_run=False)
        assert len(case.workspace.state.tracking.runs) == before + 1

    async def test_the_one_that_gives_way_takes_its_run_along(self, case: Case) -> None:
        made = await case.create(f"{MODEL}-c", of_run=False)
        await case.writer.discard("model", made.id)
        await case.writer.discard("model", made.id)
        assert case.workspace.state.tracking.run(made.id.partition("/")[0]).lifecycle_stage == "deleted"
        assert await case.writer.find("model", case.experiment_id, [f"{MODEL}-c"]) == {}


async def test_what_is_no_model_is_gone(case: Case) -> None:
    with pytest.raises(SubjectGone):
        await case.writer.send(FinalizeModel(f"{case.run.id}/never", "READY"))
    with pytest.raises(Rejected, match="no model's id"):
        await case.writer.send(FinalizeModel("m-1", "READY"))
    with pytest.raises(Rejected, match="no such status"):
        await case.writer.send(FinalizeModel(f"{case.run.id}/model", "DONE"))
