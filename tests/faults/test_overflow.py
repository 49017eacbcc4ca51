"""Destinations that take only so much, and say so or do not: nothing is lost, nothing is there twice, nothing refused.

Against the destination in memory; what is there is read by code of its own (``Held``).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.core.facts import ArtifactSeen, DatasetInput, InputsLogged, MetricsLogged, ParamsLogged, TagsSet
from syncd.core.limits import Limits
from syncd.core.requests import LogBatch
from syncd.core.source_tags import SESSION
from syncd.destinations.base import RemoteSubject
from syncd.errors import OutcomeUnknown, OverLimit, Rejected
from syncd.journal import dead_letters, deliveries
from syncd.rest.uploads import BytesUpload
from tests.faults.delivering import MINUTE_S, Delivering, virtually
from tests.journal_filling import NOW_MS, experiment, head, run_key
from tests.standins.fake_destination import FakeDestination

LIMITS = Limits(
    batch_metrics=25,
    tag_value_length=100,
    tags_per_run=20,
    params_per_run=10,
    metric_names_per_run=5,
    inputs_per_run=3,
    run_name_length=40,
    experiment_name_length=40,
)
RUN = run_key(1)


def workspace(limits: Limits = LIMITS, *, takes: Limits | None = None) -> FakeDestination:
    """Return a destination that appends, replaces nothing and refuses what is over its limits."""
    return FakeDestination(appends=True, limits=limits, takes=takes or limits, replaces_artifacts=False)


def series(names: Iterable[str], steps: Iterable[int], *, again: bool = False, value: object = 0.5) -> MetricsLogged:
    steps = list(steps)
    lines = [
        json.dumps({"key": name, "value": value, "timestamp": NOW_MS, "step": step}, separators=(",", ":")).encode()
        for name in names
        for step in steps
    ]
    return MetricsLogged(RUN, b"\n".join(lines), len(lines), again=again)


class Held:
    """What the destination has of the run, overflow included."""

    def __init__(self, rig: Delivering) -> None:
        run = rig.run(RUN.id)
        files = {path: data for (owner, path), data in rig.fake.artifacts.items() if owner == run.id}
        self.params = {**run.params, **self._document(files, "params")}
        self.tags = {**run.tags, **self._document(files, "tags")}
        self.index = self._document(files, "metrics/index")
        self.segments = {path: data for path, data in files.items() if path.endswith(".jsonl")}
        self.points = Counter((name, step) for name, points in run.points.items() for _, _, step in points)
        lines = [json.loads(line) for data in self.segments.values() for line in data.splitlines()]
        self.over = Counter((line["key"], line["step"]) for line in lines)
        self.datasets = len(run.datasets) + len(self._document(files, "inputs"))

    @staticmethod
    def _document(files: dict[str, bytes], section: str) -> dict[str, str]:
        said: dict[str, str | None] = {}
        pattern = re.compile(rf"syncd/overflow/{section}(?:\.(\d+))?\.json")
        found = [(int(match[1] or 1), path) for path in files if (match := pattern.fullmatch(path))]
        for _, path in sorted(found):
            said |= json.loads(files[path])
        return {key: value for key, value in said.items() if value is not None}

    @property
    def every_point(self) -> Counter[tuple[str, int]]:
        return self.points + self.over


def wanted(names: Iterable[str], steps: Iterable[int]) -> Counter[tuple[str, int]]:
    steps = list(steps)
    return Counter((name, step) for name in names for step in steps)


def assert_nothing_refused(rig: Delivering) -> None:
    sums = rig.sums
    assert (sums["dead_letters"], sums["points_waiting"]) == (0, 0)


NAMES = [f"metric {number}" for number in range(40)]
PARAMS = {f"p{number}": str(number) for number in range(30)}
TAGS = {f"t{number}": "x" * number for number in range(60)}


@virtually
async def test_a_run_with_too_much_of_everything_is_there_whole(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(
            experiment(),
            head(1, status="FINISHED"),
            ParamsLogged(RUN, PARAMS),
            TagsSet(RUN, TAGS),
            series(NAMES, [1, 2]),
        )
        await rig.delivered()
        held = Held(rig)
        assert held.params == PARAMS
        assert {key: held.tags[key] for key in TAGS} == TAGS
        assert held.every_point == wanted(NAMES, [1, 2])
        assert {name for name, _ in held.points} == set(NAMES[:5])
        assert set(held.index) == set(NAMES[5:])
        assert held.index[NAMES[5]] == {"points": 2, "segments": [1]}
        assert len(rig.run(RUN.id).tags) <= 20
        assert rig.run(RUN.id).tags["syncd.overflow"] == "metrics: 35, params: 20, tags: 46; see syncd/overflow/"
        assert rig.sums["overflow"] == 101
        assert_nothing_refused(rig)


@pytest.mark.parametrize(
    "lower",
    [
        {"batch_metrics": 7},
        {"metric_names_per_run": 3},
        {"metric_key_length": 8},
        {"metric_rows_per_name": 2},
        {"params_per_run": 4},
        {"param_value_length": 1},
        {"tags_per_run": 12},
        {"tag_value_length": 35},
        {"tag_key_length": 20},
        {"run_name_length": 20},
        {"inputs_per_run": 1},
        {"inputs_per_run": 0},
    ],
    ids=str,
)
@virtually
async def test_a_limit_that_only_a_refusal_names_is_kept_to(tmp_path: Path, lower: dict[str, int]) -> None:
    fake = workspace(takes=replace(LIMITS, **lower))  # type: ignore[arg-type]
    datasets = [DatasetInput(f"d{number}", "x", "local", "{}") for number in range(5)]
    long_key = {"a tag with quite a long name": "1"}
    async with Delivering(tmp_path, fake) as rig:
        rig.state(
            experiment(),
            head(1, status="FINISHED", name="a name of thirty characters..."),
            ParamsLogged(RUN, PARAMS),
            TagsSet(RUN, TAGS | long_key),
            InputsLogged(RUN, datasets),
            series(NAMES, range(4)),
        )
        await rig.delivered()
        held = Held(rig)
        assert held.params == PARAMS
        assert {key: held.tags[key] for key in TAGS | long_key} == TAGS | long_key
        assert held.every_point == wanted(NAMES, range(4))
        assert held.datasets == 5
        assert_nothing_refused(rig)
        if "run_name_length" in lower:
            assert len(rig.run(RUN.id).name) == 20
            assert held.tags["mlflow.runName"] == "a name of thirty characters..."


@virtually
async def test_what_is_over_a_limit_of_no_known_name_goes_to_the_overflow_alone(tmp_path: Path) -> None:
    def judge(method: str, about: object) -> Exception | None:
        if isinstance(about, LogBatch):
            bad = any(b'"metric 3"' in line for line in about.lines) or {"p3", "t3"} & {*about.params, *about.tags}
            if bad:
                return OverLimit("Size", limit_name="", limit=1, code="INVALID_PARAMETER_VALUE", status=400)
        return None

    fake = workspace(replace(LIMITS, metric_names_per_run=100, params_per_run=100, tags_per_run=100))
    fake.judge = judge
    async with Delivering(tmp_path, fake) as rig:
        rig.state(
            experiment(),
            head(1, status="FINISHED"),
            ParamsLogged(RUN, PARAMS),
            TagsSet(RUN, {"t3": "3", "t4": "4"}),
            series(NAMES[:10], range(10)),
        )
        await rig.delivered()
        held = Held(rig)
        assert held.every_point == wanted(NAMES[:10], range(10))
        assert {name for name, _ in held.over} == {"metric 3"}
        assert held.params == PARAMS
        assert (held.tags["t3"], held.tags["t4"]) == ("3", "4")
        assert_nothing_refused(rig)


@virtually
async def test_a_run_that_goes_on_gets_a_segment_a_minute(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1))
        for step in range(300):
            rig.state(series(NAMES, [step]))
            await asyncio.sleep(1.0)
            placed = Held(rig).points
            assert placed[NAMES[0], step] == 1, "a point that has a place must not wait for those that have none"
        assert 4 <= len(Held(rig).segments) <= 6
        assert rig.sums["points_waiting"] > 0
        rig.state(head(1, status="FINISHED"))
        await asyncio.sleep(2.0)
        held = Held(rig)
        assert held.every_point == wanted(NAMES, range(300))
        assert held.index[NAMES[7]]["points"] == 300
        assert len(held.index[NAMES[7]]["segments"]) == len(held.segments)
        assert_nothing_refused(rig)


@virtually
async def test_the_index_says_what_came_after_the_end_of_the_run(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1, status="FINISHED"), series(NAMES, [1]))
        await asyncio.sleep(MINUTE_S)
        assert Held(rig).index[NAMES[5]] == {"points": 1, "segments": [1]}
        rig.state(series(NAMES, [2]))
        await asyncio.sleep(2 * MINUTE_S)
        assert Held(rig).index[NAMES[5]] == {"points": 2, "segments": [1, 2]}
        assert not deliveries.waiting_subjects(rig.journal, rig.row.id)


@virtually
async def test_who_has_a_place_keeps_it_over_restarts(tmp_path: Path) -> None:
    fake = workspace()
    for step, names in enumerate([NAMES[:8], NAMES[::-1], NAMES]):
        async with Delivering(tmp_path, fake) as rig:
            rig.state(experiment(), head(1), series(names, [step]), TagsSet(RUN, {f"late {step}": "1"}))
            await rig.delivered()
            assert {name for name, _ in Held(rig).points} == set(NAMES[:5])
    assert Held(rig).every_point == wanted(NAMES[:8], [0]) + wanted(NAMES, [1, 2])


@virtually
async def test_tags_and_params_are_counted_over_many_passes(tmp_path: Path) -> None:
    fake = workspace()
    async with Delivering(tmp_path, fake) as rig:
        rig.state(experiment(), head(1))
        for number in range(30):
            rig.state(ParamsLogged(RUN, {f"p{number}": "1"}), TagsSet(RUN, {f"t{number}": "1"}))
            await asyncio.sleep(5.0)
        await rig.delivered()
        held, run = Held(rig), rig.run(RUN.id)
        assert (len(run.params), len(held.params)) == (10, 30)
        assert len(run.tags) == 20 - 1  # a parent's could still come
        assert {f"t{number}" for number in range(30)} <= set(held.tags)
        assert_nothing_refused(rig)
        assert not [request for request in fake.sent if isinstance(request, LogBatch) and len(request.tags) > 20]


@virtually
async def test_a_value_that_was_edited_or_removed_is_found_in_the_last_document(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1), TagsSet(RUN, {"note": "x" * 200, "other": "y" * 200}))
        await rig.delivered()
        rig.state(TagsSet(RUN, {"note": "z" * 200}))
        await rig.delivered()
        assert Held(rig).tags["note"] == "z" * 200
        rig.state(TagsSet(RUN, {"note": "short"}))
        await rig.delivered()
        held = Held(rig)
        assert (held.tags["note"], held.tags["other"]) == ("short", "y" * 200)
        names = sorted(path for _, path in rig.fake.artifacts if "tags" in path)
        assert names == [f"syncd/overflow/tags{number}.json" for number in (".2", ".3", "")]


@virtually
async def test_a_lost_answer_of_a_document_or_segment_makes_no_second_one(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        lost = OutcomeUnknown("the answer was lost")
        uploads = Counter[str]()

        def judge(method: str, about: object) -> Exception | None:
            if method == "upload":
                uploads[str(about)] += 1
                if uploads[str(about)] == 1:
                    rig.fake.after.append(lost)
            return None

        rig.fake.judge = judge
        rig.state(experiment(), head(1, status="FINISHED"), ParamsLogged(RUN, PARAMS), series(NAMES, [1, 2, 3]))
        await rig.delivered()
        held = Held(rig)
        assert held.every_point == wanted(NAMES, [1, 2, 3])
        assert held.params == PARAMS
        assert set(uploads.values()) == {2}
        assert len(held.segments) == 1


@virtually
async def test_a_lost_journal_finds_the_overflow_there_and_adds_nothing(tmp_path: Path) -> None:
    fake = workspace()
    facts = (
        experiment(),
        head(1, status="FINISHED"),
        ParamsLogged(RUN, PARAMS),
        TagsSet(RUN, TAGS),
        series(NAMES, range(30)),
    )
    for state in ("one", "two"):
        async with Delivering(tmp_path / state, fake) as rig:
            rig.state(*facts, first_reading=True)
            await rig.delivered()
            if state == "one":
                before = dict(fake.artifacts)
                rig.state(series(NAMES, range(10, 20), again=True))  # and what is stated again adds nothing either
                await rig.delivered()
            assert fake.artifacts == before
            assert Held(rig).every_point == wanted(NAMES, range(30))
            assert rig.sums["overflow"] == 101
    async with Delivering(tmp_path / "two", fake) as rig:
        rig.state(series(NAMES, [30]))
        await rig.delivered()
        assert Held(rig).every_point == wanted(NAMES, range(31))
        assert set(Held(rig).segments) == {f"syncd/overflow/metrics/{number}.jsonl" for number in (1, 2)}


@virtually
async def test_a_number_that_somebody_else_has_taken_is_passed_over(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1))
        await rig.delivered()
        owner = rig.run(RUN.id).id
        for path, data in (("params.json", b'{"foreign": "1"}'), ("metrics/1.jsonl", b""), ("params.2.json", b"{}")):
            rig.fake.artifacts[owner, f"syncd/overflow/{path}"] = data
        rig.state(head(1, status="FINISHED"), ParamsLogged(RUN, PARAMS), series(NAMES, [1]))
        await rig.delivered()
        held = Held(rig)
        assert held.params == PARAMS | {"foreign": "1"}
        assert held.every_point == wanted(NAMES, [1])
        assert (owner, "syncd/overflow/params.3.json") in rig.fake.artifacts
        assert_nothing_refused(rig)


@virtually
async def test_a_refused_segment_becomes_a_letter_that_can_be_sent_again(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        refusal = Rejected("no artifacts here", code="NO", status=400)
        rig.fake.judge = lambda method, about: refusal if method == "upload" else None
        datasets = [DatasetInput(f"d{number}", "x", "local", "{}") for number in range(5)]
        rig.state(experiment(), head(1, status="FINISHED"), ParamsLogged(RUN, PARAMS), InputsLogged(RUN, datasets))
        rig.state(series(NAMES, [1, 2]))
        await rig.delivered()
        sums = rig.sums
        assert (sums["dead_letters"], sums["points_waiting"]) == (3, 0)
        rig.fake.judge = lambda method, about: None
        dead_letters.retry(tmp_path, None)
        await asyncio.sleep(MINUTE_S)
        await rig.delivered()
        held = Held(rig)
        assert held.every_point == wanted(NAMES, [1, 2])
        assert held.params == PARAMS
        assert held.datasets == 5
        assert_nothing_refused(rig)


@virtually
async def test_a_refused_index_and_a_refused_list_of_renamed_artifacts_become_letters_that_can_be_sent_again(
    tmp_path: Path,
) -> None:
    async with Delivering(tmp_path / "state", workspace()) as rig:
        rig.channel.open_artifact = lambda artifact: BytesUpload(artifact.path, b"own bytes")
        documents = ("syncd/overflow/metrics/index.json", "syncd/overflow/artifacts.json")
        refusal = Rejected("not by this name", code="NO", status=400)
        rig.fake.judge = lambda method, about: refusal if about in documents else None
        rig.state(experiment(), head(1))
        await rig.delivered()
        rig.fake.artifacts[rig.run(RUN.id).id, "plot.png"] = b"other bytes"
        rig.state(ArtifactSeen(RUN, "plot.png", "/nowhere", 9, 1), series(NAMES, [1]), head(1, status="FINISHED"))
        await rig.delivered()
        assert rig.sums["dead_letters"] == 2
        assert Held(rig).index == {}
        rig.fake.judge = lambda method, about: None
        dead_letters.retry(tmp_path / "state", None)
        await asyncio.sleep(MINUTE_S)
        await rig.delivered()
        assert set(Held(rig).index) == set(NAMES[5:])
        [(path, stored)] = json.loads(rig.fake.artifacts[rig.run(RUN.id).id, documents[1]]).items()
        assert path == "plot.png"
        assert rig.fake.artifacts[rig.run(RUN.id).id, stored] == b"own bytes"
        assert Held(rig).every_point == wanted(NAMES, [1])
        assert_nothing_refused(rig)


@virtually
async def test_overflow_that_is_not_syncds_is_left_and_what_it_may_have_said_is_written_beside_it(
    tmp_path: Path,
) -> None:
    fake = workspace()
    facts = (experiment(), head(1, status="FINISHED"), ParamsLogged(RUN, PARAMS), TagsSet(RUN, TAGS))
    async with Delivering(tmp_path / "one", fake) as rig:
        rig.state(*facts, series(NAMES, range(3)))
        await rig.delivered()
        owner = rig.run(RUN.id).id
    spoilt = {"params.json": b"<html>", "tags.json": b'{"t": 1}', "metrics/1.jsonl": b"\xff\n"}
    for path, content in spoilt.items():
        assert (owner, f"syncd/overflow/{path}") in fake.artifacts
        fake.artifacts[owner, f"syncd/overflow/{path}"] = content
    async with Delivering(tmp_path / "two", fake) as rig:
        rig.state(*facts, series(NAMES, range(3)), first_reading=True)
        await rig.delivered()
        for path, content in spoilt.items():
            assert fake.artifacts.pop((owner, f"syncd/overflow/{path}")) == content
        held = Held(rig)
        assert held.params == PARAMS
        assert TAGS.items() <= held.tags.items()
        assert held.every_point == wanted(NAMES, range(3))
        assert_nothing_refused(rig)


@virtually
@pytest.mark.parametrize("name", NAMES[4:6])  # one that has a place, and one that has none
async def test_a_last_point_that_was_refused_is_sent_again_by_the_same_process(tmp_path: Path, name: str) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1), series(NAMES[:5], [0]))
        await rig.delivered()
        rig.fake.judge = lambda method, about: (
            Rejected("no", code="NO", status=400)
            if method == "upload" or (isinstance(about, LogBatch) and about.lines)
            else None
        )
        rig.state(series([name], [1]))
        await rig.delivered()
        assert rig.sums["dead_letters"] == 1
        rig.fake.judge = lambda method, about: None
        dead_letters.retry(tmp_path, None)
        await asyncio.sleep(MINUTE_S)
        await rig.delivered()
        assert Held(rig).every_point == wanted(NAMES[:5], [0]) + wanted([name], [1])
        assert_nothing_refused(rig)


class Unfinished(FakeDestination):
    """Lists artifacts that were registered, and never sent."""

    unsent: frozenset[str] = frozenset()

    async def content(self, subject: RemoteSubject, path: str) -> AsyncIterator[bytes]:
        if path in self.unsent:
            raise Rejected("404 BlobNotFound", code="BlobNotFound", status=404)
        async for piece in super().content(subject, path):
            yield piece


@virtually
async def test_overflow_that_a_killed_process_only_registered_refuses_nothing(tmp_path: Path) -> None:
    fake = Unfinished(appends=True, limits=LIMITS, takes=LIMITS, replaces_artifacts=False)
    for state in ("one", "two"):  # the second journal knows nothing of the first
        async with Delivering(tmp_path / state, fake) as rig:
            rig.state(experiment(), head(1), ParamsLogged(RUN, PARAMS), series(NAMES, [1, 2]), first_reading=True)
            await rig.delivered()
            held = Held(rig)
            assert_nothing_refused(rig)
            for path in fake.unsent:
                held.segments.pop(path, None)
            assert set(held.over) == set(wanted(NAMES[5:], [1, 2]))
            assert len(held.segments) == 1
            assert held.params == PARAMS
        fake.unsent = frozenset({"syncd/overflow/params.json", "syncd/overflow/metrics/1.jsonl"})


@virtually
async def test_an_artifact_that_a_killed_process_only_registered_is_sent(tmp_path: Path) -> None:
    fake = Unfinished(appends=True, limits=LIMITS, takes=LIMITS, replaces_artifacts=False)
    sent: list[object] = []

    def judge(method: str, about: object) -> None:
        if method == "upload":
            sent.append(about)

    fake.judge = judge
    for state in ("one", "two"):  # the second journal knows nothing of the first
        async with Delivering(tmp_path / state, fake) as rig:
            rig.channel.open_artifact = lambda artifact: BytesUpload(artifact.path, b"abc")
            rig.state(experiment(), head(1), ArtifactSeen(RUN, "a.bin", "r", 3, 0), first_reading=True)
            await rig.delivered()
            assert_nothing_refused(rig)
        fake.unsent = frozenset({"a.bin"})
    assert sent == ["a.bin", "a.bin"]


@virtually
async def test_what_a_twin_kept_that_gave_way_is_kept_by_the_other(tmp_path: Path) -> None:
    params, metrics = ParamsLogged(RUN, PARAMS), series(NAMES, [1, 2])
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1, status="FINISHED"), params, metrics)
        await rig.delivered()
        ours = rig.run(RUN.id)
        twin = replace(
            ours, id="0", params={}, points={}, tags={**ours.tags, SESSION: "another"}
        )  # of another daemon, which has sent nothing yet
        rig.fake.runs["0"] = twin
        assert await rig.uploader.settle_twins(2**62)
        rig.state(head(1, status="FINISHED"), params, replace(metrics, again=True))
        await rig.delivered()
        held = Held(rig)
        assert rig.run(RUN.id).id == "0"
        assert held.every_point == wanted(NAMES, [1, 2])
        assert held.params == PARAMS
        assert_nothing_refused(rig)


@virtually
async def test_what_is_not_finite_goes_over_where_it_cannot_be_held(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace(replace(LIMITS, only_finite=True))) as rig:
        rig.state(
            experiment(),
            head(1, status="FINISHED"),
            series(["a"], [1]),
            series(["a", "b"], [2], value="NaN"),
        )
        await rig.delivered()
        held = Held(rig)
        assert (held.points, held.over) == (wanted(["a"], [1]), wanted(["a", "b"], [2]))
        assert_nothing_refused(rig)


@virtually
async def test_a_point_written_twice_in_a_row_is_one_even_in_another_request_or_pass(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        steps = [step for step in range(100) for _ in (1, 2)]
        rig.state(experiment(), head(1), series(["loss"], steps))
        await rig.delivered()
        rig.state(series(["loss"], [99, 100]))
        await rig.delivered()
        assert Held(rig).points == wanted(["loss"], range(101))


@virtually
async def test_a_point_whose_answer_was_lost_is_not_taken_for_its_own_repetition(tmp_path: Path) -> None:
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment(), head(1))
        await rig.delivered()
        lost = [OutcomeUnknown("reset"), OutcomeUnknown("reset")]

        def judge(method: str, about: object) -> Exception | None:
            return lost.pop() if lost and isinstance(about, LogBatch) and about.lines else None

        rig.fake.judge = judge  # nothing is done
        rig.state(series(["loss"], [7]))
        await rig.delivered()
        assert not lost
        assert Held(rig).points == wanted(["loss"], [7])


@virtually
async def test_long_names_are_kept_whole(tmp_path: Path) -> None:
    names = ["n" * 100 + end for end in ("1", "2")]
    async with Delivering(tmp_path, workspace()) as rig:
        rig.state(experiment("e" * 100), head(1, status="FINISHED", name=names[0]))
        await rig.delivered()
        run = rig.run(RUN.id)
        assert len(run.name) == 40
        assert run.name.startswith("nnnn")
        assert Held(rig).tags["mlflow.runName"] == names[0]
        [there] = (await rig.fake.experiments()).values()
        assert len(there.name) == 40
        assert there.tags["syncd.experiment_name"] == "e" * 100
        assert_nothing_refused(rig)
