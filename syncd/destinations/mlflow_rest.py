"""The REST client as an MLflow server needs it: where its API lies, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from syncd.destinations.mlflow_errors import classify
from syncd.errors import DestinationError
from syncd.rest.client import RestClient

API: Final = "/api/2.0/mlflow"


class MlflowRest(RestClient):
    """A client of one MLflow server."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means."""
        return classify(method, status, headers, body, doing=doing, target=target)
