"""Showing two values to people, each on one line."""

from __future__ import annotations


def shown_pair(ours: str | None, theirs: str | None, *, width: int = 120) -> tuple[str, str]:
    """Return two values on one line each, cut to ``width`` around the first character in which they differ."""
    if ours is None or theirs is None:
        return _shown(ours, 0, width), _shown(theirs, 0, width)
    same = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    start = 0 if max(len(ours), len(theirs)) <= width or same < width // 2 else same - width // 4
    return _shown(ours, start, width), _shown(theirs, start, width)


def _shown(value: str | None, start: int, width: int) -> str:
    if value is None:
        return "none"
    line = value[start : start + width]
    text = line if line.isprintable() and line else repr(line)
    cut = f"… ({len(value)} characters)" if len(value) > start + width else ""
    return ("…" if start else "") + text + cut
