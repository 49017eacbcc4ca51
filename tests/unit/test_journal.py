"""The journal: what is committed waits until it is settled; audiences, cursors, identities, dead letters, pace."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from syncd.core.changes import Again, Section, decode_head, merge_small, parse
from syncd.core.facts import MetricsLogged, ProblemFound, Reading, SubjectDeleted, SubjectKey, TagsDeleted
from syncd.core.source_tags import LAST_ACTIVITY
from syncd.errors import JournalError
from syncd.journal import bindings, committing, database, deliveries, overflow, participants, subjects
from syncd.journal.bindings import Binding
from syncd.journal.database import FILE_NAME, VERSION
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.deliveries import Delivered
from syncd.journal.fact_intake import LONGEST_TAG
from syncd.journal.journal import Journal
from syncd.journal.participants import DestinationRow
from syncd.journal.queries import STATEMENTS, load_statements
from syncd.journal.report import JournalReport
from syncd.journal.silence import activity_text, mark_silent_runs
from tests.journal_filling import (
    EXPERIMENT,
    NOW_MS,
    Clock,
    artifact,
    commit,
    experiment,
    head,
    params,
    points,
    run_id,
    run_key,
    settle_all,
    tags,
)


class Bench:
    """A journal with one source and one destination."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = Clock()
        self.journal = Journal.open(state_dir, wall_ms=self.clock)
        self.source = participants.register_source(self.journal, "local")
        self.there = self.register(workspace="http://a")["workspace"]

    def register(self, **named: str) -> dict[str, DestinationRow]:
        return participants.register_destinations(self.journal, named)

    def add(self, *facts: object, **cursors: bytes | None) -> dict[int, set[int]]:
        return commit(self.journal, self.source, self.there.audience, *facts, **cursors)  # type: ignore[arg-type]

    def pending(self, subject: int, section: Section, destination: int | None = None) -> list[bytes]:
        changes = deliveries.pending(self.journal, destination or self.there.id, subject, section)
        return [change.body for change in changes]

    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.state_dir, wall_ms=self.clock)

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.state_dir / FILE_NAME)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


# ---------------------------------------------------------------- commit, pending, settle


def test_what_is_committed_waits_in_order_and_by_section_also_after_a_restart(bench: Bench, tmp_path: Path) -> None:
    told = bench.add(experiment(), head(1), points(1, [1, 2]), params(1, lr="0.1"), artifact(1, "m.bin", tmp_path))
    bench.add(points(1, [3]), tags(1, owner="ann"))
    bench.reopen()
    run = run_id(bench.journal, bench.source, 1)
    assert run in told[bench.there.id]
    assert set(deliveries.waiting_subjects(bench.journal, bench.there.id)) == told[bench.there.id]
    metrics = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    assert [(change.items, change.again, change.attempted, change.at_ms) for change in metrics] == [
        (2, Again.NEW, False, NOW_MS),
        (1, Again.NEW, False, NOW_MS),
    ]
    assert b"".join(change.body for change in metrics).count(b'"step"') == 3
    small = merge_small(deliveries.pending(bench.journal, bench.there.id, run, Section.SMALL))
    assert (small.params, small.tags) == ({"lr": "0.1"}, {"owner": "ann"})
    assert decode_head(bench.pending(run, Section.HEAD)[-1]) == head(1)
    assert subjects.subject(bench.journal, run).tags == {"owner": "ann"}


def test_pending_goes_on_after_what_was_seen(bench: Bench) -> None:
    bench.add(experiment(), head(1), *(points(1, [step]) for step in range(5)))
    run = run_id(bench.journal, bench.source, 1)
    first = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS, limit=2)
    rest = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS, after=first[-1].seq)
    assert [len(first), len(rest)] == [2, 3]
    assert {change.seq for change in first}.isdisjoint({change.seq for change in rest})


