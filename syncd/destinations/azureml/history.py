"""Run history's calls for artifacts: to register and to list them, and to be told where their bytes are.

The shapes are those of azureml-mlflow 1.62.0.post6 (``_restclient/run_artifact`` and ``_restclient/artifact``, read
2026-11), which uses all of these but ``write``: that a registered artifact may be written again by it is assumed, and
nothing is lost where it is not so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from syncd.azure.address import WorkspaceAddress
from syncd.azure.blob import BlobAddress
from syncd.azure.permissions import advise
from syncd.destinations.azureml.refusals import words
from syncd.destinations.azureml.shelf import Shelf
from syncd.errors import DestinationError, OutcomeUnknown, Rejected, Transient
from syncd.rest.answers import classify_status
from syncd.rest.client import Json, RestClient

PATHS_PER_CALL: Final = 50  # azureml-mlflow's own; over 100 are refused (ultralytics issue 3223)
_CONFLICT: Final = "Resource Conflict"


class HistoryRest(RestClient):
    """A client of a workspace's host, for what is not MLflow's API."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means."""
        said = words(body)
        error = classify_status(method, status, headers, said, doing=doing, target=target)
        return advise(error, status=status, code=said[0])


class RunHistory:
    """The artifacts of one workspace's runs. The client is closed by ``close``; its base URL is the host's."""

    def __init__(self, rest: HistoryRest, address: WorkspaceAddress) -> None:
        self._rest = rest
        self._history = address.history_url.removeprefix(rest.base_url)
        self._artifacts = address.artifact_url.removeprefix(rest.base_url)

    async def close(self) -> None:
        """Close connections."""
        await self._rest.close()

    async def register(self, shelf: Shelf, paths: Sequence[str]) -> dict[str, BlobAddress | Rejected | None]:
        """Register at most 50 artifacts of a run.

        Returns:
            For each path where to send it; None if it was registered before; Rejected if it is refused.
        """
        doing = "registering artifacts of run"
        body = {"paths": [{"path": path} for path in paths]}
        path = f"{self._history}{shelf.path}/batch/metadata"
        answer = await self._rest.call("POST", path, body, doing=doing, target=shelf.run_id)
        places = answer.get("artifactContentInformation") or {}
        errors = answer.get("errors") or {}
        return {path: _outcome(path, places, errors, shelf) for path in paths}

    async def readable(self, shelf: Shelf, path: str) -> BlobAddress:
        """Return where an artifact's bytes are; SubjectGone if there is no such artifact."""
        url = f"{self._history}{shelf.path}/contentinfo"
        doing = "asking for the address of"
        return _address(await self._rest.get(url, {"path": path}, doing=doing, target=path), path)

    async def writable(self, shelf: Shelf, path: str) -> BlobAddress:
        """Return where a registered artifact may be written; where none is told, the one for reading may do."""
        container = quote(f"dcid.{shelf.run_id}", safe="")
        url = f"{self._artifacts}/artifacts/ExperimentRun/{container}/write"
        try:
            answer = await self._rest.get(url, {"path": path}, doing="asking to write", target=path)
        except Rejected:
            return await self.readable(shelf, path)
        return _address(answer, path)

    async def paths(self, shelf: Shelf) -> AsyncIterator[str]:
        """Yield the path of every registered artifact of a run, page by page."""
        query: dict[str, str] = {}
        while True:
            doing = "listing artifacts of run"
            url = f"{self._history}{shelf.path}"
            answer = await self._rest.get(url, query, doing=doing, target=shelf.run_id)
            for item in answer.get("value") or ():
                yield str(item["path"])
            token = answer.get("continuationToken")
            if not token or token == query.get("continuationToken"):
                return
            query = {"continuationToken": str(token)}


def _outcome(
    path: str, places: Mapping[str, Any], errors: Mapping[str, Any], shelf: Shelf
) -> BlobAddress | Rejected | None:
    if path in places:
        return _address(places[path], path)
    error = (errors.get(path) or {}).get("error") or {}
    message = str(error.get("message", ""))
    if _CONFLICT in message:
        return None
    doing = "registering artifacts of run"
    if path not in errors:
        raise OutcomeUnknown("the answer is silent about an artifact", doing=doing, target=shelf.run_id)
    return Rejected(message or "refused", code=str(error.get("code", "")), status=400, doing="registering", target=path)


def _address(told: Json, path: str) -> BlobAddress:
    uri = told.get("contentUri")
    if not isinstance(uri, str) or not uri.startswith("https://"):
        raise Transient("the answer tells no https address", doing="asking for the address of", target=path)
    return BlobAddress(uri)
