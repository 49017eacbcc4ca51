"""The keys that all sources of messages share, and webhooks: what is read, and what is named when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncd.configuration import Configuration, InvalidConfiguration, Problem, WebhookSettings, parse
from syncd.configuration.secret import Secret

DESTINATION = '[[destinations]]\nname = "workspace"\nuri = "https://mlflow.example.org"\n[http]\n'
HOOK = "[[sources]]\nname = 'hook'\nkind = 'webhook'\n"
NEW, OLD = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3", "whsec_b2xkb2xkb2xkb2xkb2xkb2xk"
ENVIRONMENT = {"NEW": NEW, "OLD": OLD, "SHORT": "whsec_bmV3", "TOKEN": "a-token-that-is-long", "BAD": "whsec_!"}
FILE = Path("/etc/syncd/syncd.toml")


def read(table: str) -> Configuration:
    return parse(table + DESTINATION, file=FILE, environment=ENVIRONMENT)


def only_problem(table: str) -> Problem:
    with pytest.raises(InvalidConfiguration) as caught:
        read(table)
    [problem] = caught.value.problems
    return problem


def secret(text: str) -> Secret:
    return Secret(text, origin="environment")


def test_every_key_of_a_webhook_is_read() -> None:
    table = (
        HOOK + "secrets = [{ env = 'NEW' }, { env = 'OLD' }]\ntoken = { env = 'TOKEN' }\nusername = 'u'\n"
        "password = { env = 'TOKEN' }\nexperiment = 'devices'\ntopic_pattern = 'a/{run}'\n"
        "commands = ['sync', 'pause', 'resume']\nroots = ['/data/out', 'plots']\nmax_message_bytes = '1MiB'\n"
        "start_patience_s = 5\nstale_after_s = 3600\nend_stale_as = 'KILLED'\n"
    )
    configuration = read(table)
    assert configuration.warnings == ()
    assert configuration.message_sources == (
        WebhookSettings(
            name="hook",
            secrets=(secret(NEW), secret(OLD)),
            token=secret("a-token-that-is-long"),
            username="u",
            password=secret("a-token-that-is-long"),
            experiment="devices",
            topic_pattern="a/{run}",
            commands=("sync", "pause", "resume"),
            roots=(Path("/data/out"), Path("/etc/syncd/plots")),
            max_message_bytes=1024**2,
            start_patience_s=5,
            stale_after_s=3600,
            end_stale_as="KILLED",
        ),
    )


def test_messages_may_ask_for_nothing_by_default() -> None:
    [source] = read(HOOK + "token = { env = 'TOKEN' }\n").message_sources
    assert source == WebhookSettings(name="hook", token=secret("a-token-that-is-long"))
    assert (source.commands, source.roots, source.is_shared) == ((), (), False)


def test_a_message_source_alone_is_enough() -> None:
    configuration = read(HOOK + "token = { env = 'TOKEN' }\n")
    assert configuration.sources == ()


@pytest.mark.parametrize(
    ("keys", "line", "key", "message", "hint"),
    [
        ("", 1, "", "anybody could send messages", "secrets"),
        ("secrets = []", 4, ".secrets", "at least one secret", ""),
        ("secrets = [{ env = 'BAD' }]", 4, ".secrets[0]", "base64", ""),
        ("secrets = ['whsec_']", 4, ".secrets[0]", "anybody could sign", ""),
        ("secrets = [{ envs = 'NEW' }]", 4, ".secrets[0]", "expected a secret", '"env"'),
        ("secrets = { env = 'NEW' }", 4, ".secrets", "a list of secrets", ""),
        ("token = 'short'", 4, ".token", "at least 16 characters", ""),
        ("username = 'u'\ntoken = { env = 'TOKEN' }", 4, ".username", "without a password", ""),
        ("token = { env = 'TOKEN' }\ncommands = ['pauze']", 5, ".commands[0]", "expected commands out of", '"pause"'),
        ("token = { env = 'TOKEN' }\ncommands = ['deploy']", 5, ".commands[0]", "not in this version yet", "sync"),
        ("token = { env = 'TOKEN' }\ntopic_pattern = 'a/{device}'", 5, ".topic_pattern", "{run} is missing", ""),
        ("token = { env = 'TOKEN' }\nend_stale_as = 'KILLED'", 5, ".end_stale_as", "stale_after_s", ""),
        ("token = { env = 'TOKEN' }\nsecret = { env = 'NEW' }", 5, ".secret", "unknown key", "secrets"),
    ],
)
def test_a_mistake_in_a_webhook_is_named(keys: str, line: int, key: str, message: str, hint: str) -> None:
    problem = only_problem(f"{HOOK}{keys}\n")
    assert (problem.line, problem.key) == (line, f"sources[0]{key}")
    assert message in problem.message
    assert hint in problem.hint


def test_a_webhook_needs_an_http_server() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse(
            (HOOK + "token = { env = 'TOKEN' }\n" + DESTINATION).replace("[http]\n", ""),
            file=FILE,
            environment=ENVIRONMENT,
        )
    [problem] = caught.value.problems
    assert (problem.line, problem.key, problem.hint) == (3, "sources[0].kind", "add [http]")


def test_a_secret_of_a_list_that_is_written_out_is_warned_of() -> None:
    [warning] = read(HOOK + "secrets = ['whsec_MTIzNDU2Nzg5MDEyMzQ1Ng==']\n").warnings
    assert "sources[0].secrets[0]: this secret is written out" in warning


def test_a_signing_secret_that_can_be_guessed_warns() -> None:
    [warning] = read(HOOK + "secrets = [{ env = 'SHORT' }]\n").warnings
    assert "sources[0].secrets[0]: a key of 3 bytes can be guessed" in warning
