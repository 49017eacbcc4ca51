"""Tables of results, and pairs of measurements taken turn by turn."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, the goal ("" for none), the figure, how much it varied."""

    what: str
    goal: str
    measured: str
    noise: str = ""


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print one Markdown table, each row as soon as it is known."""
    print(f"\n### {title}\n\n| what | goal | measured | noise |\n|---|---|---|---|", flush=True)
    for row in rows:
        print(f"| {row.what} | {row.goal} | {row.measured} | {row.noise} |", flush=True)


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Return "least to most of n"."""
    return f"{form.format(min(values))} to {form.format(max(values))} of {len(values)}"


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(list(values))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * part // 1) - 1))]


def in_turn(rounds: int, first: Callable[[], T], second: Callable[[], T]) -> list[tuple[T, T]]:
    """Measure A B, B A, A B, … and return the pairs (A, B): what slows the machine for a while slows both."""
    pairs = []
    for number in range(rounds):
        if number % 2 == 0:
            a, b = first(), second()
        else:
            b, a = second(), first()
        pairs.append((a, b))
    return pairs


class Others:
    """How many cores the rest of the machine used meanwhile: the measure of how far the figures can be trusted.

    Children must have been waited for before ``cores`` is asked.
    """

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._machine_s, self._ours_s = _machine_cpu_s(), _our_cpu_s()

    def cores(self) -> float:
        """Return cores used by processes that are not ours, since the beginning."""
        others_s = (_machine_cpu_s() - self._machine_s) - (_our_cpu_s() - self._ours_s)
        return max(0.0, others_s / (time.monotonic() - self._begun_s))


def _machine_cpu_s() -> float:
    user, nice, system, _idle, _wait, irq, soft, stolen, *_ = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft + stolen) / TICKS_PER_S


def _our_cpu_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
