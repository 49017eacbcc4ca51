"""A relay's lane: what waits of one subject goes to the broker whole, in order, and again where that is not certain."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.core.changes import Section
from syncd.core.facts import (
    ExperimentSeen,
    Fact,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    Reading,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsSet,
)
from syncd.core.filters import Filter
from syncd.core.relay.reading import read_chunk, read_facts
from syncd.core.relay.values import CHUNK_TYPE, Parcel, RelayedChunk, RelayedFacts
from syncd.errors import OutcomeUnknown, Rejected
from syncd.journal import committing, deliveries, participants
from syncd.journal.journal import Journal
from syncd.runtime.assembly import open_artifact
from syncd.runtime.courier import Courier, DestinationState
from syncd.runtime.journal_thread import JournalThread
from syncd.runtime.lanes import Outcome
from syncd.runtime.relay_channel import RelayChannel
from syncd.runtime.relay_lane import RelayLane
from tests.journal_filling import EXPERIMENT, artifact, experiment, head, params, points, run_id, run_key, tags

BIG = "".join(str(number * number) for number in range(40_000))


class Broker:
    """Takes parcels of at most ``takes_bytes``; of the first ``unanswered`` it keeps the answer to itself."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.sessions: set[str] = set()
        self.takes_bytes = 1_000_000
        self.unanswered = 0

    async def probe(self) -> int | None:
        return None

    async def send(self, parcel: Parcel, *, session: str) -> None:
        if len(parcel.body) > self.takes_bytes:
            raise Rejected("too large", code="message-size-exceeded")
        self.parcels.append(parcel)
        self.sessions.add(session)
        if self.unanswered:
            self.unanswered -= 1
            raise OutcomeUnknown("no answer")

    async def close(self) -> None:
        return

    def told(self) -> list[RelayedFacts | RelayedChunk]:
        """Return what the gateway reads, each message once."""
        bodies = {parcel.id: json.loads(parcel.body) for parcel in self.parcels}
        return [
            read_chunk(base64.b64decode(body["data_base64"]))
            if body["type"] == CHUNK_TYPE
            else read_facts(base64.b64decode(body["data_base64"]), identity=identity)
            for identity, body in bodies.items()
        ]

    def facts(self) -> list[Fact]:
        return [one.fact for message in self.told() if isinstance(message, RelayedFacts) for one in message.facts]

    def chunks(self) -> list[RelayedChunk]:
        return [message for message in self.told() if isinstance(message, RelayedChunk)]

    def lines(self) -> list[bytes]:
        return [line for fact in self.facts() if isinstance(fact, MetricsLogged) for line in fact.lines.split(b"\n")]


class Edge:
    """A journal, a relay, and lanes for one run of it."""

    def __init__(self, state: Path) -> None:
        self.broker = Broker()
        self.journal = Journal.open(state)
        self.source_id = participants.register_source(self.journal, "local")
        self.row = participants.register_destinations(self.journal, {"up": "sb://h/q"})["up"]
        self.read_again: list[str] = []
        self.thread = JournalThread(self.journal)
        self.channel = RelayChannel(
            id=self.row.id,
            name="up",
            courier=Courier("up", most=4, on_state=self._on_state),
            journal=self.thread,
            open_artifact=open_artifact,
            read_again=self._read_again,
            source_names={self.source_id: "local"},
            outlet=self.broker,
            daemon="edge",
            journal_identity=self.journal.identity,
            most_bytes=200_000,
            sessions=64,
        )

    async def _on_state(self, state: DestinationState) -> None:
        return

    async def _read_again(self, source_id: int, key: str) -> None:
        self.read_again.append(key)

    def close(self) -> None:
        self.thread.close()
        self.journal.close()

    def state(self, *facts: Fact, first_reading: bool = False) -> None:
        readings = [Reading(facts)]
        committing.commit(self.journal, self.source_id, self.row.audience, readings, first_reading=first_reading)

    async def relay(self, number: int = 1) -> Outcome:
        return await RelayLane(self.channel, run_id(self.journal, self.source_id, number)).run()

    def waiting(self, number: int = 1) -> list[str]:
        subject = run_id(self.journal, self.source_id, number)
        return [
            change.kind
            for section in Section
            for change in deliveries.pending(self.journal, self.row.id, subject, section)
        ]

    def letters(self) -> Sequence[tuple[str, str]]:
        return self.journal._connection.execute("SELECT kind, reason FROM dead_letter").fetchall()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    made = Edge(tmp_path / "state")
    yield made
    made.close()


