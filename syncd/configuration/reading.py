"""Typed reading of a parsed TOML document that collects every problem instead of stopping at the first.

Rules
-----
1. A reading method returns a value of its type in any case. If the document has none that is right, it notes a
   ``Problem`` and returns a stand-in; the caller goes on and throws all away when ``Document.problems`` is not empty.
2. A table is closed with ``refuse_unknown_keys`` after all its keys were asked for: what was not asked for is
   unknown, and the keys that were asked for are those offered as right.
3. ``${NAME}`` is replaced where a text is read, ``$${`` stands for a plain ``${``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from syncd.configuration.locating import KeyLines, Place
from syncd.configuration.secret import Secret
from syncd.errors import ConfigError

_Choice = TypeVar("_Choice", bound=str)

_REFERENCE = re.compile(r"\$(\$(?=\{)|\{([^}]*)\})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)")
_UNIT_BYTES = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_UNIT_BYTES |= {"KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: line (from 1), key ("" for the file), what is wrong and expected, what to write instead."""

    line: int
    key: str
    message: str
    hint: str = ""

    def describe(self, file: Path) -> str:
        """Return ``file:line: key: message (hint)``."""
        text = f"{file}:{self.line}: {self.key}: {self.message}" if self.key else f"{file}:{self.line}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class InvalidConfiguration(ConfigError):
    """A configuration file with at least one ``Problem``; its text has one line for each, in the file's order."""

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(problem.describe(file) for problem in self.problems))


@dataclass(slots=True)
class Document:
    """The file that is being read: where its keys are, the environment, and what was found wrong so far."""

    file: Path
    lines: KeyLines
    environment: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, place: Place, message: str, hint: str = "") -> None:
        """Note a problem at that place."""
        self.problems.append(Problem(self.lines.line_of(place), written(place), message, hint))

    def warn(self, place: Place, message: str) -> None:
        """Note what is not wrong but worth saying."""
        self.warnings.append(Problem(self.lines.line_of(place), written(place), message).describe(self.file))

    def expand(self, place: Place, text: str) -> str:
        """Return ``text`` with ``${NAME}`` replaced from the environment."""

        def replace(match: re.Match[str]) -> str:
            if match.group(2) is None:
                return "$"
            name = match.group(2)
            if name not in self.environment:
                self.refuse(place, f"the environment variable {name!r} is not set", "a plain ${ is written $${")
            return self.environment.get(name, "")

        return _REFERENCE.sub(replace, text)

    def resolve(self, text: str) -> Path:
        """Return a path of the file as an absolute one: relative to the file's directory, ``~`` expanded."""
        return Path.cwd() / self.file.parent / Path(text).expanduser()


