"""``syncd status``: is the daemon up, what waits for each destination and for how long, what went wrong last."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from syncd.cli.asking import Asked, asked, counted
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import print_json, print_table, size_text
from syncd.journal.report import PACE_SPAN_MS, PACE_SPANS, DestinationReport, JournalReport

MOST_PROBLEMS = 20
SHORTEST_PACE_MS = (PACE_SPANS - 1) * PACE_SPAN_MS
LEAST_WINDOW_S = 1.0  # the mean of less says nothing


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    journal = about.open()
    if journal is None:
        content: dict[str, Any] = {**_place(about), "journal": None, "hint": about.no_journal}
    else:
        with journal:
            content = {**_place(about), **status(about, journal)}
    if arguments.json:
        print_json("status", content)
    else:
        _print_lines(about, content)
    return ExitCode.DONE


def _place(about: Asked) -> dict[str, Any]:
    return {
        "state_dir": about.state_dir,
        "running": bool(about.pid),
        "pid": about.pid or None,
        "started_ms": about.started_ms,
        "last_ran_ms": about.last_ran_ms,
    }


def status(about: Asked, journal: JournalReport) -> dict[str, Any]:
    """Return what the journal says, as docs/json.md describes it."""
    destinations = journal.destinations(about.now_ms)
    used_bytes = journal.used_bytes()
    windows_s = _windows_s(about, journal, destinations)
    return {
        "journal": {
            "used_bytes": used_bytes,
            "max_bytes": about.journal_max_bytes,
            "full": used_bytes > about.journal_max_bytes if about.journal_max_bytes is not None else None,
            "free_disk_bytes": journal.free_disk_bytes(),
            "set_aside": journal.set_aside(),
        },
        "oldest_unsynced_s": max((_oldest_s(about, one) or 0.0 for one in destinations), default=0.0),
        "dead_letters": sum(one.dead_letters for one in destinations),
        "destinations": [_destination(about, one, windows_s[one.id]) for one in destinations],
        "problems": [
            {"source": one.source, "where": one.where, "what": one.what, "at_ms": one.at_ms}
            for one in journal.problems()
        ],
    }


def _oldest_s(about: Asked, destination: DestinationReport) -> float | None:
    if not destination.waiting:
        return None
    return max(0, about.now_ms - min(waiting.oldest_ms for waiting in destination.waiting)) / 1000


def _windows_s(about: Asked, journal: JournalReport, found: Sequence[DestinationReport]) -> dict[int, float]:
    """Return for each destination the seconds that its rate is the mean of.

    The journal counts over 50 to 60 s. A syncd that was started within them is measured since its start, unless the one
    before it delivered within the same minute: the journal does not say which of the two it was, so both are measured.
    """
    windows_s = {one.id: one.pace.window_s for one in found}
    if about.started_ms is None or about.now_ms - about.started_ms >= SHORTEST_PACE_MS:
        return windows_s
    up_s = max(LEAST_WINDOW_S, (about.now_ms - about.started_ms) / 1000)
    for before in journal.destinations(about.started_ms - about.started_ms % PACE_SPAN_MS - 1):
        if not before.pace.points_per_s and not before.pace.bytes_per_s:
            windows_s[before.id] = up_s
    return windows_s


def _destination(about: Asked, report: DestinationReport, window_s: float) -> dict[str, Any]:
    longer = report.pace.window_s / window_s
    return {
        "name": report.name,
        "uri": report.uri,
        "configured": report.active,
        "state": report.state,
        "state_since_ms": report.state_since_ms,
        "last_error": report.last_error or None,
        "last_error_ms": report.last_error_ms,
        "sent": {**asdict(report.sent), "last_ms": report.sent.last_ms or None},
        "rate": {
            "window_s": window_s,
            "points_per_s": round(report.pace.points_per_s * longer, 3),
            "bytes_per_s": round(report.pace.bytes_per_s * longer, 3),
        },
        "waiting": [asdict(waiting) for waiting in report.waiting],
        "oldest_unsynced_s": _oldest_s(about, report),
        "dead_letters": report.dead_letters,
        "overflow": report.overflow,
    }


# -- for people ----------------------------------------------------------------------------------------------------


def _print_lines(about: Asked, content: Mapping[str, Any]) -> None:
    print(_running_text(about))
    journal = content["journal"]
    if journal is None:
        print(about.no_journal)
        return
    limit = f" of {size_text(journal['max_bytes'])}" if journal["max_bytes"] is not None else ""
    print(f"journal: {size_text(journal['used_bytes'])}{limit}, disk: {size_text(journal['free_disk_bytes'])} free")
    if journal["full"]:
        print("reading pauses until less waits: the journal holds as much as it may (journal_max_bytes)")
    for path in journal["set_aside"]:
        print(f"a journal that could not be used was put aside: {path.name}; delete it when nobody needs it")
    for destination in content["destinations"]:
        _print_destination(about, destination)
    _print_problems(content["problems"])


def _running_text(about: Asked) -> str:
    if about.pid:
        since = f", since {about.when(about.started_ms)}" if about.started_ms else ""
        return f"syncd runs (process {about.pid}) on {about.state_dir}{since}"
    last = f"; it last ran until {about.when(about.last_ran_ms)}" if about.last_ran_ms else ""
    return f"syncd does not run on {about.state_dir}{last}"


def _print_destination(about: Asked, destination: Mapping[str, Any]) -> None:
    print(f"\n{destination['name']}  {destination['uri']}\n  {_state_text(about, destination)}")
    if destination["last_error"]:
        print(f"  last error, {about.when(destination['last_error_ms'])}: {destination['last_error']}")
    sent, rate = destination["sent"], destination["rate"]
    last = f"; last {about.ago(sent['last_ms'])}" if sent["last_ms"] else ""
    print(
        f"  sent: {counted(sent['runs'], 'run')}, {counted(sent['points'], 'point')}, "
        f"{counted(sent['artifacts'], 'artifact')}, {size_text(sent['bytes'])}{last}"
    )
    if about.pid:
        print(
            f"  rate, last {rate['window_s']:.0f} s: {rate['points_per_s']:,.1f} points/s, "
            f"{size_text(rate['bytes_per_s'])}/s"
        )
    if destination["overflow"]:
        print(
            f"  overflow: {counted(destination['overflow'], 'value')} kept in syncd/overflow/ artifacts of their runs"
        )
    if destination["dead_letters"]:
        print(f"  refused: {counted(destination['dead_letters'], 'dead letter')} (syncd dlq list{about.option})")
    _print_waiting(about, destination)


def _state_text(about: Asked, destination: Mapping[str, Any]) -> str:
    words = {
        "up": "up",
        "down": "down: what waits is kept and sent when it answers",
        "throttled": "asks for fewer requests (throttled)",
        "auth": "refuses the credentials: check them",
        "unknown": "not reached yet",
    }
    text = words.get(destination["state"], destination["state"])
    if not destination["configured"]:
        return f"no longer configured; when it was last, it was {text}"
    since_ms = destination["state_since_ms"]
    since = f", since {about.when(since_ms)}" if since_ms else ""
    if not about.pid:  # since when it answered would read as if it still did
        return f"when syncd last ran: {text}{'' if destination['state'] == 'up' else since}"
    if since_ms and about.started_ms and since_ms < about.started_ms:
        return f"not reached yet since syncd was started; before that: {text}"
    return f"{text}{since}"


def _print_waiting(about: Asked, destination: Mapping[str, Any]) -> None:
    if not destination["waiting"]:
        print("  waiting: nothing")
        return
    print(f"  waiting, oldest since {about.ago(min(one['oldest_ms'] for one in destination['waiting']))}:")
    rows = [
        [one["source"], one["runs"], one["points"], one["artifacts"], size_text(one["bytes"]), one["changes"]]
        for one in destination["waiting"]
    ]
    print_table(["source", "runs", "points", "artifacts", "bytes", "changes"], rows, indent="    ")


def _print_problems(problems: list[dict[str, Any]]) -> None:
    if problems:
        print(f"\ncould not be read as it is ({len(problems)}):")
    for problem in problems[:MOST_PROBLEMS]:
        print(f"  {problem['source']}: {problem['where']}: {problem['what']}")
    if len(problems) > MOST_PROBLEMS:
        print(f"  … and {len(problems) - MOST_PROBLEMS} more (--json lists all)")
