"""The command line: the contract's flags, errors as one line and a code, what validate and doctor say."""

import argparse
import asyncio
import base64
import importlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from syncd import __version__
from syncd.azure.sign_in import FixedToken
from syncd.cli import machine, main, report, validate
from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.configuration import (
    Configuration,
    DaemonSettings,
    DestinationSettings,
    MlflowDbSettings,
    MlrunsSettings,
    Secret,
    destination_of_argument,
)
from syncd.core.jwt import expiry_of
from syncd.errors import AuthFailed, ConfigError, JournalError, OutcomeUnknown, Rejected, SyncdError, Transient

SCOPE = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/g"
    "/providers/Microsoft.MachineLearningServices/workspaces/ws"
)


def parsed(line: str) -> argparse.Namespace:
    return main.build_parser().parse_args(line.split())


# ---------------------------------------------------------------- arguments


def test_the_contracts_commands_are_there_with_their_flags() -> None:
    sync = parsed("sync a b --to http://h --state-dir s --dry-run --experiment x y --experiment z --json")
    assert (sync.command, sync.sources, sync.to, sync.state_dir) == ("sync", ["a", "b"], "http://h", "s")
    assert (sync.dry_run, sync.experiment, sync.json) == (True, ["x", "y", "z"], True)
    verify = parsed("verify a --against http://h --json")
    assert (verify.command, verify.sources, verify.against, verify.json) == ("verify", ["a"], "http://h", True)
    assert parsed("run --config f").config == "f"
    assert parsed("status --json").json
    assert parsed("runs --json").json
    check = parsed("workspace check azureml://h --write --config f --json")
    assert (check.action, check.workspace, check.write, check.config, check.json) == (
        "check",
        "azureml://h",
        True,
        "f",
        True,
    )
    show = parsed("workspace show --subscription s --resource-group g --workspace-name w")
    assert (show.workspace, show.subscription, show.resource_group, show.workspace_name) == (None, "s", "g", "w")
    assert parsed("explain 1234 --json").run == "1234"
    assert parsed("dlq list").action == "list"
    assert parsed("dlq show 3").ids == [3]
    assert parsed("dlq retry 3 4").ids == [3, 4]
    assert parsed("dlq drop --all").all
    assert parsed("validate --no-connect --config f").no_connect
    assert parsed("doctor --json").json
    assert parsed("demo").command == "demo"


def test_debug_may_stand_before_and_after_the_command() -> None:
    assert not parsed("demo").debug
    assert parsed("--debug demo").debug
    assert parsed("demo --debug").debug
    assert parsed("dlq list --debug").debug


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no-such",
        "sync a",
        "sync --to http://h",
        "verify a",
        "dlq",
        "dlq retry",
        "dlq retry 1 --all",
        "sync a --t u",
    ],
)
def test_wrong_usage_ends_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(line.split())
    assert caught.value.code == ExitCode.USAGE
    assert "usage: syncd" in capsys.readouterr().err


def test_help_is_fast_because_it_imports_little() -> None:
    script = "import sys, syncd.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert {"aiohttp", "asyncio", "yaml", "sqlite3", "structlog", "mlflow", "tomllib"}.isdisjoint(modules)


def test_structlog_does_not_load_rich_which_is_there_for_progress_bars_all_the_same() -> None:
    script = (
        "import sys; from syncd.cli.main import main; code = main(['run', '--config', '/nowhere.toml'])\n"
        "print(code, {'structlog', 'rich'} & set(sys.modules)); import rich.progress"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ExitCode.CONFIGURATION.value} {{'structlog'}}\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out == f"syncd {__version__}\n"


# ---------------------------------------------------------------- errors and exit codes


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | int], None]:
    """Put a command in the place of ``demo`` that raises or returns what it is told to."""

    def install(outcome: BaseException | int) -> None:
        module = ModuleType("syncd.cli.demo")

        def execute(arguments: argparse.Namespace) -> int:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module.execute = execute  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "syncd.cli.demo", module)

    return install


