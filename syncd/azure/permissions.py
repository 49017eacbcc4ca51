"""Which permission a refusal speaks of, and the smallest built-in role that has it. Pure.

Sources (read 2026-11): learn.microsoft.com "built-in-roles/ai-machine-learning" and "how-to-assign-roles" (MLflow
operations). What "AzureML Data Scientist" may not do is in ``_NOT_DATA_SCIENTIST``. Not tried against Azure itself.
"""

from __future__ import annotations

import re
from typing import Final

from syncd.errors import AuthFailed, DestinationError

READER: Final = "Reader"
DATA_SCIENTIST: Final = "AzureML Data Scientist"
BLOB_CONTRIBUTOR: Final = "Storage Blob Data Contributor"
WORKSPACES: Final = "Microsoft.MachineLearningServices/workspaces"
READ_WORKSPACE: Final = f"{WORKSPACES}/read"
READ_RUNS: Final = f"{WORKSPACES}/experiments/runs/read"
WRITE_RUNS: Final = f"{WORKSPACES}/experiments/runs/write"
READ_ARTIFACTS: Final = f"{WORKSPACES}/metadata/artifacts/read"
WRITE_ARTIFACTS: Final = f"{WORKSPACES}/metadata/artifacts/write"
READ_DATASTORES: Final = f"{WORKSPACES}/datastores/read"
LIST_DATASTORE_SECRETS: Final = f"{WORKSPACES}/datastores/listSecrets/action"
_OTHER_TENANT: Final = "InvalidAuthenticationTokenTenant"
_NOT_ACCEPTED: Final = "the token was not accepted: check cloud, and sign in again"
_ACTION: Final = re.compile(r"\bMicrosoft\.[A-Za-z]+/[A-Za-z0-9/*]+[A-Za-z*]")
_NOT_DATA_SCIENTIST: Final = re.compile(
    rf"{re.escape(WORKSPACES)}/(?:delete|write|listKeys/action|computes/listKeys/action"
    r"|computes/.*(?:write|delete)|(?:hubs|featurestores)/(?:write|delete))",
    re.IGNORECASE,
)


def missing_action(message: str) -> str:
    """Return the action that a refusal's message names ("Microsoft.…/workspaces/read"), "" if it names none."""
    for match in _ACTION.finditer(message):
        before = message[: match.start()]
        if not before.endswith(("providers/", "/")):  # part of a resource's id, not an action
            return match.group()
    return ""


def smallest_role(action: str) -> str:
    """Return the built-in role with the least rights that allows the action, "" if none of these roles does."""
    if action.endswith("/read"):
        return READER
    of_workspace = action.lower().startswith(f"{WORKSPACES}/".lower())
    return DATA_SCIENTIST if of_workspace and not _NOT_DATA_SCIENTIST.fullmatch(action) else ""


def advise(error: DestinationError, *, status: int, code: str) -> DestinationError:
    """Return the error; one that refuses the credentials says what is missing, or what else to do."""
    if isinstance(error, AuthFailed) and status == 401:
        other_tenant = code == _OTHER_TENANT
        error.hint = "the subscription is of another tenant: set tenant_id" if other_tenant else _NOT_ACCEPTED
    elif isinstance(error, AuthFailed) and status == 403:
        error.hint = advice(missing_action(error.message))
    return error


def advice(action: str) -> str:
    """Return in a few words what to ask an administrator for."""
    if not action:
        return f'the identity needs a role on the workspace, "{DATA_SCIENTIST}" for all that syncd does'
    role = smallest_role(action)
    grant = f'give the identity the role "{role}" on the workspace' if role else "give the identity a role that has it"
    return f"the permission {action} is missing: {grant}"
