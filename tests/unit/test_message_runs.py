"""Statements about a run merge: order and repetition change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.messages.runs import RunState, decode_state, first_values, gather, heads, last_values, merge, state_of
from syncd.core.messages.statements import InlineArtifact, RunEnded, RunLogged, RunRef, RunStarted, RunStatement

TIMES = st.integers(0, 5)
NAMES = st.sampled_from(["", "a", "b"])
RUNS = st.builds(RunRef, st.sampled_from(["r1", "r2"]), NAMES, NAMES)
TEXTS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=2)
STATEMENTS: st.SearchStrategy[RunStatement] = st.one_of(
    st.builds(
        RunLogged,
        run=RUNS,
        time_ms=TIMES,
        experiment=NAMES,
        params=TEXTS,
        tags=TEXTS,
        artifacts=st.lists(
            st.builds(InlineArtifact, st.sampled_from(["f", "g"]), st.sampled_from([b"1", b"2"])), max_size=2
        ),
    ),
    st.builds(
        RunStarted,
        run=RUNS,
        time_ms=TIMES,
        start_time_ms=TIMES,
        experiment=NAMES,
        parent_run_id=NAMES,
        user_id=NAMES,
        params=TEXTS,
        tags=TEXTS,
    ),
    st.builds(
        RunEnded,
        run=RUNS,
        time_ms=TIMES,
        end_time_ms=TIMES,
        status=st.sampled_from(["FINISHED", "FAILED", "KILLED"]),
        experiment=NAMES,
    ),
)
STATES = st.builds(lambda one: state_of([one]), STATEMENTS)
# Of the same time the order in which they are heard counts.
SAID = st.lists(STATEMENTS, min_size=1, max_size=6, unique_by=lambda one: one.time_ms)


@given(STATES, STATES, STATES)
def test_merge_is_a_join(one: RunState, two: RunState, three: RunState) -> None:
    assert merge(one, two) == merge(two, one) or one.last_ms == two.last_ms
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, one) == one


@given(st.lists(STATEMENTS, min_size=1, max_size=8))
def test_statements_together_say_what_they_say_one_by_one(said: Sequence[RunStatement]) -> None:
    assert state_of(said) == reduce(merge, (state_of([one]) for one in said))


@given(SAID, st.data())
def test_the_same_is_known_in_whatever_order_messages_come_and_however_often(
    said: Sequence[RunStatement], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations([*said, *data.draw(st.lists(st.sampled_from(said), max_size=4))]))
    assert everything(said) == everything(shuffled)


@given(SAID, st.data())
def test_the_same_is_known_however_messages_are_divided_into_batches(
    said: Sequence[RunStatement], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(said)))
    states: dict[str, RunState] = {}
    params: dict[str, dict[str, tuple[int, str]]] = {}
    tags: dict[str, dict[str, tuple[int, str]]] = {}
    for part in (said[cut:], said[:cut]):
        for run_id, found in gather(part).items():
            states[run_id] = merge(states[run_id], found.state) if run_id in states else found.state
            for known, values, newer in (
                (params.setdefault(run_id, {}), found.params, first_values),
                (tags.setdefault(run_id, {}), found.tags, last_values),
            ):
                known.update(newer(known, values))
    whole = gather(said)
    assert states == {run_id: found.state for run_id, found in whole.items()}
    assert params == {run_id: found.params for run_id, found in whole.items()}
    assert tags == {run_id: found.tags for run_id, found in whole.items()}


def test_of_the_same_time_the_order_counts_in_which_messages_come() -> None:
    run = RunRef("r", "night")
    said: list[RunStatement] = [
        *(
            RunLogged(run=RunRef("r", n), time_ms=5, experiment=n, params={"p": n}, tags={"t": n})
            for n in ["8", "9", "10"]
        ),
        *(RunEnded(run=run, time_ms=5, end_time_ms=5, status=one) for one in ("KILLED", "FINISHED")),
    ]
    found = gather(said)["r"]
    assert (found.params, found.tags) == ({"p": (5, "8")}, {"t": (5, "10")})
    assert (found.state.experiment, found.state.name, found.state.end) == ((5, "8"), (5, "night"), (5, 5, "FINISHED"))
    assert first_values(found.params, {"p": (5, "7"), "q": (5, "1")}) == {"q": (5, "1")}
    assert last_values(found.tags, {"t": (5, "9")}) == {"t": (5, "9")}
    assert last_values(found.tags, {"t": (5, "10")}) == {}


def test_a_parent_may_be_named_by_a_tag() -> None:
    run = RunRef("r")
    said: list[RunStatement] = [
        RunStarted(run=run, time_ms=1, start_time_ms=1, parent_run_id="a", tags={"mlflow.parentRunId": "b"}),
        RunLogged(run=run, time_ms=2),
    ]
    assert heads("r", state_of(said), default_experiment="bus")[1].parent_run_id == "a"
    said.append(RunLogged(run=run, time_ms=3, tags={"mlflow.parentRunId": "c"}))
    assert heads("r", state_of(said), default_experiment="bus")[1].parent_run_id == "c"
    assert gather(said)["r"].tags == {"mlflow.parentRunId": (3, "c")}


def test_the_last_word_on_the_end_counts_whenever_that_was() -> None:
    run = RunRef("r")
    said = [
        RunEnded(run=run, time_ms=9, end_time_ms=3, status="FAILED"),
        RunEnded(run=run, time_ms=8, end_time_ms=5, status="FINISHED"),
    ]
    assert state_of(said).end == (9, 3, "FAILED")


def test_a_state_that_was_stored_without_the_time_of_the_word_on_its_end_is_read() -> None:
    text = state_of([RunEnded(run=RunRef("r"), time_ms=9, end_time_ms=3, status="FAILED")]).encode()
    assert decode_state(text.replace("[9, 3,", "[3,")).end == (3, 3, "FAILED")


def everything(said: Sequence[RunStatement]) -> dict[str, object]:
    return {
        run_id: (found.state, found.params, found.tags, found.artifact_stamps, found.artifacts)
        for run_id, found in gather(said).items()
    }


@given(STATES)
def test_a_state_is_stored_whole(state: RunState) -> None:
    assert decode_state(state.encode()) == state


def test_what_a_run_is_stated_to_be() -> None:
    run = RunRef("id-1", "night")
    said: list[RunStatement] = [
        RunEnded(run=run, time_ms=90, end_time_ms=80, status="FAILED"),
        RunLogged(run=RunRef("id-1"), time_ms=20, lines=b"x", count=1),
        RunStarted(run=run, time_ms=30, start_time_ms=25, experiment="vision", parent_run_id="p", user_id="ada"),
        RunLogged(run=run, time_ms=40, experiment="another"),
    ]
    state = state_of(said)
    experiment, head = heads("id-1", state, default_experiment="bus")
    assert (experiment.name, head.experiment.id) == ("vision", "vision")
    assert (head.name, head.status, head.start_time_ms, head.end_time_ms) == ("night", "FAILED", 25, 80)
    assert (head.user_id, head.parent_run_id) == ("ada", "p")
    assert gather(said)["id-1"].tags == {"mlflow.parentRunId": (30, "p")}


def test_what_is_not_said_has_a_default() -> None:
    _, head = heads("x", state_of([RunLogged(run=RunRef("x"), time_ms=7)]), default_experiment="bus")
    assert (head.experiment.id, head.name, head.status, head.start_time_ms) == ("bus", "", "RUNNING", 7)
