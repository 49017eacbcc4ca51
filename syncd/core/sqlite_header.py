"""How a file of SQLite begins (sqlite.org/fileformat.html, section 1.3, read 2026-11)."""

from __future__ import annotations

MAGIC = b"SQLite format 3\0"


def may_be_database(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is a database or, being shorter, may become one."""
    return MAGIC.startswith(head[: len(MAGIC)])
