"""Where a run's artifacts lie, read from its artifact URI, and which names they may have. Values, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from syncd.destinations.base import RemoteSubject
from syncd.errors import Rejected

_ROOT: Final = re.compile(r"/experiments/([^/?#]+)/runs/([^/?#]+)/artifacts(?:/([^?#]+))?/?$")
# Of Azure Storage: a blob's name has at most 1,024 characters, of which the service's own prefix takes some, and 254
# parts; no part ends with a dot (learn.microsoft.com "Naming containers, blobs, and metadata", read 2026-11).
NAME_MAX_LENGTH: Final = 1024
PREFIX_MAX_LENGTH: Final = 320  # "ExperimentRun/dcid." and a run id of at most 256
PARTS_MAX: Final = 250


@dataclass(frozen=True, slots=True)
class Shelf:
    """A run, and the folder among its artifacts that is meant ("" for all of them)."""

    experiment: str
    run_id: str
    folder: str = ""

    @classmethod
    def of(cls, subject: RemoteSubject) -> Shelf:
        """Return the place of a run's or model's artifacts; Rejected if they are not the workspace's to keep."""
        found = _ROOT.search(subject.artifact_root)
        if not subject.artifact_root.startswith("azureml:") or found is None:
            message = f"the artifact URI is not that of a workspace's run: {subject.artifact_root or 'none'}"
            raise Rejected(message, doing="reading the artifact URI of", target=subject.id)
        experiment, run_id, folder = found.groups()
        return cls(unquote(experiment), unquote(run_id), unquote(folder or "").strip("/"))

    @property
    def run(self) -> Shelf:
        """All artifacts of the run."""
        return Shelf(self.experiment, self.run_id)

    @property
    def path(self) -> str:
        """What follows ``history_url`` in the address of the run's artifacts."""
        return f"/experiments/{quote(self.experiment, safe='')}/runs/{quote(self.run_id, safe='')}/artifacts"

    def inside(self, path: str) -> str:
        """Return the path among the run's artifacts of a path in this folder."""
        return f"{self.folder}/{path}" if self.folder else path


def unholdable(path: str) -> str:
    """Return why a workspace cannot be trusted to keep this name as it is, or "" when it can."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        return "it is not a plain relative path"
    if any(ord(c) < 32 or ord(c) == 127 or c == "\\" for c in path):
        return "it holds a control character or a backslash"
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path):
        return "it is not valid UTF-8"
    if any(part.endswith((".", " ")) for part in parts):
        return "a part of it ends with a dot or a space"
    if len(path) > NAME_MAX_LENGTH - PREFIX_MAX_LENGTH or len(parts) > PARTS_MAX:
        return f"it is longer than {NAME_MAX_LENGTH - PREFIX_MAX_LENGTH} characters or {PARTS_MAX} parts"
    return ""
