"""Cursors in a dict, for `verify`, dry runs and tests: nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterator

from syncd.core.facts import Reading


class MemoryCursors:
    """Committed cursors of one source; ``commit`` applies a reading as the journal would."""

    def __init__(self) -> None:
        self._cursors: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        """Return the committed cursor of that key, or None."""
        return self._cursors.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the committed keys that start with ``prefix``, as they are when asked, in order."""
        return iter(sorted(key for key in self._cursors if key.startswith(prefix)))

    def commit(self, reading: Reading) -> None:
        """Take over a reading's cursors; None forgets one."""
        for key, value in reading.cursors.items():
            if value is None:
                self._cursors.pop(key, None)
            else:
                self._cursors[key] = value

    def __len__(self) -> int:
        return len(self._cursors)
