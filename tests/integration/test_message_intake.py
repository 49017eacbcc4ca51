"""Messages into a real mlflow server, from a source in memory: whole, once, and whatever is hostile is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import threading
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tenacity import wait_fixed

from syncd.configuration import DaemonSettings, MessageOptions, MlrunsSettings, destination_of_argument
from syncd.core.filters import Filter
from syncd.core.source_tags import SESSION, SOURCE, SOURCE_RUN_ID
from syncd.errors import AuthFailed, JournalFull, MessageRefused, Transient
from syncd.journal import deliveries, participants
from syncd.journal.dead_letters import retry
from syncd.journal.inbox import Inbox
from syncd.journal.journal import Journal
from syncd.journal.message_runs import RunStep
from syncd.journal.outbox import events_after
from syncd.journal.refused_messages import KeptMessage, RefusedMessages
from syncd.journal.report import JournalReport, LetterReport
from syncd.runtime import backoff, lanes, message_intake, settlement
from syncd.runtime.message_assembly import MessageOpening
from syncd.runtime.message_reading import MessageReader
from syncd.runtime.pipeline import Pipeline
from syncd.sources.in_memory import InMemorySource
from tests.standins.mlflow_server import RunningMlflow

DEADLINE_S = 60.0
FIRST_MS = 1_700_000_000_000


class Case:
    """A pipeline that runs, with one source in memory."""

    def __init__(self, pipeline: Pipeline, source: InMemorySource, url: str, experiment: str) -> None:
        self.pipeline = pipeline
        self.source = source
        self.experiment = experiment
        self.client = MlflowClient(url)

    @property
    def intake(self) -> Any:
        return self.pipeline.message_intakes[0]

    async def until(self, holds: Callable[[], bool], *, timeout_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - a server is asked
                await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Wait until no message waits and everything was delivered."""
        await self.until(lambda: self.source.unsettled == 0)
        await self.until(lambda: self.everything_is_there())

    def notes(self) -> list[str]:
        """Return why runs and others do not move on."""
        return [row[0] for row in self.pipeline.journal.journal._connection.execute("SELECT note FROM progress")]

    def everything_is_there(self) -> bool:
        totals = self.pipeline.totals()
        waiting = [deliveries.waiting_subjects(self.pipeline.journal.journal, one) for one in self.pipeline.uploaders]
        return bool(waiting) and not any(waiting) and totals.points_waiting == 0

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.experiment)
        return [] if experiment is None else self.client.search_runs([experiment.experiment_id])


@asynccontextmanager
async def running(
    state_dir: Path, server: RunningMlflow, experiment: str, source: InMemorySource | None = None, **options: Any
) -> AsyncIterator[Case]:
    source = source or InMemorySource("bus")
    daemon = {key: options.pop(key) for key in ("journal_max_bytes",) if key in options}
    stores, takes_messages = options.pop("stores", []), options.pop("messages", True)
    destination = replace(destination_of_argument(server.url), filter=options.pop("filter", Filter()))
    options_of = options.pop("options_of", MessageOptions)
    settings = options_of(**{"name": "bus", "experiment": experiment, "start_patience_s": 0.5, **options})
    pipeline = Pipeline(
        Journal.open(state_dir, event_source="syncd/host"),
        daemon=DaemonSettings(state_dir=state_dir, flush_interval_s=0.05, **daemon),
        sources=stores,
        destinations=[destination],
        messages=[MessageOpening(settings, lambda: source)] if takes_messages else [],
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [*pipeline.start_uploading(tasks), *pipeline.start_following(tasks)]
            yield Case(pipeline, source, server.url, experiment)
            for task in started:
                task.cancel()
    finally:
        await pipeline.close()


def letters(state_dir: Path) -> list[LetterReport]:
    journal = JournalReport.open(state_dir)
    assert journal is not None
    with journal:
        return journal.letters()


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name} {uuid.uuid4().hex[:8]}"


def event(data: Any, *, of: str = "log", **attributes: Any) -> dict[str, Any]:
    known = {"specversion": "1.0", "source": "/gpu/7", "type": f"dev.syncd.{of}"}
    identity = hashlib.sha256(repr((data, of, attributes)).encode()).hexdigest()
    return {**known, "id": identity, "time": "2023-11-14T22:13:20Z", **attributes, "data": data}


def point(key: str, value: Any, step: int) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": FIRST_MS + step, "step": step}


def history(case: Case, run: Run, key: str) -> list[tuple[float, int, int]]:
    return [(one.value, one.timestamp, one.step) for one in case.client.get_metric_history(run.info.run_id, key)]


