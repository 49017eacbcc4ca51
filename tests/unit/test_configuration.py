"""The configuration: what is read, and that each mistake is named by file, line, key and the right way."""

import dataclasses
import pickle
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.configuration import (
    Configuration,
    DestinationSettings,
    InvalidConfiguration,
    MlflowDbSettings,
    MlrunsSettings,
    Problem,
    Secret,
    destination_of_argument,
    find_file,
    load,
    load_daemon,
    names_of_arguments,
    parse,
    source_of_argument,
)
from syncd.configuration.locating import KeyLines, Place
from syncd.configuration.reading import parse_size
from syncd.core.limits import Limits
from syncd.errors import ConfigError, SourceError

SOURCE = '[[sources]]\nname = "local"\nkind = "mlruns"\npath = "/data/mlruns"\n'
DESTINATION = '[[destinations]]\nname = "workspace"\nuri = "https://mlflow.example.org"\n'
FILE = Path("/etc/syncd/syncd.toml")


def read(text: str, environment: Mapping[str, str] | None = None) -> Configuration:
    return parse(text, file=FILE, environment=environment or {})


def problems(text: str, environment: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfiguration) as caught:
        read(text, environment)
    return caught.value.problems


def only_problem(text: str, environment: Mapping[str, str] | None = None) -> Problem:
    [problem] = problems(text, environment)
    return problem


def destination(extra: str, environment: Mapping[str, str] | None = None) -> DestinationSettings:
    [settings] = read(f"{SOURCE}{DESTINATION}{extra}", environment).destinations
    return settings


# ---------------------------------------------------------------- what is read


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    configuration = read(SOURCE + DESTINATION)

    assert configuration.daemon.state_dir == Path("/var/lib/syncd")
    assert configuration.daemon.flush_interval_s == 0.2
    assert configuration.daemon.shutdown_grace_s == 20
    assert configuration.daemon.journal_max_bytes == 2 * 1024**3
    assert configuration.sources == (MlrunsSettings(name="local", paths=(Path("/data/mlruns"),)),)
    assert configuration.destinations == (DestinationSettings(name="workspace", uri="https://mlflow.example.org"),)
    assert configuration.http is None
    assert configuration.warnings == ()


def test_the_supported_part_of_the_contracts_example_is_read() -> None:
    configuration = read(
        """
[daemon]
state_dir = "/var/lib/syncd"      # the journal lives here
flush_interval_s = 0.2            # a point waits at most this long before it is sent
shutdown_grace_s = 20
journal_max_bytes = "2GiB"        # beyond: intake pauses, sending goes on

[[sources]]
name = "local"
kind = "mlruns"                   # mlruns | mlflow-db | databricks | service-bus | mqtt | webhook
path = "/data/mlruns"

[[sources]]
name = "default-store"
kind = "mlflow-db"
uri = "sqlite:////data/mlflow.db"

[[destinations]]
name = "workspace"
uri = "http://127.0.0.1:5000"

[http]
listen = "127.0.0.1:8700"
token = { env = "TOKEN" }
""",
        {"TOKEN": "t0ken"},
    )

    assert configuration.sources == (
        MlrunsSettings(name="local", paths=(Path("/data/mlruns"),)),
        MlflowDbSettings(name="default-store", uri="sqlite:////data/mlflow.db", path=Path("/data/mlflow.db")),
    )
    assert configuration.http is not None
    assert (configuration.http.host, configuration.http.port) == ("127.0.0.1", 8700)
    assert configuration.http.token is not None
    assert configuration.http.token.reveal() == "t0ken"
    assert configuration.warnings == ()


def test_every_key_of_a_source_is_read() -> None:
    [source] = read(
        f"""{DESTINATION}
[[sources]]
name = "many"
kind = "mlruns"
paths = ["/a", "b/c"]
experiments = ["churn*", "x"]
on_delete = "delete"
stale_after_s = 3600
poll_interval_s = 0.5
reconcile_interval_s = 60
watch = false
"""
    ).sources

    assert source == MlrunsSettings(
        name="many",
        paths=(Path("/a"), Path("/etc/syncd/b/c")),
        experiments=("churn*", "x"),
        on_delete="delete",
        stale_after_s=3600.0,
        poll_interval_s=0.5,
        reconcile_interval_s=60.0,
        watch=False,
    )


