"""Read an experiment's head: name and tags.

An experiment without a readable meta.yaml is named as a problem, and its runs are brought under an experiment named
after the folder: its runs are worth more than its name.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH116, PTH118
from __future__ import annotations

import json
import os
from dataclasses import dataclass

from syncd.core.facts import ExperimentSeen, Fact
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import META, ExperimentPlace
from syncd.sources.file_store.meta import MetaUnreadable, inline_tags, is_deleted, parse_meta, text_of
from syncd.sources.file_store.small_files import (
    Problems,
    content_hash,
    is_young,
    read_small,
    read_small_files,
    reason,
    settled_mtime_ns,
)
from syncd.sources.file_store.steps import State, Step, dump_state, load_state, problem_changes


@dataclass(slots=True)
class ExperimentReading:
    """``step`` is None when nothing changed; ``held`` when meta.yaml is being written; ``deleted`` by its meta."""

    step: Step | None = None
    held: bool = False
    deleted: bool = False
    meta_mtime_ns: int = 0


def experiment_cursor(place: ExperimentPlace) -> str:
    """Return the cursor's key."""
    return f"store:{place.store.rel}:experiment:{place.folder}"


def read_experiment(place: ExperimentPlace, cursors: Cursors, *, now_ns: int) -> ExperimentReading:
    """Read what changed of an experiment's name and tags."""
    key = experiment_cursor(place)
    before = load_state(cursors, key)
    problems: Problems = {}
    reading = ExperimentReading()
    meta = _read_meta(place, before, problems, reading, now_ns)
    if reading.held or meta.get("deleted"):
        reading.deleted = not reading.held
        return reading
    tags_root = os.path.join(place.path, "tags")
    tags = read_small_files(tags_root, before.get("t", {}), now_ns=now_ns, hold_young=False)
    problems |= tags.problems
    state: State = {"m": meta, "t": tags.state, "p": problems, "h": before.get("h", "")}
    facts: list[Fact] = []
    if meta != before.get("m") or tags.values or tags.deleted or not before:
        whole = read_small_files(tags_root, {}, now_ns=now_ns, hold_young=False).values
        seen = ExperimentSeen(place.subject, meta["name"] or place.folder, meta["tags"] | whole)
        state["h"] = content_hash(json.dumps([seen.name, sorted(seen.tags.items())]).encode())
        if state["h"] != before.get("h"):
            facts.append(seen)
    facts += problem_changes(before.get("p", {}), problems, subject=place.subject)
    if facts or state != before:
        reading.step = Step(facts, {key: dump_state(state)})
    return reading


def _read_meta(
    place: ExperimentPlace, before: State, problems: Problems, reading: ExperimentReading, now_ns: int
) -> State:
    path = os.path.join(place.path, META)
    nothing: State = {"i": [], "name": "", "tags": {}, "deleted": False}
    try:
        info = os.stat(path, follow_symlinks=False)
        reading.meta_mtime_ns = info.st_mtime_ns
        identity = [info.st_ino, info.st_size, settled_mtime_ns(info.st_mtime_ns, now_ns)]
        known: State = before.get("m", nothing)
        if known["i"] == identity and identity[2]:
            return known
        meta = parse_meta(read_small(path))
    except (OSError, MetaUnreadable) as exc:
        if _is_young(path, place.path, now_ns):
            reading.held = True
        what = reason(exc) if isinstance(exc, OSError) else str(exc)
        problems[path] = f"{what}: the experiment's name is lost; its runs are brought as experiment {place.folder!r}"
        return nothing
    return {
        "i": identity,
        "name": text_of(meta, "name"),
        "tags": inline_tags(meta),
        "deleted": is_deleted(meta),
    }


def _is_young(meta_path: str, directory: str, now_ns: int) -> bool:
    for path in (meta_path, directory):
        try:
            return is_young(os.stat(path).st_mtime_ns, now_ns)
        except OSError:
            continue
    return False
