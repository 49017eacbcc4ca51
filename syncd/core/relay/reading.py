"""Read what ``packing`` has packed, holding everything against what is expected: it may come from anybody.

Rules
-----
1. Nothing is unpacked beyond ``MOST_BYTES``, and no path leads anywhere but below the subject's artifacts.
2. A point's line is passed on as it stands, after it was found to be exactly one point in wire form.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

from syncd.core.artifact_paths import problem_of_lengths, problem_of_levels
from syncd.core.changes import Head, parse
from syncd.core.facts import (
    DatasetInput,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    RunSeen,
    RunStatus,
    SubjectDeleted,
    SubjectKey,
    SubjectKind,
    TagsDeleted,
    TagsSet,
)
from syncd.core.metric_lines import INT64_MAX, INT64_MIN
from syncd.core.relay.values import (
    MOST_ABOUT,
    MOST_BYTES,
    VERSION,
    RelayedChunk,
    RelayedFact,
    RelayedFacts,
    RelayOrigin,
)
from syncd.core.wrong import Wrong, found_text, pointer

T = TypeVar("T")

MODEL_STATUSES: Final = ("PENDING", "READY", "FAILED", "UNSPECIFIED", "")
LONGEST_ID: Final = 1024

_TEXT: Final = rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_INTEGER: Final = rb"-?(?:0|[1-9][0-9]{0,18})"
_VALUE: Final = rb'(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|"(?:NaN|-?Infinity)")'
_MORE: Final = rb'(?:,"(?:model_id|run_id|dataset_name|dataset_digest)":' + _TEXT + rb"){0,4}+"
_POINT: Final = (
    rb'\{"key":' + _TEXT + rb',"value":' + _VALUE + rb',"timestamp":' + _INTEGER + rb',"step":' + _INTEGER
) + (_MORE + rb"\}")
_POINTS: Final = re.compile(rb"(?:" + _POINT + rb"\n)*+" + _POINT)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Malformed(Exception):
    """A relayed message is not as expected; ``wrong`` says where and what."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def read_facts(packed: bytes, *, identity: str) -> RelayedFacts:
    """Return the facts of a message of type ``FACTS_TYPE``, given its unencoded data.

    Raises:
        Malformed: it is not as expected.
    """
    header, rest = _unpacked(packed)
    origin, subject, about = _address(header)
    lines = _Lines(rest)
    facts: list[RelayedFact] = []
    while not lines.ended:
        facts.append(_fact(lines, len(facts), subject, origin))
    return RelayedFacts(identity, origin, subject, about, facts)


def read_chunk(packed: bytes) -> RelayedChunk:
    """Return the bytes of an artifact of a message of type ``CHUNK_TYPE``, given its unencoded data.

    Raises:
        Malformed: it is not as expected.
    """
    header, content = _unpacked(packed)
    origin, subject, about = _address(header)
    if subject.kind == "experiment":
        raise Malformed(Wrong("/subject/kind", "expected a run or a model: an experiment has no artifacts"))
    said = _Object(_object(header.get("chunk"), "chunk"), ("chunk",))
    path, size, offset = said.text("path"), said.whole("size_bytes"), said.whole("offset")
    if problem := _problem_of_path(path):
        raise said.wrong("path", f"expected {problem}")
    if offset + len(content) > size or (not content and size):
        raise said.wrong("offset", f"expected bytes inside a file of {size}, found {len(content)} at {offset}")
    digest = said.text("digest")
    if not _DIGEST.fullmatch(digest):
        raise said.wrong("digest", "expected a SHA-256 in hex")
    return RelayedChunk(
        origin=origin,
        subject=subject,
        about=about,
        order=said.whole("order"),
        path=path,
        size_bytes=size,
        digest=digest,
        offset=offset,
        content=content,
    )


def _unpacked(packed: bytes) -> tuple[Mapping[str, Any], bytes]:
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(packed, MOST_BYTES + 1)
    except zlib.error as exc:
        raise Malformed(Wrong("", f"expected zlib data: {exc}")) from exc
    if len(data) > MOST_BYTES:
        raise Malformed(Wrong("", f"expected at most {MOST_BYTES} bytes when unpacked"))
    if not reader.eof or reader.unused_data:
        raise Malformed(Wrong("", "expected zlib data that is whole, and nothing after it"))
    first, newline, rest = data.partition(b"\n")
    header = _object(_json(first, "header"), "header")
    if not newline or header.get("version") != VERSION:
        what = f"expected version {VERSION}, found {found_text(header.get('version'))}: is a newer syncd sending?"
        raise Malformed(Wrong("/version", what))
    return header, rest


