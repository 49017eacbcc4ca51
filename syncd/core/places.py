"""Which of a run's metric names have a place on a destination that takes only so many.

Rules
-----
1. First come, first placed. A name that has a place keeps it, and one whose points are in the overflow stays there:
   what the destination and the journal say of the run decides, so a restart changes nothing.
2. A point with the same text as the one before it of its name is the same point (MLflow 3.2 and 3.7 write lines twice).
   What came before is remembered from one pass to the next only if all of it has arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from syncd.core.limits import Limits
from syncd.core.overflow import metric_name, raw_key
from syncd.core.reconcile import parse_line, point_key


@dataclass(frozen=True, slots=True)
class Divided:
    """Points that have a place, and points that go to the overflow."""

    fits: Sequence[bytes]
    over: Sequence[bytes]


class MetricPlaces:
    """The names of one run. ``latest`` are those that have a place, with what the destination tells of each."""

    def __init__(self, latest: Mapping[str, tuple[float, int, int]] | None = None, over: Iterable[str] = ()) -> None:
        self._placed: set[str] = set()
        self._over = set(over)
        self._verdicts: dict[bytes, bool] = {}
        self._last: dict[bytes, bytes] = {}
        self._limits = Limits()
        self._latest = dict(latest or {})
        self.found(self._latest)
        self.all_arrived = False

    def begin_pass(self) -> None:
        """Forget which points came last unless all of them arrived (``all_arrived``, set at the end of a pass)."""
        if not self.all_arrived:
            self._last.clear()
        self.all_arrived = False

    def doubt_last(self) -> None:
        """Forget which points came last: what is stated again was perhaps among them, and refused."""
        self._last.clear()

    def found(self, latest: Mapping[str, tuple[float, int, int]]) -> None:
        """Take what the destination tells of the run for the truth about who has a place."""
        self._placed = set(latest)
        self._verdicts.clear()

    def close(self, name: str) -> None:
        """Let what still comes of this name go to the overflow."""
        self._over.add(name)
        self._verdicts.clear()

    def divide(self, lines: Sequence[bytes], limits: Limits, *, appends: bool) -> Divided:
        """Divide points, giving places to new names while there are any.

        Args:
            lines: in wire form.
            limits: the destination's.
            appends: whether a point that is sent twice would be there twice; such points are left out here.
        """
        if not (appends or self._over) and _all_fit(lines, limits):
            return Divided(lines, ())
        self._keep_to(limits)
        fits: list[bytes] = []
        over: list[bytes] = []
        prefix, raw, has_place, before = b"\n", b"", False, b""
        for line in lines:
            if not line.startswith(prefix):
                self._last[raw] = before
                raw = raw_key(line)
                prefix = b'{"key":' + raw + b',"value":'
                has_place = self._has_place(raw)
                before = self._last.get(raw, b"")
            if line == before or (not before and self._is_latest(raw, line)):
                continue
            before = line
            (fits if has_place and not (limits.only_finite and b'"value":"' in line) else over).append(line)
        self._last[raw] = before
        return Divided(fits, over)

    def has_place(self, line: bytes, limits: Limits) -> bool:
        """Return whether a point has a place, giving one to its name if there is any."""
        self._keep_to(limits)
        return self._has_place(raw_key(line)) and not (limits.only_finite and b'"value":"' in line)

    def _keep_to(self, limits: Limits) -> None:
        if limits != self._limits:
            self._limits = limits
            self._verdicts.clear()

    def _has_place(self, raw: bytes) -> bool:
        verdict = self._verdicts.get(raw)
        if verdict is None:
            verdict = self._verdicts[raw] = self._place(metric_name(raw))
        return verdict

    def _place(self, name: str) -> bool:
        if name in self._over:
            return False
        if name in self._placed:
            return True
        most = self._limits.metric_names_per_run
        if len(name) > self._limits.metric_key_length or (most is not None and len(self._placed) >= most):
            self._over.add(name)
            return False
        self._placed.add(name)
        return True

    def _is_latest(self, raw: bytes, line: bytes) -> bool:
        """Whether this first point of a name in this process is the one that the destination tells as its latest."""
        latest = self._latest.pop(metric_name(raw), None) if self._latest else None
        return latest is not None and point_key(*latest) == point_key(*parse_line(line)[1:])


def _all_fit(lines: Sequence[bytes], limits: Limits) -> bool:
    """Whether nothing has to be looked at: a line that is no longer than a name may be holds no name that is longer."""
    if limits.metric_names_per_run is not None or limits.only_finite:
        return False
    return max(map(len, lines), default=0) <= limits.metric_key_length


@dataclass(slots=True)
class RunPlaces:
    """What of a run has a place on a destination: metric names, params, tags, datasets (name, digest)."""

    metrics: MetricPlaces = field(default_factory=MetricPlaces)
    params: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    datasets: set[tuple[str, str]] = field(default_factory=set)
