"""``syncd sync``: everything in the given stores to a tracking server, once."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncd.cli.asking import counted
from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.cli.logs import set_up_logs
from syncd.cli.report import error_mapping, print_json, print_problems, printable, size_text
from syncd.cli.sync_progress import open_progress
from syncd.configuration import (
    DaemonSettings,
    DestinationSettings,
    MlflowDbSettings,
    SourceSettings,
    destination_of_argument,
    names_of_arguments,
    source_of_argument,
)
from syncd.errors import ConfigError, SourceError
from syncd.journal import bindings, participants
from syncd.journal.journal import Journal
from syncd.runtime.assembly import unnamed_databases
from syncd.runtime.dry_run import DryRun, look_only
from syncd.runtime.one_shot import Unread, sync_once
from syncd.runtime.pipeline import Pipeline

# Nothing is written while the stores are being read, so there is no reason to wait for more.
FLUSH_INTERVAL_S = 0.0


def execute(arguments: argparse.Namespace) -> int:
    """Sync once; see the module."""
    destination = destination_of_argument(arguments.to)
    sources, unread = _named_sources(arguments)
    set_up_logs("plain", "warning")
    if arguments.dry_run:
        return _dry_run(sources, unread, as_json=arguments.json)
    state_dir = Path(arguments.state_dir) if arguments.state_dir else default_state_dir(sources, destination)
    journal = Journal.open(state_dir.absolute())
    outcome, unread_later = asyncio.run(
        _sync(journal, sources, destination, state_dir, quiet=arguments.json, patience_s=arguments.patience)
    )
    unread += unread_later
    _report({**outcome, **_unread_mapping(unread)}, as_json=arguments.json)
    _print_unread(unread)
    if unread:
        return exit_code_of(unread[0].error)
    if outcome["faults"]:
        return ExitCode.UNEXPECTED
    return ExitCode.DEAD_LETTERS if outcome["dead_letters"] else ExitCode.DONE


def _named_sources(arguments: argparse.Namespace) -> tuple[list[SourceSettings], list[Unread]]:
    """Return the sources that SOURCE... name, and those that are none. Raises the first error if all are none."""
    sources: list[SourceSettings] = []
    unread: list[Unread] = []
    for argument, name in zip(arguments.sources, names_of_arguments(arguments.sources), strict=True):
        try:
            sources.append(source_of_argument(argument, name=name, experiments=arguments.experiment))
        except (ConfigError, SourceError) as error:
            unread.append(Unread(name, error))
    if not sources:
        raise unread[0].error
    return sources, unread


def default_state_dir(sources: list[SourceSettings], destination: DestinationSettings) -> Path:
    """Return where the journal of these sources and this destination lives: below $XDG_STATE_HOME/syncd."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    told = [*sorted(str(getattr(source, "paths", None) or source.path) for source in sources), destination.uri]  # type: ignore[union-attr]
    return Path(base) / "syncd" / hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]


async def _sync(
    journal: Journal,
    sources: list[SourceSettings],
    destination: DestinationSettings,
    state_dir: Path,
    *,
    quiet: bool,
    patience_s: float,
) -> tuple[dict[str, Any], list[Unread]]:
    begun_ms = time.time_ns() // 1_000_000
    pipeline = Pipeline(
        journal,
        daemon=DaemonSettings(state_dir=state_dir, flush_interval_s=FLUSH_INTERVAL_S),
        sources=sources,
        destinations=[destination],
    )
    before = pipeline.totals()
    try:
        with open_progress(quiet=quiet) as progress:
            unread = await sync_once(
                pipeline,
                patience_s=patience_s,
                watch=lambda reading: progress.show(lambda: pipeline.totals().since(before), reading),
            )
        totals = pipeline.totals()
        brought = totals.since(before)
        outcome = {
            **brought.as_mapping(),
            "runs_found": bindings.runs_found_since(journal, begun_ms),
            "runs_there": totals.runs,
            "problems": [
                {"source": source, "where": where, "what": what}
                for source, where, what in participants.problems(journal)
            ],
            "faults": [fault for uploader in pipeline.uploaders.values() for fault in uploader.faults.values()],
            "other_databases": _other_databases(sources, unread),
            "state_dir": str(state_dir),
        }
        return outcome, unread
    finally:
        await pipeline.close()


