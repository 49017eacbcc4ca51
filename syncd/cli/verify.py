"""``syncd verify``: compare stores with a tracking server and print each difference."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from syncd.cli.exit_codes import ExitCode
from syncd.cli.logs import set_up_logs
from syncd.cli.report import print_json, print_problems, size_text
from syncd.cli.verify_progress import open_progress
from syncd.configuration import (
    DestinationSettings,
    SourceSettings,
    destination_of_argument,
    names_of_arguments,
    source_of_argument,
)
from syncd.core.compare.findings import Difference, Note, Place
from syncd.core.compare.shown import shown_pair
from syncd.errors import AuthFailed
from syncd.runtime.assembly import open_doors, store_openings
from syncd.verification.reading_back import ReadBack
from syncd.verification.reading_sources import Store
from syncd.verification.report import Report
from syncd.verification.verify import verify

CREDENTIALS = (
    "they are taken from the URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN"
)


def execute(arguments: argparse.Namespace) -> int:
    """Compare once; see the module."""
    set_up_logs("plain", "warning")
    names = names_of_arguments(arguments.sources)
    sources = [source_of_argument(argument, name=name) for argument, name in zip(arguments.sources, names, strict=True)]
    destination = destination_of_argument(arguments.against)
    report = asyncio.run(_verify(sources, destination, quiet=arguments.json))
    if arguments.json:
        print_json("verify", {"destination": destination.uri, **as_mapping(report)})
    else:
        print_report(report)
    return ExitCode.DIFFERENCES if report.differences else ExitCode.DONE


async def _verify(sources: Sequence[SourceSettings], settings: DestinationSettings, *, quiet: bool) -> Report:
    destination, reader = await open_doors(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="syncd-verify-") as folder, open_progress(quiet=quiet) as watch:
            path = Path(folder)
            openings = [opening for source in sources for opening in store_openings(source, temp_dir=path)]
            stores = [Store(opening.source.name, opening.open) for opening in openings]
            return await verify(stores, ReadBack(destination, reader, folder=path), folder=path, watch=watch)
    except AuthFailed as error:
        if settings.workspace is not None:
            raise  # it says itself what to do
        raise _refused(error, settings) from error
    finally:
        await destination.close()


def _refused(error: AuthFailed, settings: DestinationSettings) -> AuthFailed:
    """Return the error with what it means for this command."""
    were_given = settings.token is not None or settings.username is not None
    what = "these credentials" if were_given else "to answer without credentials"
    return AuthFailed(
        f"the server refuses {what}: {error.message}",
        doing=error.doing,
        target=error.target,
        hint=f"{error.hint}; {CREDENTIALS}" if error.hint else CREDENTIALS,
    )


def as_mapping(report: Report) -> dict[str, object]:
    """Return the report as docs/json.md describes it."""
    return {
        "equal": not report.differences,
        "differences": [{**_place_mapping(place), **asdict(difference)} for place, difference in report.differences],
        "notes": [{**_place_mapping(place), **asdict(note)} for place, note in report.notes],
        "problems": [asdict(problem) for problem in report.problems],
        "overflow": asdict(report.overflow),
        "compared": asdict(report.compared),
    }


def _place_mapping(place: Place) -> dict[str, str]:
    return {
        "source": place.source,
        "subject": place.subject,
        "id": place.id,
        "name": place.name,
        "destination_id": place.destination_id,
    }


def print_report(report: Report) -> None:
    """Print a line for each difference, note and problem, and a summary."""
    print_problems([(problem.where, problem.what) for problem in report.problems])
    for place, note in report.notes:
        print(note_line(place, note), file=sys.stderr)
    for place, difference in report.differences:
        print(difference_line(place, difference))
    for line in summary_lines(report):
        print(line)


def difference_line(place: Place, difference: Difference) -> str:
    """Return one line: kind, subject, of what, and both values, shortened."""
    ours, theirs = shown_pair(difference.source_value, difference.destination_value)
    what = f"{difference.part} {_one_line(difference.key)}".rstrip()
    text = f"{difference.kind:<10} {_subject(place)}: {what}"
    if difference.count > 1:
        text += f" ({difference.count})"
    if difference.source_value is not None or difference.destination_value is not None:
        text += f": source {ours}, destination {theirs}"
    return text + (f"; {_one_line(difference.detail)}" if difference.detail else "")


def note_line(place: Place, note: Note) -> str:
    """Return one line that says what is held in another way than one would expect."""
    return f"note       {_subject(place)}: {f'{note.part} {_one_line(note.key)}'.rstrip()}: {_one_line(note.what)}"


def summary_lines(report: Report) -> list[str]:
    """Return what was compared, what is in the overflow, what could not be read, and the verdict."""
    compared, overflow = report.compared, report.overflow
    lines = [
        f"compared {compared.experiments} experiments, {compared.runs} runs, {compared.models} models, "
        f"{compared.points} points, {compared.params} params, {compared.tags} tags, {compared.datasets} datasets, "
        f"{compared.artifacts} artifacts, {size_text(compared.bytes)}"
    ]
    if any(asdict(overflow).values()):
        lines.append(
            f"in syncd/overflow/ artifacts: {overflow.params} params, {overflow.tags} tags, "
            f"{overflow.artifacts} artifacts under other names, {overflow.points} points, {overflow.datasets} datasets"
        )
    if report.problems:
        lines.append(f"{len(report.problems)} things in the source could not be read and were not compared")
    lines.append(f"{len(report.differences)} differences" if report.differences else "no difference")
    return lines


def _subject(place: Place) -> str:
    name = f" {_one_line(place.name)!r}" if place.name and place.name != place.id else ""
    return f"{place.subject} {place.id}{name}"


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]
