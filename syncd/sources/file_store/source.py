"""The source kind ``mlruns``: every FileStore at and below a directory, read without MLflow and without writing.

Theory of operation
-------------------
A *full* poll (``full_poll``) finds the stores, walks experiments, runs and logged models in a stable order, compares
every file's stat with the cursors and reads what differs. Between full polls a *quick* one stats the roots and
experiment folders, lists those whose mtime moved, and looks at the active subjects and at what a watcher named. Both
visit (``visits``) what they look at in the same way.

Rules
-----
1. The location decides: a run belongs to the experiment folder and store it lies in; what is in ``.trash`` is deleted.
2. A run id that lies in two places is read from the one it was first read from; the other is named.
3. Memory changes only when a reading was committed; a full poll replaces it as a whole at its end.
4. What cannot be brought over is named once, and withdrawn when it is cured.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH110, PTH112, PTH118, PTH206
from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from heapq import nlargest
from pathlib import Path

from syncd.core.facts import Reading
from syncd.errors import SourceError
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import (
    META,
    TRASH,
    ExperimentPlace,
    child_directories,
    kind_of_folder,
)
from syncd.sources.file_store.full_poll import HINT, FullPoll
from syncd.sources.file_store.memory import (
    ActiveSubject,
    ExperimentMemory,
    FolderSort,
    StoreMemory,
    experiment_signature,
    settled_directory_mtime_ns,
)
from syncd.sources.file_store.steps import Batch, Step
from syncd.sources.file_store.subject_reader import ReadContext, watched_directories
from syncd.sources.file_store.visits import Visits

MOST_WATCHED_SUBJECTS = 200


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
            steps = FullPoll(self._context(full=True), cursors, self._path).steps(self._take_over)
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
            raise SourceError("no such directory", doing=doing, target=target, hint=HINT)
        if not os.path.isdir(self._path):
            hint = 'for a database use kind = "mlflow-db"; ' + HINT
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
        visits = Visits(context, cursors, self._active)
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

    def _quick_store(self, store: StoreMemory, visits: Visits) -> Iterator[Step]:
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

    def _quick_experiment(self, experiment: ExperimentMemory, visits: Visits) -> Iterator[Step]:
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
