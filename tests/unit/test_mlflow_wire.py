"""What is told from a version, from ids and from values, without a server."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.requests import LogBatch
from syncd.destinations.base import RemoteSubject
from syncd.destinations.mlflow_artifacts import encode_path, resolve, unholdable
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_wire import batch_body, entries, ids_look_appending, limits_of, pairs, tag_filter
from syncd.errors import Rejected


@pytest.mark.parametrize(
    ("version", "tag_length"),
    [
        ("2.9.2", 5000),
        ("2.21.0", 5000),
        ("2.22.0", 8000),
        ("3.0.0rc1", 8000),
        ("3.15.0", 8000),
        ("", 5000),
        ("x", 5000),
    ],
)
def test_the_limit_is_what_that_version_stores_whole(version: str, tag_length: int) -> None:
    assert limits_of(version).tag_value_length == tag_length
    assert limits_of(version).param_value_length == 6000


@pytest.mark.parametrize(
    ("ids", "appends"),
    [
        ([], None),
        (["0"], None),
        (["0", "1"], False),
        (["999999999"], False),
        (["1000000000"], True),
        (["123456789012345678"], True),
        (["0", "6f1c-uuid"], True),
        (["1", "123456789012345678"], True),
    ],
)
def test_a_store_is_known_by_its_experiment_ids(ids: list[str], appends: bool | None) -> None:
    assert ids_look_appending(ids) is appends


def test_a_filter_quotes_what_it_can() -> None:
    assert tag_filter("a.b", "x") == "tags.`a.b` = 'x'"
    assert tag_filter("a.b", "it's") == 'tags.`a.b` = "it\'s"'
    with pytest.raises(Rejected):
        tag_filter("a.b", "'\"")


_text = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.text("abcdef0123456789", min_size=1), st.dictionaries(_text, _text), st.dictionaries(_text, _text))
def test_a_batch_body_is_json_with_the_points_as_they_were(
    run_id: str, params: dict[str, str], tags: dict[str, str]
) -> None:
    lines = [b'{"key":"m","value":1e-5,"timestamp":1,"step":2}', b'{"key":"n","value":"NaN","timestamp":1,"step":2}']
    body = batch_body(LogBatch(run_id, lines, params, tags))
    told = json.loads(body)
    assert told["run_id"] == run_id
    assert pairs(told.get("params")) == params
    assert pairs(told.get("tags")) == tags
    assert body.endswith(b",".join(lines) + b"]}")
    assert pairs(entries(params)) == params


@given(st.text(min_size=1, max_size=30))
def test_a_name_that_is_held_survives_the_servers_decoding(name: str) -> None:
    if unholdable(name):
        return
    assert unquote(encode_path(name)) == name
    assert unquote(name) == name
    assert not set(name) & set("#\t\r\n\x00")


@pytest.mark.parametrize(
    ("root", "url"),
    [
        (
            "mlflow-artifacts:/1/r/artifacts",
            "http://host:1/pre/fix/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a%20b",
        ),
        ("mlflow-artifacts:1/r", "http://host:1/pre/fix/api/2.0/mlflow-artifacts/artifacts/1/r/a%20b"),
        ("mlflow-artifacts://other:2/1/r", "http://other:2/pre/fix/api/2.0/mlflow-artifacts/artifacts/1/r/a%20b"),
        (
            "https://far/x/api/2.0/mlflow-artifacts/artifacts/1/r",
            "https://far/x/api/2.0/mlflow-artifacts/artifacts/1/r/a%20b",
        ),
    ],
)
def test_where_artifacts_are_served(root: str, url: str) -> None:
    base = MlflowRest("http://user:secret@host:1/pre/fix/").base_url
    assert base == "http://host:1/pre/fix"
    assert resolve(RemoteSubject("r", root), base).file_url("a b") == url
