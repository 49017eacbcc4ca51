"""What an HTTP answer of an MLflow server, or of whatever stands before it, means in our tree of errors.

A request that may change something and is answered 500, 502 or 504 may have been applied: ``OutcomeUnknown``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, SubjectGone, Transient
from syncd.rest.answers import retry_after_s, shown_url

MESSAGE_MAX_LENGTH: Final = 100_000
_AMBIGUOUS_STATUSES: Final = frozenset({500, 502, 504})
# What SQLAlchemy says when a server's database is overloaded, locked or away; MLflow passes it on as a 400 BAD_REQUEST
# (measured on 3.15 with 16 requests in flight, 2026-11: "QueuePool limit of size 5 overflow 10 reached, connection
# timed out, timeout 30.00").
_DATABASE_TROUBLE: Final = re.compile(
    r"QueuePool limit|OperationalError|InterfaceError|PendingRollbackError|database is locked|deadlock", re.IGNORECASE
)
_DELETED_WORDS: Final = ("must be in the 'active' state", "must be in 'active' lifecycle_stage")


class NotMlflow(Transient):
    """A 404 that MLflow did not write: a gateway without its server, a wrong address, or an endpoint it lacks."""


class Unsupported(Rejected):
    """501: the server knows the endpoint and says that it cannot do this."""


def classify(
    method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
) -> DestinationError:
    """Return the error that an answer of that status (not 2xx) means."""
    return classify_words(method, status, headers, _server_words(body), doing=doing, target=target)


def classify_words(
    method: str, status: int, headers: Mapping[str, str], said: tuple[str, str], *, doing: str, target: str
) -> DestinationError:
    """Return the error that an answer of that status (not 2xx) with that (error_code, message) means."""
    code, message = said
    words = f"{status} {code}: {message}" if code else f"{status}: {message}" if message else f"HTTP {status}"
    about: dict[str, Any] = {"doing": doing, "target": target}
    if status in (429, 503):
        wish = retry_after_s(headers.get("Retry-After"))
        throttled = status == 429 or wish is not None
        return Transient(words, retry_after_s=wish, throttled=throttled, **about)
    if status in (401, 403, 407):
        return AuthFailed(words, hint=_auth_hint(status, message), **about)
    if 300 <= status < 400:
        where = shown_url(headers.get("Location", ""))
        return AuthFailed(f"{status}: redirected to {where}", hint="a sign-in page, or not the server's URL", **about)
    if status == 501:
        return Unsupported(words, code=code, status=status, **about)
    if code == "INVALID_STATE":  # a FileStore server says so of a deleted experiment, with a 500
        return SubjectGone(message, code=code, status=status, **about)
    if status == 500 and "Changing param values is not allowed" in message:
        # A FileStore server says so with a 500 (measured on 2.9 to 3.15, 2026-11); no retry will help.
        return Rejected(message, code=code, status=status, **about)
    if status >= 500 or status in (408, 425):
        kind = OutcomeUnknown if method != "GET" and status in _AMBIGUOUS_STATUSES else Transient
        wish = retry_after_s(headers.get("Retry-After"))
        return kind(words, retry_after_s=wish, server_fault=status == 500, **about)
    if code == "BAD_REQUEST" and _DATABASE_TROUBLE.search(message):
        return (Transient if method == "GET" else OutcomeUnknown)(words, hint="the server's database is busy", **about)
    if status == 404 and not code:
        return NotMlflow(words, hint="the address is wrong, or a gateway answers instead of MLflow", **about)
    gone = code == "RESOURCE_DOES_NOT_EXIST" or any(w in message for w in _DELETED_WORDS)
    return (SubjectGone if gone else Rejected)(message or words, code=code, status=status, **about)


def _auth_hint(status: int, message: str) -> str:
    if "Invalid Host header" in message or "Cross-origin" in message:
        return "the server refuses this host name: start it with --allowed-hosts"
    if status == 407:
        return "the HTTP proxy wants credentials"
    return "check the credentials and what they may do"


def _server_words(body: bytes) -> tuple[str, str]:
    """Return MLflow's (error_code, message), or ("", text) of anything else."""
    try:
        value = json.loads(body)
    except ValueError:
        return "", body[:2000].decode("utf-8", "replace").strip()
    if not isinstance(value, dict):
        return "", str(value)[:2000]
    message = value.get("message", value.get("detail", ""))
    code = value.get("error_code", "")
    return str(code) if code else "", str(message)[:MESSAGE_MAX_LENGTH]