def test_every_key_of_a_destination_is_read(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("-----BEGIN CERTIFICATE-----")
    settings = destination(
        f"""
username = "me"
password = "hidden"
ca_file = "{ca_file}"
max_concurrency = 3
bwlimit = "10MiB/s"
duplicates = "appended"
connect_timeout_s = 1
read_timeout_s = 2
total_timeout_s = 3
[destinations.limits]
batch_metrics = 200
batch_bytes = "500kB"
tags_per_run = 50
params_per_run = "unlimited"
[destinations.filters]
experiments = {{ include = ["a*"], exclude = ["ab"] }}
run_names = ["good-*"]
tags = {{ team = "vision" }}
artifacts = {{ exclude = ["*.ckpt"] }}
"""
    )

    assert (settings.username, settings.password, settings.token) == ("me", Secret("hidden", origin="file"), None)
    assert settings.ca_file == ca_file
    assert (settings.max_concurrency, settings.bwlimit_bytes_s) == (3, 10 * 1024**2)
    assert settings.duplicates == "appended"
    assert (settings.connect_timeout_s, settings.read_timeout_s, settings.total_timeout_s) == (1, 2, 3)
    of_kind = Limits(tags_per_run=10, params_per_run=200)
    assert settings.limits(of_kind) == Limits(
        batch_metrics=200, batch_bytes=500_000, tags_per_run=50, params_per_run=None
    )
    assert settings.filter.takes_experiment("ac")
    assert not settings.filter.takes_experiment("ab")
    assert not settings.filter.takes_experiment("b")
    assert settings.filter.takes_run("good-1", {"team": "vision"})
    assert not settings.filter.takes_run("bad-1", {"team": "vision"})
    assert not settings.filter.takes_run("good-1", {})
    assert settings.filter.takes_artifact("model/MLmodel")
    assert not settings.filter.takes_artifact("last.ckpt")


def test_a_sqlite_path_may_be_relative_to_the_file() -> None:
    [source] = read(DESTINATION + '[[sources]]\nname = "db"\nkind = "mlflow-db"\nuri = "sqlite:///a%20b.db"').sources
    assert source == MlflowDbSettings(name="db", uri="sqlite:////etc/syncd/a b.db", path=Path("/etc/syncd/a b.db"))


def test_names_in_texts_are_replaced_from_the_environment() -> None:
    text = '[[sources]]\nname = "${NAME}"\nkind = "mlruns"\npaths = ["/$${x}/${DIR}", "/$plain"]\n' + DESTINATION
    [source] = read(text, {"NAME": "it", "DIR": "data"}).sources
    assert source == MlrunsSettings(name="it", paths=(Path("/${x}/data"), Path("/$plain")))


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("2GiB", 2 * 1024**3), ("1.5 MB", 1_500_000), ("3kB", 3000), ("3KiB", 3072), ("2G", 0), ("GiB", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


# ---------------------------------------------------------------- secrets


def test_a_secret_is_never_shown() -> None:
    settings = destination('token = "s3cret-t0ken"')
    assert settings.token is not None
    assert settings.token.reveal() == "s3cret-t0ken"
    shown = [repr(settings), str(settings), f"{settings.token}", f"{settings.token!r:>20}"]
    shown += [str(dataclasses.asdict(settings))]
    assert not any("s3cret" in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(settings.token)


def test_a_secret_comes_from_the_environment_or_a_file_and_a_written_one_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    for written, text, origin in (
        ('{ env = "T" }', "from-env", "environment"),
        ('"${T}"', "from-env", "environment"),
        (f'{{ file = "{file}" }}', "from-file", "file"),
        ('"from-text"', "from-text", "written out"),
    ):
        configuration = read(f"{SOURCE}{DESTINATION}token = {written}\n", {"T": "from-env"})
        token = configuration.destinations[0].token
        assert token is not None
        assert (token.reveal(), token.origin) == (text, origin)
        assert len(configuration.warnings) == (origin == "written out")
        assert all(
            f"{FILE}:8: destinations[0].token: this secret is written out" in warning and "from-text" not in warning
            for warning in configuration.warnings
        )


def test_a_secret_of_a_file_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    first = destination(f'token = {{ file = "{file}" }}').token
    assert first is not None
    file.write_text(" second\n")
    assert (first.reveal(), first.renewed().reveal()) == ("first", "second")
    file.unlink()
    assert first.renewed().reveal() == "first"
    written = Secret("x", origin="written out")
    assert written.renewed() is written


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    assert "is empty" in only_problem(f'{SOURCE}{DESTINATION}token = {{ file = "{tmp_path}/token" }}').message


def test_credentials_in_the_uri_leave_it_and_are_warned_of() -> None:
    configuration = read(SOURCE + '[[destinations]]\nname = "w"\nuri = "https://me:p%40ss@host:8443/ml/"')
    [settings] = configuration.destinations
    assert (settings.uri, settings.username) == ("https://host:8443/ml", "me")
    assert settings.password == Secret("p@ss", origin="written out")
    assert "written out" in configuration.warnings[0]
    assert "p%40ss" not in str(configuration)


def test_credentials_over_plain_http_are_warned_of_except_to_this_machine() -> None:
    text = SOURCE + '[[destinations]]\nname = "w"\nuri = "http://{host}"\ntoken = {{ env = "T" }}'
    assert "plain http" in read(text.format(host="ml.example.org"), {"T": "x"}).warnings[0]
    assert read(text.format(host="127.0.0.1:5000"), {"T": "x"}).warnings == ()


def test_mlflows_environment_variables_are_the_default() -> None:
    both = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p", "MLFLOW_TRACKING_TOKEN": "t"}
    assert destination("", {"MLFLOW_TRACKING_TOKEN": "t"}).token == Secret("t", origin="environment")
    settings = destination("", both)
    assert (settings.username, settings.token) == ("me", None)
    assert destination('token = { env = "OWN" }', {**both, "OWN": "own"}).username is None


def test_mlflows_environment_variables_go_to_no_server_where_two_could_be_meant() -> None:
    second = '[[destinations]]\nname = "other"\nuri = "https://other.example.org"\n'
    configuration = read(SOURCE + DESTINATION + second, {"MLFLOW_TRACKING_TOKEN": "t"})
    assert [settings.token for settings in configuration.destinations] == [None, None]
    assert "workspace, other" in configuration.warnings[0]


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "hint"),
    [
        ("[deamon]\n", 8, "deamon", "unknown key of the file", '"daemon"'),
        ("[daemon]\nflush_interval = 1", 9, "daemon.flush_interval", "unknown key of [daemon]", '"flush_interval_s"'),
        ("[daemon]\nzzz = 1", 9, "daemon.zzz", "unknown key", "keys of [daemon]: state_dir, flush_interval_s"),
        ("[daemon]\n\nflush_interval_s = '1s'", 10, "daemon.flush_interval_s", "a number of seconds, found a text", ""),
        ("[daemon]\nflush_interval_s = 0", 9, "daemon.flush_interval_s", "a positive number of seconds, found 0", ""),
        ("[daemon]\nflush_interval_s = nan", 9, "daemon.flush_interval_s", "a positive number", ""),
        ("[daemon]\nshutdown_grace_s = true", 9, "daemon.shutdown_grace_s", "seconds, found true", ""),
        ("[daemon]\njournal_max_bytes = '2 gigs'", 9, "daemon.journal_max_bytes", "a size, found '2 gigs'", '"2GiB"'),
        ("[daemon]\njournal_max_bytes = -1", 9, "daemon.journal_max_bytes", "expected a size, found -1", ""),
        ("[daemon]\nstate_dir = 3", 9, "daemon.state_dir", "expected a text, found a number", ""),
        ("[daemon]\nstate_dir = ''", 9, "daemon.state_dir", "found an empty one", ""),
        ("[daemon]\nlog_format = 'jsn'", 9, "daemon.log_format", "found 'jsn'", '"json"'),
        ("[daemon]\nstate_dir = '${NO_SUCH}'", 9, "daemon.state_dir", "variable 'NO_SUCH' is not set", "$${"),
        ("[http]\nlisten = '8700'", 9, "http.listen", "expected HOST:PORT, found '8700'", "127.0.0.1:8700"),
        ("[http]\nlisten = '0.0.0.0:80'", 9, "http.listen", "not the loopback: a token is required", "token"),
        ("[[sinks]]\nname = 'bus'", 8, "sinks[0]", 'the key "kind" of a sink', ""),
        ("[[rules]]\nname = 'r'", 8, "rules[0]", "[[rules]] are not in this version yet", ""),
    ],
)
def test_a_mistake_at_the_top_is_named(text: str, line: int, key: str, message: str, hint: str) -> None:
    problem = only_problem(SOURCE + DESTINATION + text)
    assert (problem.line, problem.key) == (line, key)
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("table", "line", "key", "message", "hint"),
    [
        ("name = 'a'\nkind = 'mlruns'\npth = '/x'", 4, "pth", "unknown key of a source of kind", '"path"'),
        ("name = 'a'\nkind = 'mlruns'", 1, "", 'the key "path"', "is missing"),
        ("kind = 'mlruns'\npath = '/x'", 1, "", 'the key "name"', "is missing"),
        ("name = 'a'\npath = '/x'", 1, "", 'the key "kind"', "is missing"),
        ("name = 'a'\npath = '/x'\nkin = 'mlruns'", 4, "kin", "unknown key", '"kind"'),
        ("name = 'a b'\nkind = 'mlruns'\npath = '/x'", 2, "name", "expected a name of letters", "'a b'"),
        ("name = 'a'\nkind = 'mlrun'", 3, "kind", "unknown kind of source 'mlrun'", '"mlruns"'),
        ("name = 'a'\nkind = 'kafka'", 3, "kind", "expected mlruns or mlflow-db", ""),
        ("name = 'a'\nkind = 'databricks'\nhost = 'h'", 3, "kind", "'databricks' are not in this version", "mlflow-db"),
        ("name = 'a'\nkind = 'databricks'", 3, "kind", "not in this version yet", ""),
        ("name = 'a'\nkind = 'mlruns'\npaths = []", 4, "paths", "at least one text", ""),
        ("name = 'a'\nkind = 'mlruns'\npaths = ['/x',\n 3]", 5, "paths[1]", "a text, found a number", ""),
        ("name = 'a'\nkind = 'mlruns'\npaths = ['/x']\npath = '/y'", 5, "path", "found both", ""),
        ("name = 'a'\nkind = 'mlflow-db'\nuri = 'postgresql://me:pw@h/d'", 4, "uri", "expected sqlite:///PATH", ""),
        ("name = 'a'\nkind = 'mlflow-db'\nuri = 'sqlite:///x'\npath = '/x'", 5, "path", "unknown key", ""),
        ("name = 'a'\nkind = 'mlruns'\npath = '/x'\nwatch = 'yes'", 5, "watch", "true or false, found a text", ""),
        ("name = 'a'\nkind = 'mlruns'\npath = '/x'\non_delete = 'del'", 5, "on_delete", '"keep" or "delete"', "delete"),
        ("name = 'a'\nkind = 'mlruns'\npath = '/x'\npoll_interval_s = -1", 5, "poll_interval_s", "positive", ""),
    ],
)
def test_a_mistake_in_a_source_is_named(table: str, line: int, key: str, message: str, hint: str) -> None:
    problem = only_problem(f"[[sources]]\n{table}\n{DESTINATION}")
    assert (problem.line, problem.key) == (line, f"sources[0].{key}" if key else "sources[0]")
    assert message in problem.message
    assert hint in problem.message + problem.hint
    assert "pw" not in problem.describe(FILE)


