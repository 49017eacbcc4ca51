"""Occurrences: which changes of the journal are worth telling, and in what words. Pure; ``journal/telling.py`` writes.

Rules
-----
1. ``marks`` are what makes an occurrence this one and no other. They come from the store and the destination, so a
   journal that is rebuilt finds the same ones, and the event's id, made of them alone, is the same.
2. What only this journal knows (a dead letter's number, when a destination went down) is a mark only where the
   occurrence is this journal's own.
3. Texts of a store are shortened and made valid here, once (``text_of``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from syncd.core import events
from syncd.core.facts import TERMINAL_STATUSES, ModelSeen, RunSeen

LONGEST_TEXT: Final = 1000
_ENDED: Final = {"FINISHED": events.RUN_FINISHED, "FAILED": events.RUN_FAILED, "KILLED": events.RUN_KILLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What is to be told: ``type`` whole, ``subject`` as CloudEvents has it, ``data`` JSON."""

    type: str
    subject: str
    marks: tuple[str | int | None, ...]
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The event's id: 128 bits of SHA-256 in hex."""
        told = json.dumps([self.type, *self.marks]).encode()
        return hashlib.sha256(told).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run or model belongs: its source's name, its experiment's id in the store and name ("": not known)."""

    source: str
    experiment_id: str
    experiment_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class There:
    """A subject's side of a destination: its name and URI (without credentials), the id there ("": none)."""

    destination: str
    uri: str
    remote_id: str = ""


def of_run(place: Place, before: RunSeen | None, after: RunSeen) -> list[Occurrence]:
    """Return what a run's head tells, given the one before it (None: the run is new)."""
    told = []
    if before is None:
        told.append(_of_run(events.RUN_DISCOVERED, place, after))
    if after.status == "RUNNING" and (before is None or before.status != "RUNNING"):
        # Who goes on with a run that has ended starts it once more: what tells the two apart is the end before it.
        ended_ms = before.end_time_ms if before is not None and before.status in TERMINAL_STATUSES else None
        told.append(_of_run(events.RUN_STARTED, place, after, ended_ms))
    if after.status in TERMINAL_STATUSES and (before is None or _end(before) != _end(after)):
        told.append(_of_run(_ENDED[after.status], place, after, after.end_time_ms))
    return told


def of_model(place: Place, before: ModelSeen | None, after: ModelSeen) -> list[Occurrence]:
    """Return what a logged model's head tells: that it is there, once it is ready."""
    if after.status != "READY" or (before is not None and before.status == "READY"):
        return []
    model_id = text_of(after.subject.id)
    data = {
        "model_id": model_id,
        "model_name": text_of(after.name),
        "model_type": text_of(after.model_type),
        "run_id": text_of(after.source_run_id) or None,
        **_of_place(place),
        "creation_time_ms": after.creation_time_ms,
    }
    return [
        Occurrence(
            type=events.MODEL_LOGGED, subject=f"models/{model_id}", marks=(place.source, after.subject.id), data=data
        )
    ]


def synced_mark(run: RunSeen) -> str:
    """Return which state of a run is synced: told anew when the run ends anew."""
    return f"{run.status} {run.end_time_ms}"


def run_synced(
    place: Place, run: RunSeen, there: There, sent: Mapping[str, int], *, later_ms: int | None = None
) -> Occurrence:
    """Return that all of a run that ended is on a destination.

    Args:
        place: where it belongs.
        run: its head.
        there: where it is.
        sent: what was sent of it: points, artifacts, bytes.
        later_ms: None the first time; when the run was changed after that was told, the time of that change.
    """
    data = {**_run_data(place, run), **_of_destination(there), "destination_run_id": text_of(there.remote_id)}
    return Occurrence(
        type=events.RUN_SYNCED,
        subject=_run_subject(run),
        marks=(place.source, run.subject.id, there.uri, synced_mark(run), later_ms),
        data={**data, "sent": dict(sent)},
    )


def artifact_uploaded(
    place: Place, kind: str, key: str, there: There, *, path: str, size_bytes: int, mtime_ns: int
) -> Occurrence:
    """Return that a file of a run or model (``kind``, its id in the store ``key``) is on a destination."""
    ids = {"run_id": text_of(key)} if kind == "run" else {"model_id": text_of(key)}
    data = {**ids, **_of_place(place), "path": text_of(path, 5000), "size_bytes": size_bytes, **_of_destination(there)}
    return Occurrence(
        type=events.ARTIFACT_UPLOADED,
        subject=f"{kind}s/{text_of(key)}",
        marks=(place.source, kind, key, there.uri, path, size_bytes, mtime_ns),
        data=data,
    )


