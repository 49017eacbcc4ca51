"""What azure-identity's errors mean in our tree: AuthFailed with what to do, or Transient.

Messages are cut where trace ids, dates and the body of the answer begin. The AADSTS codes are
those of learn.microsoft.com "reference-error-codes" (read 2026-11).
"""

from __future__ import annotations

import re
from typing import Any, Final

from syncd.azure.sign_in import AzureCli, ManagedIdentity, ServicePrincipal, SignIn, WorkloadIdentity
from syncd.errors import AuthFailed, DestinationError, Transient
from syncd.rest.answers import retry_after_s

_ADVICE: Final = {
    "AADSTS7000215": "the client secret is wrong: it must be the secret's value, not its id",
    "AADSTS7000222": "the client secret has expired: make a new one for the application",
    "AADSTS700016": "check client_id and tenant_id",
    "AADSTS90002": "check tenant_id, and cloud",
    "AADSTS900023": "check tenant_id",
    "AADSTS700027": "upload the certificate to the application, or use the one that is there",
    "AADSTS70021": "add a federated credential for this service account to the application",
    "AADSTS700211": "add a federated credential for this service account to the application",
    "AADSTS700213": "add a federated credential for this service account to the application",
    "AADSTS700024": "the service account's token has expired: is it projected anew?",
    "AADSTS500011": "check cloud: this tenant does not know the service",
    "AADSTS53003": "a conditional access policy blocks this sign-in",
}
_CODE: Final = re.compile(r"AADSTS\d+")
_NOISE: Final = re.compile(
    r"\s*(?:Content: |Code: |Trace ID:|Correlation ID:|Timestamp:|Visit https://aka\.ms/|To mitigate this issue).*",
    re.DOTALL,
)
_PASSING: Final = frozenset({408, 410, 429, *range(500, 600)})
_LONGEST: Final = 400


class SignInBusy(Transient):
    """The sign-in service is there, and cannot answer now."""


def translated(exc: Exception, sign_in: SignIn, *, doing: str) -> DestinationError:
    """Return our error for what azure-identity raised, or what reading a file of the credential raised."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    about: dict[str, Any] = {"doing": doing, "target": str(sign_in)}
    text = _one_line(str(exc) or type(exc).__name__)
    causes = _causes(exc)
    if any(isinstance(cause, ServiceResponseError | ConnectionResetError) for cause in causes):
        return SignInBusy(text, **about)  # somebody took the request
    for cause in causes:
        if isinstance(cause, HttpResponseError) and cause.status_code in _PASSING:
            wish = retry_after_s(getattr(cause.response, "headers", {}).get("Retry-After"))
            return SignInBusy(text, retry_after_s=wish, throttled=cause.status_code == 429, **about)
        if isinstance(cause, ServiceRequestError | TimeoutError):
            return Transient(text, hint=_unanswered(sign_in), **about)
    return AuthFailed(text, hint=_advice(text, sign_in), **about)


def _causes(exc: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while exc is not None and exc not in causes:
        causes.append(exc)
        exc = exc.__cause__
    return causes


def _one_line(text: str) -> str:
    return " ".join(_NOISE.sub("", text).split()).removeprefix("(None) ")[:_LONGEST]


def _advice(text: str, sign_in: SignIn) -> str:
    code = _CODE.search(text)
    if code is not None and code.group() in _ADVICE:
        return _ADVICE[code.group()]
    match sign_in:
        case ServicePrincipal(secret=None):
            return "check tenant_id, client_id and the certificate"
        case ServicePrincipal():
            return "check tenant_id, client_id and the client secret"
        case WorkloadIdentity():
            return "check tenant_id, client_id, the token file and the federated credential"
        case ManagedIdentity():
            return "give this machine a managed identity, or check client_id"
        case AzureCli():
            return "run `az login` as the user that syncd runs as"
    return "check the credentials"


def _unanswered(sign_in: SignIn) -> str:
    if isinstance(sign_in, ManagedIdentity):
        return "does this machine have a managed identity? Outside Azure, use another credential"
    return "can this machine reach the sign-in service?"
