"""``syncd validate``: check the configuration, then reach every source, destination and sink."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.cli.machine import nearest_existing
from syncd.cli.probing import probe_destination, probe_message_source, probe_sink
from syncd.cli.report import print_json
from syncd.configuration import (
    Configuration,
    DestinationSettings,
    InvalidConfiguration,
    MlflowDbSettings,
    RelaySettings,
    SourceSettings,
    find_file,
    load,
)
from syncd.core.sqlite_header import MAGIC
from syncd.errors import ConfigError, SyncdError

BROKER_TIMEOUT_S = 45.0
Probe = Callable[[DestinationSettings | RelaySettings], Awaitable[str]]
Part = Literal["state_dir", "source", "destination", "sink"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: what it is, whether it may be used, in plain words how it is, the code if not.

    ``warning``: it may be used, and is not as one would expect.
    """

    part: Part
    name: str
    ok: bool
    detail: str
    code: ExitCode = ExitCode.DONE
    warning: bool = False


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        configuration = load(find_file(arguments.config))
    except InvalidConfiguration as error:
        if not arguments.json:
            raise
        print_json("validate", _wrong_as_json(error))
        return ExitCode.CONFIGURATION
    checks: list[Check] = []
    if not arguments.no_connect:
        checks = asyncio.run(connect(configuration, probe=probe_destination))
    if arguments.json:
        print_json("validate", _as_json(configuration, checks))
    else:
        _print_lines(configuration, checks)
    return worst_code(checks)


async def connect(configuration: Configuration, *, probe: Probe) -> list[Check]:
    """Try the state directory, every source and sink, and with ``probe`` every destination (most at the same time)."""
    here = [check_state_dir(configuration.daemon.state_dir), *map(check_source, configuration.sources)]
    there = await asyncio.gather(
        *(_check_in_time("source", one.name, probe_message_source(one)) for one in configuration.message_sources),
        *(_check_destination(settings, probe) for settings in configuration.destinations),
        *(_check_in_time("sink", one.name, probe_sink(one)) for one in configuration.sinks),
    )
    return [*here, *there]


def worst_code(checks: Sequence[Check]) -> ExitCode:
    """Return what to exit with: a local fault (78) comes before a destination out of reach (75)."""
    codes = {check.code for check in checks if not check.ok}
    for code in (ExitCode.CONFIGURATION, ExitCode.UNREACHABLE, ExitCode.UNEXPECTED):
        if code in codes:
            return code
    return ExitCode.DONE


def check_state_dir(state_dir: Path) -> Check:
    """Say whether the journal can be written; makes no directory and leaves no file."""
    existing = nearest_existing(state_dir)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return _local_fault("state_dir", str(state_dir), f"{existing} cannot be written: {error.strerror}")
    note = "writable" if existing == state_dir else f"not there yet, can be made in {existing}"
    return Check("state_dir", str(state_dir), ok=True, detail=note)


def check_source(source: SourceSettings) -> Check:
    """Say whether the store may be read; opens no database, takes no lock.

    A store that is not there yet is a warning: ``syncd run`` looks for it again until it is (``runtime/intake.py``).
    """
    is_database = isinstance(source, MlflowDbSettings)
    paths = (source.path,) if isinstance(source, MlflowDbSettings) else source.paths
    details, warning = [], False
    for path in paths:
        try:
            details.append(_look_at_database(path) if is_database else _look_at_directory(path))
        except FileNotFoundError:
            warning = True
            details.append(f"{path}: not there yet; `syncd run` waits for it (check the path)")
        except OSError as error:
            return _local_fault("source", source.name, f"{error.filename}: {error.strerror}")
        except ConfigError as error:
            return _local_fault("source", source.name, error.message)
    return Check("source", source.name, ok=True, detail=", ".join(details), warning=warning)


async def _check_in_time(part: Part, name: str, probing: Awaitable[str]) -> Check:
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            detail = await probing
    except TimeoutError:
        text = f"no answer for {BROKER_TIMEOUT_S:.0f} s"
        return Check(part, name, ok=False, detail=text, code=ExitCode.UNREACHABLE)
    except SyncdError as error:
        return Check(part, name, ok=False, detail=str(error), code=exit_code_of(error))
    return Check(part, name, ok=True, detail=detail)


async def _check_destination(settings: DestinationSettings | RelaySettings, probe: Probe) -> Check:
    try:
        detail = await probe(settings)
    except SyncdError as error:
        return Check("destination", settings.name, ok=False, detail=str(error), code=exit_code_of(error))
    return Check("destination", settings.name, ok=True, detail=f"{settings.uri}: {detail}")


def _look_at_directory(path: Path) -> str:
    count = sum(1 for _ in os.scandir(path))
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{path}: Permission denied")
    return f"{path}: {count} entries"


def _look_at_database(path: Path) -> str:
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if not magic:
        return f"{path}: empty yet"
    if magic != MAGIC:
        raise ConfigError(f"{path} is not an SQLite database")
    return f"{path}: SQLite database"


def _local_fault(part: Part, name: str, detail: str) -> Check:
    return Check(part, name, ok=False, detail=detail, code=ExitCode.CONFIGURATION)


def _as_json(configuration: Configuration, checks: Sequence[Check]) -> dict[str, object]:
    return {
        "file": configuration.file,
        "valid": True,
        "problems": [],
        "warnings": configuration.warnings,
        "connected": bool(checks),
        "checks": [
            {
                "part": check.part,
                "name": check.name,
                "ok": check.ok,
                "warning": check.warning,
                "detail": check.detail,
            }
            for check in checks
        ],
        "ok": all(check.ok for check in checks),
    }


def _wrong_as_json(error: InvalidConfiguration) -> dict[str, object]:
    return {
        "file": error.file,
        "valid": False,
        "problems": error.problems,
        "warnings": [],
        "connected": False,
        "checks": [],
        "ok": False,
    }


def _print_lines(configuration: Configuration, checks: Sequence[Check]) -> None:
    sources = len(configuration.sources) + len(configuration.message_sources)
    destinations = len(configuration.destinations)
    counts = f"sources: {sources}, destinations: {destinations}, sinks: {len(configuration.sinks)}"
    print(f"{configuration.file}: valid, {counts}")
    for warning in configuration.warnings:
        print(f"warning: {warning}")
    for check in checks:
        mark = "FAILED" if not check.ok else "warning" if check.warning else "ok"
        print(f"{mark}: {check.part} {check.name}: {check.detail}")