def test_a_settled_change_is_gone_and_the_others_stay(bench: Bench) -> None:
    bench.add(experiment(), head(1), points(1, [1]), points(1, [2]))
    run = run_id(bench.journal, bench.source, 1)
    one, two = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    deliveries.settle(bench.journal, bench.there.id, run, [(Section.METRICS, one.seq)], delivered=Delivered(1, 0, 30))
    bench.reopen()
    assert [change.seq for change in deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)] == [
        two.seq
    ]
    assert bench.rows(f"SELECT COUNT(*) FROM change WHERE seq = {one.seq}") == [(0,)]
    sums = deliveries.sums(bench.journal, bench.there.id)
    assert (sums["points"], sums["bytes"], sums["points_waiting"]) == (1, 30, 1)


def test_a_change_stays_until_every_destination_has_it(bench: Bench) -> None:
    both = bench.register(workspace="http://a", second="http://b")
    audience = both["second"].audience
    told = commit(bench.journal, bench.source, audience, experiment(), head(1), points(1, [1]))
    assert set(told) == {both["second"].id}
    run = run_id(bench.journal, bench.source, 1)
    bench.add(points(1, [2]))
    [change] = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    assert b'"step":2' in change.body
    [other] = deliveries.pending(bench.journal, both["second"].id, run, Section.METRICS)
    assert b'"step":1' in other.body


def test_destinations_of_one_audience_share_a_change_and_it_goes_with_the_last(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "s")
    source = participants.register_source(journal, "local")
    rows = participants.register_destinations(journal, {"a": "http://a", "b": "http://b"})
    a, b = rows["a"], rows["b"]
    assert a.audience == b.audience
    told = commit(journal, source, a.audience, experiment(), head(1), points(1, [1]))
    assert set(told) == {a.id, b.id}
    run = run_id(journal, source, 1)
    [change] = deliveries.pending(journal, a.id, run, Section.METRICS)
    deliveries.settle(journal, a.id, run, [(Section.METRICS, change.seq)])
    assert deliveries.pending(journal, a.id, run, Section.METRICS) == []
    assert [one.seq for one in deliveries.pending(journal, b.id, run, Section.METRICS)] == [change.seq]
    settle_all(journal, b.id, run)
    journal.close()
    with sqlite3.connect(tmp_path / "s" / FILE_NAME) as connection:
        assert connection.execute("SELECT COUNT(*) FROM change WHERE subject_id = ?", (run,)).fetchone() == (2 - 1,)


def test_a_commit_that_fails_half_way_leaves_nothing(bench: Bench) -> None:
    def readings() -> object:
        yield Reading([experiment(), head(1), points(1, [1])], {"x/metrics": b"1"})
        raise OSError("the store went away")

    with pytest.raises(OSError, match="went away"):
        committing.commit(bench.journal, bench.source, bench.there.audience, readings())  # type: ignore[arg-type]
    assert deliveries.waiting_subjects(bench.journal, bench.there.id) == []
    assert committing.JournalCursors(bench.journal, bench.source, bench.there.audience).load("x/metrics") is None
    bench.add(experiment(), head(1))
    assert len(deliveries.waiting_subjects(bench.journal, bench.there.id)) == 2


@pytest.mark.parametrize(
    ("first", "again", "expected"),
    [
        (False, False, Again.NEW),
        (True, False, Again.FIRST_READING),
        (False, True, Again.RESTATED),
        (True, True, Again.RESTATED),
    ],
)
def test_again_says_what_a_destination_may_hold(bench: Bench, first: bool, again: bool, expected: Again) -> None:
    fact = MetricsLogged(run_key(1), b"{}", 1, again=again)
    readings = [Reading([experiment(), head(1), fact])]
    committing.commit(bench.journal, bench.source, bench.there.audience, readings, first_reading=first)
    run = run_id(bench.journal, bench.source, 1)
    assert [change.again for change in deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)] == [
        expected
    ]


def test_an_attempt_is_remembered_for_the_changes_it_was_made_for(bench: Bench) -> None:
    bench.add(experiment(), head(1), points(1, [1]), points(1, [2]))
    run = run_id(bench.journal, bench.source, 1)
    one, two = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    deliveries.mark_attempted(bench.journal, bench.there.id, run, Section.METRICS, [two.seq])
    bench.reopen()
    changes = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    assert [(change.seq, change.attempted) for change in changes] == [(one.seq, False), (two.seq, True)]


