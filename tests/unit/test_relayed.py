"""What another syncd says, taken into the journal: the later word counts, in whatever order and however often."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.cli.main import main
from syncd.core.changes import Again, Change, Section, decode_artifact, merge_small
from syncd.core.facts import (
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ParamsLogged,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.core.messages.statements import KeptChunk
from syncd.core.relay.pieces import add_piece, holds
from syncd.core.relay.reading import read_chunk
from syncd.core.relay.values import Parcel, RelayedChunk, RelayedFact, RelayedFacts, RelayOrigin
from syncd.errors import AuthFailed, JournalFull, MessageRefused, Rejected
from syncd.journal import deliveries, participants, subjects
from syncd.journal import partials as partials_module
from syncd.journal.dead_letters import DeadLetter, retry
from syncd.journal.inbox import Inbox, InboxSettings, Taken, Told
from syncd.journal.journal import Journal
from syncd.journal.partials import Partials
from syncd.journal.relayed import order_of_head
from syncd.journal.spool import Spool
from syncd.runtime import giving_back
from syncd.runtime.giving_back import GivingBack
from tests.journal_filling import Clock

ORIGIN = RelayOrigin("j1", 1_790_000_000, "edge-7", "local")
RUN = SubjectKey("run", "r1")
EXPERIMENT = SubjectKey("experiment", "0", "edge-7/local/")
HEAD = RunSeen(RUN, EXPERIMENT, "night", "RUNNING", 1, None, origin="local")
ENDED = replace(HEAD, status="FINISHED", end_time_ms=9)
ABOUT = (ENDED, ExperimentSeen(EXPERIMENT, "vision", {"team": "a"}))
POINT = b'{"key":"loss","value":0.5,"timestamp":1,"step":%d}'
MOST_BYTES = 10_000_000


class Case:
    """A journal, the inbox of one source, and the files that come to it in chunks."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = Clock()
        self.journal = Journal.open(state_dir, wall_ms=self.clock)
        self.destination = participants.register_destinations(self.journal, {"a": "http://a"})["a"].id
        self.source = participants.register_source(self.journal, "bus")
        self.inbox = Inbox(self.journal, self.source, InboxSettings(default_experiment="bus"))
        self.spool = Spool(self.journal, state_dir)
        self.spool.begin()
        self.partials = Partials(self.journal, state_dir, self.source, most_bytes=MOST_BYTES)
        self._numbers = itertools.count()

    def reopened(self) -> Case:
        self.journal.close()
        return Case(self.state_dir)

    def tell(self, *facts: tuple[int, Fact], origin: RelayOrigin = ORIGIN, **fields: Any) -> Taken:
        said = RelayedFacts("", origin, RUN, ABOUT, [RelayedFact(origin.order(seq), fact) for seq, fact in facts])
        told = Told(**{"identity": f"m{next(self._numbers)}", "statement": said, **fields})
        return self.inbox.take([told])

    def keep(self, *chunks: RelayedChunk, commit: bool = True) -> list[KeptChunk]:
        kept = [self.partials.keep(chunk, "session-1") for chunk in chunks]
        if commit:
            self.inbox.take([Told(identity="", statement=one) for one in kept])
            self.partials.committed()
        return kept

    def subject(self, key: SubjectKey = RUN) -> int:
        row = self.journal._one(
            "subject_id", {"source_id": self.source, "kind": key.kind, "key": key.id, "store": key.store}
        )
        return int(row)

    def changes(self, section: Section, key: SubjectKey = RUN) -> list[Change]:
        return deliveries.pending(self.journal, self.destination, self.subject(key), section, limit=1000)

    def files(self) -> list[bytes]:
        """Return the contents of the artifacts that were stated."""
        found = []
        for change in self.changes(Section.ARTIFACTS):
            artifact = decode_artifact(RUN, change.body)
            path = Path(artifact.root) / artifact.path
            assert (path.stat().st_size, path.stat().st_mtime_ns) == (artifact.size_bytes, artifact.mtime_ns)
            found.append(path.read_bytes())
        return found

    def spooled(self) -> int:
        return len(list((self.state_dir / "spool").iterdir()))

    def problems(self) -> list[str]:
        return [what for _, _, what in participants.problems(self.journal)]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.journal.close()