class Table:
    """One table of the document."""

    def __init__(self, document: Document, place: Place, content: Mapping[str, Any]) -> None:
        self.document = document
        self.place = place
        self.content = content
        self._asked: list[str] = []
        self._missing: list[str] = []

    def refuse(self, key: str, message: str, hint: str = "") -> None:
        """Note a problem with that key of this table."""
        self.document.refuse((*self.place, key), message, hint)

    def has(self, key: str) -> bool:
        """Say whether the key is written in the document (and that it is a known one)."""
        if key not in self._asked:
            self._asked.append(key)
        return key in self.content

    def require(self, key: str) -> bool:
        """Like ``has``, and a missing key is a problem."""
        present = self.has(key)
        if not present and key not in self._missing:
            self._missing.append(key)
        return present

    def refuse_unknown_keys(self, *, of: str) -> None:
        """Close the table: note its unknown and missing keys; ``of`` names it in messages."""
        for key in self.content:
            if key in self._asked:
                continue
            near = nearest(key, self._asked)
            if near in self._missing:
                self._missing.remove(near)
            hint = f'did you mean "{near}"?' if near else f"keys of {of}: {', '.join(self._asked) or 'none'}"
            self.refuse(key, f"unknown key of {of}", hint)
        for key in self._missing:
            self.document.refuse(self.place, f'the key "{key}" of {of} is missing')

    def text(self, key: str, default: str | None = None) -> str:
        """Return a non-empty text; required if there is no default."""
        if not (self.require(key) if default is None else self.has(key)):
            return default or ""
        text = self._typed(key, str, "a text", "")
        expanded = self.document.expand((*self.place, key), text)
        if isinstance(self.content[key], str) and not text:
            self.refuse(key, "expected a text, found an empty one")
        return expanded

    def name(self, key: str = "name") -> str:
        """Return a required name: letters, digits, dot, dash, underscore."""
        name = self.text(key)
        if name and not _NAME.fullmatch(name):
            self.refuse(key, f"expected a name of letters, digits, '.', '-' and '_' (at most 64), found {name!r}")
        return name

    def choice(self, key: str, choices: Sequence[_Choice], default: _Choice) -> _Choice:
        """Return one of the choices."""
        if not self.has(key):
            return default
        text = self.text(key, default)
        for choice in choices:
            if text == choice:
                return choice
        if text:
            self.refuse(key, f"expected {_alternatives(choices)}, found {text!r}", suggestion(text, choices))
        return default

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        return self._typed(key, bool, "true or false", default) if self.has(key) else default

    def integer(self, key: str, default: int, *, minimum: int) -> int:
        """Return a whole number of at least ``minimum``."""
        if not self.has(key):
            return default
        number: int = self._typed(key, int, "a whole number", default)
        if number < minimum:
            self.refuse(key, f"expected a whole number of at least {minimum}, found {number}")
        return number

    def seconds(self, key: str, default: float) -> float:
        """Return a positive number of seconds."""
        return self.optional_seconds(key) or default

    def optional_seconds(self, key: str) -> float | None:
        """Return a positive number of seconds, or None if the key is not there."""
        if not self.has(key):
            return None
        value = self.content[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"expected a number of seconds, found {_kind(value)}", "for example 1.5, without a unit")
            return None
        if not (math.isfinite(value) and value > 0):
            self.refuse(key, f"expected a positive number of seconds, found {value}")
            return None
        return float(value)

    def size_bytes(self, key: str, default: int) -> int:
        """Return a size of at least one byte: a whole number of bytes or a text such as "2GiB"."""
        if not self.has(key):
            return default
        value = self.content[key]
        if isinstance(value, int) and not isinstance(value, bool):
            size = value
        elif isinstance(value, str):
            size = parse_size(self.document.expand((*self.place, key), value).removesuffix("/s"))
        else:
            size = 0
        if size < 1:
            found = repr(value) if isinstance(value, str | int) else _kind(value)
            self.refuse(key, f"expected a size, found {found}", 'for example "2GiB", "500MB" or a number of bytes')
            return default
        return size

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return a list of non-empty texts."""
        if not (self.require(key) if required else self.has(key)):
            return ()
        items = self._typed(key, list, "a list of texts", [])
        if required and not items and isinstance(self.content[key], list):
            self.refuse(key, "expected at least one text, found an empty list")
        place = (*self.place, key)
        texts = []
        for index, item in enumerate(items):
            if isinstance(item, str) and item:
                texts.append(self.document.expand((*place, index), item))
            else:
                self.document.refuse((*place, index), f"expected a text, found {_kind(item)}")
        return tuple(texts)

    def path(self, key: str, default: Path | None = None) -> Path:
        """Return an absolute path; required if there is no default."""
        if default is not None and not self.has(key):
            return default
        return self.document.resolve(self.text(key))

    def secret(self, key: str) -> Secret | None:
        """Return a secret: ``{ env = "NAME" }``, ``{ file = "PATH" }`` or written out; None if it is not there."""
        if not self.has(key):
            return None
        return self._secret((*self.place, key), self.content[key])

    def secrets(self, key: str) -> tuple[Secret, ...]:
        """Return a list of secrets, each written like one."""
        items = self._typed(key, list, "a list of secrets", []) if self.has(key) else []
        found = [self._secret((*self.place, key, index), item) for index, item in enumerate(items)]
        if self.has(key) and not items and isinstance(self.content[key], list):
            self.refuse(key, "expected at least one secret, found an empty list")
        return tuple(secret for secret in found if secret is not None)

    def _secret(self, place: Place, value: object) -> Secret | None:
        if isinstance(value, str) and value:
            expanded = self.document.expand(place, value)
            return Secret(expanded, origin="environment" if refers_to_environment(value) else "written out")
        if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), str):
            [(form, argument)] = value.items()
            if form == "env":
                return self._secret_of_environment(place, argument)
            if form == "file":
                return self._secret_of_file(place, argument)
        expected = 'expected a secret: { env = "NAME" }, { file = "PATH" } or a text'
        found = f"a table with {', '.join(value) or 'nothing'}" if isinstance(value, dict) else _kind(value)
        near = suggestion(next(iter(value)), ("env", "file")) if isinstance(value, dict) and value else ""
        self.document.refuse(place, f"{expected}, found {found}", near)
        return None

    def table(self, key: str) -> Table:
        """Return the table of that key; empty if it is not there."""
        content = self._typed(key, dict, "a table", {}) if self.has(key) else {}
        return Table(self.document, (*self.place, key), content)

    def tables(self, key: str) -> list[Table]:
        """Return the tables of an array of tables ([[key]])."""
        items = self._typed(key, list, f"tables written [[{key}]]", []) if self.has(key) else []
        tables = []
        for index, item in enumerate(items):
            place = (*self.place, key, index)
            if isinstance(item, dict):
                tables.append(Table(self.document, place, item))
            else:
                self.document.refuse(place, f"expected a table, found {_kind(item)}")
        return tables

    def text_map(self, key: str) -> dict[str, str]:
        """Return a table whose keys are free and whose values are texts."""
        table = self.table(key)
        return {name: table.text(name) for name in table.content}

    def _typed(self, key: str, of: type[Any], expected: str, stand_in: Any) -> Any:
        value = self.content[key]
        if isinstance(value, of) and not (isinstance(value, bool) and of is not bool):
            return value
        self.refuse(key, f"expected {expected}, found {_kind(value)}")
        return stand_in

    def _secret_of_environment(self, place: Place, name: str) -> Secret | None:
        text = self.document.environment.get(name, "")
        if not text:
            self.document.refuse(place, f"the environment variable {name!r} is not set or empty", "it holds the secret")
            return None
        return Secret(text, origin="environment")

    def _secret_of_file(self, place: Place, name: str) -> Secret | None:
        path = self.document.resolve(self.document.expand(place, name))
        try:
            secret = Secret.of_file(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            self.document.refuse(place, f"the file of the secret cannot be read: {path}: {reason}")
            return None
        if not secret.reveal():
            self.document.refuse(place, f"the file of the secret is empty: {path}")
        return secret


def warn_of_written_secret(table: Table, key: str, secret: Secret | None, *, index: int | None = None) -> None:
    """Warn if the secret, or that of a list at an index, is written out in the file."""
    if secret is not None and secret.origin == "written out":
        message = 'this secret is written out; { env = "NAME" } or { file = "PATH" } keeps it out of the file'
        place = (*table.place, key) if index is None else (*table.place, key, index)
        table.document.warn(place, message)


def refers_to_environment(text: str) -> bool:
    """Say whether the text holds a ``${NAME}``."""
    return any(match.group(2) is not None for match in _REFERENCE.finditer(text))


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "2GiB" or "1.5 MB"; 0 if it is none."""
    match = _SIZE.fullmatch(text.strip())
    return int(float(match.group(1)) * _UNIT_BYTES[match.group(2).upper()]) if match else 0


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the word most like ``word``, "" if none is near."""
    import difflib  # only who made a mistake needs it

    candidates, lowered = list(words), word.lower()
    if near := difflib.get_close_matches(lowered, candidates, n=1, cutoff=0.6):
        return near[0]
    parts = (other for other in candidates if len(lowered) > 2 and (lowered in other or other in lowered))
    return next(parts, "")


def suggestion(word: str, words: Iterable[str]) -> str:
    """Return a hint that names the nearest word, "" if none is near."""
    near = nearest(word, words)
    return f'did you mean "{near}"?' if near else ""


def written(place: Place) -> str:
    """Return a place as people write it: ``sources[0].path``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _alternatives(choices: Sequence[str]) -> str:
    return " or ".join(f'"{choice}"' for choice in choices)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds: tuple[tuple[type, str], ...] = ((str, "a text"), (int, "a number"), (float, "a number"))
    kinds += ((list, "a list"), (dict, "a table"))
    if value == "":
        return "an empty text"
    return next((name for of, name in kinds if isinstance(value, of)), "a date or time")