def test_the_head_waits_for_everything_else(bench: Bench) -> None:
    bench.add(experiment(), head(1), points(1, [1]))
    run = run_id(bench.journal, bench.source, 1)
    assert deliveries.waits_before_head(bench.journal, bench.there.id, run)
    [change] = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    deliveries.settle(bench.journal, bench.there.id, run, [(Section.METRICS, change.seq)])
    assert not deliveries.waits_before_head(bench.journal, bench.there.id, run)
    assert len(bench.pending(run, Section.HEAD)) == 1


def test_tags_are_merged_shortened_and_deleted(bench: Bench) -> None:
    bench.add(experiment(), head(1), tags(1, a="1", long="x" * 5000), tags(1, a="2", b="3"))
    bench.add(TagsDeleted(run_key(1), ["b", "never there"]))
    run = run_id(bench.journal, bench.source, 1)
    assert subjects.subject(bench.journal, run).tags == {"a": "2", "long": "x" * LONGEST_TAG}
    assert b"x" * 5000 in bench.pending(run, Section.SMALL)[0]


def test_a_deleted_run_is_marked_and_unmarked_when_it_comes_back(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)
    bench.add(SubjectDeleted(run_key(1)))
    assert subjects.subject(bench.journal, run).deleted
    assert [change.kind for change in deliveries.pending(bench.journal, bench.there.id, run, Section.HEAD)] == [
        "head",
        "deleted",
    ]
    bench.add(head(1))
    assert not subjects.subject(bench.journal, run).deleted


def test_experiments_of_the_same_id_in_two_stores_are_two(bench: Bench) -> None:
    bench.add(experiment("a"))
    other = SubjectKey("experiment", EXPERIMENT.id, "elsewhere")
    told = bench.add(type(experiment())(other, "b", {}))
    assert len(told[bench.there.id]) == 1
    assert len(deliveries.waiting_subjects(bench.journal, bench.there.id)) == 2


def test_problems_are_kept_updated_and_withdrawn(bench: Bench) -> None:
    bench.add(ProblemFound("m/x", "line 3 is not a point", run_key(1)), ProblemFound("m/y", "not readable"))
    bench.add(ProblemFound("m/x", "line 4 is not a point", run_key(1)), ProblemFound("m/y", ""))
    assert participants.problems(bench.journal) == [("local", "m/x", "line 4 is not a point")]


# ---------------------------------------------------------------- cursors


def test_cursors_are_committed_with_their_facts_listed_by_prefix_and_forgotten(bench: Bench) -> None:
    bench.add(experiment(), **{"r1/metrics": b"\x00\xff", "r1/tags": b"t", "r10/tags": b"u", "store:x": b"s"})
    cursors = committing.JournalCursors(bench.journal, bench.source, bench.there.audience)
    assert cursors.load("r1/metrics") == b"\x00\xff"
    assert cursors.load("r1/none") is None
    assert list(cursors.keys("r1/")) == ["r1/metrics", "r1/tags"]
    assert list(cursors.keys("")) == ["r1/metrics", "r1/tags", "r10/tags", "store:x"]
    bench.add(**{"r1/tags": None, "store:x": b"s2"})
    assert list(cursors.keys("r1/")) == ["r1/metrics"]
    assert cursors.load("store:x") == b"s2"
    committing.forget_readings(bench.journal, bench.source, "r1")
    assert list(cursors.keys("")) == ["r10/tags", "store:x"]


def test_a_reading_that_began_before_its_run_was_forgotten_does_not_bring_back_how_far_it_was_read(
    bench: Bench,
) -> None:
    bench.add(experiment(), **{"r1/metrics": b"1", "r2/metrics": b"1"})
    begun = committing.forgotten(bench.journal)
    committing.forget_readings(bench.journal, bench.source, "r1")

    def commit_reading(forgotten_before: int) -> list[str]:
        reading = Reading([], {"r1/metrics": b"2", "r2/metrics": b"2"})
        audience = bench.there.audience
        committing.commit(bench.journal, bench.source, audience, [reading], forgotten_before=forgotten_before)
        return list(committing.JournalCursors(bench.journal, bench.source, audience).keys(""))

    assert commit_reading(begun) == ["r2/metrics"]
    assert commit_reading(committing.forgotten(bench.journal)) == ["r1/metrics", "r2/metrics"]