def file_of(number: int, folder: Path, content: bytes) -> Fact:
    path = folder / "plots" / "a b.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    found = path.stat()
    return artifact(number, "plots/a b.bin", folder, found.st_size, found.st_mtime_ns)


async def test_all_of_a_run_is_told_and_its_end_last(edge: Edge, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    file = file_of(1, tmp_path / "files", content)
    edge.state(
        experiment(), head(1, status="FINISHED"), params(1, lr="0.1"), tags(1, a="b"), points(1, range(5000)), file
    )
    assert await edge.relay() is Outcome.DONE
    assert edge.waiting() == []
    assert len(edge.broker.lines()) == len(set(edge.broker.lines())) == 5000
    chunks = edge.broker.chunks()
    found = bytearray(len(content))
    for one in chunks:
        found[one.offset : one.offset + len(one.content)] = one.content
    assert found == content
    assert sum(len(one.content) for one in chunks) == len(content)
    assert {one.digest for one in chunks} == {hashlib.sha256(content).hexdigest()}
    last = edge.broker.told()[-1]
    assert isinstance(last, RelayedFacts)
    assert [type(one.fact) for one in last.facts] == [RunSeen]
    assert len(edge.broker.sessions) == 1
    assert all(len(parcel.body) <= 200_000 for parcel in edge.broker.parcels)


async def test_what_got_no_answer_is_sent_again_as_the_same_message(edge: Edge) -> None:
    edge.broker.unanswered = 2
    edge.state(experiment(), head(1), points(1, range(10)))
    assert await edge.relay() is Outcome.DONE
    assert len(edge.broker.parcels) > len({parcel.id for parcel in edge.broker.parcels})
    assert len(edge.broker.lines()) == 10


async def test_what_a_killed_process_has_sent_is_told_again_as_such(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.state(experiment(), head(1), points(1, range(10)))
    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "settle", lambda *_, **__: None)  # it is killed before that is recorded
        await edge.relay()
    edge.broker.parcels.clear()
    edge.state(points(1, range(10, 20)))
    assert await edge.relay() is Outcome.DONE
    again = {fact.again for fact in edge.broker.facts() if isinstance(fact, MetricsLogged)}
    assert len(edge.broker.lines()) == 20
    assert again == {True, False}


async def test_parcels_become_smaller_where_the_broker_takes_less(edge: Edge) -> None:
    edge.broker.takes_bytes = 20_000
    edge.state(experiment(), head(1), points(1, range(20_000)))
    outcome = Outcome.LATER
    while outcome is Outcome.LATER:
        outcome = await edge.relay()
    assert edge.waiting() == []
    assert len(edge.broker.lines()) == 20_000
    assert edge.channel.most_bytes < 200_000  # so that the next ones are not refused first
    assert edge.letters() == []


async def test_what_fits_into_no_message_is_a_dead_letter_and_the_rest_is_told(edge: Edge) -> None:
    edge.channel.most_bytes = 20_000
    edge.state(experiment(), head(1, status="FINISHED"), tags(1, a="b"), tags(1, big=BIG), tags(1, c="d"))
    assert await edge.relay() is Outcome.DONE
    told = {key: value for fact in edge.broker.facts() if isinstance(fact, TagsSet) for key, value in fact.tags.items()}
    assert told == {"a": "b", "c": "d"}
    [(kind, reason)] = edge.letters()
    assert kind == "tags"
    assert "cannot be cut" in reason
    assert edge.waiting() == []


async def test_a_file_that_has_changed_is_not_completed_and_its_source_is_read_again(
    edge: Edge, tmp_path: Path
) -> None:
    file = file_of(1, tmp_path / "files", b"before")
    edge.state(experiment(), head(1), file)
    (tmp_path / "files" / "plots" / "a b.bin").write_bytes(b"after it was seen")
    await edge.relay()
    assert edge.broker.chunks() == []
    assert edge.read_again == [""]


async def test_a_run_may_be_linked_to_more_models_than_a_message_refers_to(edge: Edge) -> None:
    names = [f"m-{number}" for number in range(600)]
    models = [
        ModelSeen(SubjectKey("model", name), EXPERIMENT, name, "", "READY", run_key(1).id, 1, {}, {}) for name in names
    ]
    edge.state(experiment(), head(1), *models)
    edge.state(*(OutputsLogged(run_key(1), [(name, 0) for name in names[at : at + 100]]) for at in range(0, 600, 100)))
    assert await edge.relay() is Outcome.DONE
    linked = [model for fact in edge.broker.facts() if isinstance(fact, OutputsLogged) for model, _ in fact.models]
    assert linked == names


async def test_a_linked_model_goes_with_the_run_and_the_experiment_that_it_is_created_in(edge: Edge) -> None:
    other = ExperimentSeen(SubjectKey("experiment", "8", ""), "other", {})
    maker = replace(head(2), experiment=other.subject)
    model = ModelSeen(SubjectKey("model", "m-1"), other.subject, "a", "", "READY", maker.subject.id, 1, {}, {})
    edge.state(experiment(), other, head(1), maker, model, OutputsLogged(run_key(1), [("m-1", 0)]))
    assert await edge.relay() is Outcome.DONE
    [linking] = [message for message in edge.broker.told() if isinstance(message, RelayedFacts) and _links(message)]
    assert {one.subject.id for one in linking.about} == {"7", "8", run_key(1).id, maker.subject.id, "m-1"}


def _links(message: RelayedFacts) -> bool:
    return any(isinstance(one.fact, OutputsLogged) for one in message.facts)


async def test_what_the_filter_leaves_out_is_not_told_until_it_takes_it(edge: Edge) -> None:
    edge.channel.filter = Filter(experiments=("other",))
    edge.state(experiment(), head(1), params(1, a="b"))
    assert await edge.relay() is Outcome.DONE
    assert (edge.broker.parcels, edge.waiting(), edge.read_again) == ([], [], [])
    edge.channel.filter = Filter()
    edge.state(tags(1, a="b"))
    assert await edge.relay() is Outcome.DONE
    assert edge.read_again == [run_key(1).id]
    assert [type(fact) for fact in edge.broker.facts()] == [TagsSet]
    edge.state(points(1, range(3)), first_reading=True)
    await edge.relay()
    assert [fact.again for fact in edge.broker.facts() if isinstance(fact, MetricsLogged)] == [True]


@pytest.mark.parametrize(("on_delete", "told"), [("keep", []), ("delete", [SubjectDeleted])])
async def test_a_deletion_is_told_where_that_is_wanted(edge: Edge, on_delete: str, told: list[type]) -> None:
    edge.channel.on_delete = {edge.source_id: on_delete}
    edge.state(experiment(), head(1))
    await edge.relay()
    edge.broker.parcels.clear()
    edge.state(SubjectDeleted(run_key(1)))
    assert await edge.relay() is Outcome.DONE
    assert [type(fact) for fact in edge.broker.facts()] == told
    assert edge.waiting() == []


async def test_a_familys_messages_are_in_one_session(edge: Edge) -> None:
    edge.state(experiment(), *(head(number, parent=run_key(1).id if number > 1 else "") for number in range(1, 6)))
    for number in range(1, 6):
        assert await edge.relay(number) is Outcome.DONE
    assert len(edge.broker.sessions) == 1
