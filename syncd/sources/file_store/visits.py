"""Visit experiments, runs and logged models within one poll, each once, whichever kind of poll it is."""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH118
from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator

from syncd.core.facts import SubjectKey
from syncd.sources.base import Cursors
from syncd.sources.file_store.experiment_reader import read_experiment
from syncd.sources.file_store.memory import (
    ActiveSubject,
    ExperimentMemory,
    FolderSort,
    experiment_signature,
    subject_folders,
)
from syncd.sources.file_store.model_reader import ModelReader
from syncd.sources.file_store.run_reader import RunReader
from syncd.sources.file_store.small_files import is_young
from syncd.sources.file_store.steps import Step, dump_state, load_state, problem_changes
from syncd.sources.file_store.subject_reader import ReadContext, forget_subject

DUPLICATE_CURSOR = "store:duplicate:"


class Visits:
    """Visits experiments and subjects within one poll, keeping the memory of active ones."""

    def __init__(self, context: ReadContext, cursors: Cursors, active: dict[str, ActiveSubject]) -> None:
        self.context = context
        self.cursors = cursors
        self.active = active
        self.seen: set[str] = set()
        self.claimed: dict[str, str] = {}  # subject id: folder it is read from, in this poll
        self.duplicates: set[str] = set()  # cursors of the duplicates met in this poll

    def experiment(self, experiment: ExperimentMemory) -> Generator[Step, None, bool]:
        """Read an experiment's head; the generator's value is False while it is being created."""
        signature = experiment_signature(experiment.place.path)
        reading = read_experiment(experiment.place, self.cursors, now_ns=self.context.now_ns)
        if reading.held:
            return False
        young = is_young(reading.meta_mtime_ns, self.context.now_ns)
        experiment.deleted = reading.deleted

        def committed() -> None:
            experiment.signature = () if young else signature

        step = reading.step or Step()
        step.committed = committed
        yield step
        return True

    def new_folders(self, experiment: ExperimentMemory) -> Generator[Step, None, bool]:
        """Visit folders that were not there before, and state the deletion of those that are gone."""
        whole = True
        try:
            for sort, folders in subject_folders(experiment):
                known: Collection[str] = experiment.runs if sort == "run" else experiment.models
                for folder in folders:
                    if folder in known or folder in experiment.passed_over:
                        continue
                    whole = (yield from self.subject(experiment, sort, folder)) and whole
                for folder in sorted(set(known).difference(folders)):
                    yield from self._gone(experiment, sort, folder)
        except OSError:
            return False
        return whole

    def _gone(self, experiment: ExperimentMemory, sort: FolderSort, folder: str) -> Iterator[Step]:
        subject_id = experiment.runs.get(folder, folder) if sort == "run" else folder
        head = load_state(self.cursors, f"{subject_id}/head")
        where = [experiment.place.store.rel, experiment.place.folder, folder]
        step = Step()
        if head.get("w") == where and "s" in head:
            step = forget_subject(SubjectKey(sort, subject_id), self.cursors, where=where)

        def committed() -> None:
            experiment.runs.pop(folder, None)
            experiment.models.discard(folder)
            self.active.pop(subject_id, None)

        step.committed = committed
        yield step

    def subject(self, experiment: ExperimentMemory, sort: FolderSort, folder: str) -> Generator[Step, None, bool]:
        """Read one run or model and keep or drop it as active; the value is False while it is being created."""
        path = experiment.folder_path(sort, folder)
        self.seen.add(path)
        subject_id = experiment.runs.get(folder, folder)
        known = self.active.get(subject_id)
        settled = dict(known.settled) if known else {}
        reader_type = RunReader if sort == "run" else ModelReader
        reader = reader_type(experiment.place, folder, path, self.context, settled)
        reader.subject_id = subject_id
        for step in reader.steps(self.cursors):
            if self._claimed_elsewhere(reader.subject_id, path):
                reader.outcome = "duplicate"
                break
            yield step
        if reader.outcome == "duplicate" or (
            reader.outcome == "read" and self._claimed_elsewhere(reader.subject_id, path)
        ):
            yield self._duplicate(experiment, sort, folder, reader.subject_id)
            return True
        if reader.outcome == "held":
            return False
        if reader.outcome == "read":
            self.claimed[reader.subject_id] = path

        def committed() -> None:
            self._remember(experiment, sort, folder, reader)

        yield Step(committed=committed)
        return True

    def _claimed_elsewhere(self, subject_id: str, path: str) -> bool:
        return self.claimed.get(subject_id, path) != path

    def _duplicate(self, experiment: ExperimentMemory, sort: FolderSort, folder: str, subject_id: str) -> Step:
        path = experiment.folder_path(sort, folder)
        first = self.claimed.get(subject_id)
        if first is None:
            where = load_state(self.cursors, f"{subject_id}/head").get("w", [])
            first = os.path.join(self.context.source_path, *where)
        what = f"the {sort} {subject_id} lies in two places; it is brought over from {first}, this one is not"
        key = f"{DUPLICATE_CURSOR}{os.path.relpath(path, self.context.source_path)}"
        self.duplicates.add(key)
        before = load_state(self.cursors, key).get("p", {})
        step = Step(committed=lambda: experiment.passed_over.add(folder))
        step.facts = problem_changes(before, {path: what}, subject=None)
        if step.facts:
            step.cursors[key] = dump_state({"p": {path: what}})
        return step

    def _remember(
        self, experiment: ExperimentMemory, sort: FolderSort, folder: str, reader: RunReader | ModelReader
    ) -> None:
        subject_id = reader.subject_id
        if reader.outcome not in ("read", "deleted"):
            experiment.passed_over.add(folder)
            return
        if sort == "run":
            experiment.runs[folder] = folder if subject_id == folder else subject_id
        else:
            experiment.models.add(folder)
        active = ActiveSubject(
            experiment, sort, folder, subject_id, reader.ended, reader.newest_ns, reader.settled or {}
        )
        if reader.outcome == "read" and active.is_active(self.context.now_ns):
            self.active[subject_id] = active
        else:
            self.active.pop(subject_id, None)