def test_the_codes_are_the_contracts() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "DEAD_LETTERS": 3,
        "DIFFERENCES": 4,
        "UNREACHABLE": 75,
        "CONFIGURATION": 78,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 78),
        (Transient("x"), 75),
        (OutcomeUnknown("x"), 75),
        (AuthFailed("x"), 75),
        (Rejected("x"), 1),
        (JournalError("x"), 1),
        (SyncdError("x"), 1),
    ],
)
def test_an_error_is_one_line_and_its_code(
    error: SyncdError, code: int, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(error)
    assert exit_code_of(error) == code
    assert main.main(["demo"]) == code
    assert capsys.readouterr().err == "syncd demo: x\n"


def test_an_error_is_an_object_where_json_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main.main(["sync", str(tmp_path / "none"), "--to", "http://127.0.0.1:9", "--json"])
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert code == told["error"]["exit_code"] == ExitCode.CONFIGURATION
    assert told["command"] == "sync"
    assert str(tmp_path / "none") in told["error"]["message"] + told["error"]["target"]
    assert told["error"]["message"] in printed.err


def test_asking_about_the_journal_needs_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    file = tmp_path / "syncd.toml"
    file.write_text(
        f'[daemon]\nstate_dir = "{tmp_path / "state"}"\n[[sources]]\nname = "a"\nkind = "mlruns"\npath = "a"\n'
        '[[destinations]]\nname = "b"\nuri = "http://127.0.0.1:9"\ntoken = { env = "NOT_SET_HERE" }\n'
    )
    assert main.main(["status", "--config", str(file)]) == 0
    assert f"syncd does not run on {tmp_path / 'state'}" in capsys.readouterr().out
    file.write_text("[daemon]\nstate_dri = 1\n")
    assert main.main(["status", "--config", str(file)]) == ExitCode.CONFIGURATION
    assert "state_dri" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    command(ConfigError("x"))
    assert main.main(["demo", "--debug"]) == ExitCode.CONFIGURATION
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_syncd_keeps_its_traceback(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    command(ZeroDivisionError("oops"))
    assert main.main(["demo"]) == ExitCode.UNEXPECTED
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_other_ends(command: Callable[..., None]) -> None:
    command(KeyboardInterrupt())
    assert main.main(["demo"]) == ExitCode.INTERRUPTED
    command(3)
    assert main.main(["demo"]) == ExitCode.DEAD_LETTERS


@pytest.mark.parametrize("lines", [1, 99_999])
def test_a_reader_that_goes_away_is_no_fault(lines: int) -> None:
    script = (
        "import sys, types; from syncd.cli import main; d = types.ModuleType('d'); sys.modules['syncd.cli.demo'] = d\n"
    )
    script += f"d.execute = lambda a: sys.stdin.read() or [print('line') for _ in range({lines})] and 0\n"
    script += "sys.exit(main.main(['demo']))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, stderr=-1, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    with process.stderr as messages:
        assert messages.read() == b""
    assert process.wait() == ExitCode.UNEXPECTED


# ---------------------------------------------------------------- printing


def test_json_is_one_object_with_its_schema() -> None:
    out = io.StringIO()
    content = {
        "path": Path("/x"),
        "secret": Secret("hidden", origin="file"),
        "check": validate.Check("source", "n", True, "d"),
    }
    report.print_json("thing", content, out=out)
    read = json.loads(out.getvalue())
    assert list(read)[:2] == ["schema", "command"]
    assert (read["schema"], read["command"], read["path"]) == (1, "thing", "/x")
    assert "hidden" not in out.getvalue()
    assert read["check"]["detail"] == "d"
    assert out.getvalue().count("\n") == 1
    with pytest.raises(ValueError):
        report.print_json("thing", {"rate": math.nan}, out=out)


def test_a_table_is_aligned() -> None:
    out = io.StringIO()
    report.print_table(["name", "points"], [["a", 5], ["long\nname", 1234], [None, True]], out=out)
    assert out.getvalue() == "name       points\na               5\nlong name    1234\n-          True\n"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2 * 1024**3, "2.0 GiB"), (2**60, "1024.0 PiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert report.size_text(size) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.24, "0.2 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (187200, "2 d 4 h")],
)
def test_durations_for_people(duration_s: float, text: str) -> None:
    assert report.duration_text(duration_s) == text