# -- facts ---------------------------------------------------------------------------------------------------------

SAID: Sequence[tuple[int, Fact]] = (
    (1, HEAD),
    (2, TagsSet(RUN, {"k": "old", "gone": "1", "back": "1"})),
    (3, ParamsLogged(RUN, {"lr": "0.1"})),
    (4, TagsDeleted(RUN, ["gone", "back"])),
    (5, TagsSet(RUN, {"k": "new", "back": "2"})),
    (6, ParamsLogged(RUN, {"lr": "0.2"})),
    (7, ENDED),
)


@pytest.mark.parametrize("seed", range(40))
def test_the_latest_word_counts_in_whatever_order_and_however_often_words_come(tmp_path: Path, seed: int) -> None:
    case = Case(tmp_path)
    order = [*SAID, *SAID]
    random.Random(seed).shuffle(order)
    for said in order:
        case.tell(said)
    small = merge_small(case.changes(Section.SMALL))
    assert (small.params, small.tags, set(small.untag)) == ({"lr": "0.2"}, {"k": "new", "back": "2"}, {"gone"})
    head = subjects.subject(case.journal, case.subject()).head
    assert head == ENDED
    assert order_of_head(case.journal, case.subject()) == ORIGIN.order(7)
    case.journal.close()


def test_a_new_journal_of_the_edge_counts_as_later_and_its_points_may_be_there(case: Case) -> None:
    later = RelayOrigin("j2", ORIGIN.journal_made_s + 1, "edge-7", "local")
    case.tell((900, TagsSet(RUN, {"k": "old"})), (901, MetricsLogged(RUN, POINT % 1, 1)))
    case.tell((1, TagsSet(RUN, {"k": "new"})), (2, MetricsLogged(RUN, POINT % 1, 1)), origin=later)
    case.tell((902, TagsSet(RUN, {"k": "older"})), (903, MetricsLogged(RUN, POINT % 2, 1)))
    assert merge_small(case.changes(Section.SMALL)).tags == {"k": "new"}
    assert [change.again for change in case.changes(Section.METRICS)] == [Again.NEW, Again.RESTATED, Again.NEW]


def test_points_that_may_be_there_are_marked(case: Case) -> None:
    case.tell((1, MetricsLogged(RUN, POINT % 1, 1)), (2, MetricsLogged(RUN, POINT % 2, 1, again=True)))
    case.tell((3, MetricsLogged(RUN, POINT % 3, 1)), elsewhere=True)
    found = [(change.body, change.again) for change in case.changes(Section.METRICS)]
    assert found == [
        (POINT % 1, Again.NEW),
        (POINT % 2, Again.RESTATED),
        (POINT % 3, Again.RESTATED),
    ]


def test_a_message_is_taken_once(case: Case) -> None:
    assert case.tell((1, MetricsLogged(RUN, POINT % 1, 1)), identity="same").taken == 1
    assert case.tell((1, MetricsLogged(RUN, POINT % 1, 1)), identity="same").repeated == 1
    assert len(case.changes(Section.METRICS)) == 1


def test_the_points_of_one_batch_are_few_changes(case: Case) -> None:
    messages = [
        RelayedFacts("", ORIGIN, RUN, ABOUT, [RelayedFact(step, MetricsLogged(RUN, POINT % step, 1))])
        for step in range(1500)
    ]
    case.inbox.take([Told(identity=str(index), statement=one) for index, one in enumerate(messages)])
    assert [change.items for change in case.changes(Section.METRICS)] == [1000, 500]