def test_prefixes_are_characters_not_patterns(bench: Bench) -> None:
    bench.add(**{"a%/x": b"1", "ab/x": b"2", "a_/x": b"3", "a/\U0010fffe": b"4", "a/é": b"5", "b/": b"6"})
    cursors = committing.JournalCursors(bench.journal, bench.source, bench.there.audience)
    assert list(cursors.keys("a%")) == ["a%/x"]
    assert list(cursors.keys("a_")) == ["a_/x"]
    assert sorted(cursors.keys("a/")) == ["a/é", "a/\U0010fffe"]


def test_cursors_of_another_source_and_audience_are_their_own(bench: Bench) -> None:
    other = participants.register_source(bench.journal, "other")
    bench.add(**{"k/x": b"1"})
    commit(bench.journal, other, bench.there.audience, **{"k/x": b"2"})
    assert committing.JournalCursors(bench.journal, other, bench.there.audience).load("k/x") == b"2"
    assert committing.JournalCursors(bench.journal, bench.source, bench.there.audience).load("k/x") == b"1"
    assert committing.JournalCursors(bench.journal, bench.source, bench.there.audience + 1).load("k/x") is None
    assert participants.register_source(bench.journal, "other") == other


# ---------------------------------------------------------------- audiences


def test_a_destination_that_joins_later_has_an_audience_of_its_own(bench: Bench) -> None:
    bench.add(experiment(), head(1), **{"k/x": b"1"})
    rows = bench.register(workspace="http://a", late="http://b")
    assert rows["workspace"] == bench.there
    assert rows["late"].audience != bench.there.audience
    assert committing.JournalCursors(bench.journal, bench.source, rows["late"].audience).load("k/x") is None
    assert deliveries.waiting_subjects(bench.journal, rows["late"].id) == []
    told = commit(bench.journal, bench.source, rows["late"].audience, experiment(), head(1))
    assert set(told) == {rows["late"].id}


