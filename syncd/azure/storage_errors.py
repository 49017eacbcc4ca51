"""What an answer of Azure Storage's blob service means in our tree of errors.

Codes: learn.microsoft.com "Blob Storage error codes" and "Common REST API error codes", read 2026-11. A refusal is XML;
the answer to a HEAD has the code in ``x-ms-error-code`` alone.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, Final

from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, Transient
from syncd.rest.answers import retry_after_s

MESSAGE_MAX_LENGTH: Final = 500
_CODE: Final = re.compile(rb"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")
# "Signature not valid in the specified time frame: Start […] - Expiry […] - Current […]": it tells a wrong clock.
_TIME_FRAME: Final = re.compile(rb"<AuthenticationErrorDetail>(Signature not valid[^<]*)</AuthenticationErrorDetail>")
_PASSING: Final = frozenset({"ContainerBeingDeleted", "ContainerDisabled", "AccountBeingCreated"})
_HINTS: Final = {
    "AuthenticationFailed": "the signed address ran out, its key was changed, or this machine's clock is wrong",
    "AuthorizationFailure": "the storage account's firewall keeps this machine out",
    "AuthorizationPermissionMismatch": "this address or identity may not do that; an identity needs the role Storage"
    " Blob Data Contributor",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys: let the datastore use identity-based access",
    "PublicAccessNotPermitted": "the address holds no signature",
}


class StorageForbidden(AuthFailed):
    """401 or 403 of a storage account; ``code`` is its word. A new signed address may be taken."""

    def __init__(self, message: str, *, code: str, doing: str = "", target: str = "", hint: str = "") -> None:
        super().__init__(message, doing=doing, target=target, hint=hint)
        self.code = code


def is_other_bytes(error: Rejected) -> bool:
    """Whether storage says that a body is not of the MD5 that came with it (Azurite says so in other words)."""
    return error.code == "Md5Mismatch" or (error.code == "InvalidOperation" and "MD5" in error.message)


def storage_error(
    method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
) -> DestinationError:
    """Return the error that an answer of that status (not 2xx) means."""
    code, message = _words(headers, body)
    text = ": ".join(part for part in (f"{status} {code}".strip(), message) if part)
    about: dict[str, Any] = {"doing": doing, "target": target}
    wish = retry_after_s(headers.get("Retry-After"))
    if status in (401, 403):
        return StorageForbidden(text, code=code, hint=_HINTS.get(code, "check what this machine may do there"), **about)
    if status in (429, 503):
        return Transient(text, retry_after_s=wish, throttled=True, **about)
    if status in (408, 425) or code in _PASSING:
        return Transient(text, retry_after_s=wish, **about)
    if status >= 500 or 300 <= status < 400:
        # No fault of the blob: a large one meets some of them among a thousand blocks.
        return (Transient if method in ("GET", "HEAD") else OutcomeUnknown)(text, retry_after_s=wish, **about)
    return Rejected(text, code=code, status=status, **about)


def _words(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Return storage's code and message, in one line; ("", the text) of anything else that answers."""
    code = headers.get("x-ms-error-code", "") or _found(_CODE, body)
    if not code and b"<Error>" not in body:
        return "", body[:MESSAGE_MAX_LENGTH].decode("utf-8", "replace").strip()
    parts = (_found(_MESSAGE, body), _found(_TIME_FRAME, body))
    return code, " ".join(part for part in parts if part)[:MESSAGE_MAX_LENGTH]


def _found(pattern: re.Pattern[bytes], body: bytes) -> str:
    match = pattern.search(body)
    return " ".join(html.unescape(match[1].decode("utf-8", "replace")).split()) if match else ""
