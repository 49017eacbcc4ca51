"""Which names an artifact may have: relative, and leading nowhere else on any machine."""

from __future__ import annotations

from syncd.core.source_tags import OVERFLOW_FOLDER

LONGEST_NAME_BYTES = 255  # of one level; what Linux file systems hold


def problem_of_path(path: str) -> str:
    """Say in a few words what is wrong with an artifact's path, "" if nothing is."""
    names = path.split("/")
    if "" in names:
        return "a relative path without empty levels"
    if "." in names or ".." in names:
        return 'a path without "." and ".."'
    if "\\" in path or (len(names[0]) == 2 and names[0][1] == ":"):
        return 'a path with "/" and without a drive'
    if not path.isprintable():
        return "a path of printable characters"
    if any(len(name.encode()) > LONGEST_NAME_BYTES for name in names):
        return f"a path with names of at most {LONGEST_NAME_BYTES} bytes"
    if path == OVERFLOW_FOLDER or path.startswith(f"{OVERFLOW_FOLDER}/"):
        return f"a path outside {OVERFLOW_FOLDER}, which is syncd's own"
    return ""