def test_one_that_leaves_keeps_what_waits_and_gets_nothing_new(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    rows = bench.register(other="http://b")
    assert set(rows) == {"other"}
    assert bench.add(points(1, [1])) == {}
    assert len(deliveries.waiting_subjects(bench.journal, bench.there.id)) == 2


def test_one_that_comes_back_is_read_for_anew_and_its_identities_are_doubted(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)
    bindings.bind(bench.journal, bench.there.id, run, Binding("r1", "root", adopted=False, appends=False))
    bench.register(other="http://b")
    back = bench.register(workspace="http://a", other="http://b")
    assert back["workspace"].id == bench.there.id
    assert back["workspace"].audience not in (bench.there.audience, back["other"].audience)
    binding = bindings.binding(bench.journal, bench.there.id, run)
    assert binding is not None
    assert (binding.remote_id, binding.adopted) == ("r1", True)


def test_a_new_name_for_the_same_uri_is_the_same_destination(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    renamed = bench.register(production="http://a")["production"]
    assert (renamed.id, renamed.audience) == (bench.there.id, bench.there.audience)


def test_two_destinations_that_swap_names_stay_who_they_are(bench: Bench) -> None:
    rows = bench.register(workspace="http://a", second="http://b")
    swapped = bench.register(workspace="http://b", second="http://a")
    assert swapped["second"].id == rows["workspace"].id
    assert swapped["workspace"].id == rows["second"].id


# ---------------------------------------------------------------- identities


def test_an_identity_is_kept_replaced_and_checked(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)
    assert bindings.binding(bench.journal, bench.there.id, run) is None
    bindings.bind(bench.journal, bench.there.id, run, Binding("r1", "root", adopted=False, appends=True))
    bindings.mark_checked(bench.journal, bench.there.id, [run])
    assert bindings.binding(bench.journal, bench.there.id, run) == Binding("r1", "root", False, True, True, NOW_MS)
    bindings.bind(bench.journal, bench.there.id, run, Binding("r2", "root2", adopted=True, appends=True))
    assert bindings.binding(bench.journal, bench.there.id, run) == Binding("r2", "root2", True, True, False, NOW_MS)


# ---------------------------------------------------------------- dead letters, overflow, notes


def test_a_refused_change_becomes_a_letter_in_the_same_step(bench: Bench) -> None:
    bench.add(experiment(), head(1), points(1, [1]))
    run = run_id(bench.journal, bench.source, 1)
    [change] = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    letter = DeadLetter(Section.METRICS, "metrics", change.body, 1, "no such key", "INVALID_PARAMETER_VALUE", 400)
    deliveries.settle(bench.journal, bench.there.id, run, [(Section.METRICS, change.seq)], dead=[letter])
    assert bench.pending(run, Section.METRICS) == []
    report = JournalReport.open(bench.state_dir)
    assert report is not None
    with report:
        [found] = report.letters()
        assert (found.reason, found.code, found.status, found.items) == ("no such key", letter.code, 400, 1)
        assert report.letter_body(found.id) == change.body
    assert deliveries.sums(bench.journal, bench.there.id)["dead_letters"] == 1


def test_a_letter_that_cannot_be_written_leaves_its_change_waiting(bench: Bench) -> None:
    bench.add(experiment(), head(1), points(1, [1]))
    run = run_id(bench.journal, bench.source, 1)
    [change] = deliveries.pending(bench.journal, bench.there.id, run, Section.METRICS)
    broken = DeadLetter(Section.METRICS, "metrics", None, 1, "no")  # type: ignore[arg-type]
    with pytest.raises(JournalError):
        deliveries.settle(bench.journal, bench.there.id, run, [(Section.METRICS, change.seq)], dead=[broken])
    assert bench.pending(run, Section.METRICS) == [change.body]


def test_overflow_is_kept_by_section_and_released(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)
    overflow.keep(bench.journal, bench.there.id, run, "params", {"a": "1", "b": "2", "c": "3"})
    overflow.release(bench.journal, bench.there.id, run, "params", ["a", "never kept"])
    assert overflow.kept(bench.journal, bench.there.id, run, "params") == {"b": "2", "c": "3"}
    assert overflow.kept(bench.journal, bench.there.id, run, "tags") == {}
    assert overflow.counts(bench.journal, bench.there.id, run) == {"params": 2}
    assert deliveries.sums(bench.journal, bench.there.id)["overflow"] == 2


def test_a_note_comes_and_goes_and_does_not_count_as_progress(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)
    deliveries.note(bench.journal, bench.there.id, run, "waits for its parent")
    assert deliveries.note_of(bench.journal, bench.there.id, run) == "waits for its parent"
    assert deliveries.sums(bench.journal, bench.there.id)["points"] == 0
    deliveries.note(bench.journal, bench.there.id, run, "")
    assert deliveries.note_of(bench.journal, bench.there.id, run) == ""


def test_another_process_that_writes_is_noticed_and_own_writes_are_not(bench: Bench) -> None:
    before = bench.journal.data_version()
    bench.add(experiment())
    assert bench.journal.data_version() == before
    other = database.join(bench.state_dir / FILE_NAME)
    other.execute("UPDATE destination SET name = 'renamed'")
    other.close()
    assert bench.journal.data_version() != before


# ---------------------------------------------------------------- pace


def test_the_pace_is_what_was_delivered_in_the_last_minute(bench: Bench) -> None:
    bench.add(experiment(), head(1))
    run = run_id(bench.journal, bench.source, 1)

    def rate() -> tuple[float, float, float]:
        report = JournalReport.open(bench.state_dir)
        assert report is not None
        with report:
            [there] = report.destinations(bench.clock.now_ms)
        return there.pace.window_s, there.pace.points_per_s * there.pace.window_s, there.pace.bytes_per_s

    bench.clock.now_ms = NOW_MS - NOW_MS % 10_000
    for second in range(0, 200, 5):
        bench.clock.now_ms = NOW_MS - NOW_MS % 10_000 + second * 1000
        deliveries.settle(bench.journal, bench.there.id, run, [], delivered=Delivered(points=10, bytes=100))
    window_s, counted, bytes_per_s = rate()
    assert window_s == 55
    assert counted == pytest.approx(120)
    assert bytes_per_s == pytest.approx(1200 / 55)
    assert bench.rows("SELECT COUNT(*) FROM pace") == [(7,)]
    bench.clock.now_ms += 120_000
    assert rate()[1:] == (0, 0)


# ---------------------------------------------------------------- statements, migrations


def test_two_statements_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two statements are named a"):
        load_statements("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n")


def test_every_statement_is_one_that_sqlite_takes(bench: Bench) -> None:
    connection = sqlite3.connect(bench.state_dir / FILE_NAME)
    for name, statement in STATEMENTS.items():
        positional = [None] * statement.count("?")
        try:
            connection.execute(f"EXPLAIN {statement}", positional or _Anything())
        except sqlite3.Error as error:
            pytest.fail(f"{name}: {error}")
    connection.close()


class _Anything(dict):  # type: ignore[type-arg]
    def __missing__(self, _key: str) -> None:
        return None


def test_an_empty_file_is_a_journal_of_version_0_and_is_migrated(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    journal = Journal.open(tmp_path)
    assert journal.rebuilt_from is None
    participants.register_source(journal, "local")
    journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_migrations_go_on_from_the_version_that_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add(experiment(), head(1), points(1, [1]))
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, "ALTER TABLE source ADD COLUMN extra TEXT;"))
    monkeypatch.setattr(database, "VERSION", VERSION + 1)
    bench.reopen()
    assert bench.journal.rebuilt_from is None
    assert bench.rows("PRAGMA user_version") == [(VERSION + 1,)]
    assert bench.rows("SELECT name, extra FROM source") == [("local", None)]
    assert len(deliveries.waiting_subjects(bench.journal, bench.there.id)) == 2


def test_a_migration_that_fails_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add(experiment())
    step = "ALTER TABLE source ADD COLUMN extra TEXT; ALTER TABLE no_such_table ADD COLUMN extra TEXT;"
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, step))
        patch.setattr(database, "VERSION", VERSION + 1)
        bench.journal.close()
        with pytest.raises(JournalError, match="no_such_table"):
            Journal.open(bench.state_dir)
    bench.journal = Journal.open(bench.state_dir)
    assert bench.journal.rebuilt_from is None
    assert len(deliveries.waiting_subjects(bench.journal, bench.there.id)) == 1
    assert len(bench.rows("SELECT * FROM source")[0]) == 2


