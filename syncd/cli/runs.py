"""``syncd runs``: every known run and where it stands on each destination."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from syncd.cli.asking import Asked, asked
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import print_json, print_table, size_text
from syncd.journal import run_reports
from syncd.journal.report import JournalReport
from syncd.journal.run_reports import RunReport
from syncd.runtime.run_listing import answering_destinations, run_as_json
from syncd.runtime.run_state import state_of

_HEADINGS = ["run", "name", "experiment", "source", "destination", "id there", "state", "points", "bytes"]
_MORE_HEADINGS = ["points waiting", "bytes waiting"]


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    journal = about.open()
    if journal is None:
        if arguments.json:
            print_json("runs", {"state_dir": about.state_dir, "journal": None, "hint": about.no_journal, "runs": []})
        else:
            print(about.no_journal)
        return ExitCode.DONE
    with journal:
        delivering = answering(about, journal)
        if arguments.json:
            runs = [run_as_json(run, delivering) for run in run_reports.runs(journal)]
            print_json("runs", {"state_dir": about.state_dir, "running": bool(about.pid), "runs": runs})
        else:
            _print_runs(run_reports.runs(journal), delivering)
    return ExitCode.DONE


def answering(about: Asked, journal: JournalReport) -> set[int]:
    """Return the destinations that are being delivered to: a daemon runs and they answer."""
    return answering_destinations(journal, about.now_ms) if about.pid else set()


def _print_runs(runs: Iterable[RunReport], delivering: set[int]) -> None:
    rows = [row for run in runs for row in _rows(run, delivering)]
    if not rows:
        print("no run has been read yet")
        return
    print_table([*_HEADINGS, *_MORE_HEADINGS], rows)


def _rows(run: RunReport, delivering: set[int]) -> Iterable[list[object]]:
    begun: list[object] = [run.run_id, run.shown_name, run.experiment or None, run.source]
    for there in run.destinations:
        state = state_of(run, there, delivering=there.destination_id in delivering)
        yield [
            *begun,
            there.destination,
            there.remote_id or None,
            state,
            there.points,
            size_text(there.bytes),
            there.points_waiting,
            size_text(there.bytes_waiting),
        ]
    if not run.destinations:
        yield [*begun, None, None, "waiting", 0, size_text(0), 0, size_text(0)]
