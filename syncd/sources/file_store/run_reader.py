"""Read one run's folder: head, params, tags, inputs, outputs, metrics, artifacts.

Rules
-----
1. meta.yaml is read first: what is read after an end status was seen is everything the run wrote before it ended.
2. A section's cursor is written with the facts it speaks of, and only when it changed.
3. The head's cursor holds what later readings need without parsing meta.yaml again: m (essentials), nt and pt (values
   of the tags mlflow.runName and mlflow.parentRunId), s (what was last stated), w (location), p (problems),
   d (stated as deleted), r (restored once: points may have been stated before).
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH116, PTH118, PTH119
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from syncd.core.facts import (
    TERMINAL_STATUSES,
    DatasetInput,
    InputsLogged,
    OutputsLogged,
    ParamsLogged,
    RunSeen,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import META, child_directories
from syncd.sources.file_store.meta import (
    MetaUnreadable,
    inline_tags,
    is_deleted,
    milliseconds_of,
    parse_meta,
    run_status_of,
    text_of,
)
from syncd.sources.file_store.small_files import Problems, SmallFiles, is_young, read_small, read_small_files, reason
from syncd.sources.file_store.steps import State, Step, dump_state, load_state, problem_changes
from syncd.sources.file_store.subject_reader import SubjectReader

NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"
MODEL_HISTORY_TAG = "mlflow.log-model.history"


@dataclass(slots=True)
class RunReader(SubjectReader):
    """Reads what is new of one run."""

    def steps(self, cursors: Cursors) -> Iterator[Step]:
        """Yield steps; sets ``outcome``, ``subject_id``, ``ended`` and ``newest_ns``."""
        self.subject_id = self.subject_id or self.folder
        before = load_state(cursors, f"{self.subject_id}/head")
        identity, meta = self._read_meta(before)
        if self.outcome != "nothing" or not identity:
            yield from self._unreadable_steps(before)
            return
        if meta is not None:
            stated_id = text_of(meta, "run_id", "run_uuid") or self.folder
            if stated_id != self.subject_id:
                self.subject_id = stated_id
                before = load_state(cursors, f"{self.subject_id}/head")
        if self._is_elsewhere(before):
            self.outcome = "duplicate"
            return
        if is_deleted(meta) if meta is not None else bool(before.get("d")):
            if step := self._delete(before, identity, cursors):
                yield step
            return
        essentials = _essentials(meta) if meta is not None else before.get("m", {})
        self.ended = essentials.get("status") in TERMINAL_STATUSES
        self.outcome = "read"
        yield from self._content_steps(cursors, before, identity, essentials, inline_tags(meta or {}))

    def _subject(self) -> SubjectKey:
        return SubjectKey("run", self.subject_id)

    def _is_elsewhere(self, before: State) -> bool:
        """Tell whether the run is known from another folder that still holds it."""
        where = before.get("w")
        if not where or where == self.where:
            return False
        return os.path.lexists(os.path.join(self.context.source_path, *where, META))

    def _unreadable_steps(self, before: State) -> Iterator[Step]:
        """State or withdraw the problem of a run whose meta.yaml cannot be read."""
        if self.outcome == "problem":
            facts = problem_changes(before.get("p", {}), self.problems, subject=self._subject())
            if facts:
                yield Step(
                    facts, {f"{self.subject_id}/head": dump_state(before | {"p": self.problems, "w": self.where})}
                )

    def _content_steps(
        self, cursors: Cursors, before: State, identity: list[int], essentials: State, inline: Mapping[str, str]
    ) -> Iterator[Step]:
        run = self._subject()
        step = Step()
        tags = self._tags(cursors, step, inline)
        head: State = {
            "i": identity,
            "w": self.where,
            "m": essentials,
            "nt": tags.get(NAME_TAG, before.get("nt", "")),
            "pt": tags.get(PARENT_TAG, before.get("pt", "")),
        }
        if before.get("d") or before.get("r"):
            head["r"] = 1
        seen = RunSeen(
            subject=run,
            experiment=self.experiment.subject,
            name=essentials["name"] or head["nt"],
            status=essentials["status"],
            start_time_ms=essentials["start"],
            end_time_ms=essentials["end"],
            user_id=essentials["user"],
            parent_run_id=head["pt"],
        )
        head["s"] = [seen.name, seen.status, seen.start_time_ms, seen.end_time_ms, seen.user_id, seen.parent_run_id]
        head["s"] += [self.experiment.store.rel, self.experiment.folder]
        if head["s"] != before.get("s"):
            step.facts.insert(0, seen)
        self._params(cursors, step)
        self._inputs(cursors, step)
        self._outputs(cursors, step)
        had_models = tags.get("", "") != ""
        root = self._artifact_root(essentials["uri"], may_have_had_some=had_models)
        step.facts += problem_changes(before.get("p", {}), self.problems, subject=run)
        head["p"] = self.problems
        if head != before:
            step.cursors[f"{run.id}/head"] = dump_state(head)
        if step.facts or step.cursors:
            yield step
        yield from self._metric_steps(cursors, again=bool(head.get("r")))
        if root is not None:
            yield from self._artifact_steps(root, cursors)

    def _tags(self, cursors: Cursors, step: Step, inline: Mapping[str, str]) -> dict[str, str]:
        """Add tag facts to the step; return new values of the tags that the head needs ("" for deleted ones).

        The key "" of the result is set when the run says that it logged models.
        """
        found = self._section("tags", cursors, step)
        values = {key: value for key, value in inline.items() if key not in found.state} | found.values
        if values:
            step.facts.append(TagsSet(self._subject(), values))
        if found.deleted:
            step.facts.append(TagsDeleted(self._subject(), found.deleted))
        needed = {key: values[key] for key in (NAME_TAG, PARENT_TAG) if key in values}
        needed |= {key: "" for key in (NAME_TAG, PARENT_TAG) if key in found.deleted}
        if MODEL_HISTORY_TAG in found.state:
            needed[""] = "models"
        return needed

    def _params(self, cursors: Cursors, step: Step) -> None:
        found = self._section("params", cursors, step)
        if found.values:
            step.facts.append(ParamsLogged(self._subject(), found.values))

    def _section(self, name: str, cursors: Cursors, step: Step) -> SmallFiles:
        key = f"{self.subject_id}/{name}"
        before = load_state(cursors, key)
        found = read_small_files(
            os.path.join(self.path, name),
            before.get("f", {}),
            now_ns=self.context.now_ns,
            hold_young=not self.context.full and not self.ended,
        )
        self.newest_ns = max(self.newest_ns, found.newest_ns)
        step.facts += problem_changes(before.get("p", {}), found.problems, subject=self._subject())
        state = {part: value for part, value in (("f", found.state), ("p", found.problems)) if value}
        if state != before:
            step.cursors[key] = dump_state(state) if state else None
        return found

    def _inputs(self, cursors: Cursors, step: Step) -> None:
        datasets: list[DatasetInput] = []
        models: list[str] = []
        for _, meta in self._links("inputs", cursors, step):
            source_id = text_of(meta, "source_id")
            if str(meta.get("source_type")) == "MODEL":
                models.append(source_id)
            else:
                datasets.append(self._dataset(source_id, inline_tags(meta)))
        if datasets or models:
            step.facts.append(InputsLogged(self._subject(), datasets, models))

    def _outputs(self, cursors: Cursors, step: Step) -> None:
        models: list[tuple[str, int]] = []
        for folder, meta in self._links("outputs", cursors, step):
            models.append((text_of(meta, "destination_id", "source_id") or folder, milliseconds_of(meta, "step") or 0))
        if models:
            step.facts.append(OutputsLogged(self._subject(), models))

    def _links(self, section: str, cursors: Cursors, step: Step) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the folders of inputs/ or outputs/ that are new, with their meta; checks that datasets are there."""
        root = os.path.join(self.path, section)
        try:
            folders = sorted(child_directories(root))
        except OSError:
            return []
        key = f"{self.subject_id}/{section}"
        before = load_state(cursors, key)
        known: list[str] = before.get("i", [])
        new: list[tuple[str, Mapping[str, Any]]] = []
        problems: Problems = {}
        for folder in folders:
            if folder in known or folder.startswith("."):
                continue
            path = os.path.join(root, folder, META)
            try:
                meta = parse_meta(read_small(path))
                if section == "inputs" and str(meta.get("source_type")) != "MODEL":
                    path = self._dataset_path(text_of(meta, "source_id"))
                    parse_meta(read_small(path))
            except (OSError, MetaUnreadable) as exc:
                if not self._young(path):
                    what = reason(exc) if isinstance(exc, OSError) else str(exc)
                    problems[path] = f"{what}: one of the run's {section} is not brought over"
                continue
            new.append((folder, meta))
        state = {"i": known + [folder for folder, _ in new]} | ({"p": problems} if problems else {})
        step.facts += problem_changes(before.get("p", {}), problems, subject=self._subject())
        if new or problems != before.get("p", {}):
            step.cursors[key] = dump_state(state)
        return new

    def _dataset_path(self, dataset_id: str) -> str:
        return os.path.join(self.experiment.path, "datasets", os.path.basename(dataset_id) or "-", META)

    def _dataset(self, dataset_id: str, tags: Mapping[str, str]) -> DatasetInput:
        meta = parse_meta(read_small(self._dataset_path(dataset_id)))
        return DatasetInput(
            name=text_of(meta, "name"),
            digest=text_of(meta, "digest"),
            source_type=text_of(meta, "source_type"),
            source=text_of(meta, "source"),
            schema=text_of(meta, "schema"),
            profile=text_of(meta, "profile"),
            tags=tags,
        )

    def _young(self, path: str) -> bool:
        try:
            return is_young(os.stat(path).st_mtime_ns, self.context.now_ns)
        except OSError:
            return False


def _essentials(meta: Mapping[str, Any]) -> State:
    return {
        "name": text_of(meta, "run_name", "name"),
        "status": run_status_of(meta),
        "start": milliseconds_of(meta, "start_time"),
        "end": milliseconds_of(meta, "end_time"),
        "user": text_of(meta, "user_id"),
        "uri": text_of(meta, "artifact_uri"),
    }
