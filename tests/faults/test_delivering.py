"""Faults that need hours, or a server that does just one thing wrong: against the destination in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from syncd.core.changes import Change
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    SubjectDeleted,
    SubjectKey,
    TagsSet,
)
from syncd.core.filters import Filter
from syncd.core.requests import CreateModel, CreateRun, LogBatch, LogOutputs, SetExperimentTags
from syncd.core.source_tags import PARENT_RUN_ID, SESSION, SOURCE_RUN_ID
from syncd.errors import AuthFailed, OutcomeUnknown, Rejected, Transient
from syncd.journal import deliveries, subjects
from syncd.journal.deliveries import Delivered
from syncd.runtime import artifacts
from syncd.runtime.artifacts import ArtifactDelivery
from syncd.runtime.courier import FORBIDDEN_ALONE, POISON_AFTER_S, POISON_FAULTS, Courier
from syncd.runtime.one_shot import sync_once
from syncd.runtime.pipeline import Pipeline
from syncd.runtime.settlement import Settlement
from syncd.runtime.uploader import LANES, LONG_AGO_S
from tests.faults.delivering import MINUTE_S, Delivering, now_s, virtually
from tests.journal_filling import EXPERIMENT, NOW_MS, experiment, head, params, points, run_key, tags
from tests.standins.fake_destination import FakeDestination
from tests.virtual_time import HOUR_S

MODEL = SubjectKey("model", "m-1")


def model(status: str = "READY", *, run: str = "", **more: str) -> ModelSeen:
    return ModelSeen(MODEL, EXPERIMENT, "model", "", status, run, NOW_MS, more, {})


def many_runs(count: int) -> list:
    return [
        fact
        for number in range(count)
        for fact in (head(number, status="FINISHED"), params(number, p="v"), points(number, range(20)))
    ]


def assert_all_there(rig: Delivering, count: int, steps: int = 20) -> None:
    for number in range(count):
        run = rig.run(run_key(number).id)
        assert [step for _, _, step in sorted(run.points["loss"])] == list(range(steps))
        assert (run.status, run.params) == ("FINISHED", {"p": "v"})
    sums = rig.sums
    assert (sums["dead_letters"], sums["points_waiting"]) == (0, 0)


# -- 500 to everything, 500 to one -------------------------------------------------------------------------------------


def server_error() -> Transient:
    return Transient("500", server_fault=True)


@virtually
async def test_an_outage_of_500_in_the_middle_of_a_backlog_buries_nothing(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.fake.latency_s = 0.05
        rig.fake.judge = lambda method, about: server_error() if 0.4 < now_s() < 3 * HOUR_S else None
        rig.state(experiment(), *many_runs(30))
        await asyncio.sleep(2 * HOUR_S)
        assert len(rig.fake.sent) > 0
        assert rig.sums["points_waiting"] > 0
        assert rig.sums["dead_letters"] == 0
        await rig.delivered(within_s=2 * HOUR_S)
        assert_all_there(rig, 30)


@pytest.mark.parametrize("waits", ["a point", "a tag", "a run"])
@virtually
async def test_a_late_answer_does_not_make_an_outage_of_500_poison(tmp_path: Path, waits: str) -> None:
    """What was under way when the server broke is still answered, after others have had their first 500."""
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), head(0), head(1))
        await rig.delivered()
        slow_run = rig.run(run_key(0).id).id
        ends_s = now_s() + HOUR_S
        refused_s: list[float] = []
        answered_s: list[float] = []

        def judge(method: str, about: object) -> Exception | None:
            if isinstance(about, LogBatch) and about.run_id == slow_run and not answered_s:
                answered_s.append(now_s())
                return None
            if now_s() > ends_s:
                return None
            refused_s.append(now_s())
            return server_error()

        rig.fake.judge = judge
        rig.fake.latency_s = 3.0
        rig.state(points(0, range(3)))
        await asyncio.sleep(1.0)
        rig.fake.latency_s = 0.01
        facts = {"a point": [points(1, [7])], "a tag": [tags(1, key="v")], "a run": [head(2), points(2, range(3))]}
        rig.state(*facts[waits])
        await asyncio.sleep(10 * MINUTE_S)
        assert refused_s[0] < answered_s[0] < refused_s[0] + 5.0
        assert len(rig.run(run_key(0).id).points["loss"]) == 3
        assert rig.sums["dead_letters"] == 0
        await rig.delivered(within_s=2 * HOUR_S)
        assert rig.sums["dead_letters"] == 0
        assert len(rig.fake.runs) == 2 + (waits == "a run")


@virtually
async def test_one_request_that_always_gets_500_is_a_dead_letter_in_time(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), *many_runs(2))
        await rig.delivered()
        guilty = rig.run(run_key(0).id).id
        refused_s: list[float] = []

        def judge(method: str, about: object) -> Exception | None:
            if isinstance(about, LogBatch) and about.run_id == guilty:
                refused_s.append(now_s())
                return server_error()
            return None

        rig.fake.judge = judge
        rig.state(points(0, [100]))
        while not rig.sums["dead_letters"]:
            assert now_s() < HOUR_S
            rig.state(points(1, [int(now_s() * 10) + 1000]))
            await asyncio.sleep(2.0)
        assert len(refused_s) >= POISON_FAULTS
        assert POISON_AFTER_S <= refused_s[-1] - refused_s[0] < 10 * MINUTE_S
        await rig.delivered()
        assert rig.sums["dead_letters"] == 1


# -- 403 to everything, 403 to what writes -----------------------------------------------------------------------------


@pytest.mark.parametrize("forbidden", [6, 20], ids=["fewer than lanes", "more than lanes"])
@virtually
async def test_some_403_among_answers_cost_few_requests_and_no_point(tmp_path: Path, forbidden: int) -> None:
    """No run may be created any more, while points of one that is there are taken, however many wait for a create."""
    async with Delivering(tmp_path) as rig:
        rig.fake.latency_s = 0.05
        rig.state(experiment(), *many_runs(1))
        await rig.delivered()
        denied_s: list[float] = []

        def judge(method: str, about: object) -> Exception | None:
            if method != "create":
                return None
            denied_s.append(now_s())
            return AuthFailed("403: no")

        rig.fake.judge = judge
        rig.state(*many_runs(1 + forbidden)[3:])
        for step in range(20, 20 + 900):
            rig.state(points(0, [step]))
            await asyncio.sleep(2.0)
        assert len(rig.run(run_key(0).id).points["loss"]) == 20 + 900
        assert forbidden <= len(denied_s) <= forbidden * FORBIDDEN_ALONE * 30 * 1.1  # of each run, three a minute
        rig.fake.judge = lambda method, about: None
        await rig.delivered(within_s=10 * MINUTE_S)
        rig.run(run_key(0).id).points["loss"] = rig.run(run_key(0).id).points["loss"][:20]
        assert_all_there(rig, 1 + forbidden)


@virtually
async def test_a_refusal_that_was_overcome_is_no_longer_noted(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), *many_runs(2))
        await rig.delivered()
        guilty = rig.run(run_key(0).id).id
        subject = subjects.find_subject(rig.journal, rig.source_id, "run", run_key(0).id)
        assert subject is not None

        def judge(method: str, about: object) -> Exception | None:
            return AuthFailed("403: no") if isinstance(about, LogBatch) and about.run_id == guilty else None

        rig.fake.judge = judge
        rig.state(points(0, [100]))
        while not rig.uploader.faults:
            assert now_s() < HOUR_S
            rig.state(points(1, [int(now_s() * 10) + 1000]))
            await asyncio.sleep(2.0)
        assert "not permitted" in deliveries.note_of(rig.journal, rig.row.id, subject)
        rig.fake.judge = lambda method, about: None
        await rig.delivered()
        assert rig.uploader.faults == {}
        assert deliveries.note_of(rig.journal, rig.row.id, subject) == ""


@pytest.mark.parametrize("refused", ["everything", "writes"])
@virtually
async def test_a_storm_of_403_costs_few_requests_and_no_point(tmp_path: Path, refused: str) -> None:
    async with Delivering(tmp_path) as rig:
        rig.fake.latency_s = 0.05
        rig.state(experiment(), *many_runs(5))
        await rig.delivered()
        denied: Counter[str] = Counter()

        def judge(method: str, about: object) -> Exception | None:
            if refused == "writes" and method not in ("send", "create", "upload"):
                return None
            denied[method] += 1
            return AuthFailed("403: no")

        rig.fake.judge = judge
        rig.state(*many_runs(40)[3 * 5 :])
        await asyncio.sleep(10 * MINUTE_S)
        early = denied.total()
        await asyncio.sleep(HOUR_S)
        later = denied.total() - early
        assert later > 0
        # At first the waits are shorter. Where writes alone are refused, each run is set aside, and tried again.
        assert early <= (16 * (LANES + 2) if refused == "everything" else 35 * FORBIDDEN_ALONE * 3)
        assert later <= (LANES + 2) * 60  # each lane, the look for twins, and the question, once a minute
        rig.fake.judge = lambda method, about: None
        await rig.delivered(within_s=10 * MINUTE_S)
        assert_all_there(rig, 40)


# -- circles of parents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_s", [0.0, 0.1])
@pytest.mark.parametrize(
    "parents",
    [{0: 0}, {0: 1, 1: 0}, {0: 1, 1: 2, 2: 0}, {0: 1, 1: 2, 2: 1, 3: 0}, {0: 9}],
    ids=["itself", "two", "three", "children of a circle", "a parent that is not there"],
)
@virtually
async def test_runs_whose_parents_form_a_circle_arrive(
    tmp_path: Path, parents: dict[int, int], latency_s: float
) -> None:
    async with Delivering(tmp_path) as rig:
        rig.fake.latency_s = latency_s
        for number, parent in parents.items():
            rig.state(experiment(), head(number, status="FINISHED", parent=run_key(parent).id), params(number, p="v"))
            tag = {PARENT_RUN_ID: run_key(parent).id}
            rig.state(TagsSet(run_key(number), tag), points(number, range(20)))
        await rig.delivered(within_s=5 * MINUTE_S)
        assert_all_there(rig, len(parents))
        for number, parent in parents.items():
            there = rig.run(run_key(parent).id).id if parent in parents else run_key(parent).id
            assert rig.run(run_key(number).id).tags[PARENT_RUN_ID] == there


# -- deleted in the store with a backlog -------------------------------------------------------------------------------


@pytest.mark.parametrize("on_delete", ["keep", "delete"])
@pytest.mark.parametrize("was_there", [True, False])
@virtually
async def test_a_deletion_behind_a_backlog(tmp_path: Path, on_delete: str, was_there: bool) -> None:
    async with Delivering(tmp_path, on_delete=on_delete) as rig:
        if was_there:
            rig.state(experiment(), head(0), points(0, range(5)))
            await rig.delivered()
        rig.state(experiment(), head(1), points(1, range(3)))
        rig.state(head(0), params(0, p="v"), points(0, range(20)), head(0, status="FINISHED"))
        rig.state(SubjectDeleted(run_key(0)))
        await rig.delivered(within_s=MINUTE_S)
        assert len(rig.run(run_key(1).id).points["loss"]) == 3
        if on_delete == "keep":
            assert_all_there(rig, 1)
        else:
            assert rig.runs(run_key(0).id) == []
            assert rig.sums["dead_letters"] == 0


@pytest.mark.parametrize("on_delete", ["keep", "delete"])
@virtually
async def test_points_of_a_model_go_with_the_run_that_logged_them(tmp_path: Path, on_delete: str) -> None:
    line = b'{"key":"x","value":1,"timestamp":1,"step":0,"run_id":"' + run_key(0).id.encode() + b'"}'
    async with Delivering(tmp_path, on_delete=on_delete) as rig:
        rig.state(experiment(), head(0, status="FINISHED"), model(run=run_key(0).id))
        await rig.delivered(within_s=MINUTE_S)
        rig.state(SubjectDeleted(run_key(0)))
        await rig.delivered(within_s=MINUTE_S)
        rig.state(MetricsLogged(MODEL, line, 1))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.sums["dead_letters"] == 0
        assert bool(rig.runs(run_key(0).id)) == (on_delete == "keep")


# -- looking before creating -------------------------------------------------------------------------------------------


@virtually
async def test_one_look_is_enough_for_the_runs_that_are_created_next(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.fake.latency_s = 0.1
        rig.state(experiment())
        await rig.delivered()
        looks: list[object] = []
        rig.fake.judge = lambda method, about: looks.append(about) if method == "find" else None
        rig.state(*many_runs(80))
        await rig.delivered()
        assert_all_there(rig, 80)
        assert len(looks) <= 80 / 4


@virtually
async def test_a_run_that_was_created_but_not_recorded_is_found_again(tmp_path: Path) -> None:
    """Its create is answered; what follows is forbidden, so that the pass ends before the run's id is recorded."""
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), head(1, parent=run_key(0).id))
        await rig.delivered()
        denied: list[object] = []

        def judge(method: str, about: object) -> Exception | None:
            if isinstance(about, LogBatch) and PARENT_RUN_ID in about.tags:
                denied.append(about)
                return AuthFailed("403: the child takes no tag")
            return None

        rig.fake.judge = judge
        rig.state(*many_runs(1))
        for step in range(120):
            rig.state(points(1, [step]))
            await asyncio.sleep(1.0)
        assert len(denied) > FORBIDDEN_ALONE
        rig.fake.judge = lambda method, about: None
        await rig.delivered()
        assert_all_there(rig, 1)


