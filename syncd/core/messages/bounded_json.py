"""Parse JSON of strangers: bounded depth, no lone surrogates, and no error but ``MessageRefused``."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from syncd.errors import MessageRefused

MOST_DEPTH: Final = 32
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# A text without its end runs to the end of the data, so that each byte is looked at once.
_TEXT_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_MAYBE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_bounded(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8; NaN and the infinities may stand bare.

    Raises:
        MessageRefused: it is no JSON, nested deeper than ``MOST_DEPTH``, or holds what no UTF-8 text can hold.
    """
    if _is_deep(body):
        raise MessageRefused(f"the JSON is nested deeper than {MOST_DEPTH}")
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text)
    except UnicodeDecodeError as exc:
        raise MessageRefused(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except (ValueError, RecursionError) as exc:
        raise MessageRefused(f"the body is not JSON: {exc}") from exc
    if _MAYBE_SURROGATE.search(body):
        _refuse_surrogates(value)
    return value


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise MessageRefused("a text holds half of a surrogate pair, which is no character") from exc


def _is_deep(body: bytes) -> bool:
    """Return whether brackets are nested deeper than allowed, without recursion."""
    if body.count(b"[") + body.count(b"{") <= MOST_DEPTH:
        return False
    left = body.translate(None, _ALL_BUT_BRACKETS)
    for _ in range(MOST_DEPTH):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
        if not left:
            return False
    depth = 0  # brackets inside texts may have been counted: look once more, at each
    for match in _TEXT_OR_BRACKET.finditer(body):
        character = body[match.start()]
        if character in b"[{":
            depth += 1
            if depth > MOST_DEPTH:
                return True
        elif character in b"]}":
            depth -= 1
    return False
