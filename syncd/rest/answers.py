"""What the answers of any service have in common: statuses, Retry-After, and URLs as they may be shown.

A request that may change something and is answered 500, 502 or 504 may have been applied: ``OutcomeUnknown``.
"""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, SubjectGone, Transient

_AMBIGUOUS_STATUSES: Final = frozenset({500, 502, 504})
_LONGEST_MESSAGE: Final = 2000


def service_words(body: bytes) -> tuple[str, str]:
    """Return (code, message) of a refusal in the common form ``{"error": {"code", "message"}}``, or ("", its text)."""
    try:
        value = json.loads(body)
    except ValueError:
        return "", body[:_LONGEST_MESSAGE].decode("utf-8", "replace").strip()
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return "", str(error)[:_LONGEST_MESSAGE]
    return str(error.get("code") or ""), str(error.get("message", ""))[:_LONGEST_MESSAGE]


def classify_status(
    method: str, status: int, headers: Mapping[str, str], words: tuple[str, str], *, doing: str, target: str
) -> DestinationError:
    """Return the error that an answer means by its status alone; ``words`` are the service's code and message."""
    code, message = words
    text = ": ".join(part for part in (f"{status} {code}".strip(), message) if part)
    about: dict[str, Any] = {"doing": doing, "target": target}
    wish = retry_after_s(headers.get("Retry-After"))
    if status in (429, 503):
        return Transient(text, retry_after_s=wish, throttled=status == 429 or wish is not None, **about)
    if status in (401, 403, 407):
        return AuthFailed(text, hint="check the credentials and what they may do", **about)
    if 300 <= status < 400:
        where = shown_url(headers.get("Location", ""))
        return AuthFailed(f"{status}: redirected to {where}", hint="a sign-in page, or not the service's URL", **about)
    if status >= 500 or status in (408, 425):
        kind = OutcomeUnknown if method != "GET" and status in _AMBIGUOUS_STATUSES else Transient
        return kind(text, retry_after_s=wish, server_fault=status == 500, **about)
    return (SubjectGone if status == 404 else Rejected)(text, code=code, status=status, **about)


def retry_after_s(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or an HTTP date), None if it says nothing."""
    if not text:
        return None
    try:
        return max(0.0, float(text)) if float(text) < float("inf") else None
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def shown_url(url: str) -> str:
    """Return the URL without credentials, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(an unreadable address)"
    return f"{parts.scheme}://{host}{port}{parts.path}" if parts.scheme else parts.path