# -- twins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Rejected("no search here", status=400), RuntimeError("unforeseen")])
@virtually
async def test_a_twin_check_that_fails_holds_up_nothing(tmp_path: Path, error: Exception) -> None:
    async with Delivering(tmp_path) as rig:
        finds: list[object] = []
        rig.state(experiment(), head(0))
        await rig.delivered()

        def judge(method: str, about: object) -> Exception | None:
            if method != "find":
                return None
            finds.append(about)
            return error

        rig.fake.judge = judge
        await asyncio.sleep(MINUTE_S)
        assert finds
        rig.state(points(0, range(3)))
        await rig.delivered(within_s=MINUTE_S)
        assert len(rig.run(run_key(0).id).points["loss"]) == 3
        assert rig.sums["dead_letters"] == 0


@virtually
async def test_a_sync_ends_well_though_its_twin_check_is_refused(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), *many_runs(1))
        await rig.delivered(within_s=1.5)
        rig.fake.judge = lambda method, about: Rejected("no search here", status=400) if method == "find" else None
        assert not await rig.uploader.settle_twins(2**62)
        assert_all_there(rig, 1)


@virtually
async def test_a_link_does_not_wait_for_ever_for_a_twin_check_that_is_refused(tmp_path: Path) -> None:
    """The experiment is new, so its run and model are created without a look."""
    async with Delivering(tmp_path) as rig:
        rig.fake.judge = lambda method, about: Rejected("no search here", status=400) if method == "find" else None
        rig.state(experiment(), model(run=run_key(0).id), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        await rig.delivered(within_s=10 * MINUTE_S)
        assert rig.run(run_key(0).id).model_outputs == [(rig.model(MODEL.id).id, 3)]
        assert_all_there(rig, 1)


@pytest.mark.parametrize("error", [Rejected("no search here", status=400), AuthFailed("403: no search here")])
@pytest.mark.parametrize("refused", [0, 1])
@virtually
async def test_a_twin_check_refused_for_one_experiment_is_made_for_the_others(
    tmp_path: Path, refused: int, error: Exception
) -> None:
    keys = [SubjectKey("experiment", key) for key in "01"]
    async with Delivering(tmp_path) as rig:
        for number, key in enumerate(keys):
            rig.state(ExperimentSeen(key, f"e{number}", {}), replace(head(number), experiment=key))
        rig.state(replace(head(2), experiment=keys[1]))
        await rig.delivered(within_s=1.5)
        own = [rig.run(run_key(number).id) for number in range(2)]
        twins = [await twin_of(rig, number) for number in range(2)]
        denied = ("run", own[refused].experiment_id)
        rig.fake.judge = lambda method, about: error if method == "find" and about == denied else None
        for step in range(60):
            rig.state(points(2, [step]))
            await asyncio.sleep(1.0)
        there = [[run.id for run in rig.runs(run_key(number).id)] for number in range(2)]
        assert there[1 - refused] == [twins[1 - refused]]
        assert len(there[refused]) == 2
        assert len(rig.run(run_key(2).id).points["loss"]) == 60


async def twin_of(rig: Delivering, number: int) -> str:
    """Create the same run as another daemon would; return its id, which is the smaller one."""
    own = rig.run(run_key(number).id)
    tagged = {SOURCE_RUN_ID: run_key(number).id, SESSION: "another"}
    created = await rig.fake.create(CreateRun(own.experiment_id, own.name, "", None, tagged))
    twin = rig.fake.runs.pop(created.id)
    twin.id = f"{0:031x}{number}"
    rig.fake.runs[twin.id] = twin
    return twin.id


@virtually
async def test_a_child_that_refuses_its_new_parent_does_not_keep_a_twin_from_giving_way(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), head(0), head(1, parent=run_key(0).id), head(2))
        await rig.delivered(within_s=1.5)
        own = rig.run(run_key(0).id)
        kept = await twin_of(rig, 0)
        refused: list[object] = []

        def judge(method: str, about: object) -> Exception | None:
            if isinstance(about, LogBatch) and PARENT_RUN_ID in about.tags:
                refused.append(about)
                return Rejected("the child takes no tag", status=400)
            return None

        rig.fake.judge = judge
        await asyncio.sleep(MINUTE_S)
        assert len(refused) == 1
        assert own.deleted
        rig.state(head(0, status="FINISHED"), params(0, p="v"), points(0, range(20)))
        rig.state(points(2, range(3)))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.run(run_key(0).id).id == kept
        assert_all_there(rig, 1)
        assert len(rig.run(run_key(2).id).points["loss"]) == 3


