"""Signatures of webhooks: Standard Webhooks and MLflow's, which is the same sum.

Both are ``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``; the timestamp is in seconds. They differ in
the names of their headers, and in that a key of Standard Webhooks is written ``whsec_`` and base64 where MLflow takes
the text as it stands.

Rules
-----
1. Comparing takes as long for a wrong signature as for a right one, and every key is tried.
2. A request is older or younger than ``WINDOW_S`` at most; what comes again within it is for the reader to notice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

WINDOW_S = 300
_PREFIX = "whsec_"
_VERSION = b"v1,"
_MOST_SIGNATURES = 16
# Standard Webhooks' and MLflow's: of the signature, the id and the timestamp.
_HEADERS = (
    ("webhook-signature", "webhook-id", "webhook-timestamp"),
    ("x-mlflow-signature", "x-mlflow-delivery-id", "x-mlflow-timestamp"),
)
_KEYS = 16  # that are ready for use: preparing one takes half as long as a signature


class Signed(NamedTuple):
    """What the headers of a signed request say."""

    id: str
    timestamp: str
    signatures: tuple[str, ...]


def sign(key: bytes, *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the signature of a request: ``v1,`` and base64."""
    return _sum(key, message_id, str(timestamp_s), body).decode()


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for: the base64 behind ``whsec_``, else the text itself.

    Raises:
        ValueError: what follows ``whsec_`` is not base64, or nothing.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as exc:
        raise ValueError("a secret that begins with whsec_ goes on in base64") from exc
    if not key:
        raise ValueError("nothing follows whsec_: anybody could sign with it")
    return key


def signed_of(headers: Mapping[str, str]) -> Signed | None:
    """Return what a request's headers (names in lower case) say of its signature; None if it has none."""
    for signature, message_id, timestamp in _HEADERS:
        signatures = headers.get(signature)
        if signatures is not None:
            listed = tuple(signatures.split()[:_MOST_SIGNATURES])
            return Signed(headers.get(message_id, ""), headers.get(timestamp, ""), listed)
    return None


def wrong_with(signed: Signed, *, keys: Sequence[bytes], body: bytes, now_s: float) -> str:
    """Return what is wrong with a signed request, "" if nothing is."""
    if not signed.id:
        return "the request has no id"
    if not (signed.timestamp.isascii() and signed.timestamp.isdecimal() and len(signed.timestamp) <= 12):
        return "the timestamp is not a number of seconds"
    if not _matches(signed, [_sum(key, signed.id, signed.timestamp, body) for key in keys]):
        return "the signature does not match"
    if abs(now_s - int(signed.timestamp)) > WINDOW_S:
        return f"the request is older or younger than {WINDOW_S} s (are both clocks right?)"
    return ""


def _matches(signed: Signed, right: Iterable[bytes]) -> bool:
    given = [one.encode("utf-8", "surrogatepass") for one in signed.signatures]
    found = False
    for one in right:
        for other in given:
            found |= hmac.compare_digest(one, other)
    return found


def _sum(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    code = _keyed(key).copy()
    code.update(f"{message_id}.{timestamp}.".encode("utf-8", "surrogatepass"))
    code.update(body)
    return _VERSION + binascii.b2a_base64(code.digest(), newline=False)


@lru_cache(_KEYS)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod=hashlib.sha256)