def _address(header: Mapping[str, Any]) -> tuple[RelayOrigin, SubjectKey, list[Head]]:
    said = _Object(_object(header.get("origin"), "origin"), ("origin",))
    origin = RelayOrigin(
        said.text("journal", least=1), said.whole("journal_made_s"), said.text("daemon"), said.text("source")
    )
    subject = _key(header.get("subject"), ("subject",), origin)
    about = header.get("about")
    if not isinstance(about, list) or len(about) > MOST_ABOUT:
        raise Malformed(Wrong("/about", f"expected an array of at most {MOST_ABOUT}, found {found_text(about)}"))
    return origin, subject, [_head(one, ("about", index), origin) for index, one in enumerate(about)]


class _Lines:
    """Takes lines off the front of what is left of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.ended = not data

    def take(self, count: int = 1) -> bytes:
        """Return the next lines, without the last newline; fewer if there are not as many."""
        end = self._at - 1
        for _ in range(count):
            end = self._data.find(b"\n", end + 1)
            if end < 0:
                break
        taken = self._data[self._at : end if end >= 0 else None]
        self.ended = end < 0
        self._at = end + 1
        return taken


def _fact(lines: _Lines, index: int, subject: SubjectKey, origin: RelayOrigin) -> RelayedFact:
    place = ("facts", index)
    said = _Object(_object(_json(lines.take(), *place), *place), place)
    kind, order, items, again = said.text("kind"), said.whole("order"), said.whole("items"), said.value("again")
    if not isinstance(again, bool):
        raise said.wrong("again", "expected true or false")
    if lines.ended:
        raise Malformed(Wrong(pointer(place), "expected a body after it"))
    if kind == "metrics":
        body = lines.take(items)
        if subject.kind == "experiment" or _POINTS.fullmatch(body) is None or body.count(b"\n") + 1 != items:
            raise Malformed(Wrong(pointer(place), f"expected {items} points in wire form, of a run or a model"))
        _utf8(body, place)
        return RelayedFact(order, MetricsLogged(subject, body, items, again))
    return RelayedFact(order, _small(kind, _json(lines.take(), *place), subject, place, origin))


def _small(kind: str, value: Any, subject: SubjectKey, place: tuple[str | int, ...], origin: RelayOrigin) -> Fact:
    place = (*place, kind)
    match kind:
        case "head":
            head = _head(value, place, origin)
            if head.subject != subject:
                raise Malformed(Wrong(pointer(place), "expected the head of the message's subject"))
            return head
        case "params":
            return ParamsLogged(subject, _texts(value, place))
        case "tags":
            return TagsSet(subject, _texts(value, place))
        case "untag":
            return TagsDeleted(subject, _list(value, place, _text))
        case "inputs":
            said = _Object(_object(value, *place), place)
            datasets = _list(said.value("datasets"), (*place, "datasets"), _dataset)
            return InputsLogged(subject, datasets, _list(said.value("models"), (*place, "models"), _text))
        case "outputs":
            return OutputsLogged(subject, _list(value, place, _output))
        case "deleted":
            return SubjectDeleted(subject)
    raise Malformed(Wrong(pointer(place), "expected a kind of fact that this version knows"))


# -- heads ---------------------------------------------------------------------------------------------------------


def _key(value: Any, place: tuple[str | int, ...], origin: RelayOrigin) -> SubjectKey:
    said = _Object(_object(value, *place), place)
    kind: SubjectKind = said.one_of("kind", get_args(SubjectKind))
    key = said.text("id", least=1, most=LONGEST_ID)
    if kind != "experiment":
        return SubjectKey(kind, key)
    return SubjectKey(kind, key, origin.scope + said.text("store"))


def _head(value: Any, place: tuple[str | int, ...], origin: RelayOrigin) -> Head:
    said = _Object(_object(value, *place), place)
    subject = _key(said.value("subject"), (*place, "subject"), origin)
    if subject.kind == "experiment":
        return ExperimentSeen(subject, said.text("name", least=1), said.texts("tags"))
    experiment = _key(said.value("experiment"), (*place, "experiment"), origin)
    if experiment.kind != "experiment":
        raise said.wrong("experiment", "expected an experiment")
    read_by = said.text("origin") or origin.source
    if subject.kind == "run":
        status: RunStatus = said.one_of("status", get_args(RunStatus))
        return RunSeen(
            subject=subject,
            experiment=experiment,
            name=said.text("name"),
            status=status,
            start_time_ms=said.time("start_time_ms"),
            end_time_ms=said.time("end_time_ms"),
            user_id=said.text("user_id"),
            parent_run_id=said.text("parent_run_id", most=LONGEST_ID),
            origin=read_by,
        )
    return ModelSeen(
        subject=subject,
        experiment=experiment,
        name=said.text("name"),
        model_type=said.text("model_type"),
        status=said.one_of("status", MODEL_STATUSES),
        source_run_id=said.text("source_run_id", most=LONGEST_ID),
        creation_time_ms=said.time("creation_time_ms"),
        params=said.texts("params"),
        tags=said.texts("tags"),
        origin=read_by,
    )


def _dataset(value: Any, place: tuple[str | int, ...]) -> DatasetInput:
    said = _Object(_object(value, *place), place)
    texts = {name: said.text(name) for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    return DatasetInput(**texts, tags=said.texts("tags"))


def _output(value: Any, place: tuple[str | int, ...]) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str) or not _is_int64(value[1]):
        raise Malformed(Wrong(pointer(place), f"expected a model's id and a step, found {found_text(value)}"))
    return value[0], value[1]


# -- values --------------------------------------------------------------------------------------------------------


class _Object:
    """A JSON object whose fields are asked for one by one; ``place`` is where it stands."""

    def __init__(self, values: Mapping[str, Any], place: tuple[str | int, ...]) -> None:
        self._values = values
        self._place = place

    def wrong(self, name: str, what: str) -> Malformed:
        return Malformed(Wrong(pointer([*self._place, name]), what))

    def value(self, name: str) -> Any:
        return self._values.get(name)

    def text(self, name: str, *, least: int = 0, most: int = MOST_BYTES) -> str:
        value = self._values.get(name, "")
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise self.wrong(name, f"expected a text of {least} to {most} characters, found {found_text(value)}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        return _texts(self._values.get(name), (*self._place, name))

    def whole(self, name: str) -> int:
        value = self._values.get(name)
        if not _is_int64(value) or value < 0:  # type: ignore[operator]
            raise self.wrong(name, f"expected a whole number from 0 on, found {found_text(value)}")
        return value  # type: ignore[return-value]

    def time(self, name: str) -> int | None:
        value = self._values.get(name)
        if value is not None and not _is_int64(value):
            raise self.wrong(name, f"expected milliseconds since 1970 or null, found {found_text(value)}")
        return value

    def one_of(self, name: str, choices: Sequence[str]) -> Any:
        value = self._values.get(name)
        if value not in choices:
            raise self.wrong(name, f"expected one of {', '.join(choices)}, found {found_text(value)}")
        return value


def _json(data: bytes, *place: str | int) -> Any:
    try:
        return parse(data)
    except (ValueError, RecursionError) as exc:
        raise Malformed(Wrong(pointer(place), f"expected a line of JSON: {exc}")) from exc


def _object(value: Any, *place: str | int) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(Wrong(pointer(place), f"expected an object, found {found_text(value)}"))
    return value


def _texts(value: Any, place: tuple[str | int, ...]) -> dict[str, str]:
    found = _object(value, *place)
    for key, text in found.items():
        if not isinstance(text, str):
            raise Malformed(Wrong(pointer([*place, key]), f"expected a text, found {found_text(text)}"))
    return dict(found)


def _text(value: Any, place: tuple[str | int, ...]) -> str:
    if not isinstance(value, str):
        raise Malformed(Wrong(pointer(place), f"expected a text, found {found_text(value)}"))
    return value


def _list(value: Any, place: tuple[str | int, ...], read: Callable[[Any, tuple[str | int, ...]], T]) -> list[T]:
    if not isinstance(value, list):
        raise Malformed(Wrong(pointer(place), f"expected an array, found {found_text(value)}"))
    return [read(one, (*place, index)) for index, one in enumerate(value)]


def _utf8(body: bytes, place: tuple[str | int, ...]) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise Malformed(Wrong(pointer(place), f"expected UTF-8: {exc.reason} at byte {exc.start}")) from exc


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX


def _problem_of_path(path: str) -> str:
    """Say what is wrong with an artifact's path, "" if it leads below the artifacts and can be a file here."""
    if "\0" in path:
        return "a path without NUL"
    try:
        return problem_of_levels(path) or problem_of_lengths(path)
    except UnicodeEncodeError:
        return "a path that can be written as UTF-8"
