"""Find the FileStore roots at and below a directory.

Rules
-----
1. A store's root is a directory with a child that is an experiment: a folder whose meta.yaml speaks of an
   ``artifact_location``, or a folder without one that holds runs. One tree may hold many roots (Hydra, mlruns/mlruns).
2. The walk is bounded and does not enter runs, experiments, ``.trash`` or what version control and package managers
   keep; it follows no link. Roots come in a stable order, outer before inner.
3. ``<n>/<run>/artifacts`` without any meta file is the artifact directory of a tracking database, not an experiment.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH112, PTH118, PTH120, PTH208
from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from syncd.core.facts import SubjectKey
from syncd.sources.file_store.small_files import JUNK_NAMES, Problems, read_small, reason

META = "meta.yaml"
TRASH = ".trash"
RUN_FOLDERS = ("metrics", "params", "tags", "artifacts")
RESERVED_IN_EXPERIMENT = frozenset({"tags", "datasets", "traces", "models"})
_DEEPEST = 12
_MOST_DIRECTORIES = 50_000
_NOT_ENTERED = JUNK_NAMES | {
    TRASH, ".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".cache", ".tox", "site-packages",
    "mlartifacts",
}  # fmt: skip
_ID = re.compile(r"[0-9a-f]{32}")
_EXPERIMENT_LINE = re.compile(rb"^artifact_location:", re.M)
_MODEL_LINE = re.compile(rb"^model_id:", re.M)
_RUN_LINE = re.compile(rb"^(?:run_uuid|run_id|artifact_uri):", re.M)
_DATABASE_NAMES = (".db", ".sqlite", ".sqlite3")
_DATABASE_HEAD_BYTES = 256 * 1024
_TRACKING_TABLE = re.compile(rb'CREATE TABLE "?(?:experiments|runs|metrics)"?\s*\(')

FolderKind = Literal["experiment", "experiment without meta", "artifacts of a database", "run", "other"]


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A store's root; ``rel`` is its path relative to the source's, "" for the source's own directory."""

    rel: str
    path: str


@dataclass(frozen=True, slots=True)
class ExperimentPlace:
    """An experiment's folder. Its name is the experiment's id: the location decides, not what meta.yaml says."""

    store: StorePlace
    folder: str
    path: str
    has_meta: bool = True

    @property
    def subject(self) -> SubjectKey:
        """Return the experiment's identity."""
        return SubjectKey("experiment", self.folder, self.store.rel)


@dataclass(slots=True)
class Discovery:
    """What a walk found. ``artifact_folders`` belong to databases; ``databases`` are only named like one."""

    stores: list[StorePlace] = field(default_factory=list)
    artifact_folders: list[str] = field(default_factory=list)
    databases: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=dict)


def find_stores(path: str) -> Discovery:
    """Find the store roots at and below ``path``."""
    found = Discovery()
    queue: list[tuple[str, str, int]] = [("", path, 0)]
    visited = 0
    for rel, directory, depth in queue:
        visited += 1
        try:
            names = sorted(_look_into(directory, found.databases))
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError):
                found.problems[directory] = f"cannot be listed: {reason(exc)}"
            continue
        kinds = {name: kind_of_folder(os.path.join(directory, name)) for name in names if name not in _NOT_ENTERED}
        if any(kind.startswith("experiment") for kind in kinds.values()):
            found.stores.append(StorePlace(rel, directory))
        found.artifact_folders += [
            os.path.join(directory, name) for name, kind in kinds.items() if kind == "artifacts of a database"
        ]
        below = [
            (f"{rel}/{name}" if rel else name, os.path.join(directory, name), depth + 1)
            for name, kind in kinds.items()
            if kind == "other"
        ]
        if below and (depth + 1 > _DEEPEST or visited + len(queue) > 2 * _MOST_DIRECTORIES):
            found.problems[directory] = (
                "is too deep or too large a tree to look for stores in; name the store's own path"
            )
            continue
        queue += below
    found.stores.sort(key=lambda store: store.rel.split("/") if store.rel else [])
    return found


def tracking_databases_below(path: str) -> list[str]:
    """Return the SQLite files at and below ``path`` in which MLflow keeps runs; they are read as bytes, not opened."""
    return [candidate for candidate in sorted(find_stores(path).databases) if _is_tracking_database(candidate)]


def _is_tracking_database(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_DATABASE_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(b"SQLite format 3\0") and _TRACKING_TABLE.search(head) is not None


def _look_into(path: str, databases: list[str]) -> list[str]:
    """Return the names of the directories in ``path``, links left out; add the files named like a database."""
    directories: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif entry.name.endswith(_DATABASE_NAMES) and entry.is_file(follow_symlinks=False):
                databases.append(entry.path)
    return directories


def child_directories(path: str) -> Iterator[str]:
    """Yield the names of the directories in ``path``, links left out.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name


def experiments_of(store: StorePlace) -> tuple[list[ExperimentPlace], list[str]]:
    """List a store's experiments, and those folders that look like artifacts of a database.

    Raises:
        OSError: the root cannot be listed.
    """
    experiments: list[ExperimentPlace] = []
    artifact_folders: list[str] = []
    for name in sorted(child_directories(store.path)):
        if name in _NOT_ENTERED:
            continue
        path = os.path.join(store.path, name)
        kind = kind_of_folder(path)
        if kind.startswith("experiment"):
            experiments.append(ExperimentPlace(store, name, path, kind == "experiment"))
        elif kind == "artifacts of a database":
            artifact_folders.append(path)
    return experiments, artifact_folders


def kind_of_folder(path: str) -> FolderKind:
    """Say what a folder is, from its meta.yaml or, without one, from what is inside."""
    content = _meta_content(os.path.join(path, META))
    if content and _EXPERIMENT_LINE.search(content) and not _MODEL_LINE.search(content):
        return "experiment"
    if content and _RUN_LINE.search(content):
        return "run"
    return _kind_without_meta(path)


def _kind_without_meta(path: str) -> FolderKind:
    artifacts_only = False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not _ID.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                    continue
                if holds_run_data(entry.path, without_artifacts=True):
                    return "experiment without meta"
                content = _meta_content(os.path.join(entry.path, META))
                if content and _RUN_LINE.search(content):
                    return "experiment without meta"
                artifacts_only = artifacts_only or os.path.isdir(os.path.join(entry.path, "artifacts"))
    except OSError:
        return "other"
    return "artifacts of a database" if artifacts_only else "other"


def holds_run_data(path: str, *, without_artifacts: bool = False) -> bool:
    """Tell whether a folder without a readable meta.yaml has what a run has."""
    folders = RUN_FOLDERS[:3] if without_artifacts else RUN_FOLDERS
    return any(os.path.isdir(os.path.join(path, name)) for name in folders)


def database_near(store: StorePlace) -> bool:
    """Tell whether a tracking database lies in the store's root or beside it."""
    for directory in (store.path, os.path.dirname(store.path)):
        try:
            if any(name.endswith(_DATABASE_NAMES) for name in os.listdir(directory)):
                return True
        except OSError:
            continue
    return False


def _meta_content(path: str) -> bytes:
    try:
        return read_small(path)
    except OSError:
        return b""
