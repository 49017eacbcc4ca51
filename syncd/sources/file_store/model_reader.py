"""Read one LoggedModel's folder (``<experiment>/models/m-…``): head with params and tags, metrics, artifacts.

A model's head is stated whole whenever anything of it changed.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH118
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from syncd.core.facts import ModelSeen, SubjectKey
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import META
from syncd.sources.file_store.meta import is_deleted, milliseconds_of, model_status_of, text_of
from syncd.sources.file_store.small_files import content_hash, read_small_files
from syncd.sources.file_store.steps import State, Step, dump_state, load_state, problem_changes
from syncd.sources.file_store.subject_reader import SubjectReader


@dataclass(slots=True)
class ModelReader(SubjectReader):
    """Reads what is new of one logged model."""

    def steps(self, cursors: Cursors) -> Iterator[Step]:
        """Yield steps; sets ``outcome``, ``subject_id``, ``ended`` and ``newest_ns``."""
        self.subject_id = self.folder
        before = load_state(cursors, f"{self.subject_id}/head")
        identity, meta = self._read_meta(before)
        if self.outcome == "problem":
            facts = problem_changes(before.get("p", {}), self.problems, subject=self._subject())
            if facts:
                yield Step(
                    facts, {f"{self.subject_id}/head": dump_state(before | {"p": self.problems, "w": self.where})}
                )
            return
        if self.outcome != "nothing" or not identity:
            return
        where = before.get("w")
        if where and where != self.where and self._model_lies_at(where):
            self.outcome = "duplicate"
            return
        if is_deleted(meta) if meta is not None else bool(before.get("d")):
            if step := self._delete(before, identity, cursors):
                yield step
            return
        self.outcome = "read"
        essentials: State = before.get("m", {})
        if meta is not None:
            essentials = {
                "name": text_of(meta, "name"),
                "type": text_of(meta, "model_type"),
                "status": model_status_of(meta),
                "run": text_of(meta, "source_run_id"),
                "created": milliseconds_of(meta, "creation_timestamp", "creation_time"),
                "uri": text_of(meta, "artifact_location", "artifact_uri"),
            }
        self.ended = essentials["status"] != "PENDING"
        root = self._artifact_root(essentials["uri"], may_have_had_some=True)
        yield from self._head_steps(before, identity, essentials)
        yield from self._metric_steps(cursors, again=bool(before.get("d") or before.get("r")))
        if root is not None:
            yield from self._artifact_steps(root, cursors)

    def _subject(self) -> SubjectKey:
        return SubjectKey("model", self.subject_id)

    def _noun(self) -> str:
        return "logged model"

    def _model_lies_at(self, where: list[str]) -> bool:
        store, experiment, folder = where
        return os.path.lexists(os.path.join(self.context.source_path, store, experiment, "models", folder, META))

    def _head_steps(self, before: State, identity: list[int], essentials: State) -> Iterator[Step]:
        state: State = {"i": identity, "w": self.where, "m": essentials, "s": before.get("s", "")}
        changed = essentials != before.get("m")
        for section in ("params", "tags"):
            found = read_small_files(
                os.path.join(self.path, section),
                before.get(section, {}),
                now_ns=self.context.now_ns,
                hold_young=False,
            )
            self.newest_ns = max(self.newest_ns, found.newest_ns)
            self.problems.update(found.problems)
            state[section] = found.state
            changed = changed or bool(found.values or found.deleted)
        facts = problem_changes(before.get("p", {}), self.problems, subject=self._subject())
        state["p"] = self.problems
        if before.get("d") or before.get("r"):
            state["r"] = 1
        if changed or not before.get("s"):
            seen = self._seen(essentials)
            digest = content_hash(
                json.dumps([essentials, sorted(seen.params.items()), sorted(seen.tags.items())]).encode()
            )
            if digest != before.get("s"):
                facts.insert(0, seen)
            state["s"] = digest
        if facts or state != before:
            yield Step(facts, {f"{self.subject_id}/head": dump_state(state)})

    def _seen(self, essentials: State) -> ModelSeen:
        return ModelSeen(
            subject=self._subject(),
            experiment=self.experiment.subject,
            name=essentials["name"],
            model_type=essentials["type"],
            status=essentials["status"],
            source_run_id=essentials["run"],
            creation_time_ms=essentials["created"],
            params=self._all_of("params"),
            tags=self._all_of("tags"),
        )

    def _all_of(self, section: str) -> dict[str, str]:
        root = os.path.join(self.path, section)
        return read_small_files(root, {}, now_ns=self.context.now_ns, hold_young=False).values
