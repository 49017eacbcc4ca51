"""Which device and run a topic names: ``syncd/{device}/{run}/metrics``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PLACES: Final = ("device", "run", "experiment")
_PLACE: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Named:
    """What a topic names; "" for what its pattern has no place for."""

    device: str = ""
    run: str = ""
    experiment: str = ""


class TopicPattern:
    """A topic in which ``{device}``, ``{run}`` and ``{experiment}`` stand for one level each."""

    def __init__(self, pattern: str) -> None:
        """Compile a pattern.

        Raises:
            ValueError: it names no run, an unknown place, or one twice.
        """
        places = _PLACE.findall(pattern)
        unknown = [place for place in places if place not in PLACES]
        if unknown:
            raise ValueError(f"{{{unknown[0]}}} is not one of {{device}}, {{run}}, {{experiment}}")
        if len(set(places)) != len(places):
            raise ValueError("a place stands in it twice")
        if "run" not in places:
            raise ValueError("{run} is missing")
        parts = _PLACE.split(pattern)
        self._topic = re.compile(
            "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
        )

    def match(self, topic: str) -> Named | None:
        """Return what a topic names, None if the pattern does not fit it."""
        found = self._topic.fullmatch(topic)
        return Named(**found.groupdict()) if found else None
