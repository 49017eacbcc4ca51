"""Find the line of every key in a TOML text, which ``tomllib`` does not tell.

Rules
-----
1. The text has been accepted by ``tomllib``: the scanner tells tokens apart, it does not check.
2. A place is named by its path in the parsed document: ``("sources", 0, "path")``.
3. Where the scanner does not understand a token it stops; ``line_of`` then answers with the line of the nearest
   enclosing place, so that a message is at worst less exact.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Place = tuple[str | int, ...]

_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


class KeyLines:
    """The lines (from 1) of the keys, tables and array items of one TOML text."""

    def __init__(self, text: str) -> None:
        self._lines = _Scanner(text).scan()

    def line_of(self, place: Place) -> int:
        """Return the line of that place, or of the nearest one around it (1 at last)."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)


class _NotUnderstood(Exception):
    pass


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.lines: dict[Place, int] = {}
        self.last_index: dict[Place, int] = {}  # of each array of tables

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        try:
            while self._skip(_SPACE_AND_COMMENTS) < len(self.text):
                if self._at("["):
                    table = self._header()
                else:
                    self._key_and_value(table)
        except _NotUnderstood:
            pass  # rule 3
        return self.lines

    def _header(self) -> Place:
        line, array = self._line(), self._at("[[")
        self.position += 2 if array else 1
        keys = self._dotted_key()
        self._expect("]]" if array else "]")
        place: Place = ()
        for key in keys[:-1]:
            place = (*place, key)
            self.lines.setdefault(place, line)
            if place in self.last_index:
                place = (*place, self.last_index[place])
        place = (*place, keys[-1])
        if array:
            self.lines.setdefault(place, line)
            self.last_index[place] = self.last_index.get(place, -1) + 1
            place = (*place, self.last_index[place])
        self.lines[place] = line
        return place

    def _key_and_value(self, table: Place) -> None:
        line, place = self._line(), table
        for key in self._dotted_key():
            place = (*place, key)
            self.lines.setdefault(place, line)
        self._expect("=")
        self._skip(_SPACE)
        self._value(place)

    def _dotted_key(self) -> list[str]:
        keys = [self._key()]
        while self._at("."):
            self.position += 1
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_SPACE)
        if self._at('"') or self._at("'"):
            key = tomllib.loads(f"key = {self._take(_STRING)}")["key"]
        else:
            key = self._take(_BARE_KEY)
        self._skip(_SPACE)
        return str(key)

    def _value(self, place: Place) -> None:
        if self._at("["):
            self._items(place)
        elif self._at("{"):
            self._inline_table(place)
        else:
            self._take(_STRING if self._at('"') or self._at("'") else _SCALAR)

    def _items(self, place: Place) -> None:
        self.position += 1
        index = 0
        while self._skip(_SPACE_AND_COMMENTS) < len(self.text) and not self._at("]"):
            if self._at(","):
                self.position += 1
                continue
            self.lines[(*place, index)] = self._line()
            self._value((*place, index))
            index += 1
        self._expect("]")

    def _inline_table(self, place: Place) -> None:
        self.position += 1
        while self._skip(_SPACE_AND_COMMENTS) < len(self.text) and not self._at("}"):
            if self._at(","):
                self.position += 1
                continue
            self._key_and_value(place)
        self._expect("}")

    def _at(self, text: str) -> bool:
        return self.text.startswith(text, self.position)

    def _line(self) -> int:
        return bisect_right(self.line_starts, self.position)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.position

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise _NotUnderstood
        self.position = match.end()
        return match.group()

    def _expect(self, text: str) -> None:
        if not self._at(text):
            raise _NotUnderstood
        self.position += len(text)
