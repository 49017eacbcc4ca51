"""``syncd explain RUN``: why a run is, or is not yet, on each destination, in plain words.

The explanation is made as a value first (``explain``), which ``--json`` prints and ``_print_lines`` puts on the screen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from syncd.azure.address import WorkspaceAddress
from syncd.cli.asking import Asked, asked, counted, pause_text, time_text
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import print_json, print_table, printable, size_text
from syncd.cli.runs import answering
from syncd.core.changes import Section, parse
from syncd.core.overflow import overflow_path
from syncd.core.source_tags import OVERFLOW_FOLDER
from syncd.journal import run_reports
from syncd.journal.report import DestinationReport, JournalReport, LetterReport
from syncd.journal.run_reports import RunOnDestination, RunReport
from syncd.runtime.run_listing import run_as_json
from syncd.runtime.run_state import RunState, state_of

MOST_CANDIDATES = 20
MOST_FILES = 200
MOST_NAMED = 5
LEAST_DISK_BYTES = 1024 * 1024  # below this the journal cannot grow

_WHAT = {
    "overflow": "value for the overflow",
    "params": "param",
    "tags": "tag",
    "untag": "deleted tag",
    "inputs": "dataset or model input",
    "outputs": "link to a model",
    "metrics": "point",
    "artifact": "artifact",
    "head": "name, status or end",
    "deleted": "deletion",
}


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    journal = about.open()
    if journal is None:
        return _not_found(about, arguments, about.no_journal)
    with journal:
        found = run_reports.find_runs(journal, arguments.run)
        runs = [run for subject_id in found[: MOST_CANDIDATES + 1] for run in run_reports.runs(journal, subject_id)]
        if not runs:
            hint = "syncd runs lists what has been read; a run that was just begun is there within seconds"
            return _not_found(about, arguments, hint)
        if len({run.run_id for run in runs}) > 1:
            return _ambiguous(arguments, runs, len(found))
        explanations = [explain(about, journal, run) for run in runs]
        if arguments.json:
            print_json("explain", {"run": arguments.run, "state_dir": about.state_dir, "runs": explanations})
        else:
            for explanation in explanations:
                _print_lines(about, explanation)
    return ExitCode.DONE


def _not_found(about: Asked, arguments: argparse.Namespace, hint: str) -> int:
    if arguments.json:
        print_json("explain", {"run": arguments.run, "state_dir": about.state_dir, "runs": [], "hint": hint})
    print(f"syncd explain: no run is known by {printable(arguments.run)!r} ({hint})", file=sys.stderr)
    return ExitCode.UNEXPECTED


def _ambiguous(arguments: argparse.Namespace, runs: Sequence[RunReport], count: int) -> int:
    if arguments.json:
        candidates = [{"source": run.source, "run_id": run.run_id, "name": run.name} for run in runs[:MOST_CANDIDATES]]
        print_json("explain", {"run": arguments.run, "runs": [], "candidates": candidates, "candidate_count": count})
    print(f"syncd explain: {printable(arguments.run)!r} may be any of {count} runs:", file=sys.stderr)
    rows = [
        [run.run_id, run.shown_name, run.experiment or None, run.source, *_ids_there(run)]
        for run in runs[:MOST_CANDIDATES]
    ]
    print_table(["run", "name", "experiment", "source", "id there"], rows, out=sys.stderr)
    if count > MOST_CANDIDATES:
        print(f"… and {count - MOST_CANDIDATES} more; write more of the id", file=sys.stderr)
    return ExitCode.USAGE


def _ids_there(run: RunReport) -> list[str | None]:
    return [", ".join(there.remote_id for there in run.destinations if there.remote_id) or None]


# -- the explanation as a value ------------------------------------------------------------------------------------


def explain(about: Asked, journal: JournalReport, run: RunReport) -> dict[str, Any]:
    """Return what is known of a run, as docs/json.md describes it."""
    delivering = answering(about, journal)
    reports = {one.id: one for one in journal.destinations(about.now_ms)}
    content = run_as_json(run, delivering)
    letters = journal.letters(run.subject_id)
    for there, value in zip(run.destinations, content["destinations"], strict=True):
        report = reports.get(there.destination_id)
        value["link"] = _link(
            report, run_reports.remote_experiment(journal, there.destination_id, run.subject_id), there
        )
        value["waiting"]["kinds"] = [
            asdict(kind) for kind in run_reports.waiting_kinds(journal, there.destination_id, run.subject_id)
        ]
        files = run_reports.waiting_bodies(journal, there.destination_id, run.subject_id, Section.ARTIFACTS, MOST_FILES)
        value["reasons"] = reasons(about, journal, run, there, report, _files_in_motion(files))
        value["letters"] = [_letter(letter) for letter in letters if letter.destination == there.destination]
        value["overflow_entries"] = [
            {"section": section, "key": key}
            for section, key in run_reports.overflow_entries(journal, there.destination_id, run.subject_id)
        ]
    content["deleted"] = run.deleted
    content["changed_ms"] = run.changed_ms
    content["problems"] = [
        {"where": problem.where, "what": problem.what}
        for problem in journal.problems()
        if problem.subject_id == run.subject_id or run.run_id in Path(problem.where).parts
    ]
    return content


def _letter(letter: LetterReport) -> dict[str, Any]:
    return {
        "id": letter.id,
        "kind": letter.kind,
        "items": letter.items,
        "reason": letter.reason,
        "code": letter.code or None,
        "status": letter.status or None,
        "at_ms": letter.at_ms,
    }


def _link(report: DestinationReport | None, experiment_id: str, there: RunOnDestination) -> str | None:
    """Return where a browser shows the run, for servers that have such a page."""
    if report is None or not there.remote_id or not experiment_id:
        return None
    if report.uri.startswith("azureml:"):
        return WorkspaceAddress.of_uri(report.uri).run_page(there.remote_id) or None
    if not report.uri.startswith(("http://", "https://")):
        return None
    return f"{report.uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{there.remote_id}"


def reasons(
    about: Asked,
    journal: JournalReport,
    run: RunReport,
    there: RunOnDestination,
    report: DestinationReport | None,
    in_motion: Sequence[str],
) -> list[str]:
    """Return, the weightiest first, why something of the run is not on a destination; empty if all that is read is."""
    state = state_of(run, there, delivering=False)
    if state == "deleted":
        return [there.note or "it was deleted in its store before it was sent"]
    if state == "filtered":
        return [f"{there.note}; what is read of it is not sent"]
    if state in ("synced", "dead-letters"):
        return _reasons_not_read(about, journal, run)
    return [
        *_reasons_of_daemon(about),
        *_paused(about, journal, "destination", there.destination),
        *_reasons_of_destination(about, there, report),
        *_reasons_of_run(run, there, in_motion),
        *_reasons_not_read(about, journal, run),
    ] or ["it is being sent; nothing hinders it"]


def _reasons_of_daemon(about: Asked) -> list[str]:
    return [] if about.pid else ["syncd does not run: what waits is kept, and sent when `syncd run` is started"]


def _reasons_of_destination(about: Asked, there: RunOnDestination, report: DestinationReport | None) -> list[str]:
    if not there.active or report is None:
        return [f"{there.destination} is no longer configured; what waits is kept for when it is"]
    since = f" since {about.when(report.state_since_ms)}" if report.state_since_ms else ""
    seen = "is" if about.pid else "was, when syncd last ran,"
    match report.state:
        case "down":
            return [f"{there.destination} {seen} down{since}: {report.last_error}"]
        case "throttled":
            return [f"{there.destination} {seen} asking for fewer requests{since}: {report.last_error}"]
        case "auth":
            return [f"{there.destination} {seen} refusing the credentials{since}: {report.last_error}; check them"]
        case "unknown":
            return [f"{there.destination} has not been reached yet"]
        case _:
            return []


def _paused(about: Asked, journal: JournalReport, kind: str, name: str) -> list[str]:
    return [pause_text(about, asdict(one)) for one in journal.pauses() if (one.kind, one.name) == (kind, name)]


def _reasons_of_run(run: RunReport, there: RunOnDestination, in_motion: Sequence[str]) -> list[str]:
    found = []
    if run.head is None:
        found.append("its source has not said yet what this run is (its own record is missing or not readable)")
    elif there.note:
        found.append(f"last noted: {there.note}")
    elif not there.changes_waiting and run.came_in_messages:
        found.append("its messages came before this destination was configured, and cannot be read again")
    elif not there.changes_waiting:
        found.append("the source has not been read for this destination yet; it is once syncd runs")
    return [*found, *in_motion]


def _reasons_not_read(about: Asked, journal: JournalReport, run: RunReport) -> list[str]:
    """Return why there may be more of a run at its source than the journal knows of."""
    return [*_paused(about, journal, "source", run.source), *_reasons_reading_pauses(about, journal)]


def _reasons_reading_pauses(about: Asked, journal: JournalReport) -> list[str]:
    free_bytes, used_bytes = journal.free_disk_bytes(), journal.used_bytes()
    if free_bytes < LEAST_DISK_BYTES:
        return [
            f"reading pauses, so that there may be more in the store: {size_text(free_bytes)} are free on the "
            "journal's disk"
        ]
    if about.journal_max_bytes is None or used_bytes <= about.journal_max_bytes:
        return []
    return [
        f"reading pauses, so that there may be more in the store: the journal holds {size_text(used_bytes)}, "
        f"journal_max_bytes is {size_text(about.journal_max_bytes)}"
    ]


def _files_in_motion(bodies: Sequence[bytes]) -> list[str]:
    """Say which of the waiting artifacts are not, or no longer, what was read."""
    found = []
    for body in bodies:
        artifact = parse(body)
        if "path" not in artifact:  # a letter of overflow that waits again
            continue
        path = Path(artifact["root"], artifact["path"])
        try:
            status = path.lstat()
        except OSError as error:
            found.append(f"the artifact {artifact['path']} cannot be read: {error.strerror} ({path})")
            continue
        if (status.st_size, status.st_mtime_ns) != (artifact["size_bytes"], artifact["mtime_ns"]):
            found.append(f"the artifact {artifact['path']} is being written; it is sent when it rests")
    return found


# -- for people ----------------------------------------------------------------------------------------------------


def _print_lines(about: Asked, content: Mapping[str, Any]) -> None:
    print(printable("\n".join(_run_lines(about, content))))
    for there in content["destinations"]:
        print()
        print(printable("\n".join(_destination_lines(about, there))))
    if not content["destinations"]:
        print("no destination is configured")
    if content["problems"]:
        print("\nof this run could not be read as it is:")
        for problem in content["problems"]:
            print(printable(f"  {problem['where']}: {problem['what']}"))


def _run_lines(about: Asked, content: Mapping[str, Any]) -> list[str]:
    name = f", {content['name']!r}" if content["name"] else ""
    device = f" of device {content['device']}" if content["device"] else ""
    lines = [f"run {content['run_id']}{name}{device}, of source {content['source']}"]
    if content["status"] is None:
        lines.append("  its source has not said yet what it is")
        return lines
    times = [
        f"{word} {time_text(content[key])}"
        for word, key in (("begun", "start_time_ms"), ("ended", "end_time_ms"))
        if content[key] is not None
    ]
    lines.append("  " + ", ".join([f"experiment {content['experiment']!r}", content["status"], *times]))
    if content["parent_run_id"]:
        lines.append(f"  child of run {content['parent_run_id']}")
    if content["deleted"]:
        lines.append("  deleted in its store")
    lines.append(f"  last news of it was read {about.when(content['changed_ms'])}")
    return lines


_STATES: dict[RunState, str] = {
    "synced": "everything that was read of it is there",
    "syncing": "is being sent",
    "waiting": "waits",
    "dead-letters": "all is there but what was refused",
    "filtered": "is not wanted there",
    "deleted": "deleted in its store",
    "unknown": "waits",
}


def _destination_lines(about: Asked, there: Mapping[str, Any]) -> list[str]:
    lines = [f"{there['destination']}: {_STATES[there['state']]}"]
    if there["run_id"]:
        lines.append(f"  on it as {there['run_id']}" + (f"  {there['link']}" if there["link"] else ""))
    else:
        lines.append("  not on it")
    sent = there["sent"]
    if sent["last_ms"]:
        lines.append(
            f"  sent: {counted(sent['points'], 'point')}, {counted(sent['artifacts'], 'artifact')}, "
            f"{size_text(sent['bytes'])}; last {about.when(sent['last_ms'])}"
        )
    waiting = there["waiting"]
    if waiting["changes"]:
        kinds = ", ".join(counted(kind["items"], _WHAT[kind["kind"]]) for kind in waiting["kinds"])
        lines.append(
            f"  waiting: {kinds} ({size_text(waiting['bytes'])}), oldest read {about.when(waiting['oldest_ms'])}"
        )
    lines += [f"  why: {reason}" for reason in there["reasons"][:MOST_NAMED]]
    lines += _more(there["reasons"])
    lines += _refused_lines(about, there["letters"])
    return lines + _overflow_lines(there["overflow_entries"])


def _refused_lines(about: Asked, letters: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for letter in letters[:MOST_NAMED]:
        server = " ".join(str(part) for part in (letter["status"], letter["code"]) if part)
        lines.append(
            f"  refused: {counted(letter['items'], _WHAT[letter['kind']])}: {letter['reason']}"
            + (f" [{server}]" if server else "")
            + f" (dead letter {letter['id']})"
        )
    if letters:
        lines += _more(letters)
        ids = " ".join(str(letter["id"]) for letter in letters[:MOST_NAMED]) + about.option
        lines.append(f"  to do: see it with `syncd dlq show {ids}`; when the cause is gone, `syncd dlq retry {ids}`;")
        lines.append(f"         or give it up with `syncd dlq drop {ids}`")
    return lines


def _overflow_lines(entries: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for section in dict.fromkeys(entry["section"] for entry in entries):
        keys = [entry["key"] for entry in entries if entry["section"] == section]
        named = ", ".join(keys[:MOST_NAMED]) + (
            f", … and {len(keys) - MOST_NAMED} more (--json lists all)" if len(keys) > MOST_NAMED else ""
        )
        where = f"{OVERFLOW_FOLDER}/metrics/" if section == "metrics" else overflow_path(section, 1)
        lines.append(f"  kept whole among its artifacts, in {where}, as the server cannot hold it: {named}")
    return lines


def _more(found: Sequence[object]) -> list[str]:
    return [f"  … and {len(found) - MOST_NAMED} more (--json lists all)"] if len(found) > MOST_NAMED else []