async def test_a_run_that_lives_in_messages_only_arrives_whole(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    content = os.urandom(300_000)
    async with running(tmp_path, mlflow_server, experiment, roots=(tmp_path / "out",)) as case:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "large.bin").write_bytes(content)
        run = {"id": "run-1", "name": "night"}
        start = {"run": run, "start_time": FIRST_MS, "user": "ada", "params": {"lr": 0.1}, "tags": {"kind": "night"}}
        artifacts = [
            {"path": "plots/a.bin", "content": base64.b64encode(content[:1000]).decode()},
            {"path": "large.bin", "root": str(tmp_path / "out")},
        ]
        case.source.put(event(start, of="run.start"))
        case.source.put(event({"run": run, "metrics": {"loss": 0.1, "acc": 1}, "step": 3, "timestamp": FIRST_MS}))
        case.source.put(event({"run": run, "metrics": [point("loss", 1e-300, 4), point("loss", -0.0, 5)]}))
        case.source.put(event({"run": run, "artifacts": artifacts}))
        case.source.put(event({"run": {"id": "child"}, "parent": run}, of="run.start"))
        case.source.put(event({"run": run, "status": "FAILED", "end_time": FIRST_MS + 9}, of="run.end"))
        case.source.put({"metrics": {"t": 21.5}}, address="syncd/pump/7/metrics", sent_ms=FIRST_MS)
        await case.settled()
        runs = {one.data.tags[SOURCE_RUN_ID]: one for one in await asyncio.to_thread(case.runs)}
        night, child = runs["run-1"], runs["child"]
        assert (night.info.run_name, night.info.status, night.info.user_id) == ("night", "FAILED", "ada")
        assert (night.info.start_time, night.info.end_time) == (FIRST_MS, FIRST_MS + 9)
        assert night.data.params == {"lr": "0.1"}
        assert (night.data.tags["kind"], night.data.tags[SOURCE]) == ("night", "bus")
        assert history(case, night, "loss") == [
            (0.1, FIRST_MS, 3),
            (1e-300, FIRST_MS + 4, 4),
            (-0.0, FIRST_MS + 5, 5),
        ]
        assert child.data.tags["mlflow.parentRunId"] == night.info.run_id
        files = {
            file.path: file.file_size
            for folder in ("", "plots")
            for file in case.client.list_artifacts(night.info.run_id, folder)
            if not file.is_dir
        }
        assert files == {"plots/a.bin": 1000, "large.bin": 300_000}
        [pump] = [one for one in runs.values() if one.info.run_name == "7"]
        assert history(case, pump, "t") == [(21.5, FIRST_MS, 0)]
        assert case.source.refused == []
        await case.until(lambda: list((tmp_path / "spool").iterdir()) == [])