@virtually
async def test_a_child_that_refuses_its_late_parent_does_not_keep_it_from_arriving(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), head(1, parent=run_key(0).id))
        await rig.delivered()
        rig.fake.judge = lambda method, about: (
            Rejected("the child takes no tag", status=400)
            if isinstance(about, LogBatch) and PARENT_RUN_ID in about.tags
            else None
        )
        rig.state(*many_runs(1))
        await rig.delivered(within_s=MINUTE_S)
        assert_all_there(rig, 1)


# -- points stated twice, on a store that appends ----------------------------------------------------------------------


def restated(number: int, steps: Sequence[int]) -> MetricsLogged:
    return replace(points(number, steps), again=True)


NEW, AGAIN = points, restated
STATEMENTS = {
    "at once": [NEW(0, range(20)), AGAIN(0, range(20))],
    "three times": [NEW(0, range(10)), AGAIN(0, range(20)), AGAIN(0, range(5, 20))],
    "first again, then new": [AGAIN(0, range(15)), AGAIN(0, range(20))],
    "in one change": [NEW(0, [*range(20), *range(20)])],
    "in one change, again": [AGAIN(0, [*range(20), *range(20)])],
    "far apart": [*(NEW(0, [step]) for step in range(20)), AGAIN(0, range(20))],
    "far apart, again first": [AGAIN(0, range(20)), *(NEW(0, [step]) for step in range(20))],
}


