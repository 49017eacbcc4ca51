"""Relayed messages: what is packed is read as it was, in messages of the size allowed; anything else is refused."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.core.changes import Again, Change, Section, encode, merge_small
from syncd.core.facts import (
    DatasetInput,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.core.metric_lines import INT64_MAX
from syncd.core.relay.packing import Address, File, TooLarge, chunk, pack, room_for_chunk
from syncd.core.relay.reading import Malformed, read_chunk, read_facts
from syncd.core.relay.values import MOST_BYTES, Parcel, RelayedFacts, RelayOrigin

ORIGIN = RelayOrigin("j1", 1_790_000_000, "edge-7", "local")
RUN = SubjectKey("run", "r1")
EXPERIMENT = SubjectKey("experiment", "0", "deep/store")
HEAD = RunSeen(RUN, EXPERIMENT, "nächtlich", "FINISHED", 1, None, "me", "parent")
MODEL_KEY = SubjectKey("model", "m1")
MODEL = ModelSeen(MODEL_KEY, EXPERIMENT, "model", "", "READY", "r1", 5, {"a": "b"}, {})
ABOUT = (HEAD, ExperimentSeen(EXPERIMENT, "exp", {"mlflow.note.content": "a\nnote"}))
ADDRESS = Address(ORIGIN, RUN, ABOUT)
TEXTS = st.dictionaries(st.text(min_size=1), st.text(), min_size=1, max_size=5)
POINT = st.builds(
    lambda key, value, step: f'{{"key":{json.dumps(key)},"value":{value},"timestamp":{step},"step":{step}}}'.encode(),
    st.text(min_size=1),
    st.sampled_from(["0.5", "-1e-300", '"NaN"', '"-Infinity"', "12"]),
    st.integers(-(2**63), 2**63 - 1),
)
FACTS: st.SearchStrategy[Fact] = st.one_of(
    st.builds(ParamsLogged, st.just(RUN), TEXTS),
    st.builds(TagsSet, st.just(RUN), TEXTS),
    st.builds(TagsDeleted, st.just(RUN), st.lists(st.text(), min_size=1)),
    st.builds(OutputsLogged, st.just(RUN), st.lists(st.tuples(st.text(), st.integers(0, 9)), min_size=1)),
    st.builds(
        lambda names, models: InputsLogged(
            RUN, [DatasetInput(n, n, "local", "{}", tags={"t": n}) for n in names], models
        ),
        st.lists(st.text(), min_size=1, unique=True),
        st.lists(st.text()),
    ),
    st.lists(POINT, min_size=1, max_size=40).map(lambda lines: MetricsLogged(RUN, b"\n".join(lines), len(lines))),
    st.just(SubjectDeleted(RUN)),
    st.just(HEAD),
)


def changes_of(facts: Sequence[Fact], *, again: Again = Again.NEW) -> list[Change]:
    encoded = [encode(fact) for fact in facts]
    return [Change(seq, one.kind, one.body, one.items, again) for seq, one in enumerate(encoded, 1)]


def data_of(parcel: Parcel) -> bytes:
    return base64.b64decode(json.loads(parcel.body)["data_base64"])


def read(parcels: Sequence[Parcel]) -> list[RelayedFacts]:
    return [read_facts(data_of(parcel), identity=parcel.id) for parcel in parcels]


def told(facts: Sequence[Fact]) -> tuple[Any, ...]:
    """Return what facts come to, however they are cut."""
    small = merge_small(change for change in changes_of(facts) if encode_section(change) == Section.SMALL)
    lines = [line for fact in facts if isinstance(fact, MetricsLogged) for line in fact.lines.split(b"\n")]
    return small, lines, [type(fact) for fact in facts if isinstance(fact, RunSeen | SubjectDeleted)]


def encode_section(change: Change) -> Section:
    return (
        Section.METRICS
        if change.kind == "metrics"
        else Section.HEAD
        if change.kind in ("head", "deleted")
        else Section.SMALL
    )


@settings(deadline=None)
@given(st.lists(FACTS, min_size=1, max_size=6), st.sampled_from([1_200, 2_000, 100_000]))
def test_what_is_packed_is_read_again_whatever_the_size_allowed(facts: list[Fact], most_bytes: int) -> None:
    changes = changes_of(facts)
    try:
        parcels = list(pack(ADDRESS, changes, most_bytes=most_bytes))
    except TooLarge:
        assert most_bytes < 100_000
        return
    assert all(len(parcel.body) <= most_bytes for parcel in parcels)
    assert [seq for parcel in parcels for seq in parcel.seqs] == [change.seq for change in changes]
    assert len({parcel.id for parcel in parcels}) == len(parcels)
    found = [one for message in read(parcels) for one in message.facts]
    assert told([one.fact for one in found]) == told(facts)
    assert [one.order for one in found] == sorted(one.order for one in found)


def test_a_message_says_whose_it_is_and_an_experiments_key_names_where_it_comes_from() -> None:
    [parcel] = pack(ADDRESS, changes_of([HEAD]), most_bytes=10_000)
    [message] = read([parcel])
    event = json.loads(parcel.body)
    assert (event["source"], event["type"], event["subject"]) == ("syncd/edge-7", "dev.syncd.relay.facts", "r1")
    run, experiment = message.about
    assert message.origin == ORIGIN
    assert experiment.subject == SubjectKey("experiment", "0", "edge-7/local/deep/store")
    assert isinstance(run, RunSeen)
    assert (run.experiment, run.name, run.parent_run_id, run.origin) == (
        experiment.subject,
        "nächtlich",
        "parent",
        "local",
    )
    assert message.facts[0].order == ORIGIN.order(1)


def test_a_logged_model_is_read_again() -> None:
    lines = b'{"key":"acc","value":1,"timestamp":5,"step":0,"model_id":"m1","run_id":"r1","dataset_name":"d"}'
    address = Address(ORIGIN, MODEL_KEY, (MODEL,))
    [message] = read(list(pack(address, changes_of([MetricsLogged(MODEL_KEY, lines, 1), MODEL]), most_bytes=10_000)))
    points, head = (one.fact for one in message.facts)
    assert isinstance(points, MetricsLogged)
    assert points.lines == lines
    assert isinstance(head, ModelSeen)
    assert (head.params, head.source_run_id, head.creation_time_ms) == ({"a": "b"}, "r1", 5)


def test_that_points_may_have_been_told_before_is_said_and_is_no_part_of_the_id() -> None:
    points = MetricsLogged(RUN, b'{"key":"a","value":1,"timestamp":1,"step":1}', 1)
    [first] = pack(ADDRESS, changes_of([points]), most_bytes=10_000)
    [second] = pack(ADDRESS, changes_of([points], again=Again.RESTATED), most_bytes=10_000)
    assert first.id == second.id
    assert [one.facts[0].fact.again for one in read([first, second])] == [False, True]  # type: ignore[union-attr]


def test_what_cannot_be_cut_is_handed_back_with_its_change() -> None:
    facts = [TagsSet(RUN, {"small": "x"}), TagsSet(RUN, {"large": "".join(map(str, range(20_000)))})]
    parcels = pack(ADDRESS, changes_of(facts), most_bytes=2_000)
    assert next(parcels).seqs == (1,)
    with pytest.raises(TooLarge) as raised:
        next(parcels)
    assert raised.value.seq == 2


@given(st.binary(max_size=5_000), st.sampled_from([2_000, 4_000]))
def test_a_file_arrives_in_chunks(content: bytes, most_bytes: int) -> None:
    file = File(7, "plots/ä #%20.png", len(content), "0" * 64)
    room = room_for_chunk(ADDRESS, file, most_bytes=most_bytes)
    parcels = [chunk(ADDRESS, file, at, content[at : at + room]) for at in range(0, max(1, len(content)), room)]
    assert all(len(parcel.body) <= most_bytes for parcel in parcels)
    assert [parcel.seqs for parcel in parcels] == [()] * (len(parcels) - 1) + [(7,)]
    chunks = [read_chunk(data_of(parcel)) for parcel in parcels]
    assert b"".join(one.content for one in chunks) == content
    assert {(one.path, one.size_bytes, one.subject) for one in chunks} == {(file.path, len(content), RUN)}


HEADER: dict[str, Any] = {
    "version": 1,
    "origin": {"journal": "j", "journal_made_s": 1, "daemon": "d", "source": "s"},
    "subject": {"kind": "run", "id": "r", "store": ""},
    "about": [],
}
CHUNK: dict[str, Any] = {"order": 1, "path": "a", "size_bytes": 1, "digest": "0" * 64, "offset": 0}


def packed(header: object, *rest: bytes) -> bytes:
    return zlib.compress(b"\n".join([json.dumps(header).encode(), *rest]))


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"no zlib", ""),
        (zlib.compress(b"{}")[:-1], ""),
        (zlib.compress(b"0" * (MOST_BYTES + 1)), ""),
        (packed({**HEADER, "version": 2}, b""), "/version"),
        (packed({**HEADER, "origin": {**HEADER["origin"], "journal": ""}}, b""), "/origin/journal"),
        (packed({**HEADER, "subject": {"kind": "user", "id": "r"}}, b""), "/subject/kind"),
        (packed({**HEADER, "about": [{}]}, b""), "/about/0/subject"),
        (packed(HEADER, b'{"kind":"params","order":1,"items":1,"again":false}', b'{"a":1}'), "/facts/0/params/a"),
        (packed(HEADER, b'{"kind":"params","order":-1,"items":1,"again":false}', b'{"a":"b"}'), "/facts/0/order"),
        (packed(HEADER, b'{"kind":"params","order":1,"items":1,"again":false}'), "/facts/0"),
        (packed(HEADER, b'{"kind":"other","order":1,"items":1,"again":false}', b"{}"), "/facts/0/other"),
        (packed(HEADER, b'{"kind":"untag","order":1,"items":1,"again":false}', b"[" * 100_000), "/facts/0"),
        (packed(HEADER, b'{"kind":"metrics","order":1,"items":1,"again":false}', b'{"key":"a"}'), "/facts/0"),
        (
            packed(
                HEADER,
                b'{"kind":"metrics","order":1,"items":1,"again":false}',
                b'{"key":"a","value":1,"timestamp":1,"step":1},{"key":"a","value":1,"timestamp":1,"step":1}',
            ),
            "/facts/0",
        ),
        (
            packed(
                HEADER,
                b'{"kind":"metrics","order":1,"items":2,"again":false}',
                b'{"key":"a","value":1,"timestamp":1,"step":1}',
            ),
            "/facts/0",
        ),
    ],
)
def test_what_is_not_as_expected_is_refused_with_its_place(data: bytes, where: str) -> None:
    with pytest.raises(Malformed) as raised:
        read_facts(data, identity="x")
    assert raised.value.wrong.where == where


@pytest.mark.parametrize(
    ("wrong", "content", "where"),
    [
        ({"path": "../a"}, b"x", "/chunk/path"),
        ({"path": "/etc/passwd"}, b"x", "/chunk/path"),
        ({"path": "a\0b"}, b"x", "/chunk/path"),
        ({"path": "a" * 256}, b"x", "/chunk/path"),
        ({"digest": "XYZ"}, b"x", "/chunk/digest"),
        ({"offset": 1}, b"x", "/chunk/offset"),
        ({"size_bytes": -1}, b"x", "/chunk/size_bytes"),
        ({"size_bytes": 5}, b"", "/chunk/offset"),
    ],
)
def test_a_chunk_that_is_not_as_expected_is_refused(wrong: dict[str, Any], content: bytes, where: str) -> None:
    with pytest.raises(Malformed) as raised:
        read_chunk(packed({**HEADER, "chunk": {**CHUNK, **wrong}}, content))
    assert raised.value.wrong.where == where


@pytest.mark.parametrize("made", [datetime(2026, 11, 28, tzinfo=UTC), datetime(2038, 2, 1, tzinfo=UTC)])
def test_a_later_journal_has_the_last_word_and_orders_fit_into_64_bits(made: datetime) -> None:
    made_s = int(made.timestamp())
    before, after = (replace(ORIGIN, journal_made_s=at_s) for at_s in (made_s, made_s + 365 * 86_400))
    seqs = [1, 2, 2**31, 2**32, 2**33, 2**40]
    orders = [*map(before.order, seqs), after.order(1)]
    assert orders == sorted(set(orders))
    assert orders[-1] <= INT64_MAX
