"""What is wrong with a value in a message: where, and what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

_FOUND_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Wrong:
    """``where`` is a JSON pointer (RFC 6901), "" for the whole; ``what`` is in plain words."""

    where: str
    what: str

    def below(self, *steps: str | int) -> Wrong:
        """Return the same seen from further out."""
        return replace(self, where=pointer(steps) + self.where)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def pointer(steps: Iterable[str | int]) -> str:
    """Return a JSON pointer to a field; a very long key is shortened."""
    return "".join("/" + _step(str(step)) for step in steps)


def _step(text: str) -> str:
    short = text if len(text) <= _FOUND_CHARACTERS else text[:_FOUND_CHARACTERS] + "…"
    return short.replace("~", "~0").replace("/", "~1")


def found_text(value: Any) -> str:
    """Return a short description of a value that is not as expected."""
    if isinstance(value, dict | list):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = json.dumps(value[: _FOUND_CHARACTERS + 1] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= _FOUND_CHARACTERS else text[:_FOUND_CHARACTERS] + "…"
