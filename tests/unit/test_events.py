"""Events: their JSON, their ids, and the schemas that every one of them fits."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core import events
from syncd.core.events import Event, EventFilter, cloud_event, encode_batch, encode_structured, rfc3339
from syncd.core.facts import ModelSeen, RunSeen, SubjectKey
from syncd.core.occurrences import (
    Occurrence,
    Place,
    There,
    artifact_uploaded,
    dead_letter_added,
    destination_down,
    destination_up,
    message_refused,
    of_model,
    of_run,
    overflow_added,
    run_synced,
    text_of,
)
from syncd.schemas.checking import check
from syncd.schemas.checking import text_of as schema_text

PLACE = Place(source="local", experiment_id="7", experiment_name="churn")
THERE = There(destination="workspace", uri="https://a", remote_id="r1")
RUN = RunSeen(SubjectKey("run", "abc"), SubjectKey("experiment", "7"), "brave", "RUNNING", 1000, None)
ENDED = replace(RUN, status="FINISHED", end_time_ms=2000)
MODEL = ModelSeen(
    SubjectKey("model", "m-1"), SubjectKey("experiment", "7"), "net", "", "PENDING", "abc", 5, params={}, tags={}
)
LETTER = {"number": 3, "kind": "params", "items": 2, "reason": "too long", "code": "INVALID", "status": 400}
SENT = {"points": 3, "artifacts": 1, "bytes": 90}


def types(occurrences: list[Occurrence]) -> list[str]:
    return [one.type.removeprefix(events.TYPE_PREFIX) for one in occurrences]


def all_occurrences(run: RunSeen = ENDED, place: Place = PLACE, there: There = THERE) -> list[Occurrence]:
    """Return one of each type."""
    ended = [of_run(place, run, replace(run, status=status, end_time_ms=7))[-1] for status in ("FAILED", "KILLED")]  # type: ignore[arg-type]
    return [
        *of_run(place, None, replace(run, status="RUNNING")),
        *of_run(place, replace(run, status="RUNNING"), replace(run, status="FINISHED")),
        *ended,
        *of_model(place, None, replace(MODEL, status="READY", name=run.name)),
        run_synced(place, run, there, sent=SENT),
        artifact_uploaded(place, "run", run.subject.id, there, path=run.name or "p", size_bytes=0, mtime_ns=1),
        artifact_uploaded(place, "model", "m-1", there, path="model/MLmodel", size_bytes=9, mtime_ns=1),
        dead_letter_added(place, "run", run.subject.id, there, {**LETTER, "reason": run.name}, at_ms=1),
        dead_letter_added(place, "experiment", "7", there, LETTER, at_ms=1),
        message_refused(place.source, "m-1", "t", code="Malformed", reason=run.name, letter=4, marks=(4, 1)),
        message_refused(place.source, run.name, run.name, code="TooLarge", reason="", letter=None, marks=("d",)),
        overflow_added(place, "run", run.subject.id, there, section="params", artifact="a.json", items=2),
        overflow_added(place, "model", "m-1", there, section="points", artifact="1.jsonl", items=0),
        destination_down(there, state="auth", error=run.name, at_ms=1),
        destination_up(there, at_ms=1),
    ]


def event_of(occurrence: Occurrence) -> Event:
    return Event(
        id=occurrence.id,
        type=occurrence.type,
        source="syncd/host",
        subject=occurrence.subject,
        time_ms=1_700_000_000_123,
        data=occurrence.data,
    )


def faults(event: Event) -> list[str]:
    """Return what an event's JSON has that its schemas do not allow or do not describe."""
    value = json.loads(encode_structured(event))
    found = [
        str(wrong)
        for wrong in (check("events/event", value), check(f"events/{event.short_type}", value["data"]))
        if wrong
    ]
    described = json.loads(schema_text(f"events/{event.short_type}"))["properties"]
    return found + [f"{key} is not described" for key in value["data"] if key not in described]


# ---------------------------------------------------------------- schemas


def test_every_type_is_told_by_something_and_fits_its_schema() -> None:
    told = [event_of(one) for one in all_occurrences()]
    assert {event.type for event in told} == set(events.TYPES)
    assert [fault for event in told for fault in faults(event)] == []


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
times = st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(name=texts, key=texts.filter(bool), start=times, end=times, experiment=texts)
def test_whatever_a_store_holds_becomes_valid_json_that_fits(
    name: str, key: str, start: int | None, end: int | None, experiment: str
) -> None:
    run = replace(ENDED, subject=SubjectKey("run", key), name=name, start_time_ms=start, end_time_ms=end)
    told = [event_of(one) for one in all_occurrences(run, replace(PLACE, experiment_name=experiment))]
    assert [fault for event in told for fault in faults(event)] == []
    assert len(json.loads(encode_batch(told))) == len(told)


def test_every_type_of_the_contract_has_a_schema_and_no_schema_is_of_another() -> None:
    files = {path.name.removesuffix(".json") for path in resources.files("syncd.schemas").joinpath("events").iterdir()}
    named = {name.removeprefix(events.TYPE_PREFIX) for name in (*events.TYPES, *events.TYPES_NOT_YET)}
    assert files == named | {"event"}
    for name in files:
        schema = json.loads(schema_text(f"events/{name}"))
        assert set(schema["required"]) <= set(schema["properties"])
        assert all("description" in one for key, one in schema["properties"].items() if name != "event"), name
        assert check(f"events/{name}", {}) is not None


def test_an_event_that_lacks_a_field_is_found_out() -> None:
    event = event_of(of_run(PLACE, None, RUN)[0])
    less = {key: value for key, value in event.data.items() if key != "run_id"}
    assert faults(replace(event, data=less)) != []
    assert faults(replace(event, data={**event.data, "more": 1})) == ["more is not described"]


