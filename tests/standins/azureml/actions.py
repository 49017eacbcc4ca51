"""The permission that each call needs, in Azure's words, for the refusals that name it.

From learn.microsoft.com "how-to-assign-roles" (MLflow operations, read 2026-11); that the data plane names them in the
way ARM does is assumed.
"""

from __future__ import annotations

from typing import Final

WORKSPACES: Final = "Microsoft.MachineLearningServices/workspaces"
_OF_KIND: Final = {
    "arm/workspace": "read",
    "arm/datastores": "datastores/read",
    "arm/datastore": "datastores/read",
    "arm/list-secrets": "datastores/listSecrets/action",
    "artifacts/batch/metadata": "metadata/artifacts/write",
}
_READING: Final = ("get", "search", "list", "contentinfo", "history")


def action_of(kind: str) -> str:
    """Return the action that a call of that kind is."""
    if kind in _OF_KIND:
        return f"{WORKSPACES}/{_OF_KIND[kind]}"
    reads = any(word in kind.rpartition("/")[2] for word in _READING)
    place = "metadata/artifacts" if kind.startswith("artifacts/") else "experiments/runs"
    return f"{WORKSPACES}/{place}/{'read' if reads else 'write'}"
