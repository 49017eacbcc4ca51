"""A secret: usable, comparable, never shown."""

from __future__ import annotations

from typing import Literal, NoReturn

SecretOrigin = Literal["environment", "file", "written out"]


class Secret:
    """A password, token or key whose text leaves only through ``reveal``.

    Rules: ``repr``, ``str``, ``format``, pickling and ``dataclasses.asdict`` of what holds it never show the text.
    ``origin`` remembers where it came from, so that ``syncd validate`` warns of one that is written out.
    """

    __slots__ = ("_text", "origin")

    def __init__(self, text: str, *, origin: SecretOrigin) -> None:
        self._text = text
        self.origin: SecretOrigin = origin

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
