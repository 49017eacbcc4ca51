"""``syncd status``: is the daemon up, what waits for each destination and for how long, what went wrong last."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from syncd.cli.asking import Asked, asked, counted, pause_text
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import duration_text, print_json, print_table, size_text
from syncd.runtime.journal_status import status

MOST_PROBLEMS = 20


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    journal = about.open()
    if journal is None:
        content: dict[str, Any] = {**_place(about), "journal": None, "hint": about.no_journal}
    else:
        with journal:
            content = {**_place(about), **status(about.view, journal)}
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
    for sink in content["sinks"]:
        _print_sink(about, sink)
    for messages in content["messages"]:
        _print_messages(about, messages)
    for pause in content["paused"]:
        print(f"\n{pause_text(about, pause)}")
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


def _print_messages(about: Asked, messages: Mapping[str, Any]) -> None:
    last = f"the last {about.when(messages['last_ms'])}" if messages["last_ms"] else "none yet"
    print(f"\nmessages of {messages['source']}, {last}")
    counts = ("taken", "repeated", "ignored", "refused")
    print("  " + ", ".join(f"{name}: {messages[name]:,}" for name in counts))
    if messages["files_in_part"]:
        parts = f"{counted(messages['files_in_part'], 'file')} ({size_text(messages['bytes_in_part'])})"
        print(f"  came in part: {parts}; sent on when the rest has come")
    if messages["dead_letters"]:
        print(f"  kept: {counted(messages['dead_letters'], 'dead letter')} (syncd dlq list{about.option})")


def _print_sink(about: Asked, sink: Mapping[str, Any]) -> None:
    print(f"\nsink {sink['name']}\n  {_sink_state_text(about, sink)}")
    if sink["last_error"]:
        print(f"  last error, {about.when(sink['last_error_ms'])}: {sink['last_error']}")
    oldest = f", oldest {duration_text(sink['oldest_waiting_s'])} old" if sink["waiting"] else ""
    print(f"  sent: {counted(sink['sent'], 'event')}; waiting: {counted(sink['waiting'], 'event')}{oldest}")
    if sink["dropped"]:
        print(
            f"  dropped, because it was away for too long: {counted(sink['dropped'], 'event')}, the last "
            f"{about.when(sink['dropped_ms'])}"
        )
    if sink["dead_letters"]:
        print(f"  refused: {counted(sink['dead_letters'], 'dead letter')} (syncd dlq list{about.option})")


def _sink_state_text(about: Asked, sink: Mapping[str, Any]) -> str:
    words = {
        "up": "up",
        "down": "down: its events wait",
        "throttled": "asks for fewer requests (throttled)",
        "auth": "refuses the credentials: check them",
        "gone": "wants no more events (410); it is tried again when syncd is started",
        "unknown": "nothing was sent yet",
    }
    text = words.get(sink["state"], sink["state"])
    if not sink["configured"]:
        return f"no longer configured; when it was last, it was {text}"
    return text if about.pid else f"when syncd last ran: {text}"


def _print_problems(problems: list[dict[str, Any]]) -> None:
    if problems:
        print(f"\ncould not be read as it is ({len(problems)}):")
    for problem in problems[:MOST_PROBLEMS]:
        print(f"  {problem['source']}: {problem['where']}: {problem['what']}")
    if len(problems) > MOST_PROBLEMS:
        print(f"  … and {len(problems) - MOST_PROBLEMS} more (--json lists all)")
