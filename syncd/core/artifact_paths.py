"""Which names an artifact may have: relative, and leading nowhere else on any machine."""

from __future__ import annotations

from syncd.core.source_tags import OVERFLOW_FOLDER

LONGEST_NAME_BYTES = 255  # of one level; what Linux file systems hold


def problem_of_path(path: str) -> str:
    """Say in a few words what is wrong with an artifact's path, "" if nothing is."""
    if problem := problem_of_levels(path):
        return problem
    first = path.split("/")[0]
    if "\\" in path or (len(first) == 2 and first[1] == ":"):
        return 'a path with "/" and without a drive'
    if not path.isprintable():
        return "a path of printable characters"
    if problem := problem_of_lengths(path):
        return problem
    if path == OVERFLOW_FOLDER or path.startswith(f"{OVERFLOW_FOLDER}/"):
        return f"a path outside {OVERFLOW_FOLDER}, which is syncd's own"
    return ""


def problem_of_levels(path: str) -> str:
    """Say what is wrong with a path that may lead elsewhere, "" if it leads below where it begins."""
    names = path.split("/")
    if "" in names:
        return "a relative path without empty levels"
    if "." in names or ".." in names:
        return 'a path without "." and ".."'
    return ""


def problem_of_lengths(path: str) -> str:
    """Say what is wrong with a path that no file can have here, "" if one can.

    Raises:
        UnicodeEncodeError: it holds half of a surrogate pair.
    """
    if any(len(name.encode()) > LONGEST_NAME_BYTES for name in path.split("/")):
        return f"a path with names of at most {LONGEST_NAME_BYTES} bytes"
    return ""
