"""Decode a message: bytes and headers become statements, or a refusal that names the field and what was expected.

Rules
-----
1. A message is taken event by event: one that is not as expected does not keep the others of its batch from being
   taken. The message counts as refused even so, and each event has an identity, so sending it again repeats nothing.
2. What a message does not say follows from where it came on (device and run from the topic) and when.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, get_args

from syncd.core.artifact_paths import problem_of_path
from syncd.core.messages.elsewhere import foreign_event_of
from syncd.core.messages.envelopes import (
    CheckedLog,
    Envelope,
    Received,
    Refused,
    Regular,
    open_binary,
    open_body,
    open_event,
)
from syncd.core.messages.points import BadPoint, bad_time, lines_of
from syncd.core.messages.statements import (
    Command,
    CommandName,
    Ignored,
    InlineArtifact,
    LocalArtifact,
    Relayed,
    RunEnded,
    RunLogged,
    RunRef,
    RunStarted,
    Said,
    Statement,
)
from syncd.core.messages.times import milliseconds_of
from syncd.core.messages.topics import Named, TopicPattern
from syncd.core.relay.values import TYPES as RELAY_TYPES
from syncd.core.source_tags import MARKS
from syncd.core.wrong import Wrong, found_text, pointer
from syncd.errors import MessageRefused

START_TYPE: Final = "dev.syncd.run.start"
END_TYPE: Final = "dev.syncd.run.end"
COMMAND_PREFIX: Final = "dev.syncd.command."
MOST_NAMED: Final = 5  # wrong events that a refusal names
KNOWN_RUNS: Final = 1000

Check = Callable[[str, Any], Wrong | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the messages of one source are understood.

    ``source`` is its name, ``topic`` tells device and run, ``check`` holds data against a schema of that name.
    ``regular`` reads what is as most messages are.
    """

    source: str
    topic: TopicPattern
    most_bytes: int
    check: Check
    regular: Regular


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a message says, and what of it is not as expected (None: all is)."""

    said: Sequence[Said]
    refusal: MessageRefused | None = None


def decode(message: Received, rules: Rules, *, now_ms: int) -> Decoded:
    """Return what a message says; ``now_ms`` stands in where neither it nor its broker says when."""
    if len(message.body) > rules.most_bytes:
        text = f"the message has {len(message.body)} bytes, max_message_bytes is {rules.most_bytes}"
        return Decoded((), MessageRefused(text, reason="TooLarge"))
    try:
        binary = open_binary(message, rules.regular)
        if binary is not None:
            return Decoded([_Reader(message, rules, now_ms).said(binary, 0)])
        events, batch = open_body(message, rules.regular)
    except (Refused, MessageRefused) as exc:
        return Decoded((), _refusal([str(exc)]))
    return _decode_events(events, _Reader(message, rules, now_ms), message, batch=batch)


def _decode_events(events: Sequence[Any], reader: _Reader, message: Received, *, batch: bool) -> Decoded:
    said: list[Said] = []
    wrong: list[str] = []
    for index, event in enumerate(events):
        try:
            said.append(reader.said(open_event(event, message), index))
        except Refused as exc:
            wrong.append(str(exc.wrong.below(index) if batch else exc.wrong))
    return Decoded(said, _refusal(wrong) if wrong else None)


def _refusal(wrong: Sequence[str]) -> MessageRefused:
    more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    return MessageRefused("; ".join(wrong[:MOST_NAMED]) + more)


class _Reader:
    """Reads the events of one message."""

    def __init__(self, message: Received, rules: Rules, now_ms: int) -> None:
        self._message = message
        self._rules = rules
        self._named = rules.topic.match(message.address) or Named()
        self._time_ms = now_ms if message.sent_ms is None else message.sent_ms

    def said(self, event: Envelope, index: int) -> Said:
        time_ms = self._time_ms if event.time_ms is None else event.time_ms
        return Said(self._identity(event, index), self._statement(event, time_ms), index)

    def _identity(self, event: Envelope, index: int) -> str:
        if event.identity:
            return event.identity
        return f"id\n{self._message.id}\n{index}" if self._message.id else ""

    def _statement(self, event: Envelope, time_ms: int) -> Statement:
        match event.type:
            case "dev.syncd.log":
                return self._logged(event, time_ms)
            case "dev.syncd.run.start":
                return self._started(event, self._data(event, "run.start"), time_ms)
            case "dev.syncd.run.end":
                return self._ended(event, self._data(event, "run.end"), time_ms)
        if event.type in RELAY_TYPES:
            return self._relayed(event)
        if event.type.startswith(COMMAND_PREFIX):
            return self._command(event, time_ms)
        return foreign_event_of(event, time_ms=time_ms) or Ignored(event.type)

    def _data(self, event: Envelope, schema: str) -> Mapping[str, Any]:
        wrong = self._rules.check(f"messages/{schema}", event.data)
        if wrong is not None:
            raise Refused(wrong.below(*event.place))
        data: Mapping[str, Any] = event.data
        return data

    # -- runs ------------------------------------------------------------------------------------------------------

    def _logged(self, event: Envelope, time_ms: int) -> RunLogged:
        checked = event.data if isinstance(event.data, CheckedLog) else None
        data = self._data(event, "log") if checked is None else checked.fields()
        timestamp_ms, step = self._time(event, data, "timestamp", time_ms), int(data.get("step", 0))
        try:
            if checked is None:
                lines, count = lines_of(data.get("metrics", {}), timestamp_ms=timestamp_ms, step=step)
            else:
                lines, count = checked.lines(timestamp_ms=timestamp_ms, step=step)
        except BadPoint as exc:
            raise Refused(exc.wrong.below(*event.place, "metrics")) from exc
        return RunLogged(
            run=self._run(event, data),
            time_ms=time_ms,
            experiment=self._experiment(data),
            lines=lines,
            count=count,
            params=_texts(data.get("params", {})),
            tags=_tags(event, data),
            artifacts=[_artifact(event, one, index) for index, one in enumerate(data.get("artifacts", ()))],
        )

    def _started(self, event: Envelope, data: Mapping[str, Any], time_ms: int) -> RunStarted:
        return RunStarted(
            run=self._run(event, data),
            time_ms=time_ms,
            start_time_ms=self._time(event, data, "start_time", time_ms),
            experiment=self._experiment(data),
            parent_run_id=self._run(event, data, "parent").id if "parent" in data else "",
            user_id=data.get("user", ""),
            params=_texts(data.get("params", {})),
            tags=_tags(event, data),
        )

    def _ended(self, event: Envelope, data: Mapping[str, Any], time_ms: int) -> RunEnded:
        return RunEnded(
            run=self._run(event, data),
            time_ms=time_ms,
            end_time_ms=self._time(event, data, "end_time", time_ms),
            status=data.get("status", "FINISHED"),
            experiment=self._experiment(data),
        )

    def _experiment(self, data: Mapping[str, Any]) -> str:
        return data.get("experiment") or self._named.experiment

    def _run(self, event: Envelope, data: Mapping[str, Any], field: str = "run") -> RunRef:
        given = data.get(field, self._named.run)
        if given in ("", {}):
            what = "expected a run's name, or an object with its id"
            unnamed = "" if field in data else f"; by topic_pattern, {found_text(self._message.address)} names none"
            raise Refused(Wrong(pointer([*event.place, field]), what + unnamed))
        where = (*event.place, field)
        device = data.get("device") or self._named.device
        if not isinstance(given, dict):
            return self._run_named(device, _shown(where, given))
        name = _shown((*where, "name"), given.get("name", ""))
        if "id" in given:
            return RunRef(_identifier((*where, "id"), given["id"]), name, device)
        return self._run_named(device, name)

    def _run_named(self, device: str, name: str) -> RunRef:
        """Return a run of which only the name is known: the same name on the same device is the same run."""
        return RunRef(_run_id(self._rules.source, device, name), name, device)

    def _time(self, event: Envelope, data: Mapping[str, Any], field: str, default_ms: int) -> int:
        if field not in data:
            return default_ms
        try:
            return milliseconds_of(data[field])
        except ValueError:
            raise Refused(bad_time(data[field]).below(*event.place, field)) from None

    # -- another syncd ---------------------------------------------------------------------------------------------

    def _relayed(self, event: Envelope) -> Relayed:
        if not isinstance(event.data, bytes):
            raise Refused(Wrong("/data_base64", "expected what another syncd has packed"))
        return Relayed(event.type, event.identity, event.data)

    # -- commands --------------------------------------------------------------------------------------------------

    def _command(self, event: Envelope, time_ms: int) -> Command:
        wanted = event.type.removeprefix(COMMAND_PREFIX)
        for name in get_args(CommandName):
            if name == wanted:
                return Command(name=name, time_ms=time_ms, arguments=self._data(event, f"command.{name}"))
        raise Refused(Wrong("/type", f"expected one of {', '.join(get_args(CommandName))}, found {found_text(wanted)}"))


@lru_cache(KNOWN_RUNS)
def _run_id(source: str, device: str, name: str) -> str:
    return hashlib.sha256("\x1f".join((source, device, name)).encode()).hexdigest()[:32]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _tags(event: Envelope, data: Mapping[str, Any]) -> dict[str, str]:
    tags = _texts(data.get("tags", {}))
    for tag in MARKS:
        if tag in tags:
            raise Refused(Wrong(pointer([*event.place, "tags", tag]), "this tag is syncd's own"))
    return tags


def _artifact(event: Envelope, artifact: Mapping[str, Any], index: int) -> InlineArtifact | LocalArtifact:
    place = (*event.place, "artifacts", index)
    path = artifact["path"]
    expected = problem_of_path(path)
    if expected:
        raise Refused(Wrong(pointer([*place, "path"]), f"expected {expected}, found {found_text(path)}"))
    if ("content" in artifact) == ("root" in artifact):
        raise Refused(Wrong(pointer(place), "expected either content or root"))
    if "root" in artifact:
        return LocalArtifact(path, artifact["root"])
    try:
        return InlineArtifact(path, base64.b64decode(artifact["content"], validate=True))
    except (binascii.Error, ValueError):
        raise Refused(Wrong(pointer([*place, "content"]), "expected base64")) from None


def _shown(place: Sequence[str | int], value: str | float) -> str:
    """Return a name for people, as text; a number is a whole one."""
    text = value if isinstance(value, str) else str(int(value))
    if not text.isprintable():
        raise Refused(Wrong(pointer(place), f"expected printable characters, found {found_text(text)}"))
    return text


def _identifier(place: Sequence[str | int], value: str | float) -> str:
    """Return an id as text. One with both kinds of quotes could not be searched for on an MLflow server."""
    text = _shown(place, value)
    if "'" in text and '"' in text:
        raise Refused(Wrong(pointer(place), "expected an id without both kinds of quotes"))
    return text
