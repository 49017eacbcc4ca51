"""Follow the artifact directories that a database points to.

Rules
-----
1. Active subjects are walked at each poll: by directory mtimes, and file by file when a watcher reported something
   below or a few seconds have passed (MLflow overwrites a file in place, which no directory shows).
2. All others are walked by full polls: file by file once after the start, then by the directory mtimes kept in the
   cursor ``<id>/settled``.
3. A location that does not exist is no problem where the store is at home: MLflow makes the directory with the first
   artifact. Elsewhere it is named, ``<id>/missing`` remembers that; above ``MOST_NAMED`` the rest are counted in one
   problem.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from syncd.core.facts import ProblemFound, Reading, SubjectKey
from syncd.sources.artifact_location import describe_location, remote_scheme, resolve_artifact_root
from syncd.sources.artifact_walk import ArtifactWalk
from syncd.sources.base import Cursors
from syncd.sources.mlflow_db.reader import Reader
from syncd.sources.mlflow_db.subjects import PAGE, Subjects, batches

DEEP_EVERY_MS = 5_000
MOST_NAMED = 50


@dataclass(slots=True)
class _Active:
    """Where an active subject's artifacts are, and what its last walk found."""

    root: Path
    settled: dict[str, int] = field(default_factory=dict)
    deep_ms: int = 0


class Artifacts:
    """The artifacts of all runs and models of one store."""

    def __init__(self, database: Path, reader: Reader, *, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._reader = reader
        self._now_ms = now_ms
        self._active: dict[str, _Active] = {}
        self._walked_all: set[str] = set()
        self._homes: dict[str, tuple[bool, bool]] = {}  # by location without id, for one full poll

    def watched(self) -> list[Path]:
        """Return the directories of the active subjects."""
        return [active.root / directory for active in self._active.values() for directory in {"", *active.settled}]

    def poll_active(self, cursors: Cursors, subjects: Subjects, changed: Collection[str]) -> Iterator[Reading]:
        """Walk the active subjects."""
        for subject_id in subjects.warm.hot:
            snapshot = subjects.located.get(subject_id)
            if snapshot is None or cursors.load(subjects.state_key(subject_id)) is None:
                continue
            active = self._active.get(subject_id) or self._located(subject_id, snapshot.artifact_uri)
            if active is not None:
                yield from self._walk_active(cursors, snapshot.subject, active, changed)

    def poll_all(self, cursors: Cursors, subjects: Subjects) -> Iterator[Reading]:
        """Walk every stated subject, and name those whose artifacts are not here."""
        kind = subjects.family.kind
        self._homes.clear()
        missing = _Missing(f"store:missing artifacts of {kind}s", f"{self._database}: artifacts of {kind}s")
        for ids in batches(list(subjects.known(cursors)), PAGE):
            for subject_id, uri in self._reader.locations(subjects.family, ids).items():
                subject = SubjectKey(kind, subject_id)
                root, absent = self._place(subject, uri)
                yield from missing.reading(cursors, subject, uri, absent=absent)
                if root is not None:
                    yield from self._walk_settled(cursors, subject, root, deep=kind not in self._walked_all)
        yield from missing.summary(cursors)
        self._walked_all.add(kind)

    def rest(self, hot: Collection[str]) -> None:
        """Forget the subjects that are active no more."""
        self._active = {key: active for key, active in self._active.items() if key in hot}

    def _located(self, subject_id: str, uri: str) -> _Active | None:
        root = self._resolved(subject_id, uri)
        if root is None:
            return None
        return self._active.setdefault(subject_id, _Active(root))

    def _resolved(self, subject_id: str, uri: str) -> Path | None:
        root = resolve_artifact_root(uri, beside=None, store_dir=self._database.parent, subject_id=subject_id)
        return root.absolute() if root else None

    def _walk_active(
        self, cursors: Cursors, subject: SubjectKey, active: _Active, changed: Collection[str]
    ) -> Iterator[Reading]:
        now_ms = self._now_ms()
        if now_ms - active.deep_ms >= DEEP_EVERY_MS or any(Path(path).is_relative_to(active.root) for path in changed):
            active.settled.clear()
            active.deep_ms = now_ms
        walk = ArtifactWalk(
            subject, str(active.root), now_ns=now_ms * 1_000_000, settled=active.settled, hold_young=True
        )
        yield from walk.readings(cursors)

    def _walk_settled(self, cursors: Cursors, subject: SubjectKey, root: Path, *, deep: bool) -> Iterator[Reading]:
        key = f"{subject.id}/settled"
        before = cursors.load(key)
        settled: dict[str, int] = json.loads(before) if before and not deep else {}
        walk = ArtifactWalk(subject, str(root), now_ns=self._now_ms() * 1_000_000, settled=settled)
        yield from walk.readings(cursors)
        after = json.dumps(settled, separators=(",", ":"), sort_keys=True).encode()
        if after != (before or b"{}"):
            yield Reading((), {key: after})

    def _place(self, subject: SubjectKey, uri: str) -> tuple[Path | None, bool]:
        """Return the subject's directory, and whether there should be one that is not here.

        All runs of one experiment share the answer for the directory above their own, so that thousands of runs of
        another machine cost little.
        """
        location = f"{subject.kind} {uri.replace(subject.id, '')}"
        if location not in self._homes:
            self._homes[location] = self._siblings_exist(uri), self._at_home(subject, uri)
        siblings_exist, at_home = self._homes[location]
        root = self._resolved(subject.id, uri) if siblings_exist else None
        return root, root is None and not (siblings_exist or at_home)

    def _siblings_exist(self, uri: str) -> bool:
        """Tell whether the experiment's directory is here."""
        found = resolve_artifact_root(
            uri, beside=None, store_dir=self._database.parent, exists=lambda path: path.parent.parent.is_dir()
        )
        return found is not None

    def _at_home(self, subject: SubjectKey, uri: str) -> bool:
        """Tell whether the directory above the experiment's is here: then nothing was logged in it yet."""
        if remote_scheme(uri) or "\\" in uri:
            return False
        path = self._database.parent / uri.removeprefix("file://").removeprefix("file:")
        above = list(path.parents)[
            1 : 4 if subject.kind == "model" else 3
        ]  # <root>/<experiment>[/models]/<id>/artifacts
        return any(directory.is_dir() for directory in above if directory != directory.parent)


@dataclass(slots=True)
class _Missing:
    """What one full poll found missing."""

    key: str
    where: str
    named: int = 0
    more: int = 0
    example: str = ""

    def reading(self, cursors: Cursors, subject: SubjectKey, uri: str, *, absent: bool) -> Iterator[Reading]:
        """Name a subject whose artifacts are missing, or withdraw that."""
        key = f"{subject.id}/missing"
        where, before = f"{subject.kind} {subject.id}: artifacts", cursors.load(key)
        if not absent:
            if before is not None:
                yield Reading((ProblemFound(where, "", subject),), {key: None})
            return
        if before is None and self.named >= MOST_NAMED:
            self.more += 1
            self.example = describe_location(uri)
            return
        self.named += 1
        what = describe_location(uri)
        if before != what.encode():
            yield Reading((ProblemFound(where, what, subject),), {key: what.encode()})

    def summary(self, cursors: Cursors) -> Iterator[Reading]:
        """Count those that were not named."""
        what = f"{self.more} more are like that; for one, {self.example}" if self.more else ""
        if what.encode() != (cursors.load(self.key) or b""):
            yield Reading((ProblemFound(self.where, what),), {self.key: what.encode() or None})
