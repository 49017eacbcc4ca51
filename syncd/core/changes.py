"""Changes: facts as the journal keeps them until every destination has them.

Rules
-----
1. ``encode`` and ``decode`` are inverse up to what a destination needs; the journal stores bytes and looks at none.
2. ``section`` orders the work of one subject: small facts, then metrics and artifacts, then the head. A head is sent
   last, so that a run is seen as ended on a destination only when all of it is there.
3. Small facts merge (wandb's law): sending the merged value has the effect of sending all in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from syncd.core.facts import (
    ArtifactSeen,
    DatasetInput,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    ProblemFound,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)


class Section(IntEnum):
    """In which order a subject's changes are delivered."""

    SMALL = 0
    METRICS = 1
    ARTIFACTS = 2
    HEAD = 3


class Again(IntEnum):
    """Whether a destination may already hold what a change says."""

    NEW = 0
    FIRST_READING = 1  # only if the run was found there rather than created
    RESTATED = 2  # the source stated it before


@dataclass(frozen=True, slots=True)
class Encoded:
    """A fact in the form the journal keeps: ``size_bytes`` is what will travel (an artifact's size, or the body's)."""

    section: Section
    kind: str
    body: bytes
    items: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change read back from the journal for one destination. ``seq`` 0 means: not from the journal."""

    seq: int
    kind: str
    body: bytes
    items: int
    again: Again = Again.NEW
    attempted: bool = False
    at_ms: int = 0


def render(value: Any) -> bytes:
    """Return a JSON value as a body; ``parse`` reads it again."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def parse(body: bytes) -> Any:
    """Return the JSON value of a body."""
    return json.loads(body.decode("utf-8", "surrogatepass"))


def encode(fact: Fact) -> Encoded:
    """Return the journal's form of a fact (not of ``ProblemFound``, which is no change)."""
    match fact:
        case MetricsLogged():
            return Encoded(Section.METRICS, "metrics", fact.lines, fact.count, len(fact.lines))
        case ArtifactSeen():
            body = render(
                {"path": fact.path, "root": fact.root, "size_bytes": fact.size_bytes, "mtime_ns": fact.mtime_ns}
            )
            return Encoded(Section.ARTIFACTS, "artifact", body, 1, fact.size_bytes)
        case ParamsLogged():
            return _small("params", dict(fact.params), len(fact.params))
        case TagsSet():
            return _small("tags", dict(fact.tags), len(fact.tags))
        case TagsDeleted():
            return _small("untag", list(fact.keys), len(fact.keys))
        case InputsLogged():
            inputs = {"datasets": [asdict(d) for d in fact.datasets], "models": list(fact.model_inputs)}
            return _small("inputs", inputs, len(fact.datasets) + len(fact.model_inputs))
        case OutputsLogged():
            return _small("outputs", [list(model) for model in fact.models], len(fact.models))
        case RunSeen() | ModelSeen() | ExperimentSeen():
            body = encode_head(fact)
            return Encoded(Section.HEAD, "head", body, 1, len(body))
        case SubjectDeleted():
            return Encoded(Section.HEAD, "deleted", b"{}", 1, 2)
        case ProblemFound():
            raise TypeError("a problem is not a change")


def _small(kind: str, value: Any, items: int) -> Encoded:
    body = render(value)
    return Encoded(Section.SMALL, kind, body, items, len(body))


Head = RunSeen | ModelSeen | ExperimentSeen


def encode_head(head: Head) -> bytes:
    """Return a head as JSON."""
    return render(asdict(head))


def decode_head(body: bytes) -> Head:
    """Return the head that ``encode_head`` wrote."""
    return head_of(parse(body))


def head_of(value: dict[str, Any]) -> Head:
    """Return the head whose ``asdict`` this is."""
    value["subject"] = SubjectKey(**value["subject"])
    if value["subject"].kind == "experiment":
        return ExperimentSeen(**value)
    value["experiment"] = SubjectKey(**value["experiment"])
    return RunSeen(**value) if value["subject"].kind == "run" else ModelSeen(**value)


def decode_artifact(subject: SubjectKey, body: bytes) -> ArtifactSeen:
    """Return the artifact that ``encode`` wrote."""
    return ArtifactSeen(subject=subject, **parse(body))


@dataclass(frozen=True, slots=True)
class SmallFacts:
    """All small facts of a subject merged into one value, in the order in which they were stated."""

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    untag: Sequence[str] = ()
    datasets: Sequence[DatasetInput] = ()
    model_inputs: Sequence[str] = ()
    model_outputs: Sequence[tuple[str, int]] = ()


def merge_small(changes: Iterable[Change]) -> SmallFacts:
    """Return the one value whose sending has the effect of sending the changes in order."""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    untag: dict[str, None] = {}
    datasets: dict[tuple[str, str], DatasetInput] = {}
    inputs: dict[str, None] = {}
    outputs: dict[str, int] = {}
    for change in changes:
        value = parse(change.body)
        match change.kind:
            case "params":
                params.update(value)
            case "tags":
                tags.update(value)
                for key in value:
                    untag.pop(key, None)
            case "untag":
                for key in value:
                    tags.pop(key, None)
                    untag[key] = None
            case "inputs":
                for dataset in value["datasets"]:
                    datasets[(dataset["name"], dataset["digest"])] = DatasetInput(**dataset)
                inputs.update(dict.fromkeys(value["models"]))
            case "outputs":
                outputs.update(dict(value))
            case other:
                raise ValueError(f"unknown small fact {other}")
    return SmallFacts(params, tags, tuple(untag), tuple(datasets.values()), tuple(inputs), tuple(outputs.items()))
