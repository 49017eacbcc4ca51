"""The inbox: each event once, runs stated whole, whatever order messages come in; and what is kept of refused ones."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from syncd.cli.dlq import content_of
from syncd.core.changes import Again, Section, encode, merge_small, parse
from syncd.core.facts import ArtifactSeen, ExperimentSeen, RunSeen, SubjectKey
from syncd.core.messages.statements import (
    Command,
    ForeignEvent,
    Ignored,
    InlineArtifact,
    KeptArtifact,
    RunEnded,
    RunLogged,
    RunRef,
    RunStarted,
    Statement,
    local_digest,
)
from syncd.core.source_tags import LAST_ACTIVITY
from syncd.errors import MessageRefused
from syncd.journal import deliveries, participants, refused_messages, subjects
from syncd.journal import inbox as inbox_module
from syncd.journal.database import FILE_NAME, MIGRATIONS, VERSION
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.dead_letters import drop as drop_letters
from syncd.journal.dead_letters import retry as retry_letters
from syncd.journal.inbox import Inbox, InboxSettings, Taken, Told
from syncd.journal.journal import Journal
from syncd.journal.pauses import Pause, pauses
from syncd.journal.queries import SCHEMA
from syncd.journal.refused_messages import KeptMessage, RefusedMessages
from syncd.journal.report import JournalReport
from syncd.journal.spool import Spool
from tests.journal_filling import NOW_MS, Clock

RUN = RunRef("r-1", "night")


class Case:
    """A journal with two destinations of different audiences, and the inbox of one source."""

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        self.state_dir = state_dir
        self.clock = Clock()
        self.journal = Journal.open(state_dir, wall_ms=self.clock)
        participants.register_destinations(self.journal, {"a": "http://a"})
        rows = participants.register_destinations(self.journal, {"a": "http://a", "b": "http://b"})
        assert rows["a"].audience != rows["b"].audience
        self.destinations = [rows["a"].id, rows["b"].id]
        self.source = participants.register_source(self.journal, "bus")
        self.inbox = Inbox(self.journal, self.source, InboxSettings(default_experiment="bus", **settings))
        self._numbers = itertools.count()

    def tell(self, *statements: Statement, **fields: Any) -> Taken:
        return self.inbox.take(
            [Told(**{"identity": f"e-{next(self._numbers)}", "statement": one, **fields}) for one in statements]
        )

    def subject(self, run_id: str = "r-1") -> int:
        row = self.journal._one("subject_id", {"source_id": self.source, "kind": "run", "key": run_id, "store": ""})
        assert row is not None
        return int(row)

    def head(self, run_id: str = "r-1") -> RunSeen | None:
        head = subjects.subject(self.journal, self.subject(run_id)).head
        assert head is None or isinstance(head, RunSeen)
        return head

    def changes(self, section: Section, run_id: str = "r-1") -> list[Any]:
        return deliveries.pending(self.journal, self.destinations[0], self.subject(run_id), section)

    def lines(self, run_id: str = "r-1") -> list[bytes]:
        return [line for change in self.changes(Section.METRICS, run_id) for line in change.body.split(b"\n")]

    def counts(self) -> dict[str, int]:
        [row] = self.journal._fetch("message_counts")
        return dict(zip(("taken", "repeated", "ignored", "refused"), row[1:5], strict=True))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.journal.close()


def logged(step: int = 1, *, time_ms: int = 10, run: RunRef = RUN, **fields: Any) -> RunLogged:
    line = b'{"key":"loss","value":0.5,"timestamp":1,"step":%d}' % step
    return RunLogged(run=run, time_ms=time_ms, lines=line, count=1, **fields)


def started(time_ms: int = 5, **fields: Any) -> RunStarted:
    return RunStarted(run=RUN, time_ms=time_ms, **{"start_time_ms": time_ms, **fields})


def ended(time_ms: int = 50, **fields: Any) -> RunEnded:
    return RunEnded(run=RUN, time_ms=time_ms, **{"end_time_ms": time_ms, "status": "FINISHED", **fields})


# -- once ----------------------------------------------------------------------------------------------------------


def test_an_event_is_taken_once_for_every_destination(case: Case) -> None:
    first = case.tell(logged(1), logged(2), identity="same")
    again = case.tell(logged(1), identity="same")
    assert (first.taken, first.repeated, again.taken, again.repeated) == (1, 1, 0, 1)
    assert case.lines() == [b'{"key":"loss","value":0.5,"timestamp":1,"step":1}']
    assert set(first.waiting) == set(case.destinations)
    for destination in case.destinations:
        assert len(deliveries.pending(case.journal, destination, case.subject(), Section.METRICS)) == 1
    assert case.counts() == {"taken": 1, "repeated": 2, "ignored": 0, "refused": 0}


def test_the_same_identity_of_another_source_is_another_event(case: Case) -> None:
    case.tell(logged(), identity="same")
    other = Inbox(
        case.journal, participants.register_source(case.journal, "other"), InboxSettings(default_experiment="other")
    )
    assert other.take([Told(identity="same", statement=logged())]).taken == 1


def test_content_without_identity_is_known_only_when_it_is_handed_over_again(case: Case) -> None:
    case.tell(logged(), identity="content", repeatable=True)
    assert case.tell(logged(), identity="content", repeatable=True).taken == 1
    assert case.tell(logged(), identity="content", repeatable=True, again=True).repeated == 1
    assert case.tell(logged(2), identity="content 2", repeatable=True, again=True).taken == 1


def test_an_identity_that_returns_is_known_while_its_event_may_be_unsettled(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sensor says the same for days: each packet identifier has had that content before."""
    monkeypatch.setattr(inbox_module, "MOST_UNSETTLED", 3)
    monkeypatch.setattr(inbox_module, "UNSETTLED_MS", 0)
    same = {"identity": "content", "repeatable": True, "returns": True}
    case.tell(logged(1), **same)
    for step in (2, 3, 4):
        case.tell(logged(step))
    assert case.tell(logged(5), **same, again=True).taken == 1  # nobody has seen it before its connection was lost
    assert case.tell(logged(5), **same, again=True).repeated == 1
    for step in (6, 7, 8):
        case.tell(logged(step))
    assert case.tell(logged(9), **same).taken == 1
    for step in (10, 11):
        case.tell(logged(step))
    assert case.tell(logged(9), **same, again=True).repeated == 1
    assert case.tell(logged(12), identity="other", repeatable=True).taken == 1
    for step in range(13, 20):
        case.tell(logged(step))
    assert case.tell(logged(12), identity="other", repeatable=True, again=True).repeated == 1


