"""Which artifacts the service knows, and where their bytes are. No I/O, no HTTP.

An artifact is registered first, its bytes go to storage by the URL that registering answers. The service never looks
whether they came: what is listed need not be there (Habits.listed_before_uploaded).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from tests.standins.azureml.blobs import BlobStore, SharedAccess
from tests.standins.azureml.limits import Habits, Limits, check
from tests.standins.azureml.place import Place
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.runs import Json
from tests.standins.azureml.tracking import page

STORE_CONTAINER = "azureml"
UPLOAD_PERMISSIONS = "rcw"


@dataclass(frozen=True)
class Shelf:
    """What artifacts belong to: ("ExperimentRun", "dcid.<run>") or ("LocalUpload", any)."""

    origin: str
    container: str

    @classmethod
    def of_run(cls, run_id: str) -> Shelf:
        return cls("ExperimentRun", f"dcid.{run_id}")

    def blob_name(self, path: str) -> str:
        return f"{STORE_CONTAINER}/{self.origin}/{self.container}/{path}"


class Artifacts:
    """All registered artifacts, by shelf and path, with the time of registering."""

    def __init__(self, place: Place, limits: Limits, habits: Habits, *, blobs: BlobStore, access: SharedAccess) -> None:
        self.registered: dict[Shelf, dict[str, str]] = {}
        self._place = place
        self._limits = limits
        self._habits = habits
        self._blobs = blobs
        self._access = access

    def register(self, shelf: Shelf, paths: list[str]) -> Json:
        """Return the answer of batch/metadata: the artifacts, where to send them, and the errors by path."""
        if len(paths) > self._limits.artifacts_per_batch:
            message = f"Artifact batch size exceeded the limit of {self._limits.artifacts_per_batch}"
            raise Refused(400, "UserError", message)
        for path in paths:
            check("ArtifactDto.Path/Length", self._limits.artifact_path_length, len(path))
        known = self.registered.setdefault(shelf, {})
        conflicts = [path for path in paths if path in known] if self._habits.registered_again_conflicts else []
        good = [path for path in dict.fromkeys(paths) if path not in conflicts]
        for path in good:
            known.setdefault(path, datetime.now(UTC).isoformat())
        return {
            "artifacts": {path: self._artifact(shelf, path) for path in good},
            "artifactContentInformation": {path: self._content(shelf, path, UPLOAD_PERMISSIONS) for path in good},
            "errors": {path: _conflict(shelf, path) for path in conflicts},
        }

    def content(self, shelf: Shelf, path: str) -> Json:
        """Return where an artifact's bytes are; refuses an unknown one."""
        if path not in self.registered.get(shelf, {}):
            raise Refused(404, "UserError", f"Artifact {shelf.origin}/{shelf.container}/{path} was not found.")
        return self._content(shelf, path, self._habits.content_permissions)

    def writable(self, shelf: Shelf, path: str) -> Json:
        """Return where a registered artifact may be written; refuses an unknown one, or all of them."""
        if not self._habits.write_offered:
            raise Refused(404, "UserError", "There is no such resource.")
        self.content(shelf, path)
        return self._content(shelf, path, UPLOAD_PERMISSIONS)

    def contents(self, shelf: Shelf, prefix: str, token: str) -> tuple[list[Json], str]:
        """Return a page of places of artifacts below a prefix, and the next page's token."""
        paths, following = page(self._paths(shelf, prefix), self._habits.artifacts_page, token)
        return [self._content(shelf, path, self._habits.content_permissions) for path in paths], following

    def listing(self, shelf: Shelf, prefix: str, token: str) -> tuple[list[Json], str]:
        """Return a page of artifacts below a prefix, and the next page's token."""
        paths, following = page(self._paths(shelf, prefix), self._habits.artifacts_page, token)
        return [self._artifact(shelf, path) for path in paths], following

    def bytes_of(self, shelf: Shelf, path: str) -> bytes:
        """Return what storage holds for an artifact."""
        return self._blobs.content(shelf.blob_name(path))

    def _paths(self, shelf: Shelf, prefix: str) -> list[str]:
        paths = sorted(path for path in self.registered.get(shelf, {}) if path.startswith(prefix))
        if self._habits.listed_before_uploaded:
            return paths
        blobs = self._blobs.blobs
        return [path for path in paths if (blob := blobs.get(shelf.blob_name(path))) and blob.committed is not None]

    def _artifact(self, shelf: Shelf, path: str) -> Json:
        whole = f"{shelf.origin}/{shelf.container}/{path}"
        return {
            "artifactId": whole,
            "origin": shelf.origin,
            "container": shelf.container,
            "path": path,
            "etag": None,
            "createdTime": self.registered[shelf][path],
            "dataPath": {"dataStoreName": "workspaceartifactstore", "relativePath": whole},
        }

    def _content(self, shelf: Shelf, path: str, permissions: str) -> Json:
        name = shelf.blob_name(path)
        uri = f"{self._place.storage_url}/{quote(name, safe='/~')}?{self._access.token(name, permissions)}"
        return {"contentUri": uri, "origin": shelf.origin, "container": shelf.container, "path": path}


def _conflict(shelf: Shelf, path: str) -> Json:
    message = f"Resource Conflict: ArtifactId {shelf.origin}/{shelf.container}/{path} already exists."
    return {"error": {"code": "UserError", "message": message}}
