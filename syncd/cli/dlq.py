"""``syncd dlq``: what was refused, with the words; send or take it again, or give it up."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from syncd.cli.asking import Asked, asked, counted, time_text
from syncd.cli.exit_codes import ExitCode
from syncd.cli.report import print_json, print_table, printable, size_text
from syncd.core.changes import parse
from syncd.journal.dead_letters import Outcome, drop, retry
from syncd.journal.report import JournalReport, LetterReport

_REASON_WIDTH = 80


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    about = asked(arguments)
    journal = about.open()
    if journal is None:
        letters: list[LetterReport] = []
    else:
        with journal:
            letters = journal.letters()
            if arguments.action == "show":
                return _show(about, arguments, journal, letters)
    if arguments.action == "list":
        return _list(about, arguments, letters, journal_is_there=journal is not None)
    if arguments.action == "show":
        return _unknown(arguments.ids)
    ids = None if arguments.all else arguments.ids
    if journal is None:
        outcome = Outcome(unknown=tuple(ids or ()))
    else:
        outcome = (retry if arguments.action == "retry" else drop)(about.state_dir, ids)
    return _tell(about, arguments, outcome, {letter.id: letter for letter in letters})


# -- list ----------------------------------------------------------------------------------------------------------


def _list(
    about: Asked, arguments: argparse.Namespace, letters: Sequence[LetterReport], *, journal_is_there: bool
) -> int:
    if arguments.json:
        content: dict[str, Any] = {"action": "list", "state_dir": about.state_dir}
        if not journal_is_there:
            content |= {"journal": None, "hint": about.no_journal}
        print_json("dlq", {**content, "dead_letters": [_as_json(letter) for letter in letters]})
    elif not journal_is_there:
        print(about.no_journal)
    elif not letters:
        print("there are no dead letters")
    else:
        headings = ["id", "source", "destination", "of", "what", "size", "status", "when", "reason"]
        print_table(headings, [_row(letter) for letter in letters])
    return ExitCode.DONE


def _as_json(letter: LetterReport) -> dict[str, Any]:
    return {
        "id": letter.id,
        "destination": letter.destination,
        "source": letter.source,
        "subject": {"kind": letter.subject_kind, "id": letter.subject_key},
        "kind": letter.kind,
        "items": letter.items,
        "size_bytes": letter.size_bytes,
        "reason": letter.reason,
        "code": letter.code or None,
        "status": letter.status or None,
        "at_ms": letter.at_ms,
    }


def _row(letter: LetterReport) -> list[object]:
    reason = letter.reason if len(letter.reason) <= _REASON_WIDTH else letter.reason[: _REASON_WIDTH - 1] + "…"
    return [
        letter.id,
        letter.source,
        letter.destination,
        f"{letter.subject_kind} {letter.subject_key}",
        f"{letter.kind} ({letter.items})",
        size_text(letter.size_bytes),
        letter.status or None,
        time_text(letter.at_ms),
        reason,
    ]


# -- show ----------------------------------------------------------------------------------------------------------


def _show(about: Asked, arguments: argparse.Namespace, journal: JournalReport, letters: Sequence[LetterReport]) -> int:
    known = {letter.id: letter for letter in letters}
    unknown = [letter_id for letter_id in arguments.ids if letter_id not in known]
    found = [
        (known[letter_id], content_of(known[letter_id], journal)) for letter_id in arguments.ids if letter_id in known
    ]
    if arguments.json:
        shown = [{**_as_json(letter), "content": content} for letter, content in found]
        print_json("dlq", {"action": "show", "state_dir": about.state_dir, "dead_letters": shown, "unknown": unknown})
    else:
        for letter, content in found:
            print(printable("\n".join(_letter_lines(letter, content))))
    return _unknown(unknown) if unknown else ExitCode.DONE


def content_of(letter: LetterReport, journal: JournalReport) -> Any:
    """Return what a letter carries: points as a list of objects, anything else as the JSON value it is.

    Of a message, whose body may be anything: ``text``, or ``base64`` where it is not UTF-8.
    """
    body = journal.letter_body(letter.id)
    if letter.kind == "message":
        return _message_content(parse(body))
    if letter.kind == "metrics":
        return [parse(line) for line in body.split(b"\n")]
    return parse(body)


def _message_content(message: dict[str, Any]) -> dict[str, Any]:
    body = bytes.fromhex(message.pop("body"))
    try:
        return {**message, "text": body.decode()}
    except UnicodeDecodeError:
        return {**message, "base64": base64.b64encode(body).decode()}


def _letter_lines(letter: LetterReport, content: Any) -> list[str]:
    server = " ".join(str(part) for part in (letter.status or "", letter.code) if part)
    return [
        f"dead letter {letter.id}: {_what(letter)}",
        f"  of source {letter.source}",
        f"  refused by {letter.destination} at {time_text(letter.at_ms)}" + (f" [{server}]" if server else ""),
        *_indented("  it said: ", letter.reason),
        *_content_lines(letter, content),
    ]


def _content_lines(letter: LetterReport, content: Any) -> list[str]:
    match letter.kind:
        case "metrics":
            return ["  key  value  step  timestamp (ms)", *(f"  {_point_text(point)}" for point in content)]
        case "params" | "tags":
            return [line for key, value in content.items() for line in _indented(f"  {key} = ", value)]
        case "untag":
            return [f"  tag to be deleted: {key}" for key in content]
        case "artifact":
            place = f"{content['root'].rstrip('/')}/{content['path']}"
            return [f"  {content['path']}, {size_text(content['size_bytes'])}, at {place}"]
        case "inputs":
            datasets = [f"  dataset {one['name']} ({one['digest']})" for one in content["datasets"]]
            return datasets + [f"  model {model}" for model in content["models"]]
        case "outputs":
            return [f"  model {model} at step {step}" for model, step in content]
        case "overflow":
            said = content["entries"].items()
            return [
                f"  {content['section']}: {key} = {'(no longer)' if value is None else value}" for key, value in said
            ]
        case _:
            return [f"  {key}: {value}" for key, value in content.items()]


def _point_text(point: Mapping[str, Any]) -> str:
    text = f"{point['key']}  {point['value']}  {point.get('step', 0)}  {point['timestamp']}"
    return f"{text}  model {point['model_id']}" if point.get("model_id") else text


def _indented(begin: str, text: str) -> list[str]:
    first, *rest = str(text).split("\n")
    return [begin + first, *(" " * len(begin) + line for line in rest)]


# -- retry and drop ------------------------------------------------------------------------------------------------


def _tell(about: Asked, arguments: argparse.Namespace, outcome: Outcome, letters: Mapping[int, LetterReport]) -> int:
    if arguments.json:
        print_json(
            "dlq",
            {"action": arguments.action, "state_dir": about.state_dir, "running": bool(about.pid), **asdict(outcome)},
        )
    else:
        _print_outcome(about, outcome, letters)
    return _unknown(outcome.unknown) if outcome.unknown else ExitCode.DONE


def _print_outcome(about: Asked, outcome: Outcome, letters: Mapping[int, LetterReport]) -> None:
    if outcome.waiting:
        when = "within seconds" if about.pid else "when syncd is started"
        print(f"{counted(len(outcome.waiting), 'dead letter')} put back; tried again {when}")
    for letter_id in outcome.overtaken:
        print(printable(f"not needed any more, the source has newer: {_named(letter_id, letters)}"))
    for letter_id in outcome.dropped:
        print(printable(f"given up: {_named(letter_id, letters)}"))
    if not any((outcome.waiting, outcome.overtaken, outcome.dropped, outcome.unknown)):
        print("there are no dead letters")


def _named(letter_id: int, letters: Mapping[int, LetterReport]) -> str:
    letter = letters.get(letter_id)
    if letter is None:  # it was added after the letters were read
        return f"dead letter {letter_id}"
    return f"dead letter {letter_id}: {_what(letter)} for {letter.destination}"


def _what(letter: LetterReport) -> str:
    subject = f"{letter.subject_kind} {letter.subject_key}".rstrip()  # a message of MQTT has no id
    return subject if letter.kind == letter.subject_kind else f"{letter.kind} ({letter.items}) of {subject}"


def _unknown(ids: Sequence[int]) -> int:
    named = ", ".join(str(letter_id) for letter_id in ids)
    print(f"syncd dlq: no dead letter has the number {named} (syncd dlq list names all)", file=sys.stderr)
    return ExitCode.UNEXPECTED