def test_what_returns_and_was_under_way_is_known_however_many_events_a_message_has(case: Case) -> None:
    """The daemon is killed between commit and acknowledgement, and starts again days later."""

    def other(step: int) -> Told:
        return Told(identity=f"other {step}", statement=logged(step))

    events = [Told(identity=f"{step}", statement=logged(step), repeatable=True, returns=True) for step in range(3000)]
    assert case.inbox.take(events).taken == 3000
    case.clock.now_ms += 3 * 24 * 3600 * 1000
    again = [replace(one, again=True) for one in events]
    assert (case.inbox.take(again[:1000]).taken, case.inbox.take([*again[1000:], other(9000)]).taken) == (0, 1)
    case.clock.now_ms += 3 * 24 * 3600 * 1000
    case.inbox.take([other(step) for step in range(9001, 10_001)])
    assert case.inbox.take(again[:7]).taken == 7


def test_of_one_batch_those_that_are_new_are_taken_in_their_order(case: Case) -> None:
    case.tell(logged(1), identity="1")
    told = [Told(identity=identity, statement=logged(int(identity))) for identity in ("3", "1", "2", "3")]
    told += [Told(identity="content", statement=logged(4), repeatable=True)] * 2
    taken = case.inbox.take(told)
    assert (taken.taken, taken.repeated) == (4, 2)
    steps = [parse(line)["step"] for line in case.lines()]
    assert steps == [1, 3, 2, 4, 4]


