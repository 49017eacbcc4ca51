"""What reading a run and reading a logged model have in common.

A reader yields steps; when it has ended, ``outcome`` says how it went and ``newest_ns`` when the subject last changed.
"""

# Pathlib is several times slower than os in loops over 100,000 files.
# ruff: noqa: PTH112, PTH114, PTH116, PTH118
from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from syncd.core.facts import Fact, SubjectDeleted, SubjectKey
from syncd.sources.artifact_location import describe_location, remote_scheme, resolve_artifact_root
from syncd.sources.artifact_walk import ArtifactWalk
from syncd.sources.base import Cursors
from syncd.sources.file_store.discovery import META, ExperimentPlace, holds_run_data
from syncd.sources.file_store.meta import MetaUnreadable, parse_meta
from syncd.sources.file_store.metric_files import MetricReader
from syncd.sources.file_store.small_files import (
    Problems,
    is_young,
    list_files,
    read_small,
    reason,
    settled_mtime_ns,
)
from syncd.sources.file_store.steps import State, Step, dump_state, load_state, problem_changes

_MOST_WATCHED = 200  # artifact directories of one subject; more would use up the machine's inotify watches

Outcome = Literal["read", "held", "problem", "deleted", "duplicate", "nothing"]


@dataclass(frozen=True, slots=True)
class ReadContext:
    """What holds for one poll: wall clock, tier, and the source's own directory, which links must not leave."""

    now_ns: int
    full: bool
    source_path: str


@dataclass(slots=True)
class SubjectReader:
    """Base of the readers of one run or logged model folder."""

    experiment: ExperimentPlace
    folder: str
    path: str
    context: ReadContext
    settled: dict[str, int] | None = None  # artifact directories at rest, kept for active subjects
    outcome: Outcome = "nothing"
    newest_ns: int = 0
    ended: bool = False
    subject_id: str = ""
    problems: Problems = field(default_factory=dict)

    @property
    def where(self) -> list[str]:
        """Return the location as cursors hold it."""
        return [self.experiment.store.rel, self.experiment.folder, self.folder]

    def _read_meta(self, before: State) -> tuple[list[int], Mapping[str, Any] | None]:
        """Return (identity, parsed meta), meta None when it is what it was; sets ``outcome`` when unreadable."""
        path = os.path.join(self.path, META)
        try:
            info = os.stat(path, follow_symlinks=False)
            self.newest_ns = max(self.newest_ns, info.st_mtime_ns)
            identity = [info.st_ino, info.st_size, settled_mtime_ns(info.st_mtime_ns, self.context.now_ns)]
            if before.get("i") == identity and identity[2]:
                return identity, None
            return identity, parse_meta(read_small(path))
        except (OSError, MetaUnreadable) as exc:
            self._unreadable(path, exc)
            return [], None

    def _unreadable(self, path: str, exc: OSError | MetaUnreadable) -> None:
        """Hold a meta file that is being written, or not yet; name one that stays unreadable and has data beside it."""
        missing = isinstance(exc, FileNotFoundError)
        try:
            changed_ns = os.stat(self.path if missing else path, follow_symlinks=False).st_mtime_ns
        except OSError:
            return
        if is_young(changed_ns, self.context.now_ns):
            self.outcome = "held"
            return
        if missing and not holds_run_data(self.path):
            return
        self.outcome = "problem"
        what = reason(exc) if isinstance(exc, OSError) else str(exc)
        self.problems[path] = f"{what}: this {self._noun()} has data here but cannot be brought over without it"

    def _noun(self) -> str:
        return "run"

    def _delete(self, before: State, identity: list[int], cursors: Cursors) -> Step | None:
        """State once that the subject is gone, forget all but a mark of it."""
        self.outcome = "deleted"
        if "s" not in before:
            return None
        step = forget_subject(self._subject(), cursors, where=self.where)
        step.cursors[f"{self.subject_id}/head"] = dump_state({"d": 1, "i": identity, "w": self.where})
        return step

    def _subject(self) -> SubjectKey:
        raise NotImplementedError

    def _metric_steps(self, cursors: Cursors, *, again: bool) -> Iterator[Step]:
        reader = MetricReader(
            self._subject(), os.path.join(self.path, "metrics"), self.ended, self.context.now_ns, again
        )
        yield from reader.steps(cursors)
        self.newest_ns = max(self.newest_ns, reader.newest_ns)

    def _artifact_root(self, uri: str, *, may_have_had_some: bool) -> str | None:
        """Resolve where the artifacts are; name it when they are elsewhere or lost."""
        beside = os.path.join(self.path, "artifacts")
        root = resolve_artifact_root(
            uri,
            beside=Path(beside),
            store_dir=Path(self.experiment.store.path),
            subject_id=self.subject_id,
        )
        if root is None:
            if remote_scheme(uri) or may_have_had_some or not self._said_to_be_beside(uri):
                self.problems[f"artifacts of {self.subject_id}"] = describe_location(uri)
            return None
        if remote_scheme(uri) and not _has_entries(root):
            self.problems[f"artifacts of {self.subject_id}"] = describe_location(uri)
        if os.path.islink(root) and not _is_inside(str(root), self.context.source_path):
            self.problems[str(root)] = "is a link that leads out of the store; not followed"
            return None
        return str(root)

    def _said_to_be_beside(self, uri: str) -> bool:
        """Tell whether the URI names the folder beside meta.yaml: then its absence means that it was empty."""
        parts = uri.replace("\\", "/").rstrip("/").split("/")
        return not uri or (self.folder in parts[-2:] and (len(parts) < 3 or self.experiment.folder in parts))

    def _artifact_steps(self, root: str, cursors: Cursors) -> Iterator[Step]:
        walk = ArtifactWalk(
            self._subject(),
            root,
            self.context.now_ns,
            settled=None if self.context.full else self.settled,
            hold_young=not self.context.full and not self.ended,
        )
        for reading in walk.readings(cursors):
            yield Step(list(reading.facts), dict(reading.cursors))
        self.newest_ns = max(self.newest_ns, walk.newest_ns)


def watched_directories(path: str, settled: Collection[str]) -> list[str]:
    """Return the directories in which the next change of the run or model in ``path`` is expected.

    ``settled`` are its artifact directories at rest.
    """
    own = [os.path.join(path, name) for name in ("params", "tags", "artifacts")]
    return [
        path,
        *list_files(os.path.join(path, "metrics")).directories,
        *(directory for directory in own if os.path.isdir(directory)),
        *(os.path.join(path, "artifacts", name) for name in list(settled)[:_MOST_WATCHED] if name),
    ]


def forget_subject(subject: SubjectKey, cursors: Cursors, *, where: list[str], stated: bool = True) -> Step:
    """Return the step that states a deletion and forgets every cursor of the subject but a mark.

    The mark lets a restored subject be read with ``again``. A subject that was never stated is only forgotten.
    """
    keys = list(cursors.keys(f"{subject.id}/"))
    facts: list[Fact] = []
    for key in keys:
        facts += problem_changes(load_state(cursors, key).get("p", {}), {}, subject=subject)
    step = Step(facts, dict.fromkeys(keys))
    if stated:
        facts.append(SubjectDeleted(subject))
        step.cursors[f"{subject.id}/head"] = dump_state({"d": 1, "w": where})
    return step


def _has_entries(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(entries)
    except OSError:
        return False


def _is_inside(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(directory) + os.sep)
