"""Where a run's artifacts lie, read from its artifact URI, and which names they may have. Values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from syncd.core.source_tags import DATASTORES_FOLDER, MODEL_LINKS_FOLDER, MODELS_FOLDER, OVERFLOW_FOLDER
from syncd.destinations.base import RemoteSubject
from syncd.errors import Rejected

_ROOT: Final = re.compile(r"/experiments/([^/?#]+)/runs/([^/?#]+)/artifacts(?:/([^?#]+))?/?$")
_NOTES: Final = tuple(f"{folder}/" for folder in (MODELS_FOLDER, MODEL_LINKS_FOLDER, DATASTORES_FOLDER))
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
        return cls.of_root(subject.artifact_root)

    @classmethod
    def of_root(cls, root: str) -> Shelf:
        """Return what an artifact URI names; Rejected if it is none of a workspace's run."""
        found = _ROOT.search(root)
        if not root.startswith("azureml:") or found is None:
            raise Rejected("it is not that of a workspace's run", doing="reading the artifact URI", target=root)
        experiment, run_id, folder = found.groups()
        return cls(unquote(experiment), unquote(run_id), (folder or "").strip("/"))

    @property
    def run(self) -> Shelf:
        """All artifacts of the run."""
        return Shelf(self.experiment, self.run_id)

    @property
    def path(self) -> str:
        """What follows ``history_url`` in the address of the run's artifacts."""
        return f"/experiments/{quote(self.experiment, safe='')}/runs/{quote(self.run_id, safe='')}/artifacts"

    def inside(self, path: str) -> str:
        """Return the path among the run's artifacts of a path in this folder.

        A folder is a model's. Its overflow lies beside: the folder holds the model's own files and nothing else.
        """
        if not self.folder:
            return path
        if path.startswith(f"{OVERFLOW_FOLDER}/"):
            return self._overflow + path.removeprefix(OVERFLOW_FOLDER)
        return f"{self.folder}/{path}"

    def outside(self, path: str) -> str | None:
        """Return the path in this folder of a path among the run's artifacts, None if it lies elsewhere."""
        if not self.folder:
            return path
        if path.startswith(f"{self._overflow}/"):
            return OVERFLOW_FOLDER + path.removeprefix(self._overflow)
        return path.removeprefix(f"{self.folder}/") if path.startswith(f"{self.folder}/") else None

    @property
    def _overflow(self) -> str:
        return f"{MODELS_FOLDER}/{self.folder}/overflow"


def model_folders(paths: Iterable[str]) -> set[str]:
    """Return the folders that are models', given the paths of all artifacts of a run."""
    inner = (path.removeprefix(f"{MODELS_FOLDER}/") for path in paths if path.startswith(f"{MODELS_FOLDER}/"))
    return {folder for folder, slash, _ in (path.partition("/") for path in inner) if slash}


def is_reserved(path: str, folders: Collection[str]) -> bool:
    """Whether an artifact of a run is none of its own: a file in the folder of a model, or what syncd notes."""
    return path.partition("/")[0] in folders or path.startswith(_NOTES)


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
