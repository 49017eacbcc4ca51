"""Names that a destination holds only up to a length."""

from __future__ import annotations

import hashlib

_DIGEST_CHARACTERS = 16


def held_name(name: str, longest: int | None) -> str:
    """Return the name under which an experiment or a run is kept where ``longest`` characters are held.

    A longer one keeps its beginning, and what tells it from others of that beginning; the same name gives the same.
    """
    if longest is None or len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: max(0, longest - _DIGEST_CHARACTERS - 1)]}~{digest}"[-longest:]
