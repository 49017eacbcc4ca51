"""``syncd status``, ``runs``, ``explain`` and ``dlq`` as a user calls them, on journals filled through the journal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.cli.main import main
from syncd.core.changes import Again, Section, decode_head, encode_head, parse
from syncd.core.facts import ModelSeen, ProblemFound, SubjectDeleted, SubjectKey, TagsDeleted
from syncd.core.messages.statements import Command, RunRef, RunStarted
from syncd.errors import MessageRefused
from syncd.journal import bindings, deliveries, overflow, participants, run_reports, subjects
from syncd.journal.bindings import Binding
from syncd.journal.database import FILE_NAME
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.fact_intake import LONGEST_TAG
from syncd.journal.inbox import Inbox, InboxSettings, Told
from syncd.journal.journal import Journal
from syncd.journal.refused_messages import KeptMessage, RefusedMessages
from syncd.journal.report import JournalReport
from syncd.runtime.settlement import FILTERED
from tests.journal_filling import (
    EXPERIMENT,
    NOW_MS,
    artifact,
    commit,
    experiment,
    head,
    points,
    run_id,
    run_key,
    settle_all,
    tags,
)

WORKSPACE = (
    "azureml://westeurope.api.azureml.ms/mlflow/v2.0/subscriptions/00000000-0000-0000-0000-000000000001"
    "/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/ws"
)


class Asker:
    """A journal with source ``local`` and destinations ``near`` and ``far``, and the commands on it."""

    def __init__(self, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state_dir = state_dir
        self._capsys = capsys
        self.journal = Journal.open(state_dir)
        self.source = participants.register_source(self.journal, "local")
        rows = participants.register_destinations(self.journal, {"near": "http://near:5000/", "far": WORKSPACE})
        self.near, self.far = rows["near"].id, rows["far"].id
        self.audience = rows["near"].audience

    def add(self, *facts: Any) -> None:
        commit(self.journal, self.source, self.audience, *facts)

    def subject(self, number: int) -> int:
        return run_id(self.journal, self.source, number)

    def experiment_subject(self) -> int:
        found = subjects.subject(self.journal, self.subject(1)).experiment_id
        assert found is not None
        return found

    def bind(self, destination: int, number: int, remote_id: str) -> None:
        bindings.bind(self.journal, destination, self.experiment_subject(), Binding("55", "", False, False))
        bindings.bind(self.journal, destination, self.subject(number), Binding(remote_id, "", False, False))

    def deliver(self, destination: int, number: int, **delivered: int) -> None:
        self.bind(destination, number, f"remote{number}")
        settle_all(self.journal, destination, self.subject(number))
        deliveries.settle(self.journal, destination, self.subject(number), [], delivered=Delivered(**delivered))

    def refuse(self, destination: int, number: int, section: Section, kind: str, body: bytes, items: int = 1) -> None:
        letter = DeadLetter(section, kind, body, items, "the server says no", "INVALID_PARAMETER_VALUE", 400)
        deliveries.settle(self.journal, destination, self.subject(number), [], dead=[letter])

    def call(self, line: str) -> tuple[int, str, str]:
        words = line.split()
        code = main([*words, "--state-dir", str(self.state_dir)])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def text(self, line: str, *, code: int = 0) -> str:
        found, out, err = self.call(line)
        assert found == code, err
        return out

    def json(self, line: str, *, code: int = 0) -> Any:
        value = json.loads(self.text(f"{line} --json", code=code))
        assert (value["schema"], value["command"]) == (1, line.split()[0])
        return value

    def explained(self, number: int, destination: str = "near") -> Any:
        [run] = self.json(f"explain {run_key(number).id}")["runs"]
        return next(one for one in run["destinations"] if one["destination"] == destination)

    def pending(self, destination: int, number: int, section: Section) -> list[Any]:
        return deliveries.pending(self.journal, destination, self.subject(number), section)


@pytest.fixture
def asker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Asker]:
    asker = Asker(tmp_path / "state", capsys)
    yield asker
    asker.journal.close()


# ---------------------------------------------------------------- before anything


@pytest.mark.parametrize("line", ["status", "runs", "dlq list"])
def test_without_a_journal_a_hint_and_0(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--state-dir", str(tmp_path / "none")]
    assert main([*line.split(), *place]) == 0
    assert "there is no journal" in capsys.readouterr().out
    assert main([*line.split(), *place, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["journal"] is None
    assert "syncd run" in content["hint"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("line", ["explain x", "dlq show 1", "dlq retry 1", "dlq drop 1"])
def test_without_a_journal_nothing_can_be_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err
    assert main(["dlq", "retry", "--all", "--state-dir", str(tmp_path)]) == 0


def test_the_state_directory_is_the_configurations(
    asker: Asker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(
        '[daemon]\nstate_dir = "state"\njournal_max_bytes = "1KiB"\n'
        '[[sources]]\nname = "local"\nkind = "mlruns"\npath = "m"\n'
        '[[destinations]]\nname = "near"\nuri = "http://near:5000"\n'
    )
    assert main(["status", "--config", str(file), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["state_dir"] == str(asker.state_dir)
    assert (content["journal"]["max_bytes"], content["journal"]["full"]) == (1024, True)
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "reading pauses" in capsys.readouterr().out


def test_without_a_configuration_the_option_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNCD_CONFIG", raising=False)
    if Path("/etc/syncd/syncd.toml").exists():
        pytest.skip("this machine has a configuration")
    assert main(["status"]) == 78
    assert "--state-dir" in capsys.readouterr().err


def test_a_damaged_journal_is_an_error_and_stays_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    assert main(["status", "--state-dir", str(tmp_path)]) == 1
    assert FILE_NAME in capsys.readouterr().err
    assert (tmp_path / FILE_NAME).exists()


# ---------------------------------------------------------------- status


def test_status_counts_per_source_and_destination(asker: Asker, tmp_path: Path) -> None:
    asker.add(experiment(), head(1), points(1, range(10)), artifact(1, "m.bin", tmp_path, size_bytes=1000))
    asker.add(head(2), points(2, range(5)))
    asker.deliver(asker.near, 1, points=10, artifacts=1, bytes=1000)
    participants.destination_up(asker.journal, asker.near)
    participants.destination_trouble(asker.journal, asker.far, "down", "connection refused")
    asker.refuse(asker.far, 2, Section.SMALL, "params", b'{"a":"b"}')
    overflow.keep(asker.journal, asker.far, asker.subject(2), "params", {"p": "long"})
    asker.add(ProblemFound("m/1/x", "line 3 is not a point", run_key(1)))
    content = asker.json("status")
    assert (content["running"], content["pid"]) == (True, os.getpid())
    assert content["journal"]["used_bytes"] > 10_000
    assert content["journal"]["free_disk_bytes"] > 0
    assert content["journal"]["set_aside"] == []
    assert content["dead_letters"] == 1
    assert [(one["source"], one["where"], one["what"]) for one in content["problems"]] == [
        ("local", "m/1/x", "line 3 is not a point")
    ]
    near, far = content["destinations"]
    assert (near["name"], near["state"], near["last_error"]) == ("near", "up", None)
    assert {key: near["sent"][key] for key in ("runs", "points", "artifacts", "bytes")} == {
        "runs": 1,
        "points": 10,
        "artifacts": 1,
        "bytes": 1000,
    }
    assert near["rate"]["points_per_s"] == pytest.approx(10 / near["rate"]["window_s"], abs=0.01)
    [waiting] = near["waiting"]
    assert (waiting["source"], waiting["runs"], waiting["points"], waiting["artifacts"]) == ("local", 1, 5, 0)
    assert (far["state"], far["last_error"], far["dead_letters"], far["overflow"]) == (
        "down",
        "connection refused",
        1,
        1,
    )
    assert (far["waiting"][0]["runs"], far["waiting"][0]["points"], far["waiting"][0]["artifacts"]) == (2, 15, 1)
    assert far["waiting"][0]["bytes"] > 1000
    assert far["sent"]["last_ms"] is None
    assert far["rate"]["points_per_s"] == 0
    assert content["oldest_unsynced_s"] == far["oldest_unsynced_s"] >= 0

    text = asker.text("status")
    assert f"syncd runs (process {os.getpid()})" in text
    for words in (
        "connection refused",
        "1 dead letter (",
        "line 3 is not a point",
        "1 value kept",
        f"far  {WORKSPACE}",
    ):
        assert words in text


def test_status_says_when_no_daemon_runs_and_how_old_what_waits_is(asker: Asker) -> None:
    asker.journal._wall_ms = lambda: time.time_ns() // 1_000_000 - 3_600_000  # it was read an hour ago
    asker.add(experiment(), head(1), points(1, [1]))
    asker.journal.close()
    assert 3600 <= asker.json("status")["oldest_unsynced_s"] < 3700
    text = asker.text("status")
    assert "syncd does not run" in text
    assert "oldest since 1 h ago" in text


def test_status_says_when_the_daemon_that_is_gone_last_ran(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    participants.destination_up(asker.journal, asker.near)
    assert ", since " in asker.text("status").splitlines()[0]
    asker.journal.close()
    ended_ms = (asker.state_dir / "lock").stat().st_mtime_ns // 1_000_000
    content = asker.json("status")
    assert (content["running"], content["started_ms"], content["last_ran_ms"]) == (False, None, ended_ms)
    lines = asker.text("status").splitlines()
    assert "; it last ran until " in lines[0]
    assert "  when syncd last ran: up" in lines
    assert not any(line.startswith("  rate") for line in lines)
    killed_ms = ended_ms - 60_000  # a killed one leaves its process id, and wrote to the journal last
    (asker.state_dir / "lock").write_text("4000000\n")
    for path in asker.state_dir.iterdir():
        os.utime(path, ns=(killed_ms * 1_000_000,) * 2)
    assert asker.json("status")["last_ran_ms"] == killed_ms


def test_a_state_of_before_the_start_is_not_told_as_present(asker: Asker) -> None:
    asker.journal._wall_ms = lambda: time.time_ns() // 1_000_000 - 3_600_000
    participants.destination_up(asker.journal, asker.near)
    assert "not reached yet since syncd was started; before that: up" in asker.text("status")


@pytest.mark.parametrize(("before_s", "window_s"), [(None, 20), (40, 50)])
def test_the_rate_after_a_start_is_of_the_time_since(asker: Asker, before_s: int | None, window_s: int) -> None:
    asker.add(experiment(), head(1), points(1, range(100)))
    now_s = time.time()
    os.utime(asker.state_dir / "lock", (now_s - 20, now_s - 20))
    if before_s:  # the daemon before this one delivered within the same minute
        asker.journal._wall_ms = lambda: int((now_s - before_s) * 1000)
        asker.deliver(asker.near, 1, points=100)
    asker.journal._wall_ms = lambda: time.time_ns() // 1_000_000
    asker.deliver(asker.near, 1, points=100)
    rate = asker.json("status")["destinations"][0]["rate"]
    assert window_s <= rate["window_s"] < window_s + 11
    assert rate["points_per_s"] == pytest.approx((200 if before_s else 100) / rate["window_s"], abs=0.01)


def test_status_names_destinations_that_left_only_while_something_is_outstanding(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    participants.register_destinations(asker.journal, {"near": "http://near:5000/"})
    configured = {one["name"]: one["configured"] for one in asker.json("status")["destinations"]}
    assert configured == {"near": True, "far": False}
    assert "no longer configured" in asker.text("status")
    for subject in deliveries.waiting_subjects(asker.journal, asker.far):
        settle_all(asker.journal, asker.far, subject)
    assert [one["name"] for one in asker.json("status")["destinations"]] == ["near"]


def test_status_names_journals_that_were_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(b"its log")
    Journal.open(tmp_path).close()
    capsys.readouterr()
    assert main(["status", "--state-dir", str(tmp_path), "--json"]) == 0
    [path] = json.loads(capsys.readouterr().out)["journal"]["set_aside"]
    assert ".unusable-" in path
    assert not path.endswith("-wal")


# ---------------------------------------------------------------- runs


def test_runs_tell_each_state_in_a_word(asker: Asker) -> None:
    asker.add(experiment(), *(head(number) for number in range(1, 7)), points(2, range(4)), SubjectDeleted(run_key(5)))
    asker.add(points(9, [1]))
    for number in (1, 3, 4, 5):
        asker.deliver(asker.near, number, points=7, bytes=70)
    asker.refuse(asker.near, 3, Section.SMALL, "params", b"{}")
    deliveries.note(asker.journal, asker.near, asker.subject(4), FILTERED)
    participants.destination_up(asker.journal, asker.near)

    def states(destination: str) -> dict[str, str]:
        return {
            run["run_id"]: there["state"]
            for run in asker.json("runs")["runs"]
            for there in run["destinations"]
            if there["destination"] == destination
        }

    ids = {number: run_key(number).id for number in (1, 2, 3, 4, 5, 6, 9)}
    assert states("near") == {
        ids[1]: "synced",
        ids[2]: "syncing",
        ids[3]: "dead-letters",
        ids[4]: "filtered",
        ids[5]: "deleted",
        ids[6]: "syncing",
        ids[9]: "waiting",
    }
    assert set(states("far").values()) == {"waiting", "deleted"}
    participants.destination_trouble(asker.journal, asker.near, "down", "refused")
    assert states("near")[ids[2]] == "waiting"


def test_runs_have_ids_names_and_counts(asker: Asker, tmp_path: Path) -> None:
    asker.add(experiment(), head(1), points(1, range(3)), artifact(1, "a", tmp_path, size_bytes=500))
    asker.bind(asker.near, 1, "abc")
    deliveries.settle(asker.journal, asker.near, asker.subject(1), [], delivered=Delivered(4, 2, 99))
    [run] = asker.json("runs")["runs"]
    assert (run["source"], run["name"], run["experiment"], run["status"]) == ("local", "run 1", "churn", "RUNNING")
    near, far = run["destinations"]
    assert (near["run_id"], far["run_id"]) == ("abc", None)
    assert {key: near["sent"][key] for key in ("points", "artifacts", "bytes")} == {
        "points": 4,
        "artifacts": 2,
        "bytes": 99,
    }
    assert (near["waiting"]["points"], near["waiting"]["artifacts"], far["sent"]["last_ms"]) == (3, 1, None)
    assert near["waiting"]["bytes"] > 500
    lines = asker.text("runs").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [run_key(1).id] * 2
    assert "abc" in lines[1]


def test_ten_thousand_runs_on_two_destinations_are_listed_in_seconds(asker: Asker) -> None:
    asker.add(experiment(), *(fact for number in range(10_000) for fact in (head(number), points(number, range(3)))))
    begun_s = time.monotonic()
    lines = asker.text("runs").splitlines()
    assert time.monotonic() - begun_s < 60  # about 1 s on a machine at rest; what is not linear takes minutes
    assert len(lines) == 20_001


def test_a_name_that_would_control_the_terminal_or_is_no_text_is_shown_harmless(asker: Asker) -> None:
    asker.add(experiment(), head(1, name="\x1b[2Jevil\udc80\nsecond"))
    text = asker.text("runs") + asker.text(f"explain {run_key(1).id}")
    assert "\x1b" not in text
    assert "\udc80" not in text
    assert asker.json("runs")["runs"][0]["name"] == "\x1b[2Jevil\udc80\nsecond"


# ---------------------------------------------------------------- explain


def test_a_run_with_times_that_no_calendar_has_is_explained(asker: Asker) -> None:
    asker.add(experiment(), replace(head(1), start_time_ms=2**63 - 1, end_time_ms=-(2**63)))
    assert f"begun {2**63 - 1} ms, ended {-(2**63)} ms" in asker.text(f"explain {run_key(1).id}")


def test_a_run_that_is_there_is_explained_with_its_link(asker: Asker) -> None:
    asker.add(experiment(), head(1, status="FINISHED"), points(1, [1]))
    asker.deliver(asker.near, 1, points=1, bytes=60)
    near = asker.explained(1)
    assert near["link"] == "http://near:5000/#/experiments/55/runs/remote1"
    assert (near["state"], near["reasons"]) == ("synced", [])
    assert asker.explained(1, "far")["link"] is None
    asker.deliver(asker.far, 1, points=1, bytes=60)
    studio = "https://ml.azure.com/runs/remote1?wsid=/subscriptions/"
    assert asker.explained(1, "far")["link"].startswith(studio)
    text = asker.text(f"explain {run_key(1).id}")
    assert "near: everything that was read of it is there" in text
    assert "on it as remote1  http://near:5000/#/experiments/55/runs/remote1" in text
    assert re.search(r"sent: 1 point, 0 artifacts, 60 B; last 20\d\d-", text)


def test_a_run_is_found_by_id_prefix_destination_id_and_name(asker: Asker) -> None:
    asker.add(experiment(), head(1), head(2, name="second"), head(3, name="twin"), head(4, name="twin"))
    asker.bind(asker.near, 2, "fedcba98")
    for words in (run_key(2).id, run_key(2).id[:6], "fedcba98", "fedc", "second"):
        [run] = asker.json(f"explain {words}")["runs"]
        assert run["run_id"] == run_key(2).id, words
    code, out, err = asker.call("explain twin")
    assert (code, out) == (2, "")
    assert run_key(3).id in err
    assert run_key(4).id in err
    assert run_key(1).id not in err
    found = asker.json("explain 000", code=2)
    assert (found["runs"], len(found["candidates"]), found["candidate_count"]) == ([], 4, 4)
    code, out, err = asker.call("explain 00%")
    assert (code, out) == (1, "")
    assert "syncd runs" in err


def test_a_whole_id_comes_before_the_beginning_of_another(asker: Asker) -> None:
    asker.add(experiment(), head(1), head(2, name=run_key(1).id[:4]))
    [run] = asker.json(f"explain {run_key(1).id[:4]}")["runs"]
    assert run["run_id"] == run_key(2).id


def test_a_run_of_two_sources_is_explained_for_both(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    other = participants.register_source(asker.journal, "copy")
    commit(asker.journal, other, asker.audience, experiment(), head(1))
    runs = asker.json(f"explain {run_key(1).id}")["runs"]
    assert [run["source"] for run in runs] == ["local", "copy"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("down", "far is down since 20"),
        ("throttled", "far is asking for fewer requests since 20"),
        ("auth", "far is refusing the credentials since 20"),
    ],
)
def test_a_destination_in_trouble_is_the_reason_with_its_error(asker: Asker, state: str, words: str) -> None:
    asker.add(experiment(), head(1), points(1, range(4)))
    participants.destination_trouble(asker.journal, asker.far, state, "HTTP 500: out of order")
    far = asker.explained(1, "far")
    assert far["reasons"][0].startswith(words)
    assert "HTTP 500: out of order" in far["reasons"][0]
    assert {kind["kind"]: kind["items"] for kind in far["waiting"]["kinds"]} == {"metrics": 4, "head": 1}
    assert "waiting: 4 points, 1 name, status or end" in asker.text(f"explain {run_key(1).id}")


def test_a_daemon_that_does_not_run_is_the_first_reason(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    participants.destination_trouble(asker.journal, asker.far, "down", "refused")
    asker.journal.close()
    first, second = asker.explained(1, "far")["reasons"]
    assert "syncd does not run" in first
    assert "was, when syncd last ran, down" in second


def test_reasons_of_the_run_itself(asker: Asker) -> None:
    asker.add(experiment(), head(1), head(2), head(3), head(4), SubjectDeleted(run_key(3)), points(9, [1]))
    participants.destination_up(asker.journal, asker.near)
    deliveries.note(asker.journal, asker.near, asker.subject(1), "run 12 has not been described by its source yet")
    for subject in (asker.subject(2), asker.subject(4)):
        settle_all(asker.journal, asker.near, subject)
    deliveries.note(asker.journal, asker.near, asker.subject(2), FILTERED)
    asker.add(ProblemFound(f"m/7/{run_key(9).id}/meta.yaml", "not YAML", run_key(9)))
    assert asker.explained(1)["reasons"] == ["last noted: run 12 has not been described by its source yet"]
    assert FILTERED in asker.explained(2)["reasons"][0]
    assert "deleted in its store" in asker.explained(3)["reasons"][0]
    assert "has not been read for this destination" in asker.explained(4)["reasons"][0]
    assert "its source has not said" in asker.explained(9)["reasons"][0]
    assert "m/7/" in asker.text(f"explain {run_key(9).id}")


def test_nothing_hinders_it(asker: Asker) -> None:
    asker.add(experiment(), head(1), points(1, [1]))
    participants.destination_up(asker.journal, asker.near)
    near = asker.explained(1)
    assert (near["state"], near["reasons"]) == ("syncing", ["it is being sent; nothing hinders it"])


def test_a_source_of_messages_is_there_before_the_first_one(asker: Asker) -> None:
    participants.register_message_source(asker.journal, "bus")
    counts = {"taken": 0, "repeated": 0, "ignored": 0, "refused": 0, "dead_letters": 0}
    counts |= {"files_in_part": 0, "bytes_in_part": 0}
    assert asker.json("status")["messages"] == [{"source": "bus", "last_ms": None, **counts}]
    assert "\nmessages of bus, none yet\n  taken: 0," in asker.text("status")


def test_runs_of_one_name_are_told_from_each_other_by_their_device(asker: Asker) -> None:
    bus = Inbox(
        asker.journal, participants.register_source(asker.journal, "bus"), InboxSettings(default_experiment="e")
    )
    for device in ("pump-4", "pump-5"):
        started = RunStarted(run=RunRef(f"id-{device}", "night", device), time_ms=NOW_MS, start_time_ms=NOW_MS)
        bus.take([Told(identity=device, statement=started)])
    assert [run["device"] for run in asker.json("runs")["runs"]] == ["pump-4", "pump-5"]
    assert "  night (pump-5)  " in asker.text("runs")
    assert asker.text("explain id-pump-4").startswith("run id-pump-4, 'night' of device pump-4, of source bus\n")
    code, _, err = asker.call("explain night")
    assert (code, "  night (pump-4)  " in err) == (2, True)


def test_messages_are_not_read_again_for_a_destination_that_came_later(asker: Asker) -> None:
    source = participants.register_message_source(asker.journal, "bus")
    started = RunStarted(run=RunRef("id", "night"), time_ms=NOW_MS, start_time_ms=NOW_MS)
    Inbox(asker.journal, source, InboxSettings(default_experiment="e")).take([Told(identity="1", statement=started)])
    participants.register_destinations(asker.journal, {"near": "http://near:5000/", "late": "http://late:5000/"})
    [run] = asker.json("explain id")["runs"]
    [late] = [one for one in run["destinations"] if one["destination"] == "late"]
    assert "its messages came before this destination was configured, and cannot be read again" in late["reasons"]


def test_what_a_message_has_paused_is_the_reason(asker: Asker) -> None:
    asker.add(experiment(), head(1), points(1, [1]))
    participants.destination_up(asker.journal, asker.near)
    bus = Inbox(asker.journal, participants.register_source(asker.journal, "bus"), InboxSettings(default_experiment=""))
    for number, what in enumerate(({"destination": "near"}, {"source": "local"})):
        bus.take([Told(identity=str(number), statement=Command(name="pause", time_ms=NOW_MS, arguments=what))])
    near = asker.explained(1)
    assert near["state"] == "waiting"
    assert re.fullmatch(
        "destination near is paused by a message of bus, .* until a message resumes it", near["reasons"][0]
    )
    assert near["reasons"][1].startswith("source local is paused by a message of bus, ")
    asker.deliver(asker.near, 1)
    assert [one.partition(" is")[0] for one in asker.explained(1)["reasons"]] == ["source local"]


def test_an_artifact_that_moves_or_is_gone_is_named(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / "rests").write_bytes(b"1234")
    at_rest = (tmp_path / "rests").stat()
    (tmp_path / "grows").write_bytes(b"1234")
    asker.add(experiment(), head(1), artifact(1, "rests", tmp_path, 4, at_rest.st_mtime_ns))
    asker.add(artifact(1, "grows", tmp_path, 3, 1), artifact(1, "gone", tmp_path))
    participants.destination_up(asker.journal, asker.near)
    grows, gone = asker.explained(1)["reasons"]
    assert "grows is being written" in grows
    assert "gone cannot be read: No such file" in gone


def test_a_destination_that_left_is_a_reason(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    participants.register_destinations(asker.journal, {"near": "http://near:5000/"})
    far = asker.explained(1, "far")
    assert far["reasons"] == ["far is no longer configured; what waits is kept for when it is"]


def test_refusals_and_overflow_are_explained_with_what_to_do(asker: Asker) -> None:
    asker.add(experiment(), head(1), head(2))
    asker.deliver(asker.near, 1)
    asker.refuse(asker.near, 1, Section.SMALL, "params", b'{"a":"b","c":"d"}', items=2)
    asker.refuse(asker.far, 1, Section.SMALL, "tags", b'{"a":"b"}')
    asker.refuse(asker.near, 2, Section.SMALL, "tags", b'{"a":"b"}')
    overflow.keep(asker.journal, asker.near, asker.subject(1), "params", {"long": "x"})
    overflow.keep(asker.journal, asker.near, asker.subject(1), "metrics", {"m400": "{}"})
    near = asker.explained(1)
    [letter] = near["letters"]
    assert (near["state"], letter["id"], letter["reason"]) == ("dead-letters", 1, "the server says no")
    assert near["overflow_entries"] == [{"section": "metrics", "key": "m400"}, {"section": "params", "key": "long"}]
    text = asker.text(f"explain {run_key(1).id}")
    assert "refused: 2 params: the server says no [400 INVALID_PARAMETER_VALUE] (dead letter 1)" in text
    assert f"syncd dlq retry 1 --state-dir {asker.state_dir}" in text
    assert "in syncd/overflow/params.json," in text
    assert "in syncd/overflow/metrics/," in text


def test_a_journal_that_may_hold_no_more_is_a_reason(
    asker: Asker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asker.add(experiment(), head(1))
    file = tmp_path / "syncd.toml"
    file.write_text(
        '[daemon]\nstate_dir = "state"\njournal_max_bytes = "1KiB"\n'
        '[[sources]]\nname = "local"\nkind = "mlruns"\npath = "m"\n'
        '[[destinations]]\nname = "near"\nuri = "http://near:5000"\n'
    )
    assert main(["explain", run_key(1).id, "--config", str(file)]) == 0
    assert "why: reading pauses" in capsys.readouterr().out


# ---------------------------------------------------------------- dlq


def test_dlq_list_and_show(asker: Asker, tmp_path: Path) -> None:
    assert "no dead letters" in asker.text("dlq list")
    asker.add(experiment(), head(1))
    asker.refuse(asker.near, 1, Section.METRICS, "metrics", points(1, [3, 4]).lines, items=2)
    asker.refuse(asker.near, 1, Section.SMALL, "params", json.dumps({"p": "x" * 3000 + "\nend"}).encode())
    asker.refuse(
        asker.near, 1, Section.ARTIFACTS, "artifact", b'{"path":"a/b","root":"/r","size_bytes":5,"mtime_ns":1}'
    )
    asker.refuse(asker.far, 1, Section.SMALL, "untag", b'["t"]')
    asker.refuse(asker.far, 1, Section.SMALL, "inputs", _inputs())
    asker.refuse(asker.far, 1, Section.SMALL, "outputs", b'[["m-1",4]]')
    asker.refuse(asker.far, 1, Section.HEAD, "head", encode_head(head(1)))
    listed = asker.json("dlq list")["dead_letters"]
    assert [(one["id"], one["kind"], one["destination"]) for one in listed] == [
        (1, "metrics", "near"),
        (2, "params", "near"),
        (3, "artifact", "near"),
        (4, "untag", "far"),
        (5, "inputs", "far"),
        (6, "outputs", "far"),
        (7, "head", "far"),
    ]
    assert listed[0]["subject"] == {"kind": "run", "id": run_key(1).id}
    assert (listed[0]["items"], listed[0]["code"], listed[0]["status"]) == (2, "INVALID_PARAMETER_VALUE", 400)
    assert len(asker.text("dlq list").splitlines()) == 8
    shown = asker.json("dlq show 1 2")["dead_letters"]
    assert [point["step"] for point in shown[0]["content"]] == [3, 4]
    assert shown[1]["content"] == {"p": "x" * 3000 + "\nend"}
    text = asker.text("dlq show 1 2 3 4 5 6 7")
    for words in (
        f"loss  0.5  3  {NOW_MS}",
        f"p = {'x' * 3000}",
        "end",
        "a/b, 5 B, at /r/a/b",
        "tag to be deleted: t",
        "dataset d (digest)",
        "model m-1 at step 4",
        "status: RUNNING",
        "it said: the server says no",
    ):
        assert words in text
    code, out, err = asker.call("dlq show 99 1")
    assert code == 1
    assert "loss  0.5  3" in out
    assert "99" in err


def _inputs() -> bytes:
    dataset = {
        "name": "d",
        "digest": "digest",
        "source_type": "s",
        "source": "x",
        "schema": "",
        "profile": "",
        "tags": {},
    }
    return json.dumps({"datasets": [dataset], "models": ["m-9"]}).encode()


def test_retry_puts_a_letter_back_for_its_destination_only(asker: Asker, tmp_path: Path) -> None:
    asker.add(experiment(), head(1))
    body = artifact_body(tmp_path, 1234)
    asker.refuse(asker.near, 1, Section.ARTIFACTS, "artifact", body)
    asker.refuse(asker.near, 1, Section.METRICS, "metrics", points(1, [3, 4]).lines, items=2)
    before = asker.journal.data_version()
    assert asker.json("dlq retry 1")["waiting"] == [1]
    assert asker.journal.data_version() != before
    [change] = asker.pending(asker.near, 1, Section.ARTIFACTS)
    assert (change.kind, change.body, change.items, change.again) == ("artifact", body, 1, Again.RESTATED)
    assert asker.pending(asker.far, 1, Section.ARTIFACTS) == []
    assert deliveries.sums(asker.journal, asker.near)["bytes_waiting"] > 1234
    assert [one["id"] for one in asker.json("dlq list")["dead_letters"]] == [2]
    assert "1 dead letter put back; tried again within seconds" in asker.text("dlq retry --all")
    assert [change.items for change in asker.pending(asker.near, 1, Section.METRICS)] == [2]
    assert "there are no dead letters" in asker.text("dlq retry --all")


def artifact_body(root: Path, size_bytes: int) -> bytes:
    return json.dumps({"path": "a", "root": str(root), "size_bytes": size_bytes, "mtime_ns": 1}).encode()


def test_retry_and_drop_name_what_they_do_not_know_and_do_the_rest(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    for _ in range(2):
        asker.refuse(asker.near, 1, Section.SMALL, "params", b'{"a":"b"}')
    code, _, err = asker.call("dlq retry 1 77")
    assert code == 1
    assert "77" in err
    assert len(asker.pending(asker.near, 1, Section.SMALL)) == 1
    code, out, err = asker.call("dlq drop 2 1 78")
    assert code == 1
    assert f"given up: dead letter 2: params (1) of run {run_key(1).id} for near" in out
    assert "1, 78" in err
    assert asker.json("dlq list")["dead_letters"] == []
    assert len(asker.pending(asker.near, 1, Section.SMALL)) == 1


def test_drop_all(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    for _ in range(450):
        asker.refuse(asker.near, 1, Section.SMALL, "params", b'{"a":"b"}')
    assert len(asker.json("dlq drop --all")["dropped"]) == 450
    assert asker.json("dlq list")["dead_letters"] == []
    assert asker.pending(asker.near, 1, Section.SMALL) == []


def test_retry_does_not_undo_what_the_source_has_stated_since(asker: Asker) -> None:
    asker.add(experiment(), head(1), tags(1, old="1", same="x", long="y" * 5000, mlflow="0"))
    old_head = encode_head(head(1))
    asker.add(head(1, name="renamed", status="FINISHED"), tags(1, old="2", again="here"))
    asker.add(TagsDeleted(run_key(1), ["mlflow"]))
    for destination in (asker.near, asker.far):
        settle_all(asker.journal, destination, asker.subject(1))
    refused_tags = {"old": "1", "same": "x", "long": "y" * 5000, "mlflow": "0", "never": "stated"}
    asker.refuse(asker.near, 1, Section.HEAD, "head", old_head)
    asker.refuse(asker.near, 1, Section.SMALL, "tags", json.dumps(refused_tags).encode())
    asker.refuse(asker.near, 1, Section.SMALL, "untag", b'["mlflow","again"]')
    asker.refuse(asker.near, 1, Section.SMALL, "untag", b'["same"]')
    asker.refuse(asker.near, 1, Section.HEAD, "deleted", b"{}")
    outcome = asker.json("dlq retry --all")
    assert (outcome["waiting"], outcome["overtaken"]) == ([1, 2, 3], [4, 5])
    [change] = asker.pending(asker.near, 1, Section.HEAD)
    assert decode_head(change.body) == head(1, name="renamed", status="FINISHED")
    put_back, untag = asker.pending(asker.near, 1, Section.SMALL)
    assert parse(put_back.body) == {"same": "x", "long": "y" * 5000}
    assert parse(untag.body) == ["mlflow"]
    assert len("y" * 5000) > LONGEST_TAG


def test_a_letter_with_the_parents_id_over_there_gets_the_parents_id_here(asker: Asker) -> None:
    parent = run_key(1).id
    asker.add(experiment(), head(1), head(2, parent=parent), tags(2, **{"mlflow.parentRunId": parent}))
    settle_all(asker.journal, asker.near, asker.subject(2))
    asker.refuse(asker.near, 2, Section.SMALL, "tags", b'{"mlflow.parentRunId":"id-over-there"}')
    assert asker.json("dlq retry 1")["waiting"] == [1]
    [change] = asker.pending(asker.near, 2, Section.SMALL)
    assert parse(change.body) == {"mlflow.parentRunId": parent}


def test_a_letter_of_a_model_is_put_back_too(asker: Asker) -> None:
    key = SubjectKey("model", "m-1")
    asker.add(
        experiment(), head(1), ModelSeen(key, EXPERIMENT, "m", "", "READY", run_key(1).id, NOW_MS, {}, {"a": "b"})
    )
    model = subjects.find_subject(asker.journal, asker.source, "model", "m-1")
    assert model is not None
    settle_all(asker.journal, asker.near, model)
    letter = DeadLetter(Section.METRICS, "metrics", points(1, [1]).lines, 1, "no")
    deliveries.settle(asker.journal, asker.near, model, [], dead=[letter])
    assert "model m-1" in asker.text("dlq list")
    assert asker.json("dlq retry 1")["waiting"] == [1]
    assert len(deliveries.pending(asker.journal, asker.near, model, Section.METRICS)) == 1


def test_a_refused_message_is_listed_with_its_source(asker: Asker) -> None:
    refused = RefusedMessages(asker.journal, participants.register_source(asker.journal, "devices"))
    message = KeptMessage(id="", address="syncd/pump-4/night/metrics", content_type="", body=b"{")
    refused.keep([(message, MessageRefused("the body is not JSON"))])
    row = asker.text("dlq list").splitlines()[1]
    assert re.match(r" 1  devices  syncd +message  ", row)
    shown = asker.text("dlq show 1")
    assert shown.startswith("dead letter 1: message\n  of source devices\n")
    assert "  address: syncd/pump-4/night/metrics\n" in shown


def test_without_a_daemon_a_retry_is_there_at_the_next_start(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    asker.refuse(asker.near, 1, Section.SMALL, "params", b'{"a":"b"}')
    asker.journal.close()
    assert "tried again when syncd is started" in asker.text("dlq retry 1")
    asker.journal = Journal.open(asker.state_dir)
    assert [change.kind for change in asker.pending(asker.near, 1, Section.SMALL)] == ["params"]


# ---------------------------------------------------------------- while a daemon writes


def test_asking_and_retrying_while_a_daemon_writes(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    subject, stop, failures = asker.subject(1), threading.Event(), []
    written = 0

    def write() -> None:
        nonlocal written
        try:
            while not stop.is_set():
                asker.add(points(1, [written]))
                letter = DeadLetter(Section.SMALL, "params", b'{"a":"b"}', 1, "no")
                deliveries.settle(asker.journal, asker.near, subject, [], dead=[letter])
                written += 1
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    command = [sys.executable, "-m", "syncd.cli.main"]
    place = ["--state-dir", str(asker.state_dir), "--json"]
    retried: list[int] = []
    try:
        for _ in range(2):
            for line in (["status"], ["runs"], ["explain", run_key(1).id], ["dlq", "retry", "--all"]):
                done = subprocess.run([*command, *line, *place], capture_output=True, text=True, timeout=200)
                assert done.returncode == 0, done.stderr
                content = json.loads(done.stdout)
                retried += content.get("waiting", []) if line[0] == "dlq" else []
                if line[0] == "status":
                    assert content["pid"] == os.getpid()
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert written > 20
    assert len(retried) == len(set(retried)) > 1
    sums = deliveries.sums(asker.journal, asker.near)
    small = deliveries.pending(asker.journal, asker.near, subject, Section.SMALL, limit=10**6)
    assert sums["dead_letters"] + len(small) == written
    assert len(small) == len(retried)
    assert sums["points_waiting"] == written


def test_a_report_is_of_one_moment(asker: Asker) -> None:
    asker.add(experiment(), head(1))
    report = JournalReport.open(asker.state_dir)
    assert report is not None
    with report:
        [before] = run_reports.runs(report)
        asker.add(points(1, [1, 2]), head(2))
        asker.deliver(asker.near, 1, points=2)
        assert list(run_reports.runs(report)) == [before]
    assert len(asker.json("runs")["runs"]) == 2


def test_status_reads_one_moment_however_the_journal_changes(asker: Asker) -> None:
    """Points move from waiting to sent in one commit; a reader never sees them in both or in neither."""
    asker.add(experiment(), head(1), *(points(1, [step]) for step in range(200)))
    changes = deliveries.pending(asker.journal, asker.near, asker.subject(1), Section.METRICS)
    subject = asker.subject(1)

    def settle() -> None:
        for change in changes:
            done = [(Section.METRICS, change.seq)]
            deliveries.settle(asker.journal, asker.near, subject, done, delivered=Delivered(points=1))

    settler = threading.Thread(target=settle)
    settler.start()
    looks = 0
    while settler.is_alive():
        near = asker.json("status")["destinations"][0]
        assert near["sent"]["points"] + near["waiting"][0]["points"] == 200
        looks += 1
    settler.join()
    assert looks > 1
