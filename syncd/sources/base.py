"""What a store source is: a synchronous reader that turns what changed since its cursors into readings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from syncd.core.facts import Reading


class Cursors(Protocol):
    """Read access to the committed cursors of one source."""

    def load(self, key: str) -> bytes | None:
        """Return the committed cursor of that key, or None."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the committed keys that start with ``prefix``."""
        ...


class StoreSource(Protocol):
    """A local MLflow store (or a directory of many), read-only.

    Called from one thread at a time, never from the event loop. Advancing the iterator of ``poll`` says that the
    previous reading has been committed; a source updates its memory only then, so an abandoned iterator (the
    journal was full, the daemon stops) loses nothing: the next poll states the same facts again.
    Memory is bounded: a reading carries at most about 4 MiB of lines, and what is kept in memory grows with the
    number of *active* runs, not with the store.
    """

    name: str

    def poll(self, cursors: Cursors, *, full: bool, changed: Collection[str] | None = None) -> Iterator[Reading]:
        """Yield what is new.

        Args:
            cursors: the committed cursors.
            full: reconcile: look at everything. Otherwise look for new experiments, runs and models, and at the
                active runs (not ended, or changed lately): cheap.
            changed: absolute paths that a watcher reported. If given, of the active runs only those are looked at
                that it names: what it costs then follows what changed. A hint only: the next poll without it finds
                what it has missed.

        Raises:
            SourceNotReady: nothing can be read just now; poll again later.
            SourceError: the store is not there or is no store; says what to do.
        """
        ...

    def watch_paths(self) -> Collection[Path]:
        """Return the directories (not recursive) in which the next change is expected."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