# ---------------------------------------------------------------- validate


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0 and more")
    return Configuration(
        daemon=DaemonSettings(state_dir=tmp_path / "state" / "of" / "syncd"),
        sources=(
            MlrunsSettings(name="files", paths=(tmp_path / "mlruns",)),
            MlflowDbSettings(name="db", uri="", path=tmp_path / "mlflow.db"),
        ),
        destinations=(DestinationSettings(name="team", uri="https://h"),),
    )


async def answers(settings: DestinationSettings) -> str:
    return "MLflow 3.15.0"


def test_validate_tries_everything_and_leaves_nothing_behind(configuration: Configuration, tmp_path: Path) -> None:
    checks = asyncio.run(validate.connect(configuration, probe=answers))
    assert [(check.part, check.ok) for check in checks] == [
        ("state_dir", True),
        ("source", True),
        ("source", True),
        ("destination", True),
    ]
    assert checks[-1].detail == "https://h: MLflow 3.15.0"
    assert validate.worst_code(checks) == ExitCode.DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlruns"]


@pytest.mark.parametrize(("error", "code"), [(Transient("no route"), 75), (AuthFailed("403"), 75), (Rejected("no"), 1)])
async def test_a_destination_out_of_reach_is_said(configuration: Configuration, error: SyncdError, code: int) -> None:
    async def fails(settings: DestinationSettings) -> str:
        raise error

    checks = await validate.connect(configuration, probe=fails)
    assert (checks[-1].ok, checks[-1].detail) == (False, error.message)
    assert validate.worst_code(checks) == code


async def test_local_faults_are_said_and_come_first(configuration: Configuration, tmp_path: Path) -> None:
    async def fails(settings: DestinationSettings) -> str:
        raise Transient("no route")

    (tmp_path / "mlruns").rmdir()
    (tmp_path / "mlruns").write_text("a file, not a directory")
    (tmp_path / "mlflow.db").write_text("not a database")
    (tmp_path / "state").write_text("a file, not a directory")
    checks = await validate.connect(configuration, probe=fails)
    assert [check.ok for check in checks] == [False, False, False, False]
    assert "cannot be written" in checks[0].detail
    assert f"{tmp_path / 'mlruns'}: Not a directory" in checks[1].detail
    assert "not an SQLite database" in checks[2].detail
    assert validate.worst_code(checks) == ExitCode.CONFIGURATION


@pytest.mark.parametrize("parent", [".", "no/such"])
def test_a_source_that_is_not_there_yet_is_a_warning(tmp_path: Path, parent: str) -> None:
    folder = tmp_path / parent
    for source in (
        MlrunsSettings(name="files", paths=(tmp_path, folder / "mlruns")),
        MlflowDbSettings(name="db", uri="", path=folder / "mlflow.db"),
    ):
        check = validate.check_source(source)
        assert (check.ok, check.warning) == (True, True)
        assert "not there yet" in check.detail
        assert validate.worst_code([check]) == ExitCode.DONE


