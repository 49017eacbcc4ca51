"""[[sinks]] of kind webhook and event-grid, and what every sink has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from syncd.azure.sign_in import FixedToken
from syncd.configuration import EventGridSinkSettings, InvalidConfiguration, WebhookSinkSettings, parse
from syncd.configuration.reading import Problem

BEGIN = """[[sources]]
name = "local"
kind = "mlruns"
path = "/data"
[[destinations]]
name = "d"
uri = "http://127.0.0.1:5000"
[[sinks]]
name = "s"
"""
HOOK = 'kind = "webhook"\nurl = "https://hooks.example.org/x?y=z"\n'
GRID = 'kind = "event-grid"\nendpoint = "https://t.westeurope-1.eventgrid.azure.net/api/events"\n'
ENVIRONMENT = {"SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "OLD": "plain text", "BAD": "whsec_?"}


def read(keys: str) -> tuple[object, tuple[str, ...]]:
    found = parse(BEGIN + keys, file=Path("syncd.toml"), environment=ENVIRONMENT)
    return found.sinks[0], found.warnings


def only_problem(keys: str) -> Problem:
    with pytest.raises(InvalidConfiguration) as caught:
        read(keys)
    [problem] = caught.value.problems
    return problem


def test_a_webhook_has_a_url_and_secrets() -> None:
    keys = 'secrets = [{ env = "SECRET" }, { env = "OLD" }]\nfrom = "beginning"\ntimeout_s = 3\n'
    sink, warnings = read(HOOK + keys + 'types = ["run.*"]\nexperiments = ["churn*"]\n')
    assert isinstance(sink, WebhookSinkSettings)
    assert [secret.reveal() for secret in sink.secrets] == [ENVIRONMENT["SECRET"], "plain text"]
    assert (sink.url, sink.begin, sink.timeout_s) == ("https://hooks.example.org/x?y=z", "beginning", 3)
    assert (sink.types, sink.experiments, warnings) == (("run.*",), ("churn*",), ())
    assert "MfKQ" not in repr(dataclasses.asdict(sink))


def test_a_webhook_without_a_secret_or_over_plain_http_is_warned_of() -> None:
    sink, warnings = read('kind = "webhook"\nurl = "http://hooks.example.org/x"\n')
    assert isinstance(sink, WebhookSinkSettings)
    assert sink.begin == "now"
    assert [("not signed" in one, "plain http" in one) for one in warnings] == [(False, True), (True, False)]


def test_event_grid_has_a_key_or_signs_in() -> None:
    sink, _ = read(GRID + 'key = { env = "OLD" }')
    assert isinstance(sink, EventGridSinkSettings)
    assert (sink.key.reveal() if sink.key else "", sink.sign_in) == ("plain text", None)
    sink, _ = read(GRID + 'token = { env = "OLD" }')
    assert isinstance(sink, EventGridSinkSettings)
    assert isinstance(sink.sign_in, FixedToken)
    assert sink.key is None


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ('kind = "webhook"', "", 'the key "url"'),
        ('kind = "webhook"\nurl = "ftp://x"', ".url", "an http(s) URL"),
        ('kind = "webhook"\nurl = "https://x:y/"', ".url", "an http(s) URL"),
        ('kind = "webhook"\nurl = "https://user:pw@x/"', ".url", "without user and password"),
        (HOOK + 'secrets = [{ env = "BAD" }]', ".secrets[0]", "base64"),
        (HOOK + 'types = ["run.*", "run.finish"]', ".types[1]", "no type of event fits 'run.finish'"),
        (HOOK + 'from = "start"', ".from", '"now" or "beginning"'),
        (HOOK + 'ca_file = "/no/such"', ".ca_file", "no such file"),
        (HOOK + 'key = "x"', ".key", "unknown key"),
        (GRID + 'key = { env = "OLD" }\ntoken = { env = "OLD" }', ".token", "found both"),
        (GRID + 'secret = { env = "OLD" }', ".secret", "unknown key"),
    ],
)
def test_a_mistake_is_named(keys: str, key: str, message: str) -> None:
    problem = only_problem(keys)
    assert problem.key == f"sinks[0]{key}"
    assert message in problem.message
