"""The REST client as a workspace needs it: MLflow's API under the workspace's path, and what its refusals mean.

The base URL is ``https://HOST/mlflow/v2.0/subscriptions/…/workspaces/W``.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncd.azure.permissions import advise
from syncd.destinations.azureml.refusals import limit_named, words
from syncd.destinations.mlflow_errors import classify_words
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.errors import DestinationError, Rejected


class AzuremlRest(MlflowRest):
    """A client of one workspace."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means; OverLimit if it names a limit."""
        said = words(body)
        error = classify_words(method, status, headers, said, doing=doing, target=target)
        return limit_named(error) if isinstance(error, Rejected) else advise(error, status=status, code=said[0])