async def test_shuffled_repeated_and_malformed_messages_through_restarts(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    """Every good point is there once and every malformed message is kept, though the daemon is stopped in between."""
    random.seed(5)
    bodies: list[Any] = []
    for number in range(6):
        run = {"id": f"shuffled-{number}"}
        bodies.append(event({"run": run, "start_time": FIRST_MS}, of="run.start"))
        bodies += [event({"run": run, "metrics": [point("loss", step / 7, step)]}) for step in range(200)]
        bodies.append(event({"run": run, "end_time": FIRST_MS + 500}, of="run.end"))
    bodies += random.choices(bodies, k=60)
    bad = [f'{{"metrics": {number}}}'.encode() for number in range(12)]
    bodies += bad
    random.shuffle(bodies)
    source = InMemorySource("bus")
    for position in range(0, len(bodies), 320):
        async with running(tmp_path, mlflow_server, experiment, source) as case:
            for body in bodies[position : position + 320]:
                source.put(body)
            await asyncio.sleep(0.3)  # it is stopped wherever it is
    async with running(tmp_path, mlflow_server, experiment, source) as case:
        await case.settled()
        runs = await asyncio.to_thread(case.runs)
        assert len(runs) == 6
        for run_ in runs:
            assert history(case, run_, "loss") == [(step / 7, FIRST_MS + step, step) for step in range(200)]
            assert (run_.info.status, run_.info.end_time) == ("FINISHED", FIRST_MS + 500)
        assert {letter.subject_key for letter in letters(tmp_path)} == {one.message.id for one in source.refused}
        assert {one.message.body for one in source.refused} == set(bad)


async def test_hostile_messages_are_refused_and_counted_in_flat_memory(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "out" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "out" / "fifo")
    out = str(tmp_path / "out")

    def artifact(**fields: str) -> dict[str, Any]:
        return event({"run": "x", "artifacts": [{"path": "a", **fields}]})

    hostile: list[tuple[Any, str]] = [
        (b"[" * 1_000_000, "deeper"),
        (b'{"a":' * 500_000, "deeper"),
        (b'"' + b"x" * 3_000_000, "not JSON"),
        (b"x" * 5_000_000, "max_message_bytes"),
        (b"[" + b"7," * 1_000_000 + b"7]", "10000 events"),
        (artifact(path="../secret", content=""), "without"),
        (artifact(path="/etc/passwd", root="/"), "relative"),
        (artifact(path="passwd", root="/etc"), "not below an allowed root"),
        (artifact(path="secret", root=f"{out}/.."), "not below an allowed root"),
        (artifact(path="secret", root=f"{out}/up"), "not below an allowed root"),
        (artifact(path="link", root=out), "link"),
        (artifact(path="up/secret", root=out), "link"),
        (artifact(path="fifo", root=out), "regular"),
        (artifact(path="missing", root=out), "no file"),
        (event({"run": "x", "tags": {"syncd.source_run_id": "other"}}), "syncd's own"),
        (event({"source": "local"}, of="command.sync"), "not allowed"),
        (event({"source": "bus"}, of="command.pause"), "cannot pause itself"),
        (event({"destination": "elsewhere"}, of="command.pause"), "no destination 'elsewhere'"),
        (event({"run": "x", "model": "m", "artifact_path": "p"}, of="command.register"), "not in this version"),
        (event({}, of="command.reboot"), "expected one of sync"),
        (event({"run": "x", "metrics": {"k" * 100_000: 1}}), "metric's name"),
        (event({"run": "x", "metrics": {"k": "1; DROP TABLE"}}), "a number"),
    ]
    async with running(
        tmp_path, mlflow_server, experiment, commands=("pause", "resume"), roots=(tmp_path / "out",)
    ) as case:
        for body, _ in hostile:
            case.source.put(body)
        await case.until(lambda: case.source.unsettled == 0)
        words = {one.message.id: one.description for one in case.source.refused}
        for number, (body, word) in enumerate(hostile, 1):
            assert word in words.pop(f"message-{number}"), (str(body)[:80], word)
        tracemalloc.start()
        try:
            await bombard(case, [body for body, _ in hostile[:5]], times=1)
            before, _ = tracemalloc.get_traced_memory()
            await bombard(case, [body for body, _ in hostile[:5]], times=4)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 8_000_000
        for number in range(150):
            case.source.put(event({}, of=f"x{number}"))
        case.source.put(event({"run": {"id": "good"}, "metrics": {"m": 1}}))
        await case.settled()
        [good] = await asyncio.to_thread(case.runs)
        assert good.data.metrics == {"m": 1.0}
        [counts] = case.pipeline.journal.journal._fetch("message_counts")
        assert counts[4] == len(hostile) + 5 * 5
        told = [one for one in events_after(case.pipeline.journal.journal, 0, 1000) if "dead" in one.type]
        assert len({one.data["letter"] for one in told}) == len(told) == counts[4]


async def bombard(case: Case, bodies: list[Any], *, times: int) -> None:
    """Send and forget: what the source itself keeps is not the intake's memory."""
    for _ in range(times):
        for body in bodies:
            case.source.put(body)
        await case.until(lambda: case.source.unsettled == 0)
        case.source.refused.clear()


async def test_a_message_that_nobody_foresaw_ends_nothing(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, mlflow_server, experiment) as case:
        read = case.intake._reader.read

        def fails(message: Any, **options: Any) -> Any:
            if b"poison" in message.body:
                raise ZeroDivisionError("nobody foresaw this")
            return read(message, **options)

        monkeypatch.setattr(case.intake._reader, "read", fails)
        for number in range(3):
            case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", number, number)]}))
        case.source.put(b"poison")
        await case.settled()
        [refused] = case.source.refused
        assert (refused.reason, refused.description) == ("Unexpected", "ZeroDivisionError: nobody foresaw this")
        [run] = await asyncio.to_thread(case.runs)
        assert len(history(case, run, "m")) == 3
        assert retry(tmp_path, None).waiting == (1,)
        await case.until(lambda: case.intake._refused.to_retry() == [])
        case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", 3, 3)]}))
        await case.settled()
        assert [letter.code for letter in letters(tmp_path)] == ["Unexpected"]
        told = [one.data["code"] for one in events_after(case.pipeline.journal.journal, 0, 1000) if "dead" in one.type]
        assert told == ["Unexpected"]


async def test_what_is_being_committed_at_a_stop_is_settled(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, stopping = threading.Event(), threading.Event()
    take = Inbox.take

    def take_slowly(inbox: Inbox, told: Any, **options: Any) -> Any:
        taken = take(inbox, told, **options)
        committed.set()
        assert stopping.wait(DEADLINE_S)
        return taken

    monkeypatch.setattr(Inbox, "take", take_slowly)
    async with running(tmp_path, mlflow_server, experiment) as case:
        case.source.put(json.dumps({"run": "night", "metrics": {"loss": 1}}).encode())
        assert await asyncio.to_thread(committed.wait, DEADLINE_S)
        asyncio.get_running_loop().call_soon(stopping.set)  # once it is told to stop
    assert case.source.unsettled == 0


async def test_a_source_that_fails_is_tried_again_and_says_so(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    async with running(tmp_path, mlflow_server, experiment) as case:
        case.source.failures.append(AuthFailed("the key is wrong", doing="receiving from", target="bus"))
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 1}}))
        case.source.hand_over_again()
        await case.until(lambda: "the key is wrong" in case.intake.error)
        assert [what for _, _, what in participants.problems(case.pipeline.journal.journal)] == [case.intake.error]
        await case.settled()
        assert (case.intake.error, participants.problems(case.pipeline.journal.journal)) == ("", [])
        case.source.failures.extend(Transient("gone") for _ in range(3))
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 2}}))
        await case.settled()
        assert len(case.source.completed) == 2


