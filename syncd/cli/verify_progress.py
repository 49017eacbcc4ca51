"""The progress of ``syncd verify``: a bar on a terminal, otherwise a plain line now and then, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from syncd.verification.verify import Watch

LINE_EVERY_S = 10.0


def open_progress(*, quiet: bool) -> AbstractContextManager[Watch]:
    """Return the kind of progress that suits stderr."""
    if quiet:
        return _nothing()
    return _bars() if sys.stderr.isatty() else _lines()


@contextmanager
def _nothing() -> Iterator[Watch]:
    yield lambda _step, _done, _total: None


@contextmanager
def _lines() -> Iterator[Watch]:
    last_s = time.monotonic()

    def show(step: str, done: int, total: int | None) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= LINE_EVERY_S:
            last_s = time.monotonic()
            print(f"{step}: {done}" + (f" of {total}" if total else ""), file=sys.stderr, flush=True)

    yield show


@contextmanager
def _bars() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=None)
            progress.update(tasks[step], completed=done, total=total)

        yield show