@pytest.mark.parametrize("statements", STATEMENTS.values(), ids=STATEMENTS)
@pytest.mark.parametrize("held", ["nothing", "some", "adopted"])
@virtually
async def test_points_stated_twice_within_a_pass_are_there_once_where_points_are_appended(
    tmp_path: Path, statements: list[MetricsLogged], held: str
) -> None:
    fake = FakeDestination(appends=True)
    if held == "adopted":
        async with Delivering(tmp_path / "other", fake) as other:
            other.state(experiment(), head(0), points(0, range(8)))
            await other.delivered()
    async with Delivering(tmp_path / "own", fake) as rig:
        rig.fake.latency_s = 0.1
        if held == "some":
            rig.state(experiment(), head(0), points(0, [-1]))
            await rig.delivered()
        rig.state(experiment(), head(0), *statements, head(0, status="FINISHED"), first_reading=held == "adopted")
        await rig.delivered(within_s=5 * MINUTE_S)
        [run] = fake.runs.values()
        steps = [step for _, _, step in run.points["loss"]]
        assert sorted(steps) == [*([-1] if held == "some" else []), *range(20)]
        assert rig.sums["dead_letters"] == 0


@virtually
async def test_the_history_of_a_found_run_is_read_again_only_after_others_have_written_or_something_was_refused(
    tmp_path: Path,
) -> None:
    fake = FakeDestination(appends=True)
    reads: list[object] = []
    refused: list[int] = []

    def judge(method: str, about: object) -> Exception | None:
        if method == "history":
            reads.append(about)
        if isinstance(about, LogBatch) and any(
            b'"step":300,' in line or b'"step":300}' in line for line in about.lines
        ):
            refused.append(len(about.lines))
            return Rejected("no", status=400)
        return None

    async with Delivering(tmp_path / "other", fake) as other:
        other.state(experiment(), head(0), points(0, range(8)))
        await other.delivered()
    async with Delivering(tmp_path / "own", fake) as rig:
        fake.judge = judge
        rig.state(experiment(), head(0), points(0, range(8)), first_reading=True)
        await rig.delivered()
        for step in range(8, 40):
            rig.state(points(0, [step]))
            await rig.delivered()
        assert len(reads) == 1
        [run] = fake.runs.values()
        at = {step: point for point in run.points["loss"] for step in [point[2]]}
        run.points["loss"] += [(at[39][0], at[39][1] + 40 - 39, 40)]
        rig.state(restated(0, [39]), points(0, [100]))
        await rig.delivered()
        assert len(reads) == 2
        rig.state(points(0, [300]))
        await rig.delivered()
        assert refused == [1]
        fake.judge = lambda method, about: reads.append(about) if method == "history" else None
        rig.state(restated(0, [300]))
        await rig.delivered()
        assert len(reads) == 3
        assert sorted(step for _, _, step in run.points["loss"]) == [*range(41), 100, 300]