@pytest.mark.parametrize(
    ("table", "line", "key", "message"),
    [
        ("uri = 'https://h'", 5, "", 'the key "name" of a destination is missing'),
        ("name = 'w'", 5, "", 'the key "uri" of a destination is missing'),
        ("name = 'w'\nuri = 'azureml://h/x'", 7, "uri", "expected /subscriptions/…/resourceGroups/"),
        ("name = 'w'\nuri = 'databricks'", 7, "uri", "databricks destinations are not in this version yet"),
        ("name = 'w'\nuri = 'file:///mlruns'", 7, "uri", "expected the URI of a tracking server"),
        ("name = 'w'\nuri = 'https://h:port'", 7, "uri", "expected the URI of a tracking server"),
        ("name = 'w'\nuri = 'https://h?a=b'", 7, "uri", "without ? and #"),
        ("name = 'w'\nuri = 'https://h'\nconcurrency = 3", 8, "concurrency", "unknown key of a destination"),
        ("name = 'w'\nuri = 'https://h'\nmax_concurrency = 0", 8, "max_concurrency", "at least 1, found 0"),
        ("name = 'w'\nuri = 'https://h'\nmax_concurrency = true", 8, "max_concurrency", "whole number, found true"),
        ("name = 'w'\nuri = 'https://h'\nusername = 'u'", 8, "username", "a username without a password"),
        ("name = 'w'\nuri = 'https://h'\npassword = 'p'", 8, "password", "a password without a username"),
        ("name = 'w'\nuri = 'https://u:p@h'\ntoken = 't'", 8, "token", "either a token or a username"),
        ("name = 'w'\nuri = 'https://h'\ntoken = { env = 'NO' }", 8, "token", "'NO' is not set or empty"),
        ("name = 'w'\nuri = 'https://h'\ntoken = { file = '/no/such' }", 8, "token", "/no/such: No such file"),
        ("name = 'w'\nuri = 'https://h'\ntoken = { environment = 'T' }", 8, "token", "expected a secret"),
        ("name = 'w'\nuri = 'https://h'\ntoken = 3", 8, "token", "expected a secret"),
        ("name = 'w'\nuri = 'https://h'\nca_file = '/no/such'", 8, "ca_file", "no such file: /no/such"),
        ("name = 'w'\nuri = 'https://h'\nduplicates = 'yes'", 8, "duplicates", '"auto" or "ignored" or "appended"'),
        ("name = 'w'\nuri = 'https://h'\nlimits = { batch_metric = 1 }", 8, "limits.batch_metric", "unknown key"),
        (
            "name = 'w'\nuri = 'https://h'\nlimits = { batch_tags = 'unlimited' }",
            8,
            "limits.batch_tags",
            "whole number",
        ),
        ("name = 'w'\nuri = 'https://h'\nfilters.tags = { a = 1 }", 8, "filters.tags.a", "expected a text"),
        ("name = 'w'\nuri = 'https://h'\nfilters.artifacts.only = []", 8, "filters.artifacts.only", "unknown key"),
    ],
)
def test_a_mistake_in_a_destination_is_named(table: str, line: int, key: str, message: str) -> None:
    problem = only_problem(f"{SOURCE}[[destinations]]\n{table}\n")
    assert (problem.line, problem.key) == (line, f"destinations[0].{key}" if key else "destinations[0]")
    assert message in problem.message