def test_what_is_referred_to_can_be_created_and_has_no_delivery(case: Case) -> None:
    case.tell((5, InputsLogged(RUN, [], ["m1"])))
    assert case.changes(Section.HEAD) == []
    assert case.changes(Section.HEAD, EXPERIMENT) == []
    assert subjects.subject(case.journal, case.subject()).head == HEAD  # how it stands, its own messages say
    experiment = subjects.subject(case.journal, case.subject()).experiment_id
    assert experiment is not None
    assert subjects.subject(case.journal, experiment).head == ABOUT[1]
    case.tell((7, ENDED))
    assert subjects.subject(case.journal, case.subject()).head == ENDED
    assert len(case.changes(Section.HEAD)) == 1
    case.tell((8, TagsSet(RUN, {"k": "v"})))
    assert subjects.subject(case.journal, case.subject()).head == ENDED


def test_a_deletion_is_a_word_like_any_other(case: Case) -> None:
    case.tell((3, SubjectDeleted(RUN)), (2, ENDED))
    assert subjects.subject(case.journal, case.subject()).deleted
    case.tell((4, ENDED))
    assert not subjects.subject(case.journal, case.subject()).deleted


def test_names_with_half_of_a_surrogate_pair_are_taken(case: Case) -> None:
    case.tell((1, ParamsLogged(RUN, {"\ud800": "\udfff"})))
    assert merge_small(case.changes(Section.SMALL)).params == {"\ud800": "\udfff"}


# -- files in chunks -----------------------------------------------------------------------------------------------

CONTENT = random.Random(1).randbytes(1000)


def chunk(
    offset: int = 0, after: int = 1000, *, content: bytes = CONTENT, seq: int = 10, **fields: Any
) -> RelayedChunk:
    values: dict[str, Any] = {
        "origin": ORIGIN,
        "subject": RUN,
        "about": ABOUT,
        "order": ORIGIN.order(seq),
        "path": "plots/ünïcode.png",
        "size_bytes": len(content),
        "digest": hashlib.sha256(content).hexdigest(),
        "offset": offset,
        "content": content[offset:after],
    }
    return RelayedChunk(**{**values, **fields})


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=30))
def test_pieces_are_the_bytes_that_were_added(added: list[list[int]]) -> None:
    pieces: list[tuple[int, int]] = []
    bytes_there: set[int] = set()
    for first, after in added:
        pieces = add_piece(pieces, first, after)
        bytes_there |= set(range(first, after))
    assert {byte for first, after in pieces for byte in range(first, after)} == bytes_there
    assert all(one[1] < other[0] for one, other in itertools.pairwise(pieces))
    for first, after in added:
        assert holds(pieces, first, after)
        assert holds(pieces, first, after + 1) == (set(range(first, after + 1)) <= bytes_there)


@pytest.mark.parametrize("seed", range(10))
def test_a_file_is_stated_when_all_of_it_is_there(tmp_path: Path, seed: int) -> None:
    case = Case(tmp_path)
    numbers = random.Random(seed)
    cuts = sorted(numbers.sample(range(1, 1000), 9))
    chunks = [chunk(max(0, first - 5), after) for first, after in itertools.pairwise([0, *cuts, 1000])]  # overlapping
    chunks += numbers.sample(chunks, 4)
    numbers.shuffle(chunks)
    for one in chunks:
        case.keep(one)
        if numbers.random() < 0.3:
            case = case.reopened()
    assert case.files() == [CONTENT]
    assert case.spooled() == 1
    assert case.partials.used_bytes() == 0
    assert case.spool.used_bytes() == 1000
    case.journal.close()


def test_a_batch_may_hold_all_chunks_twice_and_an_empty_file(case: Case) -> None:
    chunks = [chunk(0, 400), chunk(400, 1000), chunk(0, 400), chunk(400, 1000)]
    empty = chunk(content=b"", path="empty")
    outcomes = [kept.outcome for kept in case.keep(*chunks, empty, empty)]
    assert outcomes == ["part", "whole", "known", "known", "whole", "known"]
    assert sorted(case.files()) == [b"", CONTENT]
    assert subjects.subject(case.journal, case.subject()).head == HEAD