def test_an_empty_database_is_one_that_is_being_made(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    check = validate.check_source(MlflowDbSettings(name="db", uri="", path=tmp_path / "mlflow.db"))
    assert (check.ok, check.detail) == (True, f"{tmp_path / 'mlflow.db'}: empty yet")


def test_validate_prints_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(
        '[[sources]]\nname = "a"\nkind = "mlruns"\npath = "x"\n[[destinations]]\nname = "b"\nuri = "http://h"\n'
    )
    assert main.main(["validate", "--no-connect", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: valid, sources: 1, destinations: 1, sinks: 0\n"
    assert main.main(["validate", "--no-connect", "--json", "--config", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True

    file.write_text("[daemon]\nstate = 1\n")
    assert main.main(["validate", "--config", str(file)]) == ExitCode.CONFIGURATION
    assert f"{file}:2: daemon.state: unknown key" in capsys.readouterr().err
    assert main.main(["validate", "--json", "--config", str(file)]) == ExitCode.CONFIGURATION
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["ok"]) == (False, False)
    assert {"line": 2, "key": "daemon.state"}.items() <= found["problems"][-1].items()


# ---------------------------------------------------------------- doctor

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /mnt/my\\040share rw - nfs4 server:/export rw
31 22 0:27 / /mnt/hidden rw - ext4 /dev/sdb rw
32 22 0:28 / /mnt/hidden rw - tmpfs tmpfs rw
broken line
"""


def test_the_kind_of_a_file_system_is_that_of_its_deepest_and_latest_mount() -> None:
    assert machine.file_system_kind(Path("/no/such"), MOUNTS) == "ext4"
    assert machine.file_system_kind(Path("/no/such"), "") == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "nearest_existing", lambda path: path)
        assert machine.file_system_kind(Path("/mnt/my share/a"), MOUNTS) == "nfs4"
        assert machine.file_system_kind(Path("/mnt/my shared/a"), MOUNTS) == "ext4"
        assert machine.file_system_kind(Path("/mnt/hidden/a"), MOUNTS) == "tmpfs"


def test_file_systems_are_judged(tmp_path: Path) -> None:
    assert [machine.state_file_system(tmp_path, kind).state for kind in ("ext4", "nfs4", "tmpfs", "overlay", "")] == [
        "ok",
        "problem",
        "warning",
        "warning",
        "unknown",
    ]
    assert "WAL" in machine.state_file_system(tmp_path, "nfs").advice
    assert machine.source_file_system("a", tmp_path, "nfs").state == "warning"
    assert machine.source_file_system("a", tmp_path, "xfs").state == "ok"
    assert machine.source_file_system("a", tmp_path / "no", "xfs").state == "warning"


def test_limits_are_judged() -> None:
    assert machine.inotify_limit("max_user_watches", "8191\n", 8192).state == "warning"
    assert machine.inotify_limit("max_user_watches", "8192\n", 8192).state == "ok"
    assert machine.inotify_limit("max_user_watches", "", 8192).state == "unknown"
    assert [machine.open_file_limit(soft).state for soft in (256, 1024, -1)] == ["warning", "ok", "ok"]
    assert machine.free_space(10, journal_max_bytes=11).state == "warning"
    assert machine.free_space(11, journal_max_bytes=11).state == "ok"


def test_clocks_are_judged() -> None:
    assert [machine.clock_step(step_s).state for step_s in (0.01, -0.06)] == ["ok", "warning"]
    date, at_s = "Mon, 23 Nov 2026 20:00:00 GMT", 1795464000.5
    assert machine.judge_skew("c", date, at_s).state == "ok"
    behind = machine.judge_skew("c", date, at_s - 60)
    assert (behind.state, behind.value) == ("warning", "this machine is 60.0 s behind")
    assert "ahead" in machine.judge_skew("c", date, at_s + 60).value
    assert machine.judge_skew("c", "", at_s).state == "unknown"


def test_a_token_that_ran_out_is_a_problem_and_is_not_shown() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 1000}).encode()).decode().rstrip("=")
    token = Secret(f"head.{claims}.signature", origin="file")
    settings = DestinationSettings(name="team", uri="https://h", token=token)
    assert machine.credentials(settings, now_s=1060, answer="MLflow").state == "problem"
    assert machine.credentials(settings, now_s=1060, answer="MLflow").value == "token from file, ran out 1 min ago"
    good = machine.credentials(settings, now_s=940, answer="MLflow")
    assert good.value.startswith("token from file, good for 1 min, accepted")
    assert expiry_of("dapi0123") is None
    assert expiry_of("a.b.c") is None
    workspace = destination_of_argument(f"azureml://h{SCOPE}", environment={}).workspace
    assert workspace is not None
    into_azure = DestinationSettings(name="w", uri="x", workspace=replace(workspace, sign_in=FixedToken(token)))
    assert machine.credentials(into_azure, now_s=1060, answer="").value == "the fixed token, ran out 1 min ago"
    bare = DestinationSettings(name="team", uri="https://h")
    assert machine.credentials(bare, now_s=0, answer="MLflow").value.startswith("none, accepted")


def test_credentials_are_ok_only_if_they_were_tried() -> None:
    settings = DestinationSettings(name="team", uri="https://h", username="me", password=Secret("x", origin="file"))
    refused = machine.credentials(settings, now_s=0, answer=AuthFailed("401: no", hint="check them"))
    assert (refused.state, refused.value, refused.advice) == ("problem", "user me, refused: 401: no", "check them")
    untried = machine.credentials(settings, now_s=0, answer=Transient("no route"))
    assert (untried.state, untried.value) == ("unknown", "user me, not tried: the destination could not be asked")
    assert machine.judge_answer(settings, Transient("no route")).state == "problem"
    assert machine.judge_answer(settings, AuthFailed("401: no")).state == "ok"
    assert machine.judge_answer(settings, "MLflow 3.15.0").value == "https://h answers: MLflow 3.15.0"


@pytest.mark.parametrize(("state", "code"), [("problem", 1), ("warning", 0), ("unknown", 0)])
def test_doctor_ends_with_1_when_it_found_a_problem(
    state: machine.State, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor = importlib.import_module("syncd.cli.doctor")
    monkeypatch.setattr(doctor, "examine", lambda configuration: [machine.Finding("clock", state, "off")])
    monkeypatch.setattr("syncd.configuration.loading.DEFAULT_FILES", ())
    monkeypatch.delenv("SYNCD_CONFIG", raising=False)
    assert main.main(["doctor"]) == code
    assert ("1 problem found" in capsys.readouterr().out) == bool(code)


def test_doctor_needs_no_configuration_and_reports_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor = importlib.import_module("syncd.cli.doctor")
    seen: list[Configuration] = []

    def examine(configuration: Configuration) -> list[machine.Finding]:
        seen.append(configuration)
        return [machine.Finding("clock", "warning", "off", "set it")]

    monkeypatch.setattr(doctor, "examine", examine)
    monkeypatch.setattr("syncd.configuration.loading.DEFAULT_FILES", ())
    monkeypatch.delenv("SYNCD_CONFIG", raising=False)
    assert main.main(["doctor"]) == 0
    assert "WARNING  clock: off\n         → set it\n" in capsys.readouterr().out
    assert seen[0].sources == ()

    file = tmp_path / "syncd.toml"
    file.write_text("[daemon]\nstate = 1\n")
    assert main.main(["doctor", "--json", "--config", str(file)]) == ExitCode.CONFIGURATION
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert f"{file}:2" in found["findings"][0]["advice"]


def test_the_machine_is_examined_without_a_change(configuration: Configuration, tmp_path: Path) -> None:
    local = Configuration(daemon=configuration.daemon, sources=configuration.sources, destinations=())
    before = sorted(tmp_path.rglob("*"))
    names = [finding.name for finding in machine.examine(local)]
    assert {"file system of state_dir", "file system of source db", "free space", "clock", "version of sqlite"} <= {
        *names
    }
    assert sorted(tmp_path.rglob("*")) == before


def test_problems_that_are_alike_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    gone = [
        (f"run {number:032x}: artifacts", f"the artifacts are said to be at /home/a/{number}/artifacts, which is gone")
        for number in range(57)
    ]
    report.print_problems([*gone, ("/s/traces", "4 traces stay where they are"), ("/t/traces", "1 traces stay here")])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "could not be read, 57 alike (--json lists each), for example:",
        *(f"  {where}: {what}" for where, what in gone[:2]),
        "could not be read: /s/traces: 4 traces stay where they are",
        "could not be read: /t/traces: 1 traces stay here",
    ]
