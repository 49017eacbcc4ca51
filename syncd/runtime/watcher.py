"""A native watcher: a hint that something changed, and where. The periodic look is the truth, not this.

Only the directories in which the next change is expected are watched, so that the number of watches grows with what
goes on and not with what a store holds. Where the platform has no inotify, or the kernel grants no more watches, the
hint is missing and the periodic look finds the change somewhat later.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

if sys.platform == "linux":
    from asyncinotify import Inotify, Mask

log = structlog.get_logger(__name__)

# So long is between two readings at least: what is written all the time is read some times a second only.
GATHER_S = 0.15
# So long is waited after the first event: what is written in one go is read together.
SETTLE_S = 0.02


class Watcher:
    """Watches a changing set of directories."""

    def __init__(self) -> None:
        self._inotify: Any = None
        self._watches: dict[Path, Any] = {}
        self._complained = False
        self.directory_made = False  # since the last `watch`
        self.heard_s = 0.0  # when what `changed` returned last began (monotonic s)

    def __enter__(self) -> Watcher:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._inotify = Inotify(sync_timeout=0)
        if self._inotify is None:
            log.info("no inotify here; changes are found by looking periodically")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    @property
    def works(self) -> bool:
        """Whether hints can be expected at all."""
        return self._inotify is not None

    def watch(self, directories: Collection[Path]) -> set[str]:
        """Watch exactly these directories (not what is below them); return those that were not watched before."""
        if self._inotify is None:
            return set()
        self.directory_made = False
        wanted = set(directories)
        for path in self._watches.keys() - wanted:
            with contextlib.suppress(OSError):  # the kernel has dropped it with its directory
                self._inotify.rm_watch(self._watches[path])
            del self._watches[path]
        added = wanted - self._watches.keys()
        for path in added:
            self._add(path)
        return {str(path) for path in added if path in self._watches}

    def _add(self, path: Path) -> None:
        mask = Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR
        try:
            self._watches[path] = self._inotify.add_watch(path, mask)
        except OSError as error:
            if not path.exists() or self._complained:
                return
            self._complained = True
            log.warning(
                "the kernel grants no more watches; changes are found by looking periodically",
                path=str(path),
                error=str(error),
                hint="raise fs.inotify.max_user_watches (see syncd doctor)",
            )

    async def changed(self) -> set[str]:
        """Wait for a change; return the paths of what changed within a short while."""
        if self._inotify is None:
            await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        readable = asyncio.Event()
        loop.add_reader(self._inotify.fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._inotify.fd)
        self.heard_s = loop.time()
        await asyncio.sleep(max(SETTLE_S, begun_s + GATHER_S - self.heard_s))
        return self._drain()

    def _drain(self) -> set[str]:
        paths = set()
        while (event := self._inotify.sync_get()) is not None:
            if event.mask & Mask.IGNORED and event.watch is not None:
                self._watches.pop(Path(event.watch.path), None)
            elif event.path is not None:
                self.directory_made = self.directory_made or bool(event.mask & Mask.ISDIR)
                paths.add(str(event.path))
        return paths
