"""The full poll: one walk over everything, which also sees what is gone."""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH112, PTH118, PTH119, PTH208
from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from syncd.core.facts import SubjectKey
from syncd.errors import SourceError
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import (
    TRASH,
    StorePlace,
    child_directories,
    database_near,
    experiments_of,
    find_stores,
    kind_of_folder,
    tracking_databases_below,
)
from syncd.sources.file_store.experiment_reader import experiment_cursor
from syncd.sources.file_store.memory import (
    ActiveSubject,
    ExperimentMemory,
    FolderSort,
    StoreMemory,
    settled_directory_mtime_ns,
    subject_folders,
)
from syncd.sources.file_store.small_files import Problems, reason
from syncd.sources.file_store.steps import Step, dump_state, load_state, problem_changes
from syncd.sources.file_store.subject_reader import ReadContext, forget_subject
from syncd.sources.file_store.visits import DUPLICATE_CURSOR, Visits

HINT = (
    "expected a directory with MLflow experiments, such as mlruns/ with mlruns/0/meta.yaml, or one with such "
    "directories somewhere below"
)
_STORE_CURSOR = "store:problems"
_MOST_SHOWN = 5


class FullPoll:
    """One walk over everything."""

    def __init__(self, context: ReadContext, cursors: Cursors, path: str) -> None:
        self._path = path
        self._cursors = cursors
        self._active: dict[str, ActiveSubject] = {}
        self._visits = Visits(context, cursors, self._active)
        self._stores: dict[str, StoreMemory] = {}
        self._problems: Problems = {}
        self._trashed: set[tuple[str, str]] = set()

    def steps(self, done: Callable[[dict[str, StoreMemory], dict[str, ActiveSubject]], None]) -> Iterator[Step]:
        """Walk; ``done`` takes over the memory when everything was committed."""
        places = self._find_stores()
        for place in places:
            yield from self._store(place)
        yield from self._vanished()
        yield from self._cured()
        before = load_state(self._cursors, _STORE_CURSOR).get("p", {})
        step = Step(problem_changes(before, self._problems), committed=lambda: done(self._stores, self._active))
        if step.facts:
            step.cursors[_STORE_CURSOR] = dump_state({"p": self._problems})
        yield step

    def _find_stores(self) -> list[StorePlace]:
        found = find_stores(self._path)
        self._problems |= found.problems
        if found.stores:
            return found.stores
        names = set(os.listdir(self._path))
        if names <= {TRASH, "models", ".DS_Store", ".gitkeep", ".gitignore"}:
            return [StorePlace("", self._path)]  # made a moment ago, or emptied
        hint = HINT
        if kind_of_folder(self._path) in ("experiment", "run", "experiment without meta"):
            hint = "this is a single experiment or run; name the directory that holds the experiments"
        elif databases := tracking_databases_below(self._path):
            hint = (
                f"the runs are in a tracking database, name that file itself: {', '.join(databases[:_MOST_SHOWN])}"
                + (f" and {len(databases) - _MOST_SHOWN} more" if len(databases) > _MOST_SHOWN else "")
                + ' (in a configuration with kind = "mlflow-db")'
            )
        elif found.artifact_folders:
            hint = (
                f"{found.artifact_folders[0]} holds artifacts of runs, but what is known of the runs is in a tracking "
                "database or server, which is not here"
            )
        raise SourceError("holds no MLflow FileStore", doing="opening the FileStore in", target=self._path, hint=hint)

    def _store(self, place: StorePlace) -> Iterator[Step]:
        now_ns = self._visits.context.now_ns
        memory = StoreMemory(place, settled_directory_mtime_ns(place.path, now_ns))
        self._stores[place.rel] = memory
        try:
            experiments, artifact_folders = experiments_of(place)
        except OSError as exc:
            self._problems[place.path] = f"cannot be listed: {reason(exc)}"
            return
        if artifact_folders and not database_near(place):
            self._problems[place.path] = (
                f"{len(artifact_folders)} folders hold artifacts of runs but no meta.yaml (for example "
                f"{os.path.basename(artifact_folders[0])}): they belong to a tracking database, which is not near"
            )
        self._name_what_stays(place)
        self._list_trash(place)
        for experiment in experiments:
            memory.experiments[experiment.folder] = ExperimentMemory(experiment)
            yield from self._experiment(memory.experiments[experiment.folder])

    def _experiment(self, experiment: ExperimentMemory) -> Iterator[Step]:
        path, now_ns = experiment.place.path, self._visits.context.now_ns
        if not (yield from self._visits.experiment(experiment)):
            return
        if experiment.deleted:
            self._trashed.add((experiment.place.store.rel, experiment.place.folder))
            return
        runs_ns = settled_directory_mtime_ns(path, now_ns)
        models_ns = settled_directory_mtime_ns(os.path.join(path, "models"), now_ns)
        whole = True
        try:
            for sort, folders in subject_folders(experiment):
                for folder in folders:
                    whole = (yield from self._visits.subject(experiment, sort, folder)) and whole
        except OSError as exc:
            self._problems[path] = f"cannot be listed: {reason(exc)}"
            return
        traces = os.path.join(path, "traces")
        if os.path.isdir(traces) and (count := _count_directories(traces)):
            self._problems[traces] = f"{count} traces stay where they are: syncd brings runs and logged models"
        if whole:
            experiment.listed(runs_ns, models_ns)

    def _name_what_stays(self, place: StorePlace) -> None:
        registry = os.path.join(place.path, "models")
        if os.path.isdir(registry) and (count := _count_directories(registry)):
            self._problems[registry] = (
                f"{count} registered models stay where they are: syncd registers models by rules, from their runs"
            )

    def _list_trash(self, place: StorePlace) -> None:
        try:
            self._trashed |= {(place.rel, name) for name in child_directories(os.path.join(place.path, TRASH))}
        except OSError:
            return

    def _vanished(self) -> Iterator[Step]:
        """State the deletion of runs and models whose folder is gone while its experiment's is still there."""
        deleted_experiments = self._trashed - self._present_experiments()
        for key in self._cursors.keys(""):
            if not key.endswith("/head") or key[: -len("/head")] in self._visits.claimed:
                continue
            head = load_state(self._cursors, key)
            where = head.get("w")
            if key.startswith("store:") or not where or head.get("d"):
                continue
            store, experiment, folder = where
            sort: FolderSort = "model" if isinstance(head.get("s"), str) else "run"
            home = os.path.join(self._path, store, experiment)
            lies_there = os.path.lexists(os.path.join(home, "models" if sort == "model" else "", folder))
            gone = store in self._stores and os.path.isdir(home) and not lies_there
            if gone or (store, experiment) in deleted_experiments:
                subject = SubjectKey(sort, key[: -len("/head")])
                yield forget_subject(subject, self._cursors, where=where, stated="s" in head)

    def _cured(self) -> Iterator[Step]:
        """Withdraw problems of duplicates and experiments that are no longer there."""
        present = set(self._visits.duplicates)
        for memory in self._stores.values():
            present.update(experiment_cursor(experiment.place) for experiment in memory.experiments.values())
        for key in list(self._cursors.keys("store:")):
            if key in present or not (key.startswith(DUPLICATE_CURSOR) or ":experiment:" in key):
                continue
            problems = load_state(self._cursors, key).get("p", {})
            yield Step(problem_changes(problems, {}), {key: None})

    def _present_experiments(self) -> set[tuple[str, str]]:
        return {
            (memory.place.rel, folder)
            for memory in self._stores.values()
            for folder, experiment in memory.experiments.items()
            if not experiment.deleted
        }


def _count_directories(path: str) -> int:
    try:
        return sum(1 for _ in child_directories(path))
    except OSError:
        return 0