def _other_databases(sources: Sequence[SourceSettings], unread: Sequence[Unread]) -> list[str]:
    """Return the databases that were not read; the error of a directory that could not be read names its own."""
    failed = {one.source for one in unread}
    named_or_read = [one for one in sources if one.name not in failed or isinstance(one, MlflowDbSettings)]
    return unnamed_databases(named_or_read)


def _unread_mapping(unread: Sequence[Unread]) -> dict[str, Any]:
    told = [{"source": one.source, **error_mapping(one.error, exit_code_of(one.error))} for one in unread]
    return {"unread": told, **({"error": told[0]["error"]} if told else {})}


def _print_unread(unread: Sequence[Unread]) -> None:
    for one in unread:
        print(f"syncd sync: not read: {printable(str(one.error))}", file=sys.stderr)


def _report(outcome: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json("sync", outcome)
        return
    print_problems([(problem["where"], problem["what"]) for problem in outcome["problems"]])
    _print_other_databases(outcome["other_databases"])
    for fault in outcome["faults"]:
        print(f"kept in the journal for the next sync: {fault}", file=sys.stderr)
    print(_sent_line(outcome))
    if outcome["overflow"]:
        print(f"{outcome['overflow']} values are kept in syncd/overflow/ artifacts (syncd explain RUN tells which)")
    if outcome["dead_letters"]:
        hint = f"syncd dlq list --state-dir {outcome['state_dir']}"
        print(f"{outcome['dead_letters']} items were refused by the server: {hint}", file=sys.stderr)


def _sent_line(outcome: dict[str, Any]) -> str:
    if not any(outcome[what] for what in ("runs", "points", "artifacts", "bytes", "faults")):
        return f"nothing new: {_already_there(outcome['runs_there'])}"
    rest = f"{counted(outcome['points'], 'point')}, {counted(outcome['artifacts'], 'artifact')}"
    rest += f", {size_text(outcome['bytes'])}"
    if not outcome["runs_found"]:
        return f"sent {counted(outcome['runs'], 'new run')}, {rest}"
    # A journal that has just been begun counts what it finds on the server like what it sends.
    created = counted(outcome["runs"] - outcome["runs_found"], "new run")
    return f"{_already_there(outcome['runs_found'])}; sent {created}; sent or found there: {rest}"


def _already_there(runs: int) -> str:
    return f"{counted(runs, 'run')} {'was' if runs == 1 else 'were'} already there"


def _print_other_databases(paths: Sequence[str]) -> None:
    for path in paths:
        print(f"not read: {path} is a tracking database; name the file itself to bring it over", file=sys.stderr)


def _dry_run(sources: list[SourceSettings], unread: list[Unread], *, as_json: bool) -> int:
    found, unread_later = _look_at_each(sources)
    other_databases = _other_databases(sources, unread_later)
    unread = unread + unread_later
    if as_json:
        told = {**found.as_mapping(), "other_databases": other_databases, **_unread_mapping(unread)}
        print_json("sync", {"dry_run": True, **told})
    else:
        _print_found(found, other_databases)
    _print_unread(unread)
    return exit_code_of(unread[0].error) if unread else ExitCode.DONE


def _look_at_each(sources: Sequence[SourceSettings]) -> tuple[DryRun, list[Unread]]:
    """Return what is in the sources, and those that cannot be read. Raises the first error if none can."""
    found = DryRun()
    unread: list[Unread] = []
    for source in sources:
        try:
            one = look_only([source])
        except SourceError as error:
            unread.append(Unread(source.name, error))
            continue
        found.experiments |= one.experiments
        found.problems += one.problems
    if len(unread) == len(sources):
        raise unread[0].error
    return found, unread


def _print_found(found: DryRun, other_databases: Sequence[str]) -> None:
    for experiment in found.experiments.values():
        print(
            f"{experiment.name}: {experiment.runs} runs, {experiment.points} points, {experiment.models} models, "
            f"{experiment.artifacts} artifacts, {size_text(experiment.bytes)}"
        )
    print_problems(found.problems)
    _print_other_databases(other_databases)
    print("nothing was sent (--dry-run)")