def test_names_are_unique_among_sources_and_among_destinations() -> None:
    problem = only_problem(SOURCE + DESTINATION + SOURCE)
    assert (problem.line, problem.key) == (9, "sources[1].name")
    assert problem.message == "the name 'local' is already used in line 2"
    assert only_problem(SOURCE + DESTINATION + DESTINATION).key == "destinations[1].name"


def test_a_source_and_a_destination_are_needed() -> None:
    assert [problem.message for problem in problems("")] == ["there is no [[sources]]", "there is no [[destinations]]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"sources = 3\n{DESTINATION}", "expected tables written [[sources]], found a number"),
        (f"sources = []\n{DESTINATION}", "there is no [[sources]]"),
        (f"sources = [3]\n{DESTINATION}", "expected a table, found a number"),
        (f"[sources]\nname = 'x'\n{DESTINATION}", "expected tables written [[sources]], found a table"),
        (f"daemon = 3\n{SOURCE}{DESTINATION}", "expected a table, found a number"),
        (f"daemon = 1979-05-27\n{SOURCE}{DESTINATION}", "expected a table, found a date or time"),
    ],
)
def test_what_is_no_table_is_named(text: str, message: str) -> None:
    assert only_problem(text).message == message


def test_all_mistakes_are_reported_together_in_the_files_order() -> None:
    text = "[[destinations]]\nname = 'w'\nuri = 3\n[daemon]\nflush = 1\n[[sources]]\nkind = 'databricks'\n[sink]\n"
    with pytest.raises(InvalidConfiguration) as caught:
        read(text)
    assert str(caught.value).splitlines() == [
        f"{FILE}:3: destinations[0].uri: expected a text, found a number",
        f'{FILE}:5: daemon.flush: unknown key of [daemon] (did you mean "flush_interval_s"?)',
        f"{FILE}:7: sources[0].kind: sources of kind 'databricks' are not in this version yet "
        "(supported now: mlruns, mlflow-db, service-bus, mqtt, webhook)",
        f'{FILE}:8: sink: unknown key of the file (did you mean "sinks"?)',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [("[daemon]\nstate_dir = /var", 2), ("[daemon\n", 1), ("a = 1\na = 2", 2), ('a = "x', 1), ("\n\na =", 3)],
)
def test_a_syntax_error_is_named_with_its_line(text: str, line: int) -> None:
    problem = only_problem(text)
    assert problem.line == line
    assert "not TOML" in problem.message
    assert "at line" not in problem.message


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    with pytest.raises(ConfigError, match=r"No such file"):
        load(file)
    file.write_bytes(b"[daemon]\nstate_dir = '\xff'\n")
    with pytest.raises(InvalidConfiguration, match=r"syncd.toml:2: not UTF-8"):
        load(file)
    file.write_bytes(b"\xef\xbb\xbf" + (SOURCE + DESTINATION).encode())
    assert load(file, environment={}).file == file


