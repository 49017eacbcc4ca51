"""What the source remembers between polls: one small entry per run, more only for active ones.

Everything here may be lost at any time: the cursors are the truth, and a poll without memory is a full one.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH116, PTH118
from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from syncd.sources.file_store.discovery import META, RESERVED_IN_EXPERIMENT, ExperimentPlace, StorePlace
from syncd.sources.file_store.small_files import is_young

OPEN_ACTIVE_NS = 3600 * 1_000_000_000
ENDED_ACTIVE_NS = 60 * 1_000_000_000

FolderSort = Literal["run", "model"]


@dataclass(slots=True, eq=False)
class ExperimentMemory:
    """An experiment's folder as last listed: ``signature`` and ``models_signature`` tell whether to list it again."""

    place: ExperimentPlace
    signature: tuple[int, ...] = ()
    runs_mtime_ns: int = 0
    models_mtime_ns: int = 0
    runs: dict[str, str] = field(default_factory=dict)  # folder: run id
    models: set[str] = field(default_factory=set)
    passed_over: set[str] = field(default_factory=set)  # folders that are no run, or a named problem, until a full poll
    deleted: bool = False

    def folder_path(self, sort: FolderSort, folder: str) -> str:
        """Return the path of a run's or model's folder."""
        return os.path.join(self.place.path, "models" if sort == "model" else "", folder)

    def listed(self, runs_mtime_ns: int, models_mtime_ns: int) -> None:
        """Remember at which mtimes the folders were listed and everything in them was visited."""
        self.runs_mtime_ns, self.models_mtime_ns = runs_mtime_ns, models_mtime_ns


@dataclass(slots=True)
class StoreMemory:
    """A store's root as last listed."""

    place: StorePlace
    mtime_ns: int = 0
    experiments: dict[str, ExperimentMemory] = field(default_factory=dict)


@dataclass(slots=True)
class ActiveSubject:
    """A run or model that is looked at in every poll."""

    experiment: ExperimentMemory
    sort: FolderSort
    folder: str
    subject_id: str
    ended: bool = False
    newest_ns: int = 0
    settled: dict[str, int] = field(default_factory=dict)  # artifact directory: mtime_ns at rest

    def is_active(self, now_ns: int) -> bool:
        """Tell whether it is still worth looking at in every poll."""
        return now_ns - self.newest_ns < (ENDED_ACTIVE_NS if self.ended else OPEN_ACTIVE_NS)


def settled_directory_mtime_ns(path: str, now_ns: int) -> int:
    """Return a directory's mtime if it is at rest, 0 (which equals no mtime) if it is young or gone."""
    try:
        mtime_ns = os.stat(path, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0
    return 0 if is_young(mtime_ns, now_ns) else mtime_ns


def experiment_signature(path: str) -> tuple[int, ...]:
    """Return what changes when an experiment's meta.yaml or tags folder changes (a tag rewritten in place apart)."""
    signature: list[int] = []
    for name in (META, "tags"):
        try:
            info = os.stat(os.path.join(path, name), follow_symlinks=False)
        except OSError:
            signature.append(0)
        else:
            signature += [info.st_ino, info.st_size, info.st_mtime_ns]
    return tuple(signature)


def subject_folders(experiment: ExperimentMemory) -> Iterator[tuple[FolderSort, list[str]]]:
    """Yield the run folders and the model folders of an experiment, in order, links and junk left out.

    Raises:
        OSError: the experiment's folder cannot be listed.
    """
    yield "run", _folders(experiment.place.path, RESERVED_IN_EXPERIMENT)
    try:
        yield "model", _folders(os.path.join(experiment.place.path, "models"), frozenset())
    except FileNotFoundError:
        return


def _folders(path: str, left_out: frozenset[str]) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name not in left_out and entry.is_dir(follow_symlinks=False)
        )
