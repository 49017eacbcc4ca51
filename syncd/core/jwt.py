"""What a JSON web token says of itself: for people, and to know when it ends. Nothing is verified, nothing decided."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any


def claims_of(token: str) -> Mapping[str, Any]:
    """Return the claims of a JWT; empty for any other token."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def expiry_of(token: str) -> float | None:
    """Return when a JWT ends, in seconds since the epoch; None if it does not say."""
    expiry = claims_of(token).get("exp")
    return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None
