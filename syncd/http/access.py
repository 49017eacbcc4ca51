"""Who may ask. Pure: decides by the headers of a request.

Rules
-----
1. ``/livez`` and ``/readyz`` are for everyone. ``/hooks/`` has proofs of its own (a signature, a password), and a
   proxy before it may pass on the name by which it was asked.
2. Everything else needs the token where there is one, and there is one wherever the server listens elsewhere than on
   the loopback. Comparing it takes as long for a wrong one as for the right one.
3. Without a token, a page in a browser on this machine could ask: a request must name the loopback as its host (against
   DNS rebinding), and one that changes anything must not come from another site.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

_OPEN: Final = ("/livez", "/readyz")
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def wrong_with(
    method: str, path: str, headers: Mapping[str, str], *, token: str, own_host: str
) -> tuple[int, str] | None:
    """Return the status and words that a request is refused with, None if it may be answered.

    Args:
        method: of the request.
        path: of the request.
        headers: of the request, names in lower case, or found whatever their case.
        token: what must be shown, "" for none.
        own_host: the host that the server listens on.
    """
    if path in _OPEN or path.startswith("/hooks/"):
        return None
    if not token and not _is_local(headers.get("host", ""), own_host):
        return 421, "this server is asked by the name localhost or by its own address only"
    if token and not _shows(headers.get("authorization", ""), token):
        return 401, "the token is missing or wrong (Authorization: Bearer …)"
    if method not in ("GET", "HEAD") and not _is_own(headers.get("origin", ""), headers.get("host", "")):
        return 403, "requests of other sites are refused"
    return None


def _shows(authorization: str, token: str) -> bool:
    scheme, _, shown = authorization.partition(" ")
    right = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
    return right and scheme.lower() == "bearer"


def _is_own(origin: str, host: str) -> bool:
    try:
        return not origin or urlsplit(origin).netloc == host
    except ValueError:
        return False


@lru_cache(64)  # the same few names come with every message
def _is_local(host: str, own_host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in _LOOPBACK_NAMES or name == own_host