def test_what_came_in_part_is_counted(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.keep(chunk(0, 400), chunk(0, 100, path="other"))
    main(["status", "--state-dir", str(case.state_dir)])
    assert "came in part: 2 files (500 B)" in capsys.readouterr().out
    case.keep(chunk(400, 1000), chunk(100, 1000, path="other"))
    main(["status", "--state-dir", str(case.state_dir)])
    assert "came in part" not in capsys.readouterr().out


def test_what_was_not_committed_is_kept_again(case: Case) -> None:
    case.keep(chunk(0, 400))
    case.keep(chunk(400, 1000), chunk(0, 10, path="other"), commit=False)
    assert case.spooled() == 2
    case.partials.abandon()
    assert case.spooled() == 1
    assert [one.outcome for one in case.keep(chunk(400, 1000))] == ["whole"]
    assert case.files() == [CONTENT]


def test_what_a_killed_process_had_written_goes_or_goes_on(case: Case) -> None:
    case.keep(chunk(0, 400))
    case.keep(chunk(0, 10, path="other"), commit=False)
    case = case.reopened()
    assert case.spooled() == 1
    case.keep(chunk(400, 1000))
    assert case.files() == [CONTENT]
    case.journal.close()


def test_a_file_that_was_delivered_is_not_stated_again(case: Case) -> None:
    case.keep(chunk())
    [change] = case.changes(Section.ARTIFACTS)
    deliveries.settle(case.journal, case.destination, case.subject(), [(Section.ARTIFACTS, change.seq)])
    case.spool.tidy()
    assert case.spooled() == 0
    again, other_journal = chunk(), chunk(order=RelayOrigin("j2", ORIGIN.journal_made_s + 5, "", "").order(1))
    assert [one.outcome for one in case.keep(again, other_journal, other_journal)] == ["known", "confirmed", "known"]
    assert case.changes(Section.ARTIFACTS) == []
    assert case.spooled() == 0


def test_later_content_begins_a_file_anew_and_older_content_is_known(case: Case) -> None:
    other = bytes(reversed(CONTENT))
    case.keep(chunk(0, 400))
    assert case.keep(chunk(0, 500, content=other, seq=12))[0].outcome == "part"
    assert case.spooled() == 1
    assert case.keep(chunk(400, 1000))[0].outcome == "known"
    assert case.keep(chunk(500, 1000, content=other, seq=12))[0].outcome == "whole"
    assert case.keep(chunk(0, 1000))[0].outcome == "known"
    assert case.files() == [other]
    assert case.keep(chunk(0, 1000, seq=13))[0].outcome == "whole"
    assert case.files() == [other, CONTENT]


def test_a_file_that_was_refused_overwrites_no_later_one(case: Case) -> None:
    for seq, content in ((5, b"old"), (6, b"new")):
        case.keep(chunk(content=content, after=3, seq=seq))
        [change] = case.changes(Section.ARTIFACTS)
        letter = DeadLetter(Section.ARTIFACTS, change.kind, change.body, 1, "no")
        deliveries.settle(
            case.journal, case.destination, case.subject(), [(Section.ARTIFACTS, change.seq)], dead=[letter]
        )
    outcome = retry(case.state_dir, None)
    assert (outcome.overtaken, outcome.waiting) == ((1,), (2,))
    assert case.files() == [b"new"]


def test_the_edge_may_go_on_with_a_file_under_a_later_word(case: Case) -> None:
    case.keep(chunk(0, 400))
    assert [one.outcome for one in case.keep(chunk(0, 400, seq=20), chunk(400, 1000, seq=20))] == ["part", "whole"]
    assert case.files() == [CONTENT]


def test_bytes_that_are_not_what_their_digest_says_are_forgotten_and_named(case: Case) -> None:
    case.keep(chunk(0, 400))
    lie = replace(chunk(400, 1000), content=b"x" * 600)
    assert [one.outcome for one in case.keep(lie)] == ["broken"]
    assert case.spooled() == 0
    assert "SHA-256" in case.problems()[0]
    assert [one.outcome for one in case.keep(chunk(0, 400), chunk(400, 1000))] == ["part", "whole"]
    assert case.files() == [CONTENT]
    assert case.problems() == []


def test_a_chunk_that_contradicts_the_others_is_refused(case: Case) -> None:
    case.keep(chunk(0, 400))
    for fields in ({"digest": "0" * 64}, {"size_bytes": 2000}):
        with pytest.raises(MessageRefused, match="other chunks of this file"):
            case.keep(chunk(400, 1000, **fields), commit=False)
        case.partials.abandon()
    assert case.keep(chunk(400, 1000))[0].outcome == "whole"


def test_sizes_holes_files_and_paths_are_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MessageRefused, match="journal_max_bytes is 10000000"):
        case.keep(chunk(size_bytes=MOST_BYTES + 1))
    with pytest.raises(MessageRefused, match="so long a path"):
        case.keep(chunk(path="/".join(["d" * 250] * 20)))
    case.partials.abandon()
    monkeypatch.setattr(partials_module, "MOST_PIECES", 3)
    with pytest.raises(MessageRefused, match="at most 3 holes"):
        case.keep(*(chunk(at, at + 1) for at in range(0, 20, 2)))
    case.partials.abandon()
    monkeypatch.setattr(partials_module, "MOST_OPEN", 1)
    case.keep(chunk(0, 10))
    with pytest.raises(MessageRefused, match="1 files are open"):
        case.keep(chunk(0, 10, path="other"))
    assert case.spooled() == 1


