"""``syncd sync``: everything in the given stores to a tracking server, once."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncd.cli.exit_codes import ExitCode
from syncd.cli.logs import set_up_logs
from syncd.cli.report import print_json, print_problems, size_text
from syncd.cli.sync_progress import open_progress
from syncd.configuration import (
    DaemonSettings,
    DestinationSettings,
    SourceSettings,
    destination_of_argument,
    names_of_arguments,
    source_of_argument,
)
from syncd.journal.journal import Journal
from syncd.runtime.assembly import unnamed_databases
from syncd.runtime.dry_run import DryRun, look_only
from syncd.runtime.one_shot import sync_once
from syncd.runtime.pipeline import Pipeline

# Nothing is written while the stores are being read, so there is no reason to wait for more.
FLUSH_INTERVAL_S = 0.0


def execute(arguments: argparse.Namespace) -> int:
    """Sync once; see the module."""
    set_up_logs("plain", "warning")
    names = names_of_arguments(arguments.sources)
    sources = [
        source_of_argument(argument, name=name, experiments=arguments.experiment)
        for argument, name in zip(arguments.sources, names, strict=True)
    ]
    destination = destination_of_argument(arguments.to)
    if arguments.dry_run:
        return _dry_run(sources, as_json=arguments.json)
    state_dir = Path(arguments.state_dir) if arguments.state_dir else default_state_dir(sources, destination)
    journal = Journal.open(state_dir.absolute())
    outcome = asyncio.run(
        _sync(journal, sources, destination, state_dir, quiet=arguments.json, patience_s=arguments.patience)
    )
    _report(outcome, as_json=arguments.json)
    if outcome["faults"]:
        return ExitCode.UNEXPECTED
    return ExitCode.DEAD_LETTERS if outcome["dead_letters"] else ExitCode.DONE


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
) -> dict[str, Any]:
    pipeline = Pipeline(
        journal,
        daemon=DaemonSettings(state_dir=state_dir, flush_interval_s=FLUSH_INTERVAL_S),
        sources=sources,
        destinations=[destination],
    )
    before = pipeline.totals()
    try:
        with open_progress(quiet=quiet) as progress:
            await sync_once(
                pipeline,
                patience_s=patience_s,
                watch=lambda reading: progress.show(lambda: pipeline.totals().since(before), reading),
            )
        return {
            **pipeline.totals().since(before).as_mapping(),
            "dead_letters": pipeline.totals().dead_letters,
            "overflow": pipeline.totals().overflow,
            "problems": [
                {"source": source, "where": where, "what": what} for source, where, what in journal.problems()
            ],
            "faults": [fault for uploader in pipeline.uploaders.values() for fault in uploader.faults.values()],
            "other_databases": unnamed_databases(sources),
            "state_dir": str(state_dir),
        }
    finally:
        await pipeline.close()


def _report(outcome: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json("sync", outcome)
        return
    print_problems([(problem["where"], problem["what"]) for problem in outcome["problems"]])
    _print_other_databases(outcome["other_databases"])
    for fault in outcome["faults"]:
        print(f"failed unexpectedly, and is kept in the journal: {fault}", file=sys.stderr)
    print(
        f"sent {outcome['runs']} runs, {outcome['points']} points, {outcome['artifacts']} artifacts, "
        f"{size_text(outcome['bytes'])}"
    )
    if outcome["overflow"]:
        print(f"{outcome['overflow']} values are kept in syncd/overflow/ artifacts (syncd explain RUN tells which)")
    if outcome["dead_letters"]:
        hint = f"syncd dlq list --state-dir {outcome['state_dir']}"
        print(f"{outcome['dead_letters']} items were refused by the server: {hint}", file=sys.stderr)


def _print_other_databases(paths: Sequence[str]) -> None:
    for path in paths:
        print(f"not read: {path} is a tracking database; name the file itself to bring it over", file=sys.stderr)


def _dry_run(sources: list[SourceSettings], *, as_json: bool) -> int:
    found: DryRun = look_only(sources)
    other_databases = unnamed_databases(sources)
    if as_json:
        print_json("sync", {"dry_run": True, **found.as_mapping(), "other_databases": other_databases})
        return ExitCode.DONE
    for experiment in found.experiments.values():
        print(
            f"{experiment.name}: {experiment.runs} runs, {experiment.points} points, {experiment.models} models, "
            f"{experiment.artifacts} artifacts, {size_text(experiment.bytes)}"
        )
    print_problems(found.problems)
    _print_other_databases(other_databases)
    print("nothing was sent (--dry-run)")
    return ExitCode.DONE
