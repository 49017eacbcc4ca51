"""The outbox: what the journal tells of its changes, and how sinks get through it."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncd.cli.main import main
from syncd.core.changes import Section
from syncd.core.events import Event, EventFilter
from syncd.core.facts import Fact, ModelSeen, Reading, SubjectDeleted, SubjectKey
from syncd.core.overflow import POINTS
from syncd.errors import JournalError, MessageRefused
from syncd.journal import bindings, committing, database, deliveries, outbox, overflow, participants, subjects
from syncd.journal.bindings import Binding
from syncd.journal.database import FILE_NAME, VERSION
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.dead_letters import drop as drop_letters
from syncd.journal.deliveries import Delivered
from syncd.journal.inbox import Inbox, InboxSettings
from syncd.journal.journal import Journal
from syncd.journal.outbox import Refusal
from syncd.journal.refused_messages import KeptMessage, RefusedMessages
from syncd.journal.report import JournalReport
from syncd.journal.state_lock import StateLock
from syncd.schemas.checking import check
from tests.journal_filling import (
    EXPERIMENT,
    NOW_MS,
    Clock,
    artifact,
    commit,
    experiment,
    head,
    points,
    run_id,
    run_key,
    tags,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "journals" / "v1.db.gz"
LETTER = DeadLetter(Section.SMALL, "tags", b"{}", 1, "too long", "INVALID", 400)


class Desk:
    """A journal that tells, with one source and one destination."""

    def __init__(self, state_dir: Path, *, event_source: str = "syncd/host") -> None:
        self.state_dir = state_dir
        self.clock = Clock()
        self.event_source = event_source
        self.open()
        self.source = participants.register_source(self.journal, "local")
        self.there = participants.register_destinations(self.journal, {"workspace": "http://a"})["workspace"]

    def open(self) -> None:
        self.journal = Journal.open(self.state_dir, wall_ms=self.clock, event_source=self.event_source)

    def add(self, *facts: Fact) -> None:
        commit(self.journal, self.source, self.there.audience, *facts)

    def told(self, after: int = 0) -> list[Event]:
        return outbox.events_after(self.journal, after, 1000)

    def types(self, after: int = 0) -> list[str]:
        return [event.short_type for event in self.told(after)]

    @property
    def newest(self) -> int:
        return self.told()[-1].seq if self.told() else 0

    def run(self, number: int = 1) -> int:
        return run_id(self.journal, self.source, number)

    def bind(self, subject: int, remote_id: str = "there") -> None:
        bindings.bind(self.journal, self.there.id, subject, Binding(remote_id, "", False, False))

    def settle(self, subject: int, *, sections: tuple[Section, ...] = tuple(Section), **options: object) -> None:
        done = [
            (one, change.seq)
            for one in sections
            for change in deliveries.pending(self.journal, self.there.id, subject, one)
        ]
        deliveries.settle(self.journal, self.there.id, subject, done, **options)  # type: ignore[arg-type]

    def synced_run(self) -> int:
        """Make a run that ended and is synced."""
        self.add(experiment(), head(1, status="FINISHED"), points(1, [1]))
        self.bind(self.run())
        self.settle(self.run(), delivered=Delivered(1, 0, 30))
        return self.run()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state")


def model(status: str = "READY") -> ModelSeen:
    return ModelSeen(SubjectKey("model", "m-1"), EXPERIMENT, "net", "", status, run_key(1).id, 5, params={}, tags={})


# ---------------------------------------------------------------- what is told


def test_the_first_artifact_of_what_a_destination_cannot_hold_is_told_once(desk: Desk) -> None:
    subject = desk.synced_run()
    before = desk.newest
    keys = (desk.journal, desk.there.id, subject)
    for number in (1, 2):
        overflow.freeze_segment(*keys, [], b"{}", items=7)
        sent = overflow.next_unsent(*keys)
        assert sent is not None
        assert sent.number == number
        overflow.arrived(*keys, sent)
    overflow.freeze_document(*keys, section="params", document="params", number=None, body=b"{}", entries={"p": "v"})
    sent = overflow.next_unsent(*keys)
    assert sent is not None
    overflow.arrived(*keys, sent)
    told = [event for event in desk.told(before) if event.short_type == "overflow.added"]
    assert [(event.data["section"], event.data["items"], event.data["artifact"]) for event in told] == [
        (POINTS, 7, "syncd/overflow/metrics/1.jsonl"),
        ("params", 1, "syncd/overflow/params.json"),
    ]
    assert [check(f"events/{event.short_type}", event.data) for event in told] == [None] * 2


def test_a_run_s_life_is_told_in_order_once_and_fits_the_schemas(desk: Desk, tmp_path: Path) -> None:
    desk.add(experiment("churn"), head(1), points(1, [1]))
    desk.bind(desk.run())
    desk.settle(desk.run(), delivered=Delivered(1, 0, 30))
    assert desk.types() == ["run.discovered", "run.started"], "a run that goes on is not synced"
    desk.add(head(1), artifact(1, "m.bin", tmp_path), head(1, status="FINISHED"))
    seqs = [change.seq for change in deliveries.pending(desk.journal, desk.there.id, desk.run(), Section.ARTIFACTS)]
    desk.settle(desk.run(), delivered=Delivered(0, 1, 10), uploaded=seqs)
    assert desk.types() == ["run.discovered", "run.started", "run.finished", "artifact.uploaded", "run.synced"]
    assert {event.experiment for event in desk.told()} == {"churn"}
    assert [check(f"events/{event.short_type}", event.data) for event in desk.told()] == [None] * 5
    assert desk.told()[-1].data["sent"] == {"points": 1, "artifacts": 1, "bytes": 40}
    assert desk.told()[-1].data["destination_run_id"] == "there"
    assert {event.time_ms for event in desk.told()} == {NOW_MS}


def test_nothing_is_told_by_a_journal_that_was_not_asked_to(tmp_path: Path) -> None:
    silent = Desk(tmp_path / "silent", event_source="")
    silent.synced_run()
    participants.destination_trouble(silent.journal, silent.there.id, "down", "no route")
    assert silent.told() == []


def test_a_rebuilt_journal_tells_the_same_ids(desk: Desk, tmp_path: Path) -> None:
    desk.synced_run()
    other = Desk(tmp_path / "other")
    other.clock.now_ms += 86_400_000
    other.synced_run()
    assert [event.id for event in desk.told()] == [event.id for event in other.told()]
    assert len({event.id for event in desk.told()}) == 3


def test_a_commit_that_fails_tells_nothing(desk: Desk) -> None:
    def readings() -> object:
        yield Reading([experiment(), head(1)])
        raise OSError("the store went away")

    heard: list[int] = []
    desk.journal.on_told = lambda: heard.append(1)
    with pytest.raises(OSError, match="went away"):
        committing.commit(desk.journal, desk.source, desk.there.audience, readings())  # type: ignore[arg-type]
    assert (desk.told(), heard) == ([], [])
    desk.add(experiment(), head(1))
    assert (desk.types(), heard) == (["run.discovered", "run.started"], [1])


def test_a_run_is_synced_when_its_last_change_is_settled_and_again_after_a_later_one(desk: Desk) -> None:
    run = desk.synced_run()
    assert desk.types() == ["run.discovered", "run.finished", "run.synced"]
    desk.settle(run)
    assert desk.types()[3:] == [], "nothing was settled anew"
    desk.clock.now_ms += 5000
    desk.add(tags(1, owner="ann"), points(1, [2]))
    desk.settle(run, sections=(Section.METRICS,))
    assert desk.types()[3:] == [], "the tag still waits"
    desk.settle(run)
    assert desk.types()[3:] == ["run.synced"]
    first, second = (event for event in desk.told() if event.short_type == "run.synced")
    assert first.id != second.id


@pytest.mark.parametrize("why", ["refused", "let go", "no identity", "deleted"])
def test_a_run_of_which_not_all_is_there_is_not_synced(desk: Desk, why: str) -> None:
    desk.add(experiment(), head(1, status="FINISHED"), points(1, [1]))
    if why != "no identity":
        desk.bind(desk.run())
    if why == "deleted":
        desk.add(SubjectDeleted(run_key(1)))
    desk.settle(desk.run(), dead=[LETTER] if why == "refused" else [], whole=why != "let go")
    told = ["run.discovered", "run.finished"] + (["dead_letter.added"] if why == "refused" else [])
    assert desk.types() == told


def test_a_run_is_synced_after_its_dead_letter_was_dealt_with(desk: Desk) -> None:
    desk.add(experiment(), head(1, status="FINISHED"), tags(1, owner="ann"))
    desk.bind(desk.run())
    desk.settle(desk.run(), dead=[LETTER])
    [letter] = [event for event in desk.told() if event.short_type == "dead_letter.added"]
    assert (letter.data["letter"], letter.data["reason"], letter.data["status"]) == (1, "too long", 400)
    with closing(sqlite3.connect(desk.state_dir / FILE_NAME)) as db, db:
        db.execute("DELETE FROM dead_letter")
    desk.add(tags(1, owner="bob"))
    desk.settle(desk.run())
    assert desk.types()[-1] == "run.synced"


def test_a_run_waits_for_the_models_that_it_made(desk: Desk) -> None:
    desk.add(experiment(), head(1, status="FINISHED"), model("PENDING"), model())
    found = subjects.find_subject(desk.journal, desk.source, "model", "m-1")
    assert found is not None
    desk.bind(desk.run())
    desk.bind(found)
    desk.settle(desk.run())
    assert desk.types() == ["run.discovered", "run.finished", "model.logged"]
    desk.settle(found)
    assert desk.types()[3:] == ["run.synced"]


def test_each_destination_has_its_own_synced(desk: Desk) -> None:
    both = participants.register_destinations(desk.journal, {"workspace": "http://a", "second": "http://b"})
    desk.synced_run()
    second = both["second"]
    commit(desk.journal, desk.source, second.audience, experiment(), head(1, status="FINISHED"))
    bindings.bind(desk.journal, second.id, desk.run(), Binding("other", "", False, False))
    [change] = deliveries.pending(desk.journal, second.id, desk.run(), Section.HEAD)
    deliveries.settle(desk.journal, second.id, desk.run(), [(Section.HEAD, change.seq)])
    synced = [event.data["destination"] for event in desk.told() if event.short_type == "run.synced"]
    assert synced == ["workspace", "second"]
    assert desk.types().count("run.finished") == 1, "a second reading tells nothing again"


def test_down_and_up_are_told_in_turn(desk: Desk) -> None:
    there = desk.there.id
    participants.destination_up(desk.journal, there)
    assert desk.types() == []
    for state in ("throttled", "down", "auth", "throttled"):
        desk.clock.now_ms += 1
        participants.destination_trouble(desk.journal, there, state, f"it is {state}")
    assert desk.types() == ["destination.down", "destination.up"], "throttled is an answer"
    desk.clock.now_ms += 1
    participants.destination_trouble(desk.journal, there, "auth", "401")
    desk.journal.close()
    desk.open()
    participants.destination_trouble(desk.journal, there, "down", "still")
    assert desk.types() == ["destination.down", "destination.up", "destination.down"]
    desk.clock.now_ms += 1
    participants.destination_up(desk.journal, there)
    participants.destination_up(desk.journal, there)
    assert desk.types()[3:] == ["destination.up"]
    assert [check(f"events/{event.short_type}", event.data) for event in desk.told()] == [None] * 4


# ---------------------------------------------------------------- refused messages


def refused_message(body: bytes = b"{", *, message_id: str = "m-1", sent_ms: int | None = None) -> KeptMessage:
    return KeptMessage(id=message_id, address="t", content_type="", body=body, sent_ms=sent_ms)


REFUSAL = MessageRefused("/run: expected text", reason="Malformed")


def test_a_refused_message_is_told_once_for_each_letter(desk: Desk) -> None:
    refused = RefusedMessages(desk.journal, desk.source)
    for _ in range(2):  # whoever sent it does not read answers
        refused.keep([(refused_message(), REFUSAL), (refused_message(b"["), REFUSAL)])
    assert [event.data["letter"] for event in desk.told()] == [1, 2]
    refused.refused_again(1, REFUSAL)
    assert drop_letters(desk.state_dir, [1]).dropped == (1,)
    refused.keep([(refused_message(), REFUSAL)])
    assert [event.data["letter"] for event in desk.told()] == [1, 2, 3]
    assert desk.told()[0].data == {
        "source": "local",
        "message_id": "m-1",
        "address": "t",
        "letter": 1,
        "kind": "message",
        "items": 1,
        "reason": "/run: expected text",
        "code": "Malformed",
        "status": 0,
    }
    assert [check(f"events/{event.short_type}", event.data) for event in desk.told()] == [None] * 3
    assert EventFilter(experiments=("other",)).takes(desk.told()[0]), "it is about no experiment"


def test_a_message_that_its_broker_keeps_is_told_once_however_often_it_was_handed_over(desk: Desk) -> None:
    for _ in range(2):  # after a crash before it was settled, too
        refused = RefusedMessages(desk.journal, desk.source, broker_keeps=True)
        refused.keep([(refused_message(sent_ms=5), REFUSAL)])
        desk.clock.now_ms += 1000
    refused.keep([(refused_message(sent_ms=6), REFUSAL), (refused_message(b"[", sent_ms=5), REFUSAL)])
    assert [(event.short_type, event.data["letter"]) for event in desk.told()] == [("dead_letter.added", None)] * 3
    assert [check(f"events/{event.short_type}", event.data) for event in desk.told()] == [None] * 3
    assert drop_letters(desk.state_dir, None).dropped == ()


def test_a_refusal_that_is_not_committed_is_not_told(desk: Desk) -> None:
    inbox = Inbox(desk.journal, desk.source, InboxSettings(default_experiment="bus"))
    refused = RefusedMessages(desk.journal, desk.source)

    def keep_and_fail() -> None:
        refused.keep_within([(refused_message(), REFUSAL)])
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        inbox.take([], refused=1, beside=keep_and_fail)
    assert desk.told() == []
    inbox.take([], refused=1, beside=lambda: refused.keep_within([(refused_message(), REFUSAL)]) and None)
    assert desk.types() == ["dead_letter.added"]


# ---------------------------------------------------------------- sinks


def test_a_new_sink_begins_behind_the_newest_or_at_the_beginning_and_a_known_one_where_it_was(desk: Desk) -> None:
    desk.synced_run()
    outbox.register_sinks(desk.journal, {"now": False, "whole": True})
    assert outbox.sink_cursor(desk.journal, "now") == desk.newest
    assert outbox.sink_cursor(desk.journal, "whole") == 0
    outbox.move_sink(desk.journal, "whole", 2, sent=2)
    desk.journal.close()
    desk.open()
    outbox.register_sinks(desk.journal, {"now": True, "whole": False})
    assert outbox.sink_cursor(desk.journal, "whole") == 2
    outbox.move_sink(desk.journal, "whole", 1)
    assert outbox.sink_cursor(desk.journal, "whole") == 2, "it never goes back"


def test_events_stay_for_a_sink_that_is_away_and_go_when_all_are_past_them(desk: Desk) -> None:
    for number in range(1, 7):
        desk.add(experiment(), head(number))
    outbox.register_sinks(desk.journal, {"here": True, "away": True})
    outbox.move_sink(desk.journal, "here", 12)
    assert outbox.prune(desk.journal, kept=4, most=100) == {}
    assert len(desk.told()) == 12
    outbox.move_sink(desk.journal, "away", 7)
    assert outbox.prune(desk.journal, kept=4, most=100) == {}
    assert [event.seq for event in desk.told()] == [8, 9, 10, 11, 12]
    outbox.register_sinks(desk.journal, {"here": True})
    assert outbox.prune(desk.journal, kept=4, most=100) == {}
    assert [event.seq for event in desk.told()] == [9, 10, 11, 12], "nothing is kept for what is not configured"


def test_a_sink_that_is_too_far_behind_loses_the_oldest_and_it_is_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_DROPPED_TOGETHER", 2)
    for number in range(1, 7):
        desk.add(experiment(), head(number))
    outbox.register_sinks(desk.journal, {"away": True, "here": True})
    outbox.move_sink(desk.journal, "here", 12)
    outbox.move_sink(desk.journal, "away", 1)
    assert outbox.prune(desk.journal, kept=3, most=5) == {"away": 6}
    assert [event.seq for event in desk.told()] == [8, 9, 10, 11, 12]
    assert outbox.sink_cursor(desk.journal, "away") == 7
    assert outbox.prune(desk.journal, kept=3, most=5) == {}


def test_what_a_sink_refuses_is_kept_whole_under_a_number_of_its_own(desk: Desk) -> None:
    outbox.register_sinks(desk.journal, {"hook": True})
    desk.add(experiment(), head(1, status="FINISHED"))
    desk.settle(desk.run(), dead=[LETTER])
    event = desk.told()[1]
    outbox.move_sink(desk.journal, "hook", 2, refused=[(event, Refusal(reason="no such field", status=422))])
    desk.add(tags(1, owner="ann"))
    desk.settle(desk.run(), dead=[LETTER])
    numbers = [event.data["letter"] for event in desk.told() if event.short_type == "dead_letter.added"]
    assert numbers == [1, 3], "2 is the sink's"
    assert outbox.letters_to_retry(desk.journal, "hook", 10) == []
    with closing(sqlite3.connect(desk.state_dir / FILE_NAME)) as db, db:
        db.execute("UPDATE sink_letter SET retry = 1")
    [letter] = outbox.letters_to_retry(desk.journal, "hook", 10)
    assert (letter.id, letter.event.id, letter.event.data) == (2, event.id, event.data)
    outbox.settle_letter(desk.journal, "hook", 2, Refusal(reason="still not", status=422))
    assert outbox.letters_to_retry(desk.journal, "hook", 10) == []
    outbox.settle_letter(desk.journal, "hook", 2, None)
    with closing(sqlite3.connect(desk.state_dir / FILE_NAME)) as db:
        assert db.execute("SELECT COUNT(*) FROM sink_letter").fetchone() == (0,)


# ---------------------------------------------------------------- an older journal


def test_a_journal_of_version_1_goes_on(tmp_path: Path) -> None:
    """The file was written by the code that had version 1."""
    (tmp_path / FILE_NAME).write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    journal = Journal.open(tmp_path, event_source="syncd/host")
    assert journal.rebuilt_from is None
    there = participants.register_destinations(journal, {"workspace": "http://a"})["workspace"]
    source = participants.register_source(journal, "local")
    one, two = run_id(journal, source, 1), run_id(journal, source, 2)
    assert len(deliveries.pending(journal, there.id, one, Section.SMALL)) == 2
    assert deliveries.sums(journal, there.id)["dead_letters"] == 1
    [change] = deliveries.pending(journal, there.id, two, Section.HEAD)
    deliveries.settle(journal, there.id, two, [(Section.HEAD, change.seq)])
    [event] = outbox.events_after(journal, 0, 10)
    assert (event.short_type, event.data["destination_run_id"]) == ("run.synced", "remote-2")
    journal.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_asking_an_older_journal_says_which_process_must_end_first(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    lock = StateLock(tmp_path)
    lock.acquire()
    with pytest.raises(JournalError) as older:
        JournalReport.open(tmp_path)
    assert older.value.hint.startswith(f"stop the older syncd that uses it (process {os.getpid()}) and start this one")
    lock.release()
    with pytest.raises(JournalError) as older:
        JournalReport.open(tmp_path)
    assert older.value.hint.startswith("start this one once")


def test_a_migrated_journal_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    schemas = []
    for name, content in (("new", b""), ("old", gzip.decompress(FIXTURE.read_bytes()))):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / FILE_NAME).write_bytes(content)
        database.connect(tmp_path / name / FILE_NAME).close()
        with closing(sqlite3.connect(tmp_path / name / FILE_NAME)) as db:
            schemas.append(db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall())
    assert schemas[0] == schemas[1]


# ---------------------------------------------------------------- asking


def asked_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_syncd_events_tells_what_is_kept_since_an_id_and_of_a_type(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--state-dir", str(desk.state_dir))
    desk.synced_run()
    desk.journal.close()
    code, whole = asked_json(capsys, "events", *state)
    assert (code, [one["type"] for one in whole["events"]]) == (
        0,
        ["dev.syncd.run.discovered", "dev.syncd.run.finished", "dev.syncd.run.synced"],
    )
    first = whole["events"][0]["id"]
    _, since = asked_json(capsys, "events", *state, "--since", first, "--type", "*.synced", "model.*")
    assert since["events"] == whole["events"][2:]
    code, error = asked_json(capsys, "events", *state, "--since", "no such")
    assert (code, error["error"]["target"]) == (1, "no such")
    assert main(["events", *state]) == 0
    assert "run.finished       runs/0001" in capsys.readouterr().out
    code, none = asked_json(capsys, "events", "--state-dir", str(desk.state_dir / "none"))
    assert (code, none["events"], none["journal"]) == (0, [], None)


def test_what_a_sink_refused_is_in_dlq_and_status_and_can_be_put_back_or_dropped(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--state-dir", str(desk.state_dir))
    outbox.register_sinks(desk.journal, {"hook": True})
    desk.synced_run()
    one, two, three = desk.told()
    refused = [(one, Refusal(reason="no such field", code="Bad", status=422)), (two, Refusal(reason="nor this"))]
    outbox.move_sink(desk.journal, "hook", two.seq, sent=0, refused=refused)
    outbox.sink_trouble(desk.journal, "hook", "down", "no route")
    desk.clock.now_ms = three.time_ms
    code, listed = asked_json(capsys, "dlq", "list", *state)
    assert [
        (one["id"], one["destination"], one["subject"]["kind"], one["status"]) for one in listed["dead_letters"]
    ] == [
        (1, "hook", "event", 422),
        (2, "hook", "event", None),
    ]
    _, shown = asked_json(capsys, "dlq", "show", "1", *state)
    assert (shown["dead_letters"][0]["content"], shown["dead_letters"][0]["reason"]) == (one.data, "no such field")
    _, status = asked_json(capsys, "status", *state)
    [sink] = status["sinks"]
    assert (sink["name"], sink["state"], sink["waiting"], sink["dead_letters"]) == ("hook", "down", 1, 2)
    assert (status["dead_letters"], sink["last_error"]) == (2, "no route")
    assert main(["status", *state]) == 0
    assert "sink hook" in capsys.readouterr().out
    code, put_back = asked_json(capsys, "dlq", "retry", "1", "7", *state)
    assert (code, put_back["waiting"], put_back["unknown"]) == (1, [1], [7])
    assert [letter.event.id for letter in outbox.letters_to_retry(desk.journal, "hook", 9)] == [one.id]
    _, dropped = asked_json(capsys, "dlq", "drop", "--all", *state)
    assert dropped["dropped"] == [1, 2]
    assert asked_json(capsys, "dlq", "list", *state)[1]["dead_letters"] == []
