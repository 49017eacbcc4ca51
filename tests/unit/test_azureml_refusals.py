"""What a workspace's refusals are taken for: messages as users published them, and as the stand-in words them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from syncd.core.limits import Limits
from syncd.destinations.azureml.refusals import limit_named, words
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.errors import AuthFailed, DestinationError, OverLimit, Rejected, SubjectGone, Transient

REST = AzuremlRest("https://westeurope.api.azureml.ms/mlflow/v2.0/subscriptions/s")
SEE = "See https://aka.ms/azure-machine-learning-limits for service limits documentation."


def tracking_body(message: str, code: str = "INVALID_PARAMETER_VALUE") -> bytes:
    return json.dumps({"Error": {"Code": "ValidationError", "Message": message}, "error_code": code}).encode()


def over(field: str, limit: int, size: int) -> bytes:
    return tracking_body(
        f"A field of the entity is over the size limit. FieldName={field}, Limit={limit}, Size={size}. {SEE}"
    )


def meant(status: int, body: bytes, method: str = "POST") -> DestinationError:
    return REST.classify(method, status, {}, body, doing="logging to run", target="r")


@pytest.mark.parametrize(
    ("field", "limit_name"),
    [
        ("MetricV2Dto.Value/Count", "batch_metrics"),
        ("MetricV2Dto.Name/Length", "metric_key_length"),
        ("MetricNames", "metric_names_per_run"),
        ("MetricRows", "metric_rows_per_name"),
        ("Parameters", "params_per_run"),
        ("Parameters.Value/Length", "param_value_length"),
        ("ParametersInBatch", "batch_params"),
        ("RunDto.Tags", "tags_per_run"),
        ("RunDto.Tags.Key/Length", "tag_key_length"),
        ("RunDto.Tags.Value/Length", "tag_value_length"),
        ("RunDto.DisplayName/Length", "run_name_length"),
        ("RunDto.InputDatasets", "inputs_per_run"),
        ("SomethingNew/Length", ""),
    ],
)
def test_a_refusal_names_the_limit_that_was_passed(field: str, limit_name: str) -> None:
    error = meant(400, over(field, 200, 207))
    assert isinstance(error, OverLimit)
    assert (error.limit_name, error.limit) == (limit_name, 200)
    assert (error.code, error.status, error.target) == ("INVALID_PARAMETER_VALUE", 400, "r")
    assert limit_name in ("", *(known.name for known in dataclasses.fields(Limits)))


def test_a_page_of_history_must_be_smaller_than_what_is_named() -> None:
    error = meant(400, tracking_body("MaxResults = 25000 is invalid: MaxResults must be less than 1000."), "GET")
    assert isinstance(error, OverLimit)
    assert (error.limit_name, error.limit) == ("history_results", 999)


def test_other_refusals_are_what_they_are_of_any_mlflow_server() -> None:
    changed = meant(400, tracking_body("Changing param values is not allowed."))
    assert type(changed) is Rejected
    assert changed.message == "Changing param values is not allowed."
    assert isinstance(meant(404, tracking_body("Run x does not exist.", "RESOURCE_DOES_NOT_EXIST")), SubjectGone)
    assert isinstance(meant(403, b'{"error": {"code": "AuthorizationFailed", "message": "no"}}'), AuthFailed)
    assert isinstance(meant(404, b""), Transient)
    assert isinstance(meant(429, tracking_body("The request is being throttled.")), Transient)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error_code": "A", "message": "b"}', ("A", "b")),
        (b'{"error": {"code": "A", "message": "b"}}', ("A", "b")),
        (b'{"Error": {"Code": "A", "Message": "b"}, "error_code": "C"}', ("C", "b")),
        (b'{"Error": {"Code": "A", "Message": null}}', ("A", "")),
        (b'{"error": "text"}', ("", "")),
        (b"[1]", ("", "[1]")),
        (b" <html> ", ("", "<html>")),
        (b"", ("", "")),
    ],
)
def test_words_are_found_in_every_shape(body: bytes, said: tuple[str, str]) -> None:
    assert words(body) == said


def test_what_names_no_limit_stays_as_it_is() -> None:
    error = Rejected("no")
    assert limit_named(error) is error
