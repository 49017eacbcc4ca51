"""Comparing two listings of artifacts; the bytes are compared by who can read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from syncd.core import source_tags
from syncd.core.compare.findings import Difference
from syncd.core.compare.values import extras


@dataclass(frozen=True, slots=True)
class PathComparison:
    """What two listings come to: differences, and the (path, path there) whose bytes are still to be compared."""

    differences: Sequence[Difference]
    to_read: Sequence[tuple[str, str]]
    in_overflow: int


def compare_paths(
    wanted: Mapping[str, int],
    held: Mapping[str, int | None],
    stored: Mapping[str, str],
    *,
    no_extras: Collection[str] = (),
) -> PathComparison:
    """Compare two listings of artifacts.

    Args:
        wanted: size in bytes of each of the source's paths.
        held: size of each of the destination's; None where the server does not say.
        stored: for what cannot be under its own name (the server cannot hold the name, or keeps an older state there),
            the path in the overflow where the bytes are.
        no_extras: paths of the destination's that the source need not have.
    """
    differences: list[Difference] = []
    to_read: list[tuple[str, str]] = []
    in_overflow = 0
    for path, size_bytes in wanted.items():
        there = path
        if stored.get(path) in held or (path not in held and path in stored):
            there = stored[path]
            in_overflow += there in held
        if there not in held:
            differences.append(Difference("missing", "artifact", path, f"{size_bytes} bytes"))
        elif held[there] not in (None, size_bytes):
            sizes = f"{size_bytes} bytes", f"{held[there]} bytes"
            differences.append(Difference("different", "artifact", path, *sizes))
        else:
            to_read.append((path, there))
    shown = {
        path: f"{size_bytes} bytes"
        for path, size_bytes in held.items()
        if path not in no_extras and not is_overflow(path)
    }
    differences += extras("artifact", wanted, shown, stored)
    return PathComparison(differences, to_read, in_overflow)


def is_overflow(path: str) -> bool:
    """Whether an artifact's path lies where syncd keeps what the server cannot hold."""
    return path.startswith(source_tags.OVERFLOW_FOLDER + "/")
