"""Which bytes of a file are there: half-open ranges, in order, none touching the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Piece = tuple[int, int]


def add_piece(pieces: Iterable[Piece], first: int, after: int) -> list[Piece]:
    """Return the ranges with ``first`` to before ``after`` added."""
    joined: list[Piece] = []
    for begin, end in sorted([*pieces, (first, after)]):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def holds(pieces: Sequence[Piece], first: int, after: int) -> bool:
    """Return whether all from ``first`` to before ``after`` is there; nothing is always there."""
    return first == after or any(begin <= first and after <= end for begin, end in pieces)