def dead_letter_added(
    place: Place, kind: str, key: str, there: There, letter: Mapping[str, Any], *, at_ms: int
) -> Occurrence:
    """Return that a destination refused something: ``letter`` has number, kind, items, reason, code and status."""
    ids = {"run": {"run_id": text_of(key)}, "model": {"model_id": text_of(key)}}.get(kind, {})
    told = {"letter": letter["number"], "kind": letter["kind"], "items": letter["items"]}
    words = {"reason": text_of(letter["reason"], 2000), "code": text_of(letter["code"]), "status": letter["status"]}
    return Occurrence(
        type=events.DEAD_LETTER_ADDED,
        subject=f"{kind}s/{text_of(key)}",
        marks=(there.uri, place.source, kind, key, letter["number"], at_ms),
        data={**ids, **_of_place(place), **_of_destination(there), **told, **words},
    )


def message_refused(
    source: str,
    message_id: str,
    address: str,
    *,
    code: str,
    reason: str,
    letter: int | None,
    marks: tuple[str | int, ...],
) -> Occurrence:
    """Return that a message of a source is not taken.

    Args:
        source: its name.
        message_id: the broker's id of the message, "" for none.
        address: on which queue, topic or path it came.
        code: why, in one word.
        reason: why.
        letter: under which number this journal keeps it, None if its broker does.
        marks: what tells this refusal from any other of the source.
    """
    told = {"message_id": text_of(message_id), "address": text_of(address)}
    kept = {"letter": letter, "kind": "message", "items": 1}
    return Occurrence(
        type=events.DEAD_LETTER_ADDED,
        subject=f"sources/{text_of(source)}",
        marks=("message", source, *marks),
        data={"source": text_of(source), **told, **kept, "reason": text_of(reason, 2000), "code": code, "status": 0},
    )


def overflow_added(
    place: Place, kind: str, key: str, there: There, *, section: str, artifact: str, items: int
) -> Occurrence:
    """Return that a destination cannot hold some params, tags, points … (``section``), which are in an artifact."""
    ids = {"run_id": text_of(key)} if kind == "run" else {"model_id": text_of(key)}
    told = {"section": section, "artifact": artifact, "items": items}
    return Occurrence(
        type=events.OVERFLOW_ADDED,
        subject=f"{kind}s/{text_of(key)}",
        marks=(place.source, kind, key, there.uri, section),
        data={**ids, **_of_place(place), **_of_destination(there), **told},
    )


def destination_down(there: There, *, state: str, error: str, at_ms: int) -> Occurrence:
    """Return that a destination takes nothing: it does not answer (``down``) or refuses the credentials (``auth``)."""
    data = {**_of_destination(there), "state": state, "error": text_of(error, 2000)}
    return _of_destination_itself(events.DESTINATION_DOWN, there, data, at_ms)


def destination_up(there: There, *, at_ms: int) -> Occurrence:
    """Return that a destination that was told to be down answers again."""
    return _of_destination_itself(events.DESTINATION_UP, there, _of_destination(there), at_ms)


def text_of(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text of a store or service as an event may hold it: valid Unicode, shortened with an ellipsis."""
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid if len(valid) <= longest else f"{valid[: longest - 1]}…"


def _end(run: RunSeen) -> tuple[str, int | None]:
    return run.status, run.end_time_ms


def _run_subject(run: RunSeen) -> str:
    return f"runs/{text_of(run.subject.id)}"


def _of_run(type_: str, place: Place, run: RunSeen, *marks: int | None) -> Occurrence:
    whole = (place.source, run.subject.id, *marks)
    return Occurrence(type=type_, subject=_run_subject(run), marks=whole, data=_run_data(place, run))


def _run_data(place: Place, run: RunSeen) -> dict[str, Any]:
    return {
        "run_id": text_of(run.subject.id),
        "run_name": text_of(run.name),
        **_of_place(place),
        "status": run.status,
        "start_time_ms": run.start_time_ms,
        "end_time_ms": run.end_time_ms,
        "parent_run_id": text_of(run.parent_run_id) or None,
    }


def _of_place(place: Place) -> dict[str, str]:
    return {
        "source": text_of(place.source),
        "experiment_id": text_of(place.experiment_id),
        "experiment_name": text_of(place.experiment_name),
    }


def _of_destination(there: There) -> dict[str, str]:
    return {"destination": there.destination, "destination_uri": text_of(there.uri)}


def _of_destination_itself(type_: str, there: There, data: Mapping[str, Any], at_ms: int) -> Occurrence:
    return Occurrence(type=type_, subject=f"destinations/{there.destination}", marks=(there.uri, at_ms), data=data)
