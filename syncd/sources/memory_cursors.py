"""Cursors in a dict, for `verify`, dry runs and tests: nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterator

from syncd.core.facts import Reading


class MemoryCursors:
    """Committed cursors of one source; ``commit`` applies a reading as the journal would.

    They are kept by what stands before the first "/", a run's or model's id, since that is what sources ask for.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, bytes]] = {}

    def load(self, key: str) -> bytes | None:
        """Return the committed cursor of that key, or None."""
        return self._groups.get(key.partition("/")[0], {}).get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the committed keys that start with ``prefix``, as they are when asked, in order."""
        head, slash, _ = prefix.partition("/")
        groups = [self._groups.get(head, {})] if slash else self._groups.values()
        return iter(sorted(key for group in groups for key in group if key.startswith(prefix)))

    def commit(self, reading: Reading) -> None:
        """Take over a reading's cursors; None forgets one."""
        for key, value in reading.cursors.items():
            group = self._groups.setdefault(key.partition("/")[0], {})
            if value is not None:
                group[key] = value
                continue
            group.pop(key, None)
            if not group:
                del self._groups[key.partition("/")[0]]

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))