# -- silence -----------------------------------------------------------------------------------------------------------


def test_a_silent_run_is_marked_with_its_last_activity_until_it_is_heard_of(bench: Bench) -> None:
    [subject] = bench.add(head(1, status="RUNNING"))[bench.there.id]
    seen_ms = bench.clock()
    bench.clock.now_ms += 60_000
    mark = {LAST_ACTIVITY: activity_text(seen_ms)}

    assert mark_silent_runs(bench.journal, bench.source, before_ms=seen_ms) == {}
    assert mark_silent_runs(bench.journal, bench.source, before_ms=seen_ms + 1) == {bench.there.id: {subject}}
    assert dict(subjects.subject(bench.journal, subject).tags) == mark
    assert [parse(body) for body in bench.pending(subject, Section.SMALL)] == [mark]
    assert mark_silent_runs(bench.journal, bench.source, before_ms=bench.clock()) == {}, "the mark is no activity"

    bench.add(points(1, [1]))
    assert mark_silent_runs(bench.journal, bench.source, before_ms=seen_ms + 1) == {bench.there.id: {subject}}
    assert dict(subjects.subject(bench.journal, subject).tags) == {}
    assert [parse(body) for body in bench.pending(subject, Section.SMALL)] == [mark, [LAST_ACTIVITY]]


def test_a_run_that_has_ended_is_not_marked_and_loses_its_mark(bench: Bench) -> None:
    bench.add(head(1, status="FINISHED"), head(2, status="RUNNING"))
    bench.clock.now_ms += 60_000
    [marked] = mark_silent_runs(bench.journal, bench.source, before_ms=bench.clock())[bench.there.id]
    assert subjects.subject(bench.journal, marked).key == run_key(2)
    bench.add(head(2, status="FINISHED"))
    assert mark_silent_runs(bench.journal, bench.source, before_ms=0) == {bench.there.id: {marked}}
    assert mark_silent_runs(bench.journal, bench.source, before_ms=bench.clock() + 1) == {}
