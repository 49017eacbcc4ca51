"""The source kind ``mlruns``: every FileStore at and below a directory, read without MLflow and without writing.

Theory of operation
-------------------
A *full* poll finds the stores, walks experiments, runs and logged models in a stable order, compares every file's stat
with the cursors and reads what differs. Between full polls a *quick* one stats the roots and experiment folders, lists
those whose mtime moved, and looks at the active subjects and at what a watcher named.

Rules
-----
1. The location decides: a run belongs to the experiment folder and store it lies in; what is in ``.trash`` is deleted.
2. A run id that lies in two places is read from the one it was first read from; the other is named.
3. Memory changes only when a reading was committed; a full poll replaces it as a whole at its end.
4. What cannot be brought over is named once, and withdrawn when it is cured.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH110, PTH112, PTH118, PTH119, PTH206, PTH208
from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Generator, Iterator
from heapq import nlargest
from pathlib import Path

from syncd.core.facts import Reading, SubjectKey
from syncd.errors import SourceError
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import (
    META,
    TRASH,
    ExperimentPlace,
    StorePlace,
    child_directories,
    database_near,
    experiments_of,
    find_stores,
    kind_of_folder,
    tracking_databases_below,
)
from syncd.sources.file_store.experiment_reader import experiment_cursor, read_experiment
from syncd.sources.file_store.memory import (
    ActiveSubject,
    ExperimentMemory,
    FolderSort,
    StoreMemory,
    experiment_signature,
    settled_directory_mtime_ns,
    subject_folders,
)
from syncd.sources.file_store.model_reader import ModelReader
from syncd.sources.file_store.run_reader import RunReader
from syncd.sources.file_store.small_files import Problems, is_young, reason
from syncd.sources.file_store.steps import Batch, Step, dump_state, load_state, problem_changes
from syncd.sources.file_store.subject_reader import ReadContext, forget_subject, watched_directories

_HINT = (
    "expected a directory with MLflow experiments, such as mlruns/ with mlruns/0/meta.yaml, or one with such "
    "directories somewhere below"
)
_STORE_CURSOR = "store:problems"
MOST_WATCHED_SUBJECTS = 200
DUPLICATE_CURSOR = "store:duplicate:"
_MOST_SHOWN = 5


class FileStoreSource:
    """Reads the FileStores at and below a directory."""

    def __init__(self, name: str, path: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Prepare; nothing is read yet.

        Args:
            name: the source's name in the configuration.
            path: a FileStore's root, or a directory that holds some.
            now_ns: wall clock in ns since the epoch; only compared with the mtimes of files.
        """
        self.name = name
        self._path = os.path.realpath(path)
        self._given_path = path
        self._now_ns = now_ns
        self._stores: dict[str, StoreMemory] | None = None
        self._active: dict[str, ActiveSubject] = {}

    def poll(self, cursors: Cursors, *, full: bool, changed: Collection[str] | None = None) -> Iterator[Reading]:
        """Yield what is new; see ``StoreSource``."""
        self._check_path()
        stores = self._stores
        if full or stores is None:
            steps = _FullPoll(self._context(full=True), cursors, self._path).steps(self._take_over)
        else:
            steps = self._quick_steps(cursors, stores, changed)
        yield from Batch().readings(steps)

    def watch_paths(self) -> Collection[Path]:
        """Return the roots, the experiment folders and the folders of the subjects that changed last.

        A store that was copied a moment ago looks active as a whole: the number of watches is bounded.
        """
        paths = {self._path}
        for store in (self._stores or {}).values():
            paths.add(store.place.path)
            paths.update(experiment.place.path for experiment in store.experiments.values())
        for active in nlargest(MOST_WATCHED_SUBJECTS, self._active.values(), key=lambda one: one.newest_ns):
            path = active.experiment.folder_path(active.sort, active.folder)
            paths.update(watched_directories(path, active.settled))
        return {Path(path) for path in paths}

    def close(self) -> None:
        """Forget everything; no file is held open between polls."""
        self._stores = None
        self._active = {}

    def _context(self, *, full: bool) -> ReadContext:
        return ReadContext(self._now_ns(), full, self._path)

    def _check_path(self) -> None:
        doing, target = "opening the FileStore in", str(self._given_path)
        if not os.path.exists(self._path):
            raise SourceError("no such directory", doing=doing, target=target, hint=_HINT)
        if not os.path.isdir(self._path):
            hint = 'for a database use kind = "mlflow-db"; ' + _HINT
            raise SourceError("is no directory", doing=doing, target=target, hint=hint)
        if not os.access(self._path, os.R_OK | os.X_OK):
            raise SourceError("permission denied", doing=doing, target=target, hint="let syncd's user read it")

    def _take_over(self, stores: dict[str, StoreMemory], active: dict[str, ActiveSubject]) -> None:
        self._stores, self._active = stores, active

    # -- quick polls ---------------------------------------------------------------------------------------------

    def _quick_steps(
        self, cursors: Cursors, stores: dict[str, StoreMemory], changed: Collection[str] | None
    ) -> Iterator[Step]:
        context = self._context(full=False)
        visits = _Visits(context, cursors, self._active)
        for store in stores.values():
            yield from self._quick_store(store, visits)
        named = {self._locate(path, stores) for path in changed or ()}
        for location in sorted(
            (location for location in named if location), key=lambda at: (at[0].place.path, at[1], at[2])
        ):
            if location[0].folder_path(location[1], location[2]) not in visits.seen:
                yield from visits.subject(*location)
        for active in list(self._active.values()) if changed is None else ():
            if active.experiment.folder_path(active.sort, active.folder) not in visits.seen:
                yield from visits.subject(active.experiment, active.sort, active.folder)

    def _quick_store(self, store: StoreMemory, visits: _Visits) -> Iterator[Step]:
        """Look for new experiments, then for what is new in each."""
        now_ns = visits.context.now_ns
        mtime_ns = settled_directory_mtime_ns(store.place.path, now_ns)
        if mtime_ns != store.mtime_ns or mtime_ns == 0:
            try:
                present = {name for name in child_directories(store.place.path) if name != TRASH}
            except OSError:
                return  # the next full poll says what is wrong
            for gone in store.experiments.keys() - present:
                del store.experiments[gone]
            for folder in sorted(present - store.experiments.keys()):
                path = os.path.join(store.place.path, folder)
                kind = kind_of_folder(path)
                if kind.startswith("experiment"):
                    place = ExperimentPlace(store.place, folder, path, kind == "experiment")
                    store.experiments[folder] = ExperimentMemory(place)
            store.mtime_ns = mtime_ns
        for experiment in list(store.experiments.values()):
            yield from self._quick_experiment(experiment, visits)

    def _quick_experiment(self, experiment: ExperimentMemory, visits: _Visits) -> Iterator[Step]:
        path, now_ns = experiment.place.path, visits.context.now_ns
        signature = experiment_signature(path)
        if signature != experiment.signature and not (yield from visits.experiment(experiment)):
            return
        if experiment.deleted:
            return
        runs_ns = settled_directory_mtime_ns(path, now_ns)
        models_ns = settled_directory_mtime_ns(os.path.join(path, "models"), now_ns)
        if runs_ns and runs_ns == experiment.runs_mtime_ns and models_ns == experiment.models_mtime_ns:
            return
        if (yield from visits.new_folders(experiment)):
            yield Step(committed=lambda: experiment.listed(runs_ns, models_ns))

    def _locate(self, path: str, stores: dict[str, StoreMemory]) -> tuple[ExperimentMemory, FolderSort, str] | None:
        """Return which run or model a changed path belongs to; forgets an experiment's signature for its own files."""
        for store in sorted(stores.values(), key=lambda memory: -len(memory.place.path)):
            if not path.startswith(store.place.path + os.sep):
                continue
            parts = path[len(store.place.path) + 1 :].split(os.sep)
            experiment = store.experiments.get(parts[0])
            if experiment is None or len(parts) < 2:
                return None
            if parts[1] == "models":
                return (experiment, "model", parts[2]) if len(parts) > 2 and parts[2] in experiment.models else None
            if parts[1] in experiment.runs:
                return (experiment, "run", parts[1])
            if parts[1] in ("tags", META):
                experiment.signature = ()  # seen by the next poll
            return None
        return None


class _Visits:
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


class _FullPoll:
    """One walk over everything."""

    def __init__(self, context: ReadContext, cursors: Cursors, path: str) -> None:
        self._path = path
        self._cursors = cursors
        self._active: dict[str, ActiveSubject] = {}
        self._visits = _Visits(context, cursors, self._active)
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
        hint = _HINT
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
