"""A secret: usable, comparable, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

SecretOrigin = Literal["environment", "file", "written out"]


class Secret:
    """A password, token or key whose text leaves only through ``reveal``.

    Rules: ``repr``, ``str``, ``format``, pickling and ``dataclasses.asdict`` of what holds it never show the text.
    ``origin`` remembers where it came from, so that ``syncd validate`` warns of one that is written out; ``file`` is
    the file of one that came from there.
    """

    __slots__ = ("_text", "file", "origin")

    def __init__(self, text: str, *, origin: SecretOrigin, file: Path | None = None) -> None:
        self._text = text
        self.origin: SecretOrigin = origin
        self.file = file

    @classmethod
    def of_file(cls, file: Path) -> Secret:
        """Return the content of a file, white space at both ends cut; raises OSError or UnicodeDecodeError."""
        return cls(file.read_text(encoding="utf-8").strip(), origin="file", file=file)

    def renewed(self) -> Secret:
        """Return the secret as its file holds it now (itself if it is of no file, or that cannot be read just now).

        For a token that the server refuses: something else may have put a new one into the file.
        """
        try:
            return Secret.of_file(self.file) if self.file is not None else self
        except (OSError, UnicodeDecodeError):
            return self

    def reveal(self) -> str:
        """Return the text; call it only where a request is built."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: its text would be shown")
