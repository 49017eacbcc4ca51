"""The spool: files that came in messages, below the state directory, until every destination has them.

Rules
-----
1. A file is fsynced, then each directory above it, before the journal commits what states it.
2. A directory that the journal does not know is left over from a crash and goes at the next start.
3. A directory that no change and no dead letter points at any more is deleted first, and then forgotten.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from syncd.core.messages.statements import InlineArtifact, KeptArtifact
from syncd.errors import JournalError, JournalFull, MessageRefused
from syncd.journal.journal import Journal
from syncd.journal.queries import STATEMENTS as SQL

DIRECTORY: Final = "spool"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Spool:
    """The spool of one state directory. Its methods may be called from several threads."""

    def __init__(self, journal: Journal, state_dir: Path) -> None:
        self._journal = journal
        self._directory = state_dir / DIRECTORY

    def begin(self) -> None:
        """Make the directory, and delete what a crash left in it."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            known = {Path(root).name for [root] in self._journal._fetch("spooled_roots")}
            for entry in self._directory.iterdir():
                if entry.name not in known:
                    shutil.rmtree(entry, ignore_errors=True)
        except OSError as exc:
            raise translated(exc, self._directory) from exc

    def keep(self, artifact: InlineArtifact) -> KeptArtifact:
        """Write an artifact's bytes down for good.

        Raises:
            MessageRefused: no file can have that path here.
            JournalFull: there is no space; nothing is left of it.
            JournalError: the directory cannot be written.
        """
        root = self._directory / secrets.token_hex(12)
        try:
            found = _write(root, artifact)
        except OSError as exc:
            shutil.rmtree(root, ignore_errors=True)
            raise translated(exc, root) from exc
        return KeptArtifact(
            path=artifact.path,
            root=str(root),
            size_bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            digest=hashlib.sha256(artifact.content).hexdigest(),
            spooled=True,
        )

    def discard(self, artifacts: Iterable[KeptArtifact]) -> None:
        """Delete what was kept and then not committed."""
        for artifact in artifacts:
            shutil.rmtree(artifact.root, ignore_errors=True)

    def tidy(self) -> int:
        """Delete what nobody needs any more; return how many directories that were."""
        roots = [root for [root] in self._journal._fetch("unneeded_roots")]
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)
        if roots:
            with self._journal._releasing("tidying the spool"):
                self._journal._connection.executemany(SQL["drop_spooled"], [(root,) for root in roots])
        return len(roots)

    def used_bytes(self) -> int:
        """Return how much lies in the spool."""
        return int(self._journal._one("spooled_bytes"))


def _write(root: Path, artifact: InlineArtifact) -> os.stat_result:
    path = root / artifact.path
    path.parent.mkdir(parents=True, mode=0o700)
    with path.open("xb") as file:
        file.write(artifact.content)
        file.flush()
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
    sync_directories(path, up_to=root.parent)
    return found


def sync_directories(path: Path, *, up_to: Path) -> None:
    """Have the directories above a file survive power loss."""
    directory = path.parent
    while True:
        _sync_directory(directory)
        if directory == up_to:
            return
        directory = directory.parent


def _sync_directory(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def translated(error: OSError, target: Path) -> JournalError | MessageRefused:
    """Return our error for one of the file system."""
    if error.errno == errno.ENAMETOOLONG:
        return MessageRefused("no file can have so long a path here")
    kind = JournalFull if error.errno in _FULL else JournalError
    return kind(error.strerror or str(error), doing="writing", target=str(target), hint="free space in state_dir")
