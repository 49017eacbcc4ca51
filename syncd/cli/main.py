"""The command ``syncd``: parse the arguments, run one command, turn what it raises into one line and an exit code.

Rules
-----
1. Nothing heavy is imported here: a command's module is imported when the command is run, so ``--help`` is fast.
2. A command module is named like its command and has ``execute(arguments) -> int``.
3. A ``SyncdError`` ends as text on stderr (with a traceback only under ``--debug``) and, where JSON was asked for, as
   one object on stdout; anything else is a fault of syncd and keeps its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from syncd import __version__
from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.cli.report import error_mapping, print_json
from syncd.errors import SyncdError

_EPILOG = """exit codes: 0 done; 1 unexpected; 2 usage; 3 done but with dead letters; 4 verify found differences;
75 the destination stayed unreachable; 78 configuration"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``syncd`` with the arguments ``argv`` (``sys.argv`` if None) and return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        command = _imported(arguments.command)
        code = int(command.execute(arguments))
        sys.stdout.flush()
        return code
    except SyncdError as error:
        if arguments.debug:
            traceback.print_exc()
        text = str(error)
        print(f"syncd {arguments.command}:", text, sep="\n" if "\n" in text else " ", file=sys.stderr)
        code = exit_code_of(error)
        if getattr(arguments, "json", False):
            print_json(arguments.command, error_mapping(error, code))
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone (`syncd runs | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNEXPECTED
    except Exception:  # noqa: BLE001 - the process's boundary: a fault of syncd itself
        traceback.print_exc()
        print(f"syncd {arguments.command}: unexpected; please report the lines above", file=sys.stderr)
        return ExitCode.UNEXPECTED


def _imported(command: str) -> ModuleType:
    """Return the module of a command.

    structlog loads rich where it is there, 4 MiB for tracebacks that syncd prints plainly; so it is not there for it.
    A progress bar imports rich itself, later.
    """
    with _hidden("rich"):
        return importlib.import_module(f"syncd.cli.{command}")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let ``import name`` fail meanwhile, as a None in ``sys.modules`` does, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="syncd",
        description="Brings local MLflow stores to a tracking server: live, whole and once.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"syncd {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_working_commands(commands)
    _add_asking_commands(commands)
    _add_dlq(commands)
    _add_checking_commands(commands)
    _add_workspace(commands)
    return parser


_Commands = argparse._SubParsersAction  # its only name


def _add_working_commands(commands: _Commands[argparse.ArgumentParser]) -> None:
    run = _command(commands, "run", "run the daemon in the foreground")
    _add_config(run)

    sync = _command(commands, "sync", "bring everything in SOURCE to a tracking server, once, and exit")
    _add_sources(sync)
    sync.add_argument("--to", metavar="URI", required=True, help="the tracking server: http(s)://… or azureml://…")
    sync.add_argument("--state-dir", metavar="DIR", help="where the journal lives (default: one for SOURCE and URI)")
    sync.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="give up (exit code 75) when the server has not answered for so long (default: 60)",
    )
    sync.add_argument("--dry-run", action="store_true", help="say what would be sent, send nothing")
    sync.add_argument(
        "--experiment", metavar="NAME", nargs="+", action="extend", default=[], help="only experiments of that name"
    )
    _add_json(sync)

    verify = _command(commands, "verify", "compare SOURCE with a tracking server, print each difference")
    _add_sources(verify)
    verify.add_argument(
        "--against", metavar="URI", required=True, help="the tracking server: http(s)://… or azureml://…"
    )
    _add_json(verify)

    _command(commands, "demo", "the whole loop on this machine: a server, a training, the daemon")


def _add_asking_commands(commands: _Commands[argparse.ArgumentParser]) -> None:
    for name, text in (
        ("status", "is the daemon up, what is waiting, rates, the last error"),
        ("runs", "every known run with what is sent and waiting"),
        ("explain", "why a run is, or is not yet, on the destination"),
    ):
        command = _command(commands, name, text)
        if name == "explain":
            command.add_argument("run", metavar="RUN", help="a run's id on the source or the destination, or its start")
        _add_state(command)
        _add_json(command)

    events = _command(commands, "events", "what happened, as CloudEvents")
    events.add_argument("--follow", action="store_true", help="go on with what happens next, until interrupted")
    events.add_argument("--since", metavar="ID", help="only what came after the event of that id (--json shows ids)")
    events.add_argument(
        "--type", metavar="GLOB", nargs="+", action="extend", default=[], help='only these types, for example "run.*"'
    )
    _add_state(events)
    events.add_argument(
        "--json", action="store_true", help="print one JSON object (docs/json.md); with --follow one event a line"
    )


def _add_dlq(commands: _Commands[argparse.ArgumentParser]) -> None:
    dlq = _command(commands, "dlq", "what was refused, with the server's words")
    actions = dlq.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("list", "list all dead letters"),
        ("show", "show dead letters with what they carry"),
        ("retry", "try them again"),
        ("drop", "give them up"),
    ):
        action = _command(actions, name, text)
        if name == "show":
            action.add_argument("ids", metavar="ID", type=int, nargs="+", help="number of a dead letter")
        elif name != "list":
            which = action.add_mutually_exclusive_group(required=True)
            which.add_argument("ids", metavar="ID", type=int, nargs="*", default=[], help="number of a dead letter")
            which.add_argument("--all", action="store_true", help="all of them")
        _add_state(action)
        _add_json(action)


def _add_checking_commands(commands: _Commands[argparse.ArgumentParser]) -> None:
    validate = _command(commands, "validate", "check the configuration, then reach all that it names")
    _add_config(validate)
    validate.add_argument("--no-connect", action="store_true", help="check the file only")
    _add_json(validate)

    doctor = _command(commands, "doctor", "look at the machine: limits, file systems, clock, free space, versions")
    _add_config(doctor)
    _add_json(doctor)


def _add_workspace(commands: _Commands[argparse.ArgumentParser]) -> None:
    workspace = _command(
        commands, "workspace", "an Azure Machine Learning workspace: what it is, what you may do there"
    )
    actions = workspace.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("show", "where it is, its services and datastores"),
        ("check", "try what syncd does there, and name each permission that is missing"),
    ):
        action = _command(actions, name, text)
        action.add_argument(
            "workspace",
            metavar="WORKSPACE",
            nargs="?",
            help="an azureml:// URI, a resource id, a config.json of Azure, or a destination's name (default: the "
            "configuration's only workspace)",
        )
        action.add_argument("--subscription", metavar="ID", help="with --resource-group and --workspace-name")
        action.add_argument("--resource-group", metavar="NAME")
        action.add_argument("--workspace-name", metavar="NAME")
        _add_config(action)
        if name == "check":
            action.add_argument("--write", action="store_true", help="try writing: make a run and delete it")
        _add_json(action)


def _command(commands: _Commands[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return command


def _add_sources(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="a directory with a FileStore, a .db file, or sqlite:///PATH"
    )


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration (default: $SYNCD_CONFIG, ./syncd.toml, /etc/syncd/syncd.toml)",
    )


def _add_state(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    command.add_argument("--state-dir", metavar="DIR", help="the journal's directory (default: the configuration's)")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md)")


if __name__ == "__main__":
    sys.exit(main())