# ---------------------------------------------------------------- finding


def test_the_file_is_found_in_the_contracts_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    option, variable, here = tmp_path / "option.toml", tmp_path / "variable.toml", tmp_path / "syncd.toml"
    for file in (option, variable, here):
        file.touch()
    environment = {"SYNCD_CONFIG": str(variable)}
    assert find_file(str(option), environment=environment) == option
    assert find_file(environment=environment) == variable
    assert find_file(environment={}) == Path("syncd.toml")
    variable.unlink()
    with pytest.raises(ConfigError, match=r"\$SYNCD_CONFIG .*variable.toml: there is no such file"):
        find_file(environment=environment)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("syncd.configuration.loading.DEFAULT_FILES", (Path("syncd.toml"),))
    with pytest.raises(ConfigError, match=r"\$SYNCD_CONFIG"):
        find_file(environment={})


# ---------------------------------------------------------------- the command line


def test_sources_of_the_command_line(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    assert source_of_argument(str(tmp_path), name="a") == MlrunsSettings(name="a", paths=(tmp_path,))
    expected = MlflowDbSettings(name="a", uri=f"sqlite:///{database}", path=database, experiments=("x",))
    assert source_of_argument(str(database), name="a", experiments=["x"]) == expected
    assert source_of_argument(f"sqlite:///{database}", name="a", experiments=["x"]) == expected
    for wrong in (str(tmp_path / "no"), f"sqlite:///{tmp_path}", "postgresql://h/d"):
        with pytest.raises(ConfigError):
            source_of_argument(wrong, name="a")


def test_names_of_sources_of_the_command_line() -> None:
    assert names_of_arguments(["/a/mlruns", "/b/mlruns/", "sqlite:////c/my db.db", "/"]) == (
        "mlruns",
        "mlruns-2",
        "my-db.db",
        "store",
    )


def test_the_destination_of_the_command_line() -> None:
    settings = destination_of_argument("http://u:p@127.0.0.1:5000/", environment={})
    assert (settings.uri, settings.username) == ("http://127.0.0.1:5000", "u")
    plain = destination_of_argument("http://u:${HOME}@127.0.0.1", environment={}).password
    assert plain is not None
    assert plain.reveal() == "${HOME}"
    token = destination_of_argument("https://h", environment={"MLFLOW_TRACKING_TOKEN": "t"}).token
    assert token == Secret("t", origin="environment")
    with pytest.raises(ConfigError, match="databricks destinations are not in this version yet"):
        destination_of_argument("databricks", environment={})
    with pytest.raises(ConfigError) as caught:
        destination_of_argument("ftp://u:pw@h", environment={})
    assert "pw" not in str(caught.value)


# ---------------------------------------------------------------- lines


def places(content: object, place: Place = ()) -> list[Place]:
    found = [place] if place else []
    if isinstance(content, dict):
        for key, value in content.items():
            found += places(value, (*place, key))
    if isinstance(content, list):
        for index, value in enumerate(content):
            found += places(value, (*place, index))
    return found


AWKWARD = (
    """\
top = "a # no comment" # a comment with [brackets] and "quotes
"quoted.key" = 'it"""
    + """'
a.b . "c d" = 1979-05-27 07:32:00
[ table . 'x=y' ]  # header
multi = \"\"\"
[no.header]
no = \\\\"key\\\\"
\\"\"\" still \"\"\"\"
literal = '''
k = [ '''
list = [ # open
  { a = 1, b.c = "}" }, [ 2,
    3 ],
]
[[array]]
[[array.inner]]
z = {}
[array.inner.deep]
y = 1
[[array]]
[[array.inner]]
z = 1
"""
)


def test_awkward_toml_is_located() -> None:
    content = tomllib.loads(AWKWARD)
    lines = KeyLines(AWKWARD)
    text = AWKWARD.split("\n")
    assert all(place in lines._lines for place in places(content))
    for place, key in {
        ("top",): "top",
        ("quoted.key",): '"quoted.key"',
        ("a", "b", "c d"): "a.b",
        ("table", "x=y", "literal"): "literal",
        ("table", "x=y", "list", 0, "b", "c"): "  { a",
        ("table", "x=y", "list", 1, 1): "    3",
        ("array", 0, "inner", 0, "deep", "y"): "y = 1",
        ("array", 1, "inner", 0, "z"): "z = 1",
    }.items():
        assert text[lines.line_of(place) - 1].startswith(key)
    assert lines.line_of(("array", 1, "nothing")) == text.index("[[array]]", text.index("y = 1")) + 1


SCALARS = st.sampled_from(
    ['"a"', "'#'", "1", "-1.5e3", "true", "inf", "1979-05-27", '"\\"]"', '"""\n]\n"""', "'''\n'''"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + " ,\n".join(items) + " # ]\n]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{ " + ", ".join(f"k{number} = {item}" for number, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=6,
)
BODIES = st.lists(VALUES, max_size=4)


@given(st.lists(st.tuples(st.booleans(), BODIES), max_size=5))
def test_every_key_of_any_document_is_located_in_its_line(tables: list[tuple[bool, list[str]]]) -> None:
    text = ""
    for table, (array, values) in enumerate(tables):
        text += "[[array]]\n" if array else f"[table{table}]\n"
        for number, value in enumerate(values):
            text += f"  key{number}_{table} = {value} # {number}\n"
    lines = KeyLines(text)
    by_line = text.split("\n")
    for place in places(tomllib.loads(text)):
        assert place in lines._lines
        if isinstance(place[-1], str) and place[-1].startswith("key"):
            assert by_line[lines.line_of(place) - 1].startswith(f"  {place[-1]} =")


# ---------------------------------------------------------------- for who asks about the journal


def test_a_mistyped_table_is_refused_though_only_the_daemons_is_read(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(f'[daemon]\nstate_dir = "s"\n{SOURCE}{DESTINATION}token = {{ env = "NOT_SET" }}\n')
    assert load_daemon(file, environment={}).state_dir == tmp_path / "s"
    file.write_text('[deamon]\nstate_dir = "s"\n')
    with pytest.raises(InvalidConfiguration) as caught:
        load_daemon(file, environment={})
    assert 'did you mean "daemon"?' in str(caught.value)


def test_a_short_file_that_is_no_database_is_not_called_empty(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    for content in (b"garbage", b"garbage" * 50):
        file.write_bytes(content)
        with pytest.raises(SourceError, match="not an SQLite database"):
            source_of_argument(str(file), name="a")
    for content in (b"", b"SQLite format 3\0"):
        file.write_bytes(content)
        assert isinstance(source_of_argument(str(file), name="a"), MlflowDbSettings)