async def test_what_the_last_daemon_could_not_receive_is_no_problem_any_more(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    async with running(tmp_path, mlflow_server, experiment) as case:
        case.source.failures.append(Transient("gone"))
        case.source.hand_over_again()
        await case.until(lambda: "gone" in case.intake.error)
        await case.intake._record_giving_back("not permitted to send there")
        assert len(participants.problems(case.pipeline.journal.journal)) == 2
    async with running(tmp_path, mlflow_server, experiment) as case:
        await case.until(lambda: not participants.problems(case.pipeline.journal.journal))


async def test_a_full_journal_holds_messages_and_drops_none(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    async with running(tmp_path, mlflow_server, experiment, journal_max_bytes=1) as case:
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 1}}))
        await case.until(lambda: len(case.source.completed) == 1)
        await case.until(lambda: "journal_max_bytes is 1" in case.intake.paused)
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 2}}))
        await asyncio.sleep(1.5)
        assert (case.source.unsettled, len(case.source.completed)) == (1, 1)
        case.intake._journal_max_bytes = 2**40
        await case.settled()
        assert case.intake.paused == ""
        assert len(case.source.completed) == 2


async def test_what_a_sensor_says_again_counts_although_it_is_handed_over_again(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    source = InMemorySource("bus")
    same = {"run": {"id": "r"}, "metrics": {"m": 1}}
    async with running(tmp_path, mlflow_server, experiment, source) as case:
        for packet, deliveries in ((1, 1), (2, 1), (3, 2), (2, 2), (3, 2)):  # 3 was lost with its first connection
            source.put(same, id="", packet=packet, deliveries=deliveries)
            await case.settled()
        [run] = await asyncio.to_thread(case.runs)
        assert len(history(case, run, "m")) == 3


@pytest.mark.parametrize("body", [b"no JSON", b"poison"])
async def test_a_disk_that_is_full_just_when_a_refusal_is_kept_doubles_no_neighbour(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(message_intake, "FULL_RETRY_S", 0.1)
    keep, full = RefusedMessages._keep, [True, True]
    read = MessageReader.read

    def reads(self: MessageReader, message: Any, **options: Any) -> Any:
        if message.body == b"poison":
            raise ZeroDivisionError("nobody foresaw this")
        return read(self, message, **options)

    def keeps(self: RefusedMessages, message: KeptMessage, refusal: MessageRefused) -> int | None:
        if full:
            full.pop()
            raise JournalFull("no space", doing="writing", target="syncd.db")
        return keep(self, message, refusal)

    monkeypatch.setattr(RefusedMessages, "_keep", keeps)
    monkeypatch.setattr(MessageReader, "read", reads)
    source = InMemorySource("bus")
    source.put({"run": {"id": "r"}, "metrics": {"m": 1}}, id="")  # as MQTT has it: nothing tells it from another
    source.put(body, id="")
    async with running(tmp_path, mlflow_server, experiment, source) as case:
        await case.settled()
        assert len(letters(tmp_path)) == 1
        [run] = await asyncio.to_thread(case.runs)
        assert len(history(case, run, "m")) == 1


async def test_commands_that_are_allowed_are_obeyed(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    (tmp_path / "store").mkdir()
    stores = [MlrunsSettings(name="local", paths=(tmp_path / "store",), reconcile_interval_s=1000, watch=False)]
    name = destination_of_argument(mlflow_server.url).name
    commands = ("sync", "pause", "resume")
    state_dir = tmp_path / "state"
    async with running(state_dir, mlflow_server, experiment, commands=commands, stores=stores) as case:
        [store] = case.pipeline.intakes
        looks = 0

        def look() -> None:
            nonlocal looks
            looks += 1

        store.look_wholly = look  # type: ignore[method-assign]
        case.source.put(event({"source": "local"}, of="command.sync"))
        await case.until(lambda: looks == 1)
        case.source.put(event({"destination": name}, of="command.pause"))
        await case.until(lambda: case.pipeline.rests.is_resting("destination", name))
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 1}}))
        await case.until(lambda: len(case.source.completed) == 3)
        await asyncio.sleep(1.0)
        assert await asyncio.to_thread(case.runs) == []
        await asyncio.wait_for(case.pipeline.drained(), 10)
    async with running(state_dir, mlflow_server, experiment, commands=commands, stores=stores) as case:
        assert case.pipeline.rests.is_resting("destination", name)
        case.source.put(event({"source": "local"}, of="command.pause"))
        await case.until(lambda: case.pipeline.rests.is_resting("source", "local"))
        case.source.put(event({"destination": name}, of="command.resume"))
        case.source.put(event({"source": "local"}, of="command.resume"))
        case.source.put(event({"destination": name}, of="command.pause", time="2023-11-14T22:13:19Z"))
        await case.settled()
        [run] = await asyncio.to_thread(case.runs)
        assert run.data.metrics == {"m": 1.0}