# ---------------------------------------------------------------- what is told of a run


def test_a_run_is_discovered_started_and_ended_once() -> None:
    assert types(of_run(PLACE, None, RUN)) == ["run.discovered", "run.started"]
    assert types(of_run(PLACE, RUN, replace(RUN, name="renamed"))) == []
    assert types(of_run(PLACE, RUN, ENDED)) == ["run.finished"]
    assert types(of_run(PLACE, ENDED, replace(ENDED, name="renamed"))) == []
    assert types(of_run(PLACE, None, ENDED)) == ["run.discovered", "run.finished"]
    assert types(of_run(PLACE, None, replace(RUN, status="SCHEDULED"))) == ["run.discovered"]
    assert types(of_run(PLACE, replace(RUN, status="SCHEDULED"), RUN)) == ["run.started"]
    assert types(of_run(PLACE, RUN, replace(ENDED, status="FAILED"))) == ["run.failed"]
    assert types(of_run(PLACE, RUN, replace(ENDED, status="KILLED"))) == ["run.killed"]


def test_a_run_that_goes_on_after_its_end_is_started_and_ended_anew_with_other_ids() -> None:
    again = replace(RUN, status="RUNNING")
    later = replace(ENDED, end_time_ms=9000)
    [first_start] = of_run(PLACE, None, RUN)[1:]
    [second_start] = of_run(PLACE, ENDED, again)
    assert types([second_start]) == ["run.started"]
    [first_end], [second_end] = of_run(PLACE, RUN, ENDED), of_run(PLACE, again, later)
    assert first_start.id != second_start.id
    assert first_end.id != second_end.id
    assert of_run(PLACE, ENDED, later)[0].id == second_end.id, "it ended anew between two looks"


def test_the_same_occurrence_has_the_same_id_and_another_has_another() -> None:
    ids = [one.id for one in all_occurrences()]
    assert ids == [one.id for one in all_occurrences()]
    assert len(set(ids)) == len(ids)
    others = all_occurrences(replace(ENDED, subject=SubjectKey("run", "def")))
    assert len(set(ids) & {one.id for one in others}) == 8, (
        "what is of the model, the experiment, the destination and a source"
    )


def test_what_a_name_or_counts_say_does_not_change_an_id() -> None:
    renamed = replace(PLACE, experiment_name="other")
    assert (
        run_synced(PLACE, ENDED, THERE, sent=SENT).id
        == run_synced(renamed, ENDED, THERE, sent={**SENT, "points": 9}).id
    )
    assert run_synced(PLACE, ENDED, THERE, sent=SENT).id != run_synced(PLACE, ENDED, THERE, sent=SENT, later_ms=5).id
    assert (
        run_synced(PLACE, ENDED, THERE, sent=SENT).id
        != run_synced(PLACE, ENDED, replace(THERE, uri="https://b"), sent=SENT).id
    )


def test_a_model_is_told_once_it_is_ready() -> None:
    ready = replace(MODEL, status="READY")
    assert types(of_model(PLACE, None, MODEL)) == []
    assert types(of_model(PLACE, MODEL, ready)) == ["model.logged"]
    assert types(of_model(PLACE, None, ready)) == ["model.logged"]
    assert types(of_model(PLACE, ready, replace(ready, name="x"))) == []


@pytest.mark.parametrize("text", ["a" * 5000, "\ud800 and 😀" * 400, ""])
def test_a_text_is_shortened_visibly_and_valid(text: str) -> None:
    made = text_of(text)
    assert len(made) <= 1000
    made.encode()
    assert made.endswith("…") == (len(text) > 1000)


# ---------------------------------------------------------------- form and filter


def test_the_json_is_that_of_cloudevents() -> None:
    event = event_of(run_synced(PLACE, ENDED, THERE, sent=SENT))
    assert cloud_event(event) == {
        "specversion": "1.0",
        "id": event.id,
        "type": "dev.syncd.run.synced",
        "source": "syncd/host",
        "subject": "runs/abc",
        "time": "2023-11-14T22:13:20.123Z",
        "datacontenttype": "application/json",
        "data": {
            "run_id": "abc",
            "run_name": "brave",
            "source": "local",
            "experiment_id": "7",
            "experiment_name": "churn",
            "status": "FINISHED",
            "start_time_ms": 1000,
            "end_time_ms": 2000,
            "parent_run_id": None,
            "destination": "workspace",
            "destination_uri": "https://a",
            "destination_run_id": "r1",
            "sent": SENT,
        },
    }
    assert json.loads(encode_batch([event, event])) == [cloud_event(event)] * 2
    assert (event.short_type, event.run_id, event.experiment) == ("run.synced", "abc", "churn")
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (EventFilter(), True),
        (EventFilter(types=("run.*",)), True),
        (EventFilter(types=("dev.syncd.run.finished",)), True),
        (EventFilter(types=("artifact.*", "run.started")), False),
        (EventFilter(experiments=("ch*",)), True),
        (EventFilter(experiments=("other",)), False),
        (EventFilter(types=("run.*",), experiments=("other",)), False),
    ],
)
def test_a_filter_takes_types_and_experiments(wanted: EventFilter, taken: bool) -> None:
    assert wanted.takes(event_of(of_run(PLACE, RUN, ENDED)[0])) is taken


def test_what_is_about_no_experiment_passes_a_filter_of_experiments() -> None:
    assert EventFilter(experiments=("other",)).takes(event_of(destination_up(THERE, at_ms=1)))
