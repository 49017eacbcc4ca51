"""The progress of ``syncd sync``: bars on a terminal, otherwise a plain line now and then, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from syncd.cli.report import size_text
from syncd.runtime.totals import Totals

LINE_EVERY_S = 10.0


class SyncProgress(Protocol):
    """Shows how far a sync is."""

    def show(self, count: Callable[[], Totals], reading: bool) -> None:
        """Show what was sent and what waits; ``reading`` is true while the stores are being read."""
        ...


def open_progress(*, quiet: bool) -> AbstractContextManager[SyncProgress]:
    """Return the kind of progress that suits stderr."""
    if quiet:
        return _Nothing()
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Nothing:
    def __enter__(self) -> SyncProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave."""

    def show(self, count: Callable[[], Totals], reading: bool) -> None:
        """Show nothing."""


class _Lines(_Nothing):
    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def show(self, count: Callable[[], Totals], reading: bool) -> None:
        """Print a line every ten seconds."""
        if time.monotonic() - self._last_s < LINE_EVERY_S:
            return
        self._last_s = time.monotonic()
        totals = count()
        doing = "reading and sending" if reading else "sending"
        print(
            f"{doing}: {totals.runs} runs, {totals.points} points, {totals.artifacts} artifacts sent; waiting: "
            f"{totals.points_waiting} points, {totals.artifacts_waiting} artifacts, {size_text(totals.bytes_waiting)}",
            file=sys.stderr,
            flush=True,
        )


class _Bars(_Nothing):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._points = self._progress.add_task("points", total=None, note="")
        self._artifacts = self._progress.add_task("artifacts", total=None, note="")

    def __enter__(self) -> SyncProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, count: Callable[[], Totals], reading: bool) -> None:
        """Move the bars."""
        totals = count()
        self._progress.update(
            self._points,
            completed=totals.points,
            total=totals.points + totals.points_waiting,
            note=totals.trouble or ("still reading" if reading else ""),
        )
        self._progress.update(
            self._artifacts,
            completed=totals.artifacts,
            total=totals.artifacts + totals.artifacts_waiting,
            note=size_text(totals.bytes),
        )