def test_a_full_disk_leaves_nothing_behind(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    case.keep(chunk(0, 400))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        for one in (chunk(400, 1000), chunk(0, 10, path="other")):
            with pytest.raises(JournalFull):
                case.keep(one)
            case.partials.abandon()
    assert case.spooled() == 1
    assert case.keep(chunk(400, 1000))[0].outcome == "whole"
    assert case.files() == [CONTENT]


# -- files that are given back -------------------------------------------------------------------------------------


class Entity:
    """What is sent into an entity; ``refusals`` are raised by the next calls."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Parcel]] = []
        self.refusals: list[Exception] = []
        self.refuses: Callable[[Parcel], bool] = lambda _: True
        self.on_send: Callable[[], None] = lambda: None

    async def send(self, parcels: Sequence[Parcel], *, session: str) -> None:
        if self.refusals and any(map(self.refuses, parcels)):
            raise self.refusals.pop()
        self.sent += [(session, parcel) for parcel in parcels]
        self.on_send()

    async def close(self) -> None:
        pass

    def chunks(self) -> list[RelayedChunk]:
        return [read_chunk(base64.b64decode(json.loads(parcel.body)["data_base64"])) for _, parcel in self.sent]


async def look(case: Case, entity: Entity, *, until: Callable[[], bool], begun_ms: int = 0) -> list[str]:
    """Give back what is due until that holds; return what was recorded of it."""
    problems: list[str] = []

    async def in_thread(work: Callable[[], Any]) -> Any:
        return work()

    async def problem(text: str) -> None:
        problems.append(text)

    task = asyncio.create_task(
        GivingBack(case.partials, entity, wall_ms=lambda: begun_ms).run(in_thread, problem)  # type: ignore[arg-type]
    )
    async with asyncio.timeout(30):
        while not until() and not task.done():  # noqa: ASYNC110 - a condition of several parts
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return problems


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_back, "LOOK_S", 0.0)
    monkeypatch.setattr(giving_back, "RETRY_S", 0.0)


async def test_what_came_of_a_file_is_given_back_as_it_came(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_back, "LEAST_CHUNK_BYTES", 150)
    monkeypatch.setattr(giving_back, "MESSAGE_BYTES", 0)
    told = [chunk(0, 400), chunk(600, 900)]
    case.keep(*told)
    entity = Entity()
    case.clock.now_ms += 60_000
    await look(case, entity, until=lambda: case.spooled() == 0)
    found = entity.chunks()
    assert [(one.offset, len(one.content)) for one in found] == [
        (0, 150),
        (150, 150),
        (300, 100),
        (600, 150),
        (750, 150),
    ]
    assert {session for session, _ in entity.sent} == {"session-1"}
    as_told = replace(told[0], about=list(ABOUT))
    assert [replace(one, offset=0, content=as_told.content) for one in found] == [as_told] * 5
    assert case.partials.used_bytes() == 0
    # It comes here again, with what was missing.
    assert [one.outcome for one in case.keep(*found, chunk(400, 600), chunk(900, 1000))][-1] == "whole"
    assert case.files() == [CONTENT]


async def test_it_waits_longer_each_time_until_more_has_come(case: Case) -> None:
    entity = Entity()

    def waits() -> list[int]:
        due = []
        for wait_s in (59, 60, 119, 120, 240):
            case.clock.now_ms += wait_s * 1000
            if case.partials.silent(begun_ms=0, silence_ms=60_000, most_doublings=10):
                due.append(wait_s)
            case.clock.now_ms -= wait_s * 1000
        return due

    case.keep(chunk(0, 400))
    assert waits() == [60, 119, 120, 240]
    case.clock.now_ms += 60_000
    await look(case, entity, until=lambda: case.spooled() == 0)
    case.keep(chunk(0, 400))
    assert waits() == [120, 240]
    case.clock.now_ms += 120_000
    await look(case, entity, until=lambda: case.spooled() == 0)
    case.keep(chunk(0, 400))
    assert waits() == [240]
    case.keep(chunk(400, 401))
    assert waits() == [60, 119, 120, 240]


async def test_it_does_not_wait_until_a_clock_that_went_back_has_caught_up(case: Case) -> None:
    case.keep(chunk(0, 400))
    case.clock.now_ms -= 3_600_000
    begun_ms = case.clock.now_ms  # it was started anew
    await look(case, Entity(), until=lambda: case.spooled() == 0, begun_ms=begun_ms)
    case.keep(chunk(0, 400))
    assert case.partials.silent(begun_ms=begun_ms, silence_ms=60_000, most_doublings=10) == []


async def test_after_a_start_it_does_not_wait(case: Case) -> None:
    case.keep(chunk(0, 400))
    begun_ms = case.clock.now_ms
    case.clock.now_ms += 1
    await look(case, Entity(), until=lambda: case.spooled() == 0, begun_ms=begun_ms + 1)
    case.keep(chunk(0, 400))
    assert case.partials.silent(begun_ms=begun_ms + 1, silence_ms=60_000, most_doublings=10) == []


async def at_stop(case: Case, entity: Entity) -> None:
    async def in_thread(work: Callable[[], Any]) -> Any:
        return work()

    await GivingBack(case.partials, entity, wall_ms=lambda: 0).close(in_thread)  # type: ignore[arg-type]


async def test_at_the_stop_it_does_not_wait_either(case: Case) -> None:
    case.keep(chunk(0, 400))
    entity = Entity()
    await at_stop(case, entity)
    assert (len(entity.sent), case.spooled()) == (1, 0)


async def test_what_cannot_be_given_back_at_the_stop_stays(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.keep(chunk(0, 400))
    refusing = Entity()
    refusing.refusals = [AuthFailed("Unauthorized access. 'Send' claim(s) are required")]
    await at_stop(case, refusing)
    slow = Entity()
    monkeypatch.setattr(slow, "send", lambda *_, **__: asyncio.sleep(3600))
    monkeypatch.setattr(giving_back, "AT_STOP_S", 0.0)
    await at_stop(case, slow)
    assert case.spooled() == 1
    assert case.keep(chunk(400, 1000))[0].outcome == "whole"


async def test_a_file_of_which_more_comes_meanwhile_stays(case: Case) -> None:
    case.keep(chunk(0, 400))
    case.clock.now_ms += 60_000
    entity = Entity()
    entity.on_send = lambda: bool(case.keep(chunk(400, 500))) or None  # type: ignore[assignment,return-value]
    await look(case, entity, until=lambda: len(entity.sent) == 1 and case.partials.used_bytes() == 500)
    assert case.keep(chunk(500, 1000))[0].outcome == "whole"
    assert case.files() == [CONTENT]


async def test_who_may_not_send_is_told_so_and_keeps_what_is_there(case: Case) -> None:
    case.keep(chunk(0, 400))
    case.clock.now_ms += 60_000
    entity = Entity()
    entity.refusals = [AuthFailed("Unauthorized access. 'Send' claim(s) are required")]
    problems = await look(case, entity, until=lambda: case.spooled() == 0)
    assert problems[0].startswith("files cannot be given back to other daemons: Unauthorized access.")
    assert len(entity.sent) == 1


async def test_a_file_that_cannot_be_read_is_told_of_and_ends_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.keep(chunk(0, 400))
    case.clock.now_ms += 60_000
    entity = Entity()
    refusals = [PermissionError(13, "Permission denied")] * 2
    opens = Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return opens(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    await at_stop(case, entity)
    assert (len(refusals), case.spooled()) == (1, 1)
    problems = await look(case, entity, until=lambda: case.spooled() == 0)
    assert problems[0] == "files cannot be given back to other daemons: [Errno 13] Permission denied"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), Rejected("too large")])
async def test_a_file_that_cannot_be_given_back_keeps_no_other_here(case: Case, error: Exception) -> None:
    case.keep(chunk(0, 400), chunk(0, 400, path="z"))
    case.clock.now_ms += 60_000
    entity = Entity()
    entity.refusals = [error] * 1000
    entity.refuses = lambda parcel: (
        b'"z"' not in zlib.decompress(base64.b64decode(json.loads(parcel.body)["data_base64"]))
    )
    problems = await look(case, entity, until=lambda: case.spooled() == 1)
    assert {one.path for one in entity.chunks()} == {"z"}
    assert str(error) in problems[0]


def test_files_that_came_without_a_session_are_not_given_back(case: Case) -> None:
    kept = case.partials.keep(chunk(0, 400), "")
    case.inbox.take([Told(identity="", statement=kept)])
    case.partials.committed()
    case.clock.now_ms += 600_000
    assert case.partials.silent(begun_ms=case.clock.now_ms, silence_ms=1, most_doublings=1) == []


def test_a_file_of_which_nothing_comes_is_given_up_and_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partials_module, "EXPIRE_LOOKS", 0)
    case.keep(chunk(0, 400))
    case.clock.now_ms += partials_module.EXPIRE_MS
    case.partials.expire()
    assert case.spooled() == 1
    case.clock.now_ms += 1
    case.partials.expire()
    assert case.spooled() == 0
    assert case.problems() == ["of 1000 bytes 400 came, and no more for 14 days: they were given up"]
    assert case.partials.used_bytes() == 0


def test_a_file_is_not_given_up_for_an_outage_nor_for_a_jump_of_the_clock(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials_module, "EXPIRE_LOOKS", 2)
    case.keep(chunk(0, 400))
    for _ in range(3):
        case.clock.now_ms += 2 * partials_module.EXPIRE_MS
        case.partials.expire()
        case.partials.expire()
        case.clock.now_ms -= 2 * partials_module.EXPIRE_MS
        case.partials.expire()
    assert case.keep(chunk(400, 1000))[0].outcome == "whole"
    assert case.files() == [CONTENT]