def test_nothing_of_a_batch_that_was_not_committed_is_taken_to_be_known(case: Case) -> None:
    start = Told(identity="start", statement=started(experiment="vision"))
    not_kept = logged(1, run=RunRef("r-2"), artifacts=[InlineArtifact("model.bin", b"1")])
    with pytest.raises(AssertionError):
        case.inbox.take([start, Told(identity="log", statement=not_kept)])
    assert case.inbox.take([start]).taken == 1
    case.tell(logged(1), identity="log")
    head = case.head()
    assert head is not None
    assert head.experiment.id == "vision"
    assert [parse(change.body)["name"] for change in experiment_changes(case)] == ["vision"]
    assert len(case.lines()) == 1


def experiment_changes(case: Case) -> list[Any]:
    experiment = subjects.subject(case.journal, case.subject()).experiment_id
    assert experiment is not None
    return deliveries.pending(case.journal, case.destinations[0], experiment, Section.HEAD)


def test_points_that_another_daemon_may_have_sent_are_marked(case: Case) -> None:
    case.tell(logged(1), again=True)
    case.tell(logged(2), again=True, elsewhere=True)
    assert [change.again for change in case.changes(Section.METRICS)] == [Again.NEW, Again.RESTATED]


def test_points_of_one_batch_are_one_change_of_each_run(case: Case) -> None:
    case.tell(*(logged(step) for step in range(1500)), logged(1, run=RunRef("r-2")))
    assert [change.items for change in case.changes(Section.METRICS)] == [1000, 500]
    assert len(case.lines()) == 1500
    assert len(case.lines("r-2")) == 1


def test_identities_are_forgotten_by_number_and_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "PRUNE_AFTER", 1)
    case = Case(tmp_path, most_identities=3)
    for number in range(5):
        case.tell(logged(), identity=str(number))
    assert [case.tell(logged(), identity=str(number)).repeated for number in (4, 3, 2)] == [1, 1, 1]
    assert case.tell(logged(), identity="0").taken == 1
    case.clock.now_ms += inbox_module.IDENTITIES_MS + 1
    case.tell(logged(), identity="young")
    assert case.tell(logged(), identity="young").repeated == 1
    assert case.tell(logged(), identity="4").taken == 1
    case.journal.close()


# -- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_is_stated_when_its_start_has_come(case: Case) -> None:
    case.tell(logged(time_ms=10))
    assert case.head() is None
    case.tell(started(5, experiment="vision", user_id="ada", parent_run_id="p"))
    head = case.head()
    assert head is not None
    assert (head.name, head.status, head.start_time_ms, head.end_time_ms) == ("night", "RUNNING", 5, None)
    assert (head.experiment.id, head.user_id, head.parent_run_id) == ("vision", "ada", "p")
    case.tell(ended(50, status="KILLED"))
    head = case.head()
    assert head is not None
    assert (head.status, head.end_time_ms) == ("KILLED", 50)


def test_a_run_is_stated_although_the_clock_went_back(case: Case) -> None:
    case.tell(logged(1))
    case.clock.now_ms -= 3_600_000
    case.tell(logged(2, run=RunRef("r-2")))
    assert case.inbox.tick(listening_ms=60_000)
    assert (case.head() is None, case.head("r-2") is None) == (False, True)
    case.clock.now_ms -= 3_600_000
    case.tell(logged(3, run=RunRef("r-2")))
    assert case.head("r-2") is not None


def test_a_run_without_a_start_is_stated_after_a_while(case: Case) -> None:
    case.tell(logged(time_ms=10))
    assert case.inbox.tick(listening_ms=60_000) == {}
    case.clock.now_ms += 2000
    assert set(case.inbox.tick(listening_ms=60_000)) == set(case.destinations)
    head = case.head()
    assert head is not None
    assert (head.experiment.id, head.start_time_ms) == ("bus", 10)
    assert case.inbox.tick(listening_ms=60_000) == {}
    experiment = subjects.subject(case.journal, subjects.subject(case.journal, case.subject()).experiment_id or 0).head
    assert isinstance(experiment, ExperimentSeen)
    assert experiment.name == "bus"