async def test_a_source_that_rests_takes_nothing_and_holds_nothing(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    gave_back = asyncio.Event()

    class Source(InMemorySource):
        async def close(self) -> None:
            await super().close()
            gave_back.set()

    def told(case: Case, statement: str) -> None:
        with case.pipeline.journal.journal._transaction("told by another source"):
            case.pipeline.journal.journal._connection.execute(statement)
        case.pipeline.rests.look()

    async with running(tmp_path, mlflow_server, experiment, Source("bus")) as case:
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 1}}))
        await case.settled()
        told(case, "INSERT INTO pause (kind, name, source, at_ms) VALUES ('source', 'bus', 'other', 1)")
        await asyncio.wait_for(gave_back.wait(), DEADLINE_S)
        case.source.put(event({"run": {"id": "r"}, "metrics": {"m": 2}}))
        await asyncio.sleep(0.2)
        assert (len(case.source.completed), case.source.unsettled) == (1, 1)
        told(case, "DELETE FROM pause")
        await case.settled()
        assert len(case.source.completed) == 2


async def test_a_refused_message_is_taken_when_it_is_tried_again(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    (tmp_path / "out").mkdir()
    body = event({"run": {"id": "r"}, "artifacts": [{"path": "a", "root": str(tmp_path / "out")}]})
    async with running(tmp_path, mlflow_server, experiment, roots=(tmp_path / "out",)) as case:
        case.source.put(body)
        await case.until(lambda: len(case.source.refused) == 1)
        assert [letter.code for letter in letters(tmp_path)] == ["Malformed"]
        (tmp_path / "out" / "a").write_text("here now")
        assert retry(tmp_path, None).waiting == (1,)
        await case.until(lambda: letters(tmp_path) == [])
        await case.settled()
        [run] = await asyncio.to_thread(case.runs)
        assert [file.path for file in case.client.list_artifacts(run.info.run_id)] == ["a"]


async def test_what_is_tried_again_repeats_nothing_and_counts_from_when_it_came(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    """Two events of a batch without ids come before and after one that names a file that is not there yet."""
    (tmp_path / "out").mkdir()
    run = {"run": {"id": "r"}}
    file = {**run, "metrics": {"late": 1}, "tags": {"state": "old"}}
    file["artifacts"] = [{"path": "a", "root": str(tmp_path / "out")}]
    wrong = {**run, "metric": {}}
    batch = [wrong, {**run, "metrics": {"m": 1}, "step": 1}, file, {**run, "metrics": {"m": 2}, "step": 2}]
    async with running(tmp_path, mlflow_server, experiment, roots=(tmp_path / "out",)) as case:
        begun_ms = time.time() * 1000
        case.source.put(batch, id="", packet=7)
        await case.until(lambda: len(case.source.refused) == 1)
        came_ms = time.time() * 1000
        case.source.put({**run, "tags": {"state": "new"}}, id="", packet=8)
        for there in (False, True):
            if there:
                (tmp_path / "out" / "a").write_text("here now")
            assert retry(tmp_path, None).waiting == (1,)
            await case.until(lambda: not case.intake._refused.to_retry())
        assert len(letters(tmp_path)) == 1
        await case.settled()
        [run_there] = await asyncio.to_thread(case.runs)
        assert [value for value, _, _ in history(case, run_there, "m")] == [1, 2]
        [(_, timestamp, _)] = history(case, run_there, "late")
        assert begun_ms - 1 <= timestamp <= came_ms
        assert run_there.data.tags["state"] == "new"


async def test_a_disk_that_is_full_while_a_message_is_tried_again_is_not_filled_by_that(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_intake, "FULL_RETRY_S", 0.01)
    inline = {"path": "a", "content": base64.b64encode(b"x").decode()}
    batch = [{"run": "r", "artifacts": [inline]}, {"run": "r", "wrong": 1}]
    async with running(tmp_path, mlflow_server, experiment) as case:
        case.source.put(batch, id="", packet=7)
        await case.until(lambda: len(case.source.refused) == 1)
        await case.settled()
        await case.until(lambda: list((tmp_path / "spool").iterdir()) == [])
        take, full = Inbox.take, [True] * 20

        def takes(self: Inbox, *arguments: Any, **options: Any) -> Any:
            if full:
                full.pop()
                raise JournalFull("no space", doing="writing", target="syncd.db")
            return take(self, *arguments, **options)

        monkeypatch.setattr(Inbox, "take", takes)
        assert retry(tmp_path, None).waiting == (1,)
        await case.until(lambda: not case.intake._refused.to_retry())
        assert not full
        assert list((tmp_path / "spool").iterdir()) == []


async def test_a_run_that_becomes_such_as_the_filter_wants_arrives_whole_within_a_minute(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Filter(tags={"candidate": "true"}, run_names=("r*",))
    async with running(tmp_path, mlflow_server, experiment, filter=wanted) as case:

        def put(run: str, step: int, *, name: str = "-", **more: Any) -> None:
            told = {"run": {"id": f"{run} {experiment}", "name": name}, "metrics": {"m": step}, "step": step}
            case.source.put({**told, **more})

        def waiting() -> int:
            return case.pipeline.totals().points_waiting

        put("in time", 1, params={"p": 1})
        put("late", 1)
        put("never", 1)
        await case.until(lambda: waiting() == 3 and case.source.unsettled == 0)
        await asyncio.sleep(1.0)
        assert waiting() == 3
        put("in time", 2, name="run", tags={"candidate": "true"})
        await case.until(lambda: len(case.runs()) == 1 and waiting() == 2)
        monkeypatch.setattr(lanes, "HELD_MS", 0)
        put("late", 2)
        await case.until(lambda: waiting() == 1)
        monkeypatch.setattr(lanes, "HELD_MS", 60_000)
        put("late", 3, name="run", tags={"candidate": "true"})
        await case.until(lambda: len(case.runs()) == 2 and waiting() == 1)
        steps = {run.data.params.get("p", ""): [step for _, _, step in history(case, run, "m")] for run in case.runs()}
        assert steps == {"1": [1, 2], "": [3]}
        [(_, where, what)] = participants.problems(case.pipeline.journal.journal)
        assert (where, "cannot be read again" in what) == (f"run late {experiment}", True)
        for candidate, held in (("false", 2), ("true", 1)):
            put("in time", 3, name="run", tags={"candidate": candidate})
            await case.until(lambda held=held: case.notes().count(settlement.HELD) == held)
        await asyncio.wait_for(case.pipeline.drained(), 10)
        assert waiting() == 1  # a daemon that stops goes on with it at its next start


async def test_children_that_come_before_their_parent_are_pointed_at_it_however_they_name_it(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    async with running(tmp_path, mlflow_server, experiment) as case:
        case.source.put(event({"run": {"id": "1", "name": "by field"}, "parent": {"id": "p"}}, of="run.start"))
        case.source.put({"run": {"id": "2", "name": "by tag"}, "tags": {"mlflow.parentRunId": "p"}})
        await case.until(lambda: len(case.runs()) == 2)
        case.source.put({"run": {"id": "p", "name": "parent"}})
        await case.until(lambda: len(case.runs()) == 3)
        await case.settled()
        runs = {run.info.run_name: run for run in await asyncio.to_thread(case.runs)}
        parent = runs.pop("parent").info.run_id
        assert {name: run.data.tags["mlflow.parentRunId"] for name, run in runs.items()} == dict.fromkeys(runs, parent)


class SharedOptions(MessageOptions):
    """A source that several daemons read, as those of a queue."""

    @property
    def is_shared(self) -> bool:
        return True


async def test_daemons_that_share_a_queue_bring_one_run_together(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    """Both are told of the same new runs in the same moment; each gets half of the points."""
    first = running(tmp_path / "1", mlflow_server, experiment, options_of=SharedOptions)
    second = running(tmp_path / "2", mlflow_server, experiment, options_of=SharedOptions)
    async with first as one, second as two:
        for step in range(200):
            for number in range(5):
                run = {"id": f"shared-{number}"}
                (one, two)[step % 2].source.put(event({"run": run, "metrics": [point("m", step, step)]}))
        await asyncio.gather(one.settled(), two.settled())
        runs = await asyncio.to_thread(one.runs)
        assert sorted(run.data.tags[SOURCE_RUN_ID] for run in runs) == [f"shared-{number}" for number in range(5)]
        for run in runs:
            assert len(history(one, run, "m")) == 200


async def test_a_message_about_a_run_that_was_brought_otherwise_adds_to_it_and_changes_nothing_else(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    async with running(tmp_path, mlflow_server, experiment) as case:
        tags = {SOURCE_RUN_ID: "r", SOURCE: "local", SESSION: "of another syncd"}
        there = case.client.create_run(case.client.create_experiment(experiment), run_name="night", tags=tags)
        case.client.set_terminated(there.info.run_id, "FAILED", end_time=FIRST_MS)
        case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", 1, 1)], "tags": {"reviewed": "yes"}}))
        await case.until(lambda: case.runs()[0].data.metrics != {})
        await case.settled()
        [run] = await asyncio.to_thread(case.runs)
        assert (run.info.run_name, run.info.status, run.info.end_time) == ("night", "FAILED", FIRST_MS)
        assert (run.data.tags["reviewed"], run.data.metrics) == ("yes", {"m": 1.0})
        case.source.put(event({"run": {"id": "r", "name": "day"}, "status": "FINISHED"}, of="run.end"))
        await case.until(lambda: [(one.info.run_name, one.info.status) for one in case.runs()] == [("day", "FINISHED")])


async def test_what_was_taken_of_a_source_that_is_no_longer_configured_is_sent_as_before(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    """It adds to a run that was brought otherwise, and a file that it names changed meanwhile."""
    client = MlflowClient(mlflow_server.url)
    tags = {SOURCE_RUN_ID: "r", SOURCE: "local", SESSION: "of another syncd"}
    there = client.create_run(client.create_experiment(experiment), run_name="night", tags=tags)
    client.set_terminated(there.info.run_id, "FAILED", end_time=FIRST_MS)
    (tmp_path / "a").write_text("as it was told")
    state, name = tmp_path / "state", destination_of_argument(mlflow_server.url).name
    async with running(state, mlflow_server, experiment, commands=("pause",), roots=(tmp_path,)) as case:
        case.source.put(event({"destination": name}, of="command.pause"))
        await case.until(lambda: case.pipeline.rests.is_resting("destination", name))
        artifacts = [{"path": "a", "root": str(tmp_path)}]
        case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", 1, 1)], "artifacts": artifacts}))
        await case.until(lambda: len(case.source.completed) == 2)
        await asyncio.sleep(1.5)  # its start was waited for long enough
    (tmp_path / "a").write_text("changed since")
    async with running(state, mlflow_server, experiment, messages=False) as case:
        with case.pipeline.journal.journal._transaction("resuming"):
            case.pipeline.journal.journal._connection.execute("DELETE FROM pause")
        case.pipeline.rests.look()
        await case.until(lambda: case.everything_is_there())
        [run] = await asyncio.to_thread(case.runs)
        assert run.data.metrics == {"m": 1.0}
        assert (run.info.run_name, run.info.status, run.info.end_time) == ("night", "FAILED", FIRST_MS)
    assert [letter.kind for letter in letters(state)] == ["artifact"]


async def test_a_daemon_that_shares_a_queue_does_not_take_up_a_run_that_another_one_ended(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    first = running(tmp_path / "1", mlflow_server, experiment, options_of=SharedOptions)
    second = running(tmp_path / "2", mlflow_server, experiment, options_of=SharedOptions)
    run = {"id": "r", "name": "night"}
    async with first as one, second as two:
        two.source.put(event({"run": run, "metrics": [point("m", 1, 1)]}))
        await one.until(lambda: len(one.runs()) == 1)
        one.source.put(event({"run": run}, of="run.end"))
        await one.until(lambda: one.runs()[0].info.status == "FINISHED")
        two.source.put(event({"run": run, "user": "ada"}, of="run.start"))
        await two.settled()
        [found] = await asyncio.to_thread(one.runs)
        assert found.info.status == "FINISHED"


async def test_a_run_is_not_silent_because_the_clock_jumped(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[int] = []
    tick = Inbox.tick

    def ticked(inbox: Inbox, *, listening_ms: int) -> Any:
        ticks.append(listening_ms)
        return tick(inbox, listening_ms=listening_ms)

    monkeypatch.setattr(Inbox, "tick", ticked)
    monkeypatch.setattr(message_intake, "TICK_S", 0.1)
    async with running(tmp_path, mlflow_server, experiment, stale_after_s=3600.0) as case:
        case.source.put({"run": {"id": "r"}})
        await case.until(lambda: len(case.runs()) == 1 and max(ticks) > 500)
        time_ns, before = time.time_ns, len(ticks)
        case.intake._inbox._settings = replace(case.intake._inbox._settings, stale_after_ms=max(ticks) + 2000)
        monkeypatch.setattr(time, "time_ns", lambda: time_ns() + 7_200_000_000_000)
        await case.until(lambda: min(ticks[before:], default=500) < 100)
        assert "syncd.last_activity" not in case.runs()[0].data.tags
        await case.until(lambda: "syncd.last_activity" in case.runs()[0].data.tags)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_run_of_which_another_daemon_hears_is_not_ended_for_silence(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, ends: bool
) -> None:
    options = {"options_of": SharedOptions, "end_stale_as": "KILLED"}
    async with (
        running(tmp_path / "1", mlflow_server, experiment, stale_after_s=1.0, **options) as one,
        running(tmp_path / "2", mlflow_server, experiment, stale_after_s=1000.0, **options) as other,
    ):
        run, now_ms = {"run": {"id": "r"}}, round(time.time() * 1000)
        other.source.put({**run, "metrics": {"m": 2}, "timestamp": now_ms})
        if ends:
            other.source.put(event(run, of="run.end"))
        await other.until(lambda: [one.data.metrics for one in other.runs()] == [{"m": 2.0}])
        await other.settled()
        one.source.put({**run, "tags": {"a": "b"}}, sent_ms=now_ms - 60_000)
        await one.until(lambda: "syncd.last_activity" in one.runs()[0].data.tags)
        await one.settled()
        assert [one.info.status for one in one.runs()] == ["FINISHED" if ends else "RUNNING"]


async def test_a_run_is_not_silent_because_the_daemon_or_the_broker_was_away(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "BACKOFF", wait_fixed(3.0))
    marked: list[int] = []
    mark_stale = RunStep.mark_stale

    def marks(step: RunStep, subject_id: int, end_as: Any) -> None:
        marked.append(subject_id)
        mark_stale(step, subject_id, end_as)

    monkeypatch.setattr(RunStep, "mark_stale", marks)
    options = {"stale_after_s": 2.0, "end_stale_as": "KILLED"}
    source = InMemorySource("bus")
    source.put(event({"run": {"id": "r"}, "metrics": [point("m", 1, 1)]}))
    async with running(tmp_path, mlflow_server, experiment, source, **options) as case:
        await case.settled()
    await asyncio.sleep(2.0)
    source.put(event({"run": {"id": "r"}, "metrics": [point("m", 2, 2)]}))
    source.failures.append(Transient("away"))
    async with running(tmp_path, mlflow_server, experiment, source, **options) as case:
        await case.until(lambda: source.unsettled == 0)
        assert marked == []
        await case.until(lambda: marked != [])


async def test_a_silent_run_that_is_heard_of_again_goes_on(
    tmp_path: Path, mlflow_server: RunningMlflow, experiment: str
) -> None:
    options = {"options_of": SharedOptions, "stale_after_s": 0.5, "end_stale_as": "KILLED"}
    async with running(tmp_path, mlflow_server, experiment, **options) as case:

        def status() -> str:
            runs = case.runs()
            return runs[0].info.status if runs else ""

        case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", 1, 1)]}))
        await case.until(lambda: status() == "KILLED")
        case.intake._inbox._settings = replace(case.intake._inbox._settings, stale_after_ms=3_600_000)
        case.source.put(event({"run": {"id": "r"}, "metrics": [point("m", 2, 2)]}))
        await case.until(lambda: status() == "RUNNING")
