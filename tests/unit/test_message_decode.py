"""What messages mean: every form of envelope, every field, and refusals that name the field."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.messages.decode import Decoded, Rules, decode
from syncd.core.messages.statements import (
    Command,
    ForeignEvent,
    Ignored,
    InlineArtifact,
    LocalArtifact,
    RunEnded,
    RunLogged,
    RunStarted,
)
from syncd.core.messages.topics import Named, TopicPattern
from syncd.schemas.checking import check
from syncd.schemas.regular_logs import REGULAR
from syncd.sources.messages import Message

NOW_MS = 1_700_000_000_000
RULES = Rules(
    source="bus",
    topic=TopicPattern("syncd/{device}/{run}/metrics"),
    most_bytes=1_000_000,
    check=check,
    regular=REGULAR,
)
STRUCTURED = "application/cloudevents+json"


def event(data: Any, *, of: str = "dev.syncd.log", **attributes: Any) -> dict[str, Any]:
    known = {"specversion": "1.0", "id": "e-1", "source": "/gpu/7", "type": of, "time": "2023-11-14T22:13:21.5Z"}
    return {**known, **attributes, "data": data}


def decoded(
    body: Any, *, content_type: str = STRUCTURED, headers: Mapping[str, str] | None = None, **more: Any
) -> Decoded:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = Message(**{"id": "m-1", **more}, body=raw, content_type=content_type, headers=headers or {})
    return decode(message, RULES, now_ms=NOW_MS)


def one(body: Any, **more: Any) -> Any:
    found = decoded(body, **more)
    assert found.refusal is None, found.refusal
    [said] = found.said
    return said.statement


def refused(body: Any, **more: Any) -> str:
    found = decoded(body, **more)
    assert found.refusal is not None
    return str(found.refusal)


LOG = {
    "run": {"id": "r-1", "name": "night"},
    "experiment": "vision",
    "metrics": {"loss": 0.1, "acc": 1},
    "step": 3,
    "params": {"lr": 0.1, "deep": True},
    "tags": {"a": "b"},
}


def test_a_log_message() -> None:
    logged = one(event(LOG))
    assert isinstance(logged, RunLogged)
    assert (logged.run.id, logged.run.name, logged.experiment) == ("r-1", "night", "vision")
    assert logged.lines == (
        b'{"key":"loss","value":0.1,"timestamp":1700000001500,"step":3}\n'
        b'{"key":"acc","value":1,"timestamp":1700000001500,"step":3}'
    )
    assert (logged.count, logged.params, logged.tags) == (2, {"lr": "0.1", "deep": "true"}, {"a": "b"})


@pytest.mark.parametrize(
    ("headers", "content_type"),
    [
        ({"ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "/gpu/7"}, "application/json; charset=utf-8"),
        ({"cloudevents:specversion": "1.0", "cloudevents:id": "e-1", "cloudevents:source": "/gpu/7"}, ""),
        ({"cloudevents_specversion": "1.0", "cloudevents_id": "e-1", "cloudevents_source": "/gpu/7"}, "text/json"),
        ({"specversion": "1.0", "id": "e-1", "source": "/gpu/7"}, "application/vnd.x+json"),
    ],
)
def test_binary_mode_says_the_same(headers: dict[str, str], content_type: str) -> None:
    prefix = next(iter(headers)).removesuffix("specversion")
    more = {f"{prefix}type": "dev.syncd.log", f"{prefix}time": "2023-11-14T22:13:21.5Z"}
    found = decoded(LOG, headers={**headers, **more}, content_type=content_type)
    assert [said.statement for said in found.said] == [one(event(LOG))]
    assert found.said[0].identity == decoded(event(LOG)).said[0].identity


@pytest.mark.parametrize("prefix", ["ce-", "cloudEvents:", "cloudEvents_", ""])
def test_an_event_without_its_version_is_not_taken_for_a_log(prefix: str) -> None:
    headers = {f"{prefix}{name}".lower(): value for name, value in (("type", "dev.syncd.run.start"), ("id", "1"))}
    assert refused({"run": "x"}, headers=headers, content_type="") == '/specversion: expected "1.0", found nothing'
    assert isinstance(one({"run": "x"}, headers={"type": "temperature"}, content_type=""), RunLogged)


def test_data_in_base64_says_the_same() -> None:
    packed = {**event(None), "data_base64": base64.b64encode(json.dumps(LOG).encode()).decode()}
    del packed["data"]
    assert one(packed) == one(event(LOG))
    assert refused({**packed, "data_base64": "&"}) == "/data_base64: expected base64"
    assert refused({**packed, "data_base64": base64.b64encode(b"{").decode()}).startswith("/data_base64: the body")


def test_a_device_says_no_more_than_it_must() -> None:
    body = b'{"metrics": {"loss": 0.1}, "step": 3}'
    logged = one(body, content_type="", address="syncd/pump-4/2026-11/metrics", sent_ms=5)
    assert logged.lines == b'{"key":"loss","value":0.1,"timestamp":5,"step":3}'
    assert (logged.run.name, logged.run.device) == ("2026-11", "pump-4")
    again = one(event({"run": "2026-11", "device": "pump-4"}))
    assert again.run == logged.run
    elsewhere = one(body, content_type="", address="syncd/pump-5/2026-11/metrics")
    assert elsewhere.run.id != logged.run.id
    assert elsewhere.lines.endswith(b'"timestamp":%d,"step":3}' % NOW_MS)
    assert refused(body, content_type="", address="syncd/pump-4/metrics") == (
        '/run: expected a run\'s name, or an object with its id; by topic_pattern, "syncd/pump-4/metrics" names none'
    )


def test_points_as_a_list_keep_their_own_time_and_step() -> None:
    points = [
        {"key": "a b/ü", "value": 1e308, "timestamp": 9, "step": -1},
        {"key": "a", "value": "NaN", "timestamp": "1970-01-01T00:00:01+01:00"},
        {"key": "a", "value": "-Infinity", "step": 2**63 - 1},
    ]
    logged = one(event({"run": "x", "metrics": points, "step": 7, "timestamp": 8}))
    assert logged.lines.decode().splitlines() == [
        '{"key":"a b/ü","value":1e+308,"timestamp":9,"step":-1}',
        '{"key":"a","value":"NaN","timestamp":-3599000,"step":7}',
        '{"key":"a","value":"-Infinity","timestamp":8,"step":9223372036854775807}',
    ]


@given(st.floats(allow_nan=False) | st.integers(-(10**300), 10**300))
def test_a_value_is_the_same_double_in_wire_form(value: float) -> None:
    logged = one(event({"run": "x", "metrics": {"k": value}}))
    assert float(json.loads(logged.lines)["value"]) == float(value)


def test_bare_nan_and_infinity_are_values() -> None:
    body = b'{"run":"x","metrics":{"a":NaN,"b":Infinity,"c":-Infinity,"d":1e999}}'
    values = [json.loads(line)["value"] for line in one(body, content_type="").lines.splitlines()]
    assert values == ["NaN", "Infinity", "-Infinity", "Infinity"]


def test_start_and_end() -> None:
    start = {"run": {"id": 42, "name": 7}, "start_time": 5, "parent": "outer", "user": "ada", "params": {"p": "1"}}
    started = one(event(start, of="dev.syncd.run.start"))
    assert isinstance(started, RunStarted)
    assert (started.run.id, started.run.name, started.start_time_ms, started.user_id) == ("42", "7", 5, "ada")
    assert started.parent_run_id == one(event({"run": "outer"})).run.id
    ended = one(event({"run": {"id": "42"}}, of="dev.syncd.run.end"))
    assert ended == RunEnded(run=ended.run, time_ms=1700000001500, end_time_ms=1700000001500, status="FINISHED")
    killed = one(event({"run": {"id": "42"}, "status": "KILLED", "end_time": 6}, of="dev.syncd.run.end"))
    assert (killed.status, killed.end_time_ms) == ("KILLED", 6)


def test_artifacts() -> None:
    given_ = [{"path": "plots/a.txt", "content": "aGk="}, {"path": "big.bin", "root": "/data/out"}]
    logged = one(event({"run": "x", "artifacts": given_}))
    assert logged.artifacts == [InlineArtifact("plots/a.txt", b"hi"), LocalArtifact("big.bin", "/data/out")]


def test_commands() -> None:
    command = one(event({"source": "local"}, of="dev.syncd.command.sync"))
    assert command == Command(name="sync", time_ms=1700000001500, arguments={"source": "local"})
    assert "expected one of sync, register" in refused(event({}, of="dev.syncd.command.reboot"))
    assert refused(event({"path": "/etc"}, of="dev.syncd.command.sync")).startswith("/data/source: expected the name")
    assert "/data/path: unknown field" in refused(event({"source": "a", "path": "/"}, of="dev.syncd.command.sync"))
    assert refused(event({}, of="dev.syncd.command.pause")) == (
        "/data: expected an object with either a source or a destination, found an object of 0"
    )


def test_other_types_are_named_and_left_alone() -> None:
    assert one(event({"x": 1}, of="com.example.thing")) == Ignored("com.example.thing")


EVENT_GRID = {
    "id": "g-1",
    "topic": "/subscriptions/s/workspaces/w",
    "subject": "experiments/e/runs/r",
    "eventType": "Microsoft.MachineLearningServices.RunCompleted",
    "eventTime": "2023-11-14T22:13:21.5000001Z",
    "data": {"experimentId": "e", "experimentName": "vision", "runId": "r", "runTags": {"a": 1}, "other": 1},
    "dataVersion": "1.0",
    "metadataVersion": "1",
}


def test_azure_machine_learning_events_in_both_schemas() -> None:
    happened = one([EVENT_GRID], content_type="application/json")
    assert isinstance(happened, ForeignEvent)
    assert (happened.name, happened.time_ms) == ("azureml.run_completed", 1700000001500)
    assert happened.source == "/subscriptions/s/workspaces/w"
    assert happened.data == {
        "experiment_id": "e",
        "experiment_name": "vision",
        "run_id": "r",
        "run_type": "",
        "run_tags": {"a": "1"},
        "run_properties": {},
        "run_status": "",
    }
    as_cloud_event = event(
        EVENT_GRID["data"],
        of=EVENT_GRID["eventType"],
        source=EVENT_GRID["topic"],
        subject=EVENT_GRID["subject"],
    )
    assert one(as_cloud_event) == happened


@pytest.mark.parametrize(
    ("kind", "data", "name", "field", "value"),
    [
        ("RunStatusChanged", {"runStatus": "Failed"}, "azureml.run_status_changed", "run_status", "Failed"),
        ("ModelRegistered", {"ModelVersion": 3}, "azureml.model_registered", "model_version", "3"),
        ("ModelDeployed", {"ModelIds": "a:1, b:2"}, "azureml.model_deployed", "model_ids", ["a:1", "b:2"]),
        ("DatasetDriftDetected", {"DriftCoefficient": 0.6}, "azureml.dataset_drift_detected", "drift_coefficient", 0.6),
    ],
)
def test_every_azure_machine_learning_event(kind: str, data: Any, name: str, field: str, value: Any) -> None:
    happened = one(event(data, of=f"Microsoft.MachineLearningServices.{kind}"))
    assert (happened.name, happened.data[field]) == (name, value)
    assert "expected an object" in refused(event("x", of=f"Microsoft.MachineLearningServices.{kind}"))


def test_mlflow_registry_webhooks() -> None:
    body = {
        "entity": "model_version",
        "action": "created",
        "timestamp": "2023-11-14T22:13:21.5+00:00",
        "data": {"name": "churn", "version": "2"},
    }
    happened = one(body, content_type="application/json")
    assert (happened.name, happened.data["name"]) == ("mlflow.model_version_created", "churn")


def test_databricks_notifications_about_jobs() -> None:
    told = {
        "event_type": "jobs.on_success",
        "workspace_id": "77",
        "run": {"run_id": 12},
        "job": {"job_id": "3", "name": "train"},
    }
    happened = one(told, content_type="application/json")
    assert (happened.name, happened.source) == ("databricks.jobs_on_success", "77")
    assert (happened.subject, happened.data["job"]["name"]) == ("jobs/3/runs/12", "train")
    again = {**told, "workspace_id": 77, "run": {"run_id": "12"}}
    [first, repeated, started] = decoded([told, again, {**told, "event_type": "jobs.on_start"}]).said
    assert (repeated.identity == first.identity, started.identity == first.identity) == (True, False)
    assert refused({**told, "run": {}}) == "/run/run_id: expected an id, found nothing"


# -- batches and identities ----------------------------------------------------------------------------------------


def test_a_batch_is_taken_event_by_event() -> None:
    found = decoded([event({"run": "a"}), event({"run": True}, id="e-2"), 7, event({"run": "b"}, id="e-3")])
    assert [said.statement.run.name for said in found.said] == ["a", "b"]
    assert str(found.refusal) == (
        "/1/data/run: expected a run's name, or an object with its id and name, found true; "
        "/2: expected an object, found 7"
    )
    assert "and 95 more" in refused([7] * 100)
    assert "expected 1 to 10000 events, found 0" in refused([])


def test_identities_are_the_events_own_or_the_brokers() -> None:
    assert decoded(event(LOG)).said[0].identity != decoded(event(LOG, source="/gpu/8")).said[0].identity
    assert decoded(event(LOG), id="other").said[0].identity == decoded(event(LOG)).said[0].identity
    plain = [said.identity for said in decoded([{"run": "a"}, {"run": "a"}], content_type="").said]
    assert len(set(plain)) == 2
    assert decoded({"run": "a"}, content_type="", id="").said[0].identity == ""
    assert decoded(event(LOG, id=7)).said[0].identity == decoded(event(LOG, id="7")).said[0].identity


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ([], "/data: expected an object, found an array of 0"),
        (None, "/data: expected an object, found null"),
        ({}, "/data/run: expected a run's name"),
        ({"run": ""}, "/data/run: expected a run's name"),
        ({"run": {}}, "/data/run: expected a run's name"),
        ({"run": {"id": None}}, "/data/run/id: expected an id of 1 to 256 characters, found null"),
        ({"run": {"id": "a\nb"}}, "/data/run/id: expected printable characters"),
        ({"run": {"id": "'\""}}, "/data/run/id: expected an id without both kinds of quotes"),
        ({"run": "x" * 257}, "/data/run: expected a run's name"),
        ({"run": "x", "metric": {}}, "/data/metric: unknown field; fields are run, device, experiment, metrics"),
        ({"run": "x", "metrics": 7}, "/data/metrics: expected an object of names and numbers"),
        ({"run": "x", "metrics": {"a/b": "7"}}, '/data/metrics/a~1b: expected a number, or "NaN"'),
        ({"run": "x", "metrics": {"a.b[0]": True}}, "/data/metrics/a.b[0]: expected a number"),
        ({"run": "x", "metrics": {"k" * 1001: 1}}, "/data/metrics/kkkk"),
        ({"run": "x", "metrics": {"": 1}}, "/data/metrics/: expected a metric's name"),
        ({"run": "x", "metrics": {"k": 10**400}}, "/data/metrics/k: expected a number that a double can hold"),
        ({"run": "x", "metrics": [{"key": "k"}]}, "/data/metrics/0/value: expected a number"),
        ({"run": "x", "metrics": [{"key": "k", "value": 1, "step": 2**63}]}, "/data/metrics/0/step: expected a whole"),
        (
            {"run": "x", "metrics": [{"key": "k", "value": 1, "timestamp": "now"}]},
            "/data/metrics/0/timestamp: expected",
        ),
        ({"run": "x", "step": 1.5}, "/data/step: expected a whole number of 64 bits, found 1.5"),
        ({"run": "x", "timestamp": "2026-01-01T00:00:00"}, "/data/timestamp: expected milliseconds"),
        ({"run": "x", "params": {"a": {}}}, "/data/params/a: expected a text, a number, true or false"),
        ({"run": "x", "params": {str(k): "" for k in range(10_001)}}, "/data/params: expected at most 10000"),
        ({"run": "x", "tags": {"syncd.source_run_id": "y"}}, "/data/tags/syncd.source_run_id: this tag is syncd's own"),
        ({"run": "x", "artifacts": [{"path": "a"}]}, "/data/artifacts/0: expected either content or root"),
        ({"run": "x", "artifacts": [{"path": "a", "content": "?"}]}, "/data/artifacts/0/content: expected base64"),
    ],
)
def test_a_refusal_names_the_field_and_what_was_expected(data: Any, where: str) -> None:
    assert refused(event(data)).startswith(where)


OWN_PATHS = ("syncd/overflow/tags.json", "syncd/overflow")


@pytest.mark.parametrize(
    "path",
    [
        *OWN_PATHS,
        "/etc/passwd",
        "../a",
        "a/../../b",
        "a/./b",
        "a//b",
        "a/",
        "c:/x",
        "a\\..\\b",
        "a\0b",
        "a\nb",
        "x" * 256,
        "ü" * 128,
    ],
)
def test_an_artifact_cannot_lead_elsewhere(path: str) -> None:
    wrong = refused(event({"run": "x", "artifacts": [{"path": path, "content": ""}]}))
    assert wrong.startswith("/data/artifacts/0/path: expected a ")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not UTF-8"),
        (b'{"run":"x"', "the body is not JSON"),
        (b"[" * 100_000, "nested deeper than 32"),
        (b"7", "expected an object, found 7"),
        (json.dumps(event(LOG, specversion="2.0")), '/specversion: expected "1.0", found "2.0"'),
        (json.dumps(event(LOG, specversion=None)), '/specversion: expected "1.0", found null'),
        (json.dumps(event(LOG, id="")), "/id: expected a text of 1 to 1024 characters"),
        (json.dumps(event(LOG, source=None)), "/source: expected a text of 1 to 1024 characters, found nothing"),
        (json.dumps(event(LOG, type=["x"])), "/type: expected a text"),
        (json.dumps(event(LOG, time="yesterday")), "/time: expected a time such as"),
        (json.dumps(event(LOG, time=True)), "/time: expected a time such as"),
        (json.dumps(event(LOG, datacontenttype="text/xml")), "/datacontenttype: expected a kind of JSON"),
    ],
)
def test_what_is_no_event_is_refused(body: bytes | str, why: str) -> None:
    raw = body if isinstance(body, bytes) else body.encode()
    assert why in refused(raw)


def test_a_message_that_is_too_large_is_not_looked_into() -> None:
    found = decoded(b"[" * 1_000_001)
    assert found.refusal is not None
    assert (found.refusal.reason, len(found.said)) == ("TooLarge", 0)
    assert "1000001 bytes, max_message_bytes is 1000000" in str(found.refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["run", "metrics", "step", "timestamp", "params", "tags", "artifacts", "experiment", "device"])
OURS = st.sampled_from(["log", "run.start", "run.end", "command.sync", "command."]).map("dev.syncd.{}".format)
TYPES = OURS | st.sampled_from(["Microsoft.MachineLearningServices.ModelDeployed", "mlflow.x_y"])


@given(st.dictionaries(FIELDS, JSON), TYPES, st.dictionaries(st.sampled_from(["time", "id", "subject"]), JSON))
def test_whatever_comes_is_taken_or_refused(data: Any, of: str, attributes: Any) -> None:
    found = decoded(event(data, of=of, **attributes))
    assert bool(found.said) != (found.refusal is not None)


@given(st.binary(max_size=60), st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=3))
def test_whatever_bytes_come_are_taken_or_refused(body: bytes, headers: dict[str, str]) -> None:
    found = decoded(body, headers=headers, content_type="")
    assert found.said or found.refusal is not None


# -- topics --------------------------------------------------------------------------------------------------------


def test_topics() -> None:
    pattern = TopicPattern("plant.1/{experiment}/{device}/{run}")
    assert pattern.match("plant.1/e/d/r") == Named("d", "r", "e")
    assert pattern.match("plantx1/e/d/r") is None
    assert pattern.match("plant.1/e/d/r/s") is None
    for wrong in ("a/{device}", "a/{run}/{run}", "a/{run}/{place}"):
        with pytest.raises(ValueError):
            TopicPattern(wrong)