@virtually
async def test_a_refused_point_leaves_one_letter_however_often_the_rest_of_its_change_is_sent(tmp_path: Path) -> None:
    fake = FakeDestination(appends=True)
    lost = itertools.count(1)

    def judge(method: str, about: object) -> Exception | None:
        if not isinstance(about, LogBatch) or not about.lines:
            return None
        if any(b'"step":5,' in line or b'"step":5}' in line for line in about.lines):
            return Rejected("not this one", status=400)
        is_lost = any(b"1500" in line for line in about.lines) and next(lost) <= 3
        return OutcomeUnknown("reset") if is_lost else None

    async with Delivering(tmp_path, fake) as rig:
        fake.judge = judge
        rig.state(experiment(), head(0), points(0, range(fake.limits.batch_metrics + 600)))
        await rig.delivered()
        assert next(lost) > 3
        assert rig.sums["dead_letters"] == 1
        [run] = fake.runs.values()
        assert len(run.points["loss"]) == fake.limits.batch_metrics + 600 - 1


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", ["while it is read", "never"])
@virtually
async def test_a_link_waits_for_its_model_until_the_source_was_read_wholly_since(tmp_path: Path, stated: str) -> None:
    async with Delivering(tmp_path) as rig:
        read_up_to = 0
        rig.channel.is_yet_to_be_read = lambda source_id, seq: seq > read_up_to
        rig.state(experiment(), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        await asyncio.sleep(HOUR_S / 2)
        assert rig.sums["dead_letters"] == 0
        assert rig.read_again
        if stated != "never":
            rig.state(model(run=run_key(0).id))
        read_up_to = deliveries.newest_change(rig.journal)
        await rig.delivered(within_s=MINUTE_S)
        links = [(rig.model(MODEL.id).id, 3)] if stated != "never" else []
        assert rig.run(run_key(0).id).model_outputs == links
        assert rig.sums["dead_letters"] == (0 if links else 1)


@virtually
async def test_a_model_that_cannot_be_looked_for_costs_a_gateway_the_link_only(tmp_path: Path) -> None:
    def judge(method: str, about: object) -> Exception | None:
        looks_for_model = method == "find" and isinstance(about, tuple) and about[0] == "model"
        return Rejected("no search here", status=400) if looks_for_model else None

    async with Delivering(tmp_path, is_gateway=True) as rig:
        rig.fake.judge = judge
        rig.refer(experiment(), model())
        rig.state(experiment(), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        await asyncio.sleep(2 * MINUTE_S)
        assert rig.sums["dead_letters"] == 1
        run = rig.run(run_key(0).id)
        assert (run.status, run.params, len(run.points["loss"])) == ("FINISHED", {"p": "v"}, 20)


@pytest.mark.parametrize("is_gateway", [True, False])
@virtually
async def test_a_link_brings_no_model_that_the_filter_leaves_out(tmp_path: Path, is_gateway: bool) -> None:
    secret = ExperimentSeen(SubjectKey("experiment", "8", ""), "secret", {})
    left_out = replace(model(), experiment=secret.subject)
    async with Delivering(tmp_path, is_gateway=is_gateway, filter=Filter(experiments=("churn",))) as rig:
        rig.refer(secret, left_out)
        rig.state(experiment(), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        await asyncio.sleep(8.0)  # less than a link waits for its model
        assert (list(rig.fake._experiments), rig.fake.models) == (["churn"], {})
        assert rig.run(run_key(0).id).status == "FINISHED"
        assert rig.sums["dead_letters"] == 1


@pytest.mark.parametrize("told", ["elsewhere", "nowhere"])
@virtually
async def test_a_gateway_leaves_a_model_that_it_is_only_referred_to_to_the_one_that_is_told_of_it(
    tmp_path: Path, told: str
) -> None:
    fake = FakeDestination()
    source_run = run_key(1).id
    async with (
        Delivering(tmp_path / "one", fake, is_gateway=True) as one,
        Delivering(tmp_path / "other", fake, is_gateway=True) as other,
    ):
        sent_s: dict[type, float] = {}
        fake.judge = lambda method, about: sent_s.update({type(about): now_s()})  # type: ignore[func-returns-value]
        one.refer(experiment(), head(1), model(run=source_run))
        one.state(experiment(), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        await asyncio.sleep(20.0)  # the other one has much to do
        assert not fake.models
        if told == "elsewhere":
            other.state(experiment(), head(1), model(run=source_run))
            await asyncio.sleep(20.0)
            assert one.run(run_key(0).id).model_outputs
        await one.delivered(within_s=2 * MINUTE_S)
        [there] = fake.models.values()
        assert there.request.source_run_id == one.run(source_run).id
        assert one.run(run_key(0).id).model_outputs == [(there.id, 3)]
        assert sent_s[LogOutputs] - sent_s[CreateModel] >= 2.0  # until its twin would have been found
        assert one.sums["dead_letters"] == 0


@pytest.mark.parametrize("status", ["READY", "FAILED"])
@pytest.mark.parametrize(
    "before", ["nothing", "pending sent", "pending waits", "pending under way", "deleted behind it"]
)
@virtually
async def test_the_status_of_a_model_arrives(tmp_path: Path, status: str, before: str) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), *many_runs(1), OutputsLogged(run_key(0), [(MODEL.id, 3)]))
        if before.startswith("pending"):
            rig.state(model("PENDING", run=run_key(0).id))
        if before == "pending sent":
            await rig.delivered()
            assert rig.model(MODEL.id).status == "PENDING"
        if before == "pending under way":
            rig.fake.latency_s = 1.0
            await asyncio.sleep(0.5)
        rig.state(model(status, run=run_key(0).id))
        if before == "deleted behind it":
            rig.state(SubjectDeleted(MODEL))
        await rig.delivered(within_s=5 * MINUTE_S)
        assert rig.model(MODEL.id).status == status
        assert rig.run(run_key(0).id).model_outputs == [(rig.model(MODEL.id).id, 3)]
        assert rig.sums["dead_letters"] == 0


@pytest.mark.parametrize("status", ["READY", "FAILED"])
@virtually
async def test_a_model_whose_head_was_settled_unsent_gets_its_status(tmp_path: Path, status: str) -> None:
    """Its experiment was left out by the filter, which was then taken away: the source states it whole once more."""
    fake = FakeDestination()
    async with Delivering(tmp_path, fake, filter=Filter(experiments=("other",))) as rig:
        rig.state(experiment(), model(status))
        await rig.delivered()
        assert fake.models == {}
    async with Delivering(tmp_path, fake) as rig:
        rig.state(MetricsLogged(MODEL, b'{"key":"x","value":1,"timestamp":1,"step":0,"run_id":"none"}', 1))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.read_again == [MODEL.id]
        rig.state(model(status))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.model(MODEL.id).status == status


@virtually
async def test_a_run_of_messages_is_held_for_its_tags_also_where_it_came_long_before_the_start(tmp_path: Path) -> None:
    """By the clock: the virtual one is months behind."""
    async with Delivering(tmp_path, is_gateway=True, filter=Filter(tags={"candidate": "true"})) as rig:
        rig.state(experiment(), head(1), points(1, [1]))
        await asyncio.sleep(MINUTE_S)
        rig.state(tags(1, candidate="true"), points(1, [2]))
        await rig.delivered(within_s=MINUTE_S)
        assert len(rig.run(run_key(1).id).points["loss"]) == 2


@virtually
async def test_a_daemon_that_is_killed_while_it_leaves_a_run_out_knows_that_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, went, let_go = FakeDestination(), asyncio.Event(), Settlement.let_all_go

    async def let_go_until_killed(settlement: Settlement, **bounds: int) -> None:
        await let_go(settlement, **bounds)
        went.set()
        await asyncio.Event().wait()

    async with Delivering(tmp_path, fake, filter=Filter(run_names=("other",))) as rig:
        monkeypatch.setattr(Settlement, "let_all_go", let_go_until_killed)
        rig.state(head(1))
        await went.wait()
    async with Delivering(tmp_path, fake) as rig:
        rig.state(experiment(), points(1, [1]))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.read_again == [run_key(1).id]


@virtually
async def test_a_model_with_more_params_than_a_create_takes(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        many = {f"p{number}": str(number) for number in range(350)}
        rig.state(experiment(), model(**many))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.model(MODEL.id).params == many
        assert rig.model(MODEL.id).status == "READY"
        assert len(rig.model(MODEL.id).request.params) <= rig.fake.limits.batch_params


@virtually
async def test_params_that_are_logged_after_a_model_was_created_arrive(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), model("PENDING", first="1"))
        await rig.delivered(within_s=MINUTE_S)
        rig.state(model(first="1", later="2"))
        await rig.delivered(within_s=MINUTE_S)
        assert rig.model(MODEL.id).params == {"first": "1", "later": "2"}


# -- a sync beside a training ------------------------------------------------------------------------------------------


class BusyIntake:
    """Of a store in which something is written between any two looks."""

    name = "busy"
    wants_look = False

    def __init__(self) -> None:
        self.looks: list[bool] = []

    def begin_look(self) -> None:
        pass

    async def read_once(self, *, full: bool) -> bool:
        self.looks.append(full)
        assert len(self.looks) < 100, "it follows the store"
        await asyncio.sleep(0.1)
        return True


class BusyPipeline:
    def __init__(self) -> None:
        self.intakes = [BusyIntake()]
        self.couriers: dict[str, Courier] = {}

    def start_uploading(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        return []

    async def drained(self) -> None:
        await asyncio.sleep(1.0)

    async def settle_twins(self) -> bool:
        return False


@virtually
async def test_a_sync_of_a_store_that_is_never_quiet_looks_once_more_and_ends() -> None:
    pipeline = BusyPipeline()
    assert await sync_once(cast(Pipeline, pipeline), patience_s=60.0) == []
    assert pipeline.intakes[0].looks == [True, False]


@virtually
async def test_a_point_waits_for_the_flush_interval_since_it_was_heard_of(tmp_path: Path) -> None:
    async with Delivering(tmp_path, flush_interval_s=10.0) as rig:
        for heard_ago_s in (0.0, 7.0):
            begun_s = now_s()
            rig.state(experiment(), *many_runs(1), since_s=begun_s - heard_ago_s)
            await rig.delivered(within_s=MINUTE_S)
            assert 10.0 <= now_s() - begun_s + heard_ago_s < 12.0


@virtually
async def test_what_comes_with_the_end_of_a_run_does_not_wait(tmp_path: Path) -> None:
    async with Delivering(tmp_path, flush_interval_s=60.0) as rig:
        begun_s = now_s()
        rig.state(experiment(), *many_runs(1))
        rig.state(experiment(), *many_runs(1), since_s=LONG_AGO_S)
        await rig.delivered(within_s=MINUTE_S)
        assert now_s() - begun_s < 5.0


# -- tags of experiments -----------------------------------------------------------------------------------------------


@virtually
async def test_one_refused_tag_of_an_experiment_is_a_dead_letter(tmp_path: Path) -> None:
    async with Delivering(tmp_path) as rig:
        rig.fake.judge = lambda method, about: (
            Rejected("no such tag") if isinstance(about, SetExperimentTags) and "bad" in about.tags else None
        )
        rig.state(replace(experiment(), tags={"a": "1", "bad": "2", "c": "3"}), *many_runs(1))
        await rig.delivered(within_s=MINUTE_S)
        [there] = (await rig.fake.experiments()).values()
        assert there.tags == {"a": "1", "c": "3"}
        assert rig.sums["dead_letters"] == 1
        assert len(rig.run(run_key(0).id).points["loss"]) == 20


@virtually
async def test_a_run_of_a_shared_queue_is_sent_although_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Delivering(tmp_path, is_gateway=True) as rig:
        rig.state(experiment(), head(1), points(1, range(3)))
        while not rig.fake.runs:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        monkeypatch.setattr("tests.faults.delivering.NOW_MS", NOW_MS - 24 * 3_600_000)
        await rig.delivered(within_s=MINUTE_S)
        assert len(rig.run(run_key(1).id).points["loss"]) == 3


@virtually
async def test_of_two_contents_of_a_path_the_later_one_stays_however_many_files_wait_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in different windows of what waits, and the older one takes longer."""
    monkeypatch.setattr(artifacts, "WINDOW_CHANGES", 1)
    seconds = {1: 9.0, 2: 1.0, 3: 1.0}
    arrived: list[int] = []

    async def send(_: Change, artifact: ArtifactSeen) -> Delivered:
        await asyncio.sleep(seconds[artifact.size_bytes])
        arrived.append(artifact.size_bytes)
        return Delivered(artifacts=1)

    async with Delivering(tmp_path) as rig:
        rig.uploader.channel.rests = lambda: True
        stated = [ArtifactSeen(run_key(1), path, "/", size, 1) for path, size in (("a", 1), ("b", 2), ("a", 3))]
        rig.state(experiment(), head(1), *stated)
        found = subjects.find_subject(rig.journal, rig.source_id, "run", run_key(1).id)
        assert found is not None
        subject = subjects.subject(rig.journal, found)
        await ArtifactDelivery(rig.channel, subject, Settlement(rig.channel, found), send).run()
        assert arrived == [2, 1, 3]


@pytest.mark.parametrize("heads", [300, 600])
@virtually
async def test_of_however_many_words_about_how_a_run_stands_the_last_one_counts(tmp_path: Path, heads: int) -> None:
    """As of a device that is silent, and heard of again, many times while the server is away."""
    async with Delivering(tmp_path) as rig:
        rig.state(experiment(), head(1))
        await rig.delivered()
        rig.uploader.channel.rests = lambda: True
        for number in range(heads):
            rig.state(head(1, name=f"name {number}", status="FINISHED" if number % 2 else "RUNNING"))
        rig.uploader.channel.rests = lambda: False
        rig.uploader.look()
        await rig.delivered(within_s=MINUTE_S)
        run = rig.run(run_key(1).id)
        assert (run.name, run.status) == (f"name {heads - 1}", "FINISHED")
