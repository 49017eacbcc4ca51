"""``syncd events``: what happened, from the outbox of a journal; with ``--follow`` what happens next as well."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from syncd.cli.asking import Asked, asked, time_text
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import print_json, printable
from syncd.core.events import Event, EventFilter, cloud_event
from syncd.errors import SyncdError
from syncd.journal.report import JournalReport

LOOK_S = 0.2
TOGETHER = 500


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    wanted = EventFilter(types=arguments.type)
    if arguments.follow:
        _follow(about, arguments, wanted)
        return ExitCode.DONE
    journal = about.open()
    if journal is None:
        return _tell_no_journal(about, as_json=arguments.json)
    with journal:
        found = [event for event in _after(journal, _begin(journal, arguments.since)) if wanted.takes(event)]
    if arguments.json:
        told = [cloud_event(event) for event in found]
        print_json("events", {"state_dir": about.state_dir, "running": bool(about.pid), "events": told})
        return ExitCode.DONE
    for event in found:
        print(line_of(event))
    if not found:
        print("no event is kept that was asked for")
    return ExitCode.DONE


def _tell_no_journal(about: Asked, *, as_json: bool) -> int:
    if as_json:
        print_json("events", {"state_dir": about.state_dir, "journal": None, "hint": about.no_journal, "events": []})
    else:
        print(about.no_journal)
    return ExitCode.DONE


def _follow(about: Asked, arguments: argparse.Namespace, wanted: EventFilter) -> None:
    """Print events until interrupted; the journal may be begun, or begun anew, meanwhile."""
    seq: int | None = None
    while True:
        journal = about.open()
        if journal is not None:
            with journal:
                if seq is None:
                    seq = _begin(journal, arguments.since)
                if journal.event_range()[1] < seq:  # the journal was put aside and is rebuilt
                    seq = 0
                for event in _after(journal, seq):
                    seq = event.seq
                    if wanted.takes(event):
                        print(json.dumps(cloud_event(event), ensure_ascii=False) if arguments.json else line_of(event))
        print(end="", flush=True)
        time.sleep(LOOK_S)


def _begin(journal: JournalReport, since: str | None) -> int:
    """Return the number behind which to begin.

    Raises:
        SyncdError: no event of that id is kept.
    """
    if since is None:
        return 0
    seq = journal.event_seq(since)
    if seq is None:
        hint = "without --since all that are kept are told"
        raise SyncdError("no event of that id is kept (any more)", doing="looking for", target=since, hint=hint)
    return seq


def _after(journal: JournalReport, seq: int) -> Iterator[Event]:
    while events := journal.events_after(seq, TOGETHER):
        yield from events
        seq = events[-1].seq


def line_of(event: Event) -> str:
    """Return an event as one line for people."""
    data = event.data
    words = [str(data[key]) for key in ("run_name", "path", "model_name", "error", "reason") if data.get(key)]
    there = f"on {data['destination']}" if "run_id" in data and data.get("destination") else ""
    experiment = f"({event.experiment})" if event.experiment else ""
    parts = (time_text(event.time_ms), f"{event.short_type:<18}", event.subject, *words, experiment, there)
    return printable(" ".join(part for part in parts if part).replace("\n", " "))