def test_whose_a_run_is_is_a_tag_that_is_set_once(case: Case) -> None:
    pump = RunRef("r-1", "night", "pump-4")
    case.tell(logged(1, run=pump, time_ms=10), logged(2, run=pump, time_ms=20))
    assert case.changes(Section.SMALL) == []  # nothing is stated of a run whose start is waited for
    case.clock.now_ms += 2000
    case.inbox.tick(listening_ms=60_000)
    case.tell(logged(3, run=RunRef("r-1", "night", "pump-5"), time_ms=30), logged(4, run=pump, time_ms=5))
    [change] = case.changes(Section.SMALL)
    assert merge_small([change]).tags == {"syncd.device": "pump-4"}


SAID: Sequence[Statement] = (
    started(5, experiment="vision", tags={"k": "old", "only": "1"}, params={"lr": "0.1"}),
    logged(1, time_ms=10, tags={"k": "new"}, experiment="late word"),
    logged(2, time_ms=20, params={"lr": "0.2"}),
    ended(50, status="FAILED"),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_same_is_stated_in_whatever_order_messages_come(tmp_path: Path, order: Sequence[int]) -> None:
    case = Case(tmp_path)
    for index in (*order, order[0]):
        case.tell(SAID[index])
    head = case.head()
    assert head is not None
    assert (head.experiment.id, head.status, head.start_time_ms, head.end_time_ms) == ("vision", "FAILED", 5, 50)
    small = merge_small(case.changes(Section.SMALL))
    assert small.tags == {"k": "new", "only": "1"}
    assert small.params == {"lr": "0.1"}
    assert {(b'"step":%d}' % step) in b"".join(case.lines()) for step in (1, 2)} == {True}
    case.journal.close()


def test_what_contradicts_is_named(case: Case) -> None:
    case.tell(logged(params={"lr": "1"}, time_ms=10))
    case.tell(logged(params={"lr": "2"}, time_ms=20), logged(params={"lr": "1"}, time_ms=30))
    case.clock.now_ms += 2000
    case.inbox.tick(listening_ms=60_000)
    case.tell(started(5, experiment="vision"))
    problems = {where: what for _, where, what in participants.problems(case.journal)}
    assert problems["run r-1, param lr"] == "messages say two values; '1' counts, which was said before '2'"
    assert problems["run r-1, experiment"] == (
        "it was created in experiment 'bus' before a message named 'vision'; it stays there"
    )


def test_a_head_that_says_nothing_new_is_not_stated_again(case: Case) -> None:
    case.tell(started(5))
    stated = len(case.changes(Section.HEAD))
    case.tell(logged(2), logged(3), started(5))
    assert len(case.changes(Section.HEAD)) == stated == 1


# -- silence -------------------------------------------------------------------------------------------------------


def test_a_silent_run_is_marked_and_ends_only_where_that_is_wanted(tmp_path: Path) -> None:
    for end_as, status in ((None, "RUNNING"), ("KILLED", "KILLED")):
        case = Case(tmp_path / str(end_as), stale_after_ms=60_000, end_stale_as=end_as)
        case.tell(started(5), logged(time_ms=1_700_000_000_123))
        case.clock.now_ms += 60_000
        assert case.inbox.tick(listening_ms=60_000)
        assert case.inbox.tick(listening_ms=60_000) == {}
        head = case.head()
        assert head is not None
        assert head.status == status
        assert head.end_time_ms == (None if end_as is None else 1_700_000_000_123)
        assert merge_small(case.changes(Section.SMALL)).tags == {LAST_ACTIVITY: "2023-11-14T22:13:20.123+00:00"}

        case.tell(logged(2, time_ms=1_700_000_000_200))
        head = case.head()
        assert head is not None
        assert (head.status, head.end_time_ms) == ("RUNNING", None)
        assert merge_small(case.changes(Section.SMALL)).untag == (LAST_ACTIVITY,)
        case.clock.now_ms += 60_000
        assert case.inbox.tick(listening_ms=60_000)
        case.tell(ended(1_700_000_000_150, status="FINISHED"))
        head = case.head()
        assert head is not None
        assert (head.status, head.end_time_ms) == ("FINISHED", 1_700_000_000_150)
        case.clock.now_ms += 60_000
        assert case.inbox.tick(listening_ms=60_000) == {}
        case.journal.close()


def test_nobody_is_silent_while_nobody_listens(tmp_path: Path) -> None:
    case = Case(tmp_path, stale_after_ms=60_000, end_stale_as="KILLED")
    case.tell(started(5))
    case.clock.now_ms += 600_000
    assert case.inbox.tick(listening_ms=59_999) == {}
    assert case.inbox.tick(listening_ms=60_000)
    case.journal.close()


@pytest.mark.parametrize("time_ms", [-(2**63), -62_135_596_800_001, 253_402_300_800_000, 2**63 - 1])
def test_a_run_that_was_heard_of_in_a_year_that_cannot_be_written_is_marked(tmp_path: Path, time_ms: int) -> None:
    case = Case(tmp_path, stale_after_ms=60_000, end_stale_as="KILLED")
    case.tell(started(time_ms))
    case.clock.now_ms += 60_000
    assert case.inbox.tick(listening_ms=60_000)
    year = merge_small(case.changes(Section.SMALL)).tags[LAST_ACTIVITY][:4]
    assert year == ("0001" if time_ms < 0 else "9999")
    case.journal.close()


# -- commands and events of others ---------------------------------------------------------------------------------


def test_pauses_last_until_they_are_resumed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    pause = Command(name="pause", time_ms=1, arguments={"destination": "a"})
    assert case.tell(pause).commands == [pause]
    case.tell(Command(name="pause", time_ms=1, arguments={"source": "local"}))
    case.journal.close()
    journal = Journal.open(tmp_path)
    assert pauses(journal) == [Pause("destination", "a", "bus", NOW_MS), Pause("source", "local", "bus", NOW_MS)]
    journal.close()
    case = Case(tmp_path)
    case.tell(Command(name="resume", time_ms=1, arguments={"destination": "a"}), identity="resume")
    assert [one.name for one in pauses(case.journal)] == ["local"]
    case.journal.close()


def resting(case: Case) -> list[str]:
    return [one.name for one in pauses(case.journal)]


@pytest.mark.parametrize("given", list(itertools.permutations([("pause", 10), ("resume", 20), ("pause", 30)])))
def test_the_last_command_counts_whatever_order_they_come_in(
    case: Case, given: Sequence[tuple[Literal["pause", "resume"], int]]
) -> None:
    newest, wanted = 0, []
    for name, time_ms in given:
        command = Command(name=name, time_ms=time_ms, arguments={"destination": "a"})
        taken = case.tell(command)
        if time_ms > newest:
            newest, wanted = time_ms, ["a"] if name == "pause" else []
        assert (taken.taken, taken.commands) == (1, [command] if time_ms == newest else [])
        assert resting(case) == wanted


def test_commands_of_one_time_and_those_of_a_time_to_come_count_in_the_order_of_arrival(case: Case) -> None:
    later_ms = NOW_MS + 3_600_000
    for name, time_ms, rests in (
        ("pause", 5, ["a"]),
        ("resume", 5, []),
        ("pause", later_ms, ["a"]),
        ("resume", NOW_MS - 1, ["a"]),
        ("resume", NOW_MS, []),
    ):
        case.tell(Command(name=name, time_ms=time_ms, arguments={"destination": "a"}))  # type: ignore[arg-type]
        assert resting(case) == rests
    case.tell(Command(name="pause", time_ms=later_ms, arguments={"destination": "a"}))
    case.clock.now_ms += 1000
    case.tell(Command(name="resume", time_ms=NOW_MS + 500, arguments={"destination": "a"}))
    assert resting(case) == []


def test_commands_about_different_parts_do_not_count_against_each_other(case: Case) -> None:
    case.tell(Command(name="resume", time_ms=20, arguments={"destination": "a"}))
    case.tell(Command(name="pause", time_ms=10, arguments={"destination": "b"}))
    case.tell(Command(name="pause", time_ms=10, arguments={"source": "a"}))
    assert resting(case) == ["b", "a"]


def test_a_command_that_came_while_the_clock_was_wrong_bars_no_other(case: Case) -> None:
    case.tell(Command(name="pause", time_ms=NOW_MS, arguments={"destination": "a"}))
    case.clock.now_ms = 1000
    case.tell(Command(name="resume", time_ms=900, arguments={"destination": "a"}))
    assert resting(case) == []


def test_what_was_paused_before_times_were_kept_rests_until_it_is_resumed(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    for number, script in enumerate(MIGRATIONS[:5], 1):
        connection.executescript(f"{script}\nPRAGMA user_version = {number};")
    connection.execute("INSERT INTO pause (kind, name, source, at_ms) VALUES ('destination', 'a', 'bus', 7)")
    connection.commit()
    connection.close()
    case = Case(tmp_path)
    assert pauses(case.journal) == [Pause("destination", "a", "bus", 7)]
    case.tell(Command(name="resume", time_ms=1, arguments={"destination": "a"}))
    assert resting(case) == []
    case.journal.close()


def test_a_command_is_given_once(case: Case) -> None:
    command = Command(name="sync", time_ms=1, arguments={"source": "local"})
    assert case.tell(command, identity="c").commands == [command]
    assert case.tell(command, identity="c").commands == []


def test_events_of_other_services_are_kept_for_rules(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "FOREIGN_EVENTS", 2)
    for number in range(3):
        case.tell(
            ForeignEvent(name="azureml.run_completed", time_ms=number, source="w", subject="s", data={"run_id": "r"})
        )
    rows = case.journal._fetch("foreign_events", {"after": 0, "limit": 10})
    assert [(row[1], row[2], parse(row[5].encode())) for row in rows] == [
        ("azureml.run_completed", 1, {"run_id": "r"}),
        ("azureml.run_completed", 2, {"run_id": "r"}),
    ]


def test_what_is_ignored_is_counted(case: Case) -> None:
    case.inbox.take([Told(identity="x", statement=Ignored("com.example"))], refused=3)
    assert case.counts() == {"taken": 0, "repeated": 0, "ignored": 1, "refused": 3}


# -- the spool -----------------------------------------------------------------------------------------------------


def spooled(case: Case) -> tuple[Spool, str]:
    spool = Spool(case.journal, case.state_dir)
    spool.begin()
    kept = spool.keep(InlineArtifact("plots/a.txt", b"hi"))
    taken = case.tell(logged(artifacts=[kept]))
    assert taken.roots == {kept.root}
    return spool, kept.root


def settle(case: Case, *, dead: bool = False) -> None:
    for destination in case.destinations:
        [change] = deliveries.pending(case.journal, destination, case.subject(), Section.ARTIFACTS)
        letters = [DeadLetter(Section.ARTIFACTS, change.kind, change.body, 1, "no")] if dead else []
        deliveries.settle(case.journal, destination, case.subject(), [(Section.ARTIFACTS, change.seq)], dead=letters)


def test_an_artifact_lies_in_the_spool_until_every_destination_has_it(case: Case) -> None:
    spool, root = spooled(case)
    assert (Path(root) / "plots/a.txt").read_bytes() == b"hi"
    assert (spool.used_bytes(), spool.tidy()) == (2, 0)
    [change] = deliveries.pending(case.journal, case.destinations[0], case.subject(), Section.ARTIFACTS)
    deliveries.settle(case.journal, case.destinations[0], case.subject(), [(Section.ARTIFACTS, change.seq)])
    assert (spool.tidy(), Path(root).exists()) == (0, True)
    deliveries.settle(case.journal, case.destinations[1], case.subject(), [(Section.ARTIFACTS, change.seq)])
    assert (spool.tidy(), Path(root).exists(), spool.used_bytes()) == (1, False, 0)


def test_an_artifact_that_was_refused_can_be_tried_again(case: Case) -> None:
    spool, root = spooled(case)
    settle(case, dead=True)
    assert (spool.tidy(), Path(root).exists()) == (0, True)
    assert len(retry_letters(case.state_dir, None).waiting) == 2
    assert (spool.tidy(), Path(root).exists()) == (0, True)
    settle(case)
    assert (spool.tidy(), Path(root).exists()) == (1, False)


@pytest.mark.parametrize("local", [False, True])
def test_an_artifact_that_was_refused_overwrites_no_later_one(case: Case, local: bool) -> None:
    spool = Spool(case.journal, case.state_dir)
    spool.begin()

    def artifact(content: bytes) -> KeptArtifact:
        kept = spool.keep(InlineArtifact("a", content))
        about = {"root": kept.root, "size_bytes": kept.size_bytes, "mtime_ns": kept.mtime_ns}
        return replace(kept, spooled=False, digest=local_digest(**about)) if local else kept

    for time_ms, content in enumerate((b"old", b"new")):
        case.tell(logged(artifacts=[artifact(content)], time_ms=time_ms))
        settle(case, dead=True)
    assert retry_letters(case.state_dir, [1, 2]).overtaken == (1, 2)
    assert spool.tidy() == (0 if local else 1)
    assert retry_letters(case.state_dir, [3, 4]).waiting == (3, 4)
    [change] = case.changes(Section.ARTIFACTS)
    artifact_told = parse(change.body)
    assert Path(artifact_told["root"], artifact_told["path"]).read_bytes() == b"new"


def test_an_artifact_of_a_store_with_a_name_that_is_no_text_can_be_tried_again(case: Case) -> None:
    case.tell(logged())
    body = encode(ArtifactSeen(SubjectKey("run", "r-1"), "a\udcff", "/store\udcff", 1, 1)).body
    letter = DeadLetter(Section.ARTIFACTS, "artifact", body, 1, "no")
    deliveries.settle(case.journal, case.destinations[0], case.subject(), [], dead=[letter])
    assert retry_letters(case.state_dir, None).waiting == (1,)
    assert [change.body for change in case.changes(Section.ARTIFACTS)] == [body]


def test_what_a_crash_left_in_the_spool_goes_at_the_next_start(case: Case) -> None:
    spool, root = spooled(case)
    left = spool.keep(InlineArtifact("b", b"left"))
    spool.begin()
    assert (Path(root).exists(), Path(left.root).exists()) == (True, False)


def test_the_latest_word_on_an_artifact_counts(case: Case) -> None:
    spool = Spool(case.journal, case.state_dir)
    spool.begin()
    new, old = spool.keep(InlineArtifact("a", b"new")), spool.keep(InlineArtifact("a", b"old"))
    assert case.tell(logged(artifacts=[new], time_ms=20)).roots == {new.root}
    assert case.tell(logged(2, artifacts=[old], time_ms=10)).roots == set()
    assert [parse(change.body)["root"] for change in case.changes(Section.ARTIFACTS)] == [new.root]


# -- refused messages ----------------------------------------------------------------------------------------------


def kept_message(
    message_id: str = "m-1", body: bytes = b"{", *, address: str = "t", headers: Mapping[str, str] | None = None
) -> KeptMessage:
    return KeptMessage(id=message_id, address=address, content_type="c", headers=headers or {"h": "v"}, body=body)


REFUSAL = MessageRefused("the body is not JSON")


def test_refused_messages_are_kept_whole_tried_again_and_given_up(case: Case) -> None:
    refused = RefusedMessages(case.journal, case.source)
    assert refused.keep([(kept_message(), REFUSAL), (kept_message("m-2"), REFUSAL)]) == 0
    assert refused.to_retry() == []
    outcome = retry_letters(case.state_dir, [1, 9])
    assert (outcome.waiting, outcome.unknown) == ((1,), (9,))
    [message] = refused.to_retry()
    assert (message.number, message.id, message.body, message.headers) == (1, "m-1", b"{", {"h": "v"})
    refused.refused_again(1, MessageRefused("still not", reason="NotAllowed"))
    assert refused.to_retry() == []
    with report(case) as journal:
        assert [(one.id, one.code, one.reason, one.source, one.subject_key) for one in journal.letters()] == [
            (1, "NotAllowed", "still not", "bus", "m-1"),
            (2, "Malformed", "the body is not JSON", "bus", "m-2"),
        ]
        [first, _] = journal.letters()
        assert content_of(first, journal) == {"address": "t", "content_type": "c", "headers": {"h": "v"}, "text": "{"}
    with case.journal._transaction("trying again"):
        refused.tried(1, None)
    assert drop_letters(case.state_dir, None).dropped == (2,)
    assert kept(case) == []


def test_numbers_of_dead_letters_are_not_used_twice(case: Case) -> None:
    refused = RefusedMessages(case.journal, case.source)
    refused.keep([(kept_message(), REFUSAL)])
    spooled(case)
    settle(case, dead=True)
    refused.keep([(kept_message("m-2"), REFUSAL)])
    with report(case) as journal:
        assert [(one.id, one.kind) for one in journal.letters()] == [
            (1, "message"),
            (2, "artifact"),
            (3, "artifact"),
            (4, "message"),
        ]


def kept(case: Case) -> list[tuple[str, int]]:
    with report(case) as journal:
        return [(one.subject_key, one.size_bytes) for one in journal.letters()]


def kept_numbers(case: Case) -> list[int]:
    with report(case) as journal:
        return [one.id for one in journal.letters()]


def report(case: Case) -> JournalReport:
    found = JournalReport.open(case.state_dir)
    assert found is not None
    return found


def test_a_refused_message_that_comes_again_is_kept_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_messages, "READ_AT_ONCE", 1)
    bodies = [b"{", b"["]
    RefusedMessages(case.journal, case.source).keep([(kept_message(body=body), REFUSAL) for body in bodies])
    refused = RefusedMessages(case.journal, case.source)  # after a restart
    refused.keep([(kept_message(headers={"signature": "other"}), REFUSAL), (kept_message(body=b"x"), REFUSAL)])
    refused.keep([(kept_message(body=b"x"), REFUSAL)])
    assert kept_numbers(case) == [1, 2, 3]
    assert drop_letters(case.state_dir, [3]).dropped == (3,)
    refused.keep([(kept_message(body=b"x"), REFUSAL)])
    assert kept_numbers(case) == [1, 2, 4]


def test_of_a_refused_message_without_an_id_all_that_came_with_it_counts(case: Case) -> None:
    refused = RefusedMessages(case.journal, case.source)
    for event_id in ("1", "2", "1"):
        refused.keep([(kept_message("", headers={"ce-id": event_id}), REFUSAL)])
    refused.keep([(kept_message("", address="u", headers={"ce-id": "1"}), REFUSAL)])
    assert kept_numbers(case) == [1, 2, 3]


def test_what_could_not_be_committed_is_not_taken_for_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = RefusedMessages(case.journal, case.source)
    with monkeypatch.context() as patched:
        patched.setattr(refused, "_is_too_much", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            refused.keep([(kept_message(), REFUSAL)])
    # It takes the number that the first one would have had.
    refused.keep([(kept_message("other"), REFUSAL)])
    refused.keep([(kept_message(), REFUSAL)])
    assert kept(case) == [("other", 1), ("m-1", 1)]


def test_refused_messages_are_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_messages, "MOST", 3)
    monkeypatch.setattr(refused_messages, "MOST_BYTES", 100)
    refused = RefusedMessages(case.journal, case.source)
    assert refused.keep([(kept_message(str(number)), REFUSAL) for number in range(5)]) == 2
    assert refused.keep([(kept_message(body=b"x" * 99), REFUSAL)]) == 2
    assert refused.keep([(kept_message(body=b"x" * 500), REFUSAL)]) == 2
    assert kept(case) == [("m-1", 500)]


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_journal_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(f"{SCHEMA}\nPRAGMA user_version = 1;\nINSERT INTO source (name) VALUES ('bus');")
    connection.close()
    case = Case(tmp_path)
    assert case.journal.rebuilt_from is None
    assert case.source == 1
    assert case.tell(logged()).taken == 1
    assert case.journal._connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
    case.journal.close()
