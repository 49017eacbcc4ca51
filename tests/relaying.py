"""A store as another syncd relays it: its facts, cut into parcels as its journal would have them sent."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from syncd.core.changes import Again, Change, Head, encode
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    Fact,
    InputsLogged,
    ModelSeen,
    OutputsLogged,
    ProblemFound,
    RunSeen,
    SubjectKey,
)
from syncd.core.relay.packing import Address, File, chunk, pack
from syncd.core.relay.values import Parcel, RelayOrigin
from syncd.sources.file_store.source import FileStoreSource

ORIGIN = RelayOrigin("journal-1", 1_790_000_000, "edge-7", "local")


class _NoCursors:
    def load(self, _key: str) -> None:
        return None

    def keys(self, _prefix: str) -> Iterator[str]:
        return iter(())


def relayed(
    store: Path, *, origin: RelayOrigin = ORIGIN, most_bytes: int = 64 * 1024, chunk_bytes: int = 40_000
) -> dict[SubjectKey, list[Parcel]]:
    """Return what is sent of each subject of a FileStore, in order: parents before children, runs before models."""
    facts: defaultdict[SubjectKey, list[Fact]] = defaultdict(list)
    source = FileStoreSource(origin.source, store)
    for reading in source.poll(_NoCursors(), full=True):
        for fact in reading.facts:
            if not isinstance(fact, ProblemFound):
                facts[fact.subject].append(fact)
    source.close()
    heads = {
        key: one for key, of in facts.items() for one in of if isinstance(one, ExperimentSeen | RunSeen | ModelSeen)
    }
    numbers = itertools.count(1)
    order = {"experiment": 0, "run": 1, "model": 2}
    keys = sorted(facts, key=lambda key: (order[key.kind], _depth(heads.get(key), heads)))
    return {
        key: list(
            _parcels(Address(origin, key, _about(key, facts[key], heads)), facts[key], numbers, most_bytes, chunk_bytes)
        )
        for key in keys
    }


def families(store: Path) -> dict[SubjectKey, str]:
    """Return the session of each subject of a FileStore: that of its top ancestor; a model goes with its run."""
    heads = {
        fact.subject: fact
        for reading in FileStoreSource("local", store).poll(_NoCursors(), full=True)
        for fact in reading.facts
        if isinstance(fact, ExperimentSeen | RunSeen | ModelSeen)
    }
    return {key: _top(heads[key], heads) for key in heads}


def _top(head: Head, heads: Mapping[SubjectKey, Head]) -> str:
    above = (
        ""
        if isinstance(head, ExperimentSeen)
        else (head.parent_run_id if isinstance(head, RunSeen) else head.source_run_id)
    )
    parent = heads.get(SubjectKey("run", above))
    return _top(parent, heads) if parent is not None else head.subject.id


def _depth(head: Head | None, heads: Mapping[SubjectKey, Head]) -> int:
    parent = head.parent_run_id if isinstance(head, RunSeen) else ""
    return 1 + _depth(heads.get(SubjectKey("run", parent)), heads) if parent else 0


def _about(key: SubjectKey, facts: list[Fact], heads: Mapping[SubjectKey, Head]) -> list[Head]:
    """Return the heads of a subject and of the models it links to, each with those of its experiment and its parent."""
    wanted = [key]
    for fact in facts:
        if isinstance(fact, InputsLogged):
            wanted += [SubjectKey("model", one) for one in fact.model_inputs]
        if isinstance(fact, OutputsLogged):
            wanted += [SubjectKey("model", one) for one, _ in fact.models]
    for head in [heads[one] for one in wanted if one in heads]:
        if not isinstance(head, ExperimentSeen):
            parent = head.parent_run_id if isinstance(head, RunSeen) else head.source_run_id
            wanted += [head.experiment, SubjectKey("run", parent)]
    return [heads[one] for one in dict.fromkeys(wanted) if one in heads]


def _parcels(
    address: Address, facts: list[Fact], numbers: Iterator[int], most_bytes: int, chunk_bytes: int
) -> Iterator[Parcel]:
    head = address.about[0]
    ordered: list[Fact] = [replace(head, status="RUNNING", end_time_ms=None)] if isinstance(head, RunSeen) else []
    ordered += [fact for fact in facts if fact != head]
    ordered.append(head)
    changes = []
    for fact in ordered:
        seq = next(numbers)
        if isinstance(fact, ArtifactSeen):
            yield from _chunks(address, fact, seq, chunk_bytes)
            continue
        encoded = encode(fact)
        changes.append(Change(seq, encoded.kind, encoded.body, encoded.items, Again.FIRST_READING))
    yield from pack(address, changes, most_bytes=most_bytes)


def _chunks(address: Address, fact: ArtifactSeen, seq: int, chunk_bytes: int) -> Iterator[Parcel]:
    content = (Path(fact.root) / fact.path).read_bytes()
    file = File(seq, fact.path, len(content), hashlib.sha256(content).hexdigest())
    for offset in range(0, len(content) or 1, chunk_bytes):
        yield chunk(address, file, offset, content[offset : offset + chunk_bytes])
