"""What is new on the server between two looks, in plain lines. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_ENDED = ("FINISHED", "FAILED", "KILLED")
_NAME_WIDTH = 22


@dataclass(frozen=True, slots=True)
class Point:
    """The latest point of a metric."""

    value: float
    step: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the server tells it; ``source_run_id`` is its id in the store it came from."""

    id: str
    name: str
    status: str
    source_run_id: str
    params: Mapping[str, str]
    latest: Mapping[str, Point]

    @property
    def ended(self) -> bool:
        """Whether it is over. syncd sends that last, so then all of the run is there."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class Model:
    """A LoggedModel as the server tells it."""

    id: str
    name: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server holds at one moment, by id."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    def has_all_of(self, source_run_ids: set[str]) -> bool:
        """Whether all these runs are there and over, and all models ready."""
        over = {run.source_run_id for run in self.runs.values() if run.ended}
        return source_run_ids <= over and all(model.ready for model in self.models.values())


def news(before: Snapshot, after: Snapshot, *, now_ms: int) -> list[str]:
    """Return one line for each run and model of which something came between the two looks.

    Args:
        before: the earlier look.
        after: the later one.
        now_ms: when that was made, ms since the epoch.
    """
    told = {run.name: list(_news_of_run(before.runs.get(run.id), run, now_ms)) for run in after.runs.values()}
    for model in after.models.values():
        known = before.models.get(model.id)
        told[model.name] = ["model, READY"] if model.ready and not (known and known.ready) else []
    return [f"{name:<{_NAME_WIDTH}} {'   '.join(texts)}" for name, texts in sorted(told.items()) if texts]


def _news_of_run(before: Run | None, run: Run, now_ms: int) -> Iterator[str]:
    if before is None:
        yield "on the server"
    params = {key: value for key, value in run.params.items() if before is None or key not in before.params}
    if params:
        yield "  ".join(f"{key} = {value}" for key, value in sorted(params.items()))
    points = {key: point for key, point in run.latest.items() if before is None or before.latest.get(key) != point}
    if points:
        yield _points_text(points, now_ms)
    if run.ended and (before is None or not before.ended):
        yield run.status


def _points_text(points: Mapping[str, Point], now_ms: int) -> str:
    step = max(point.step for point in points.values())
    newest_ms = max(point.timestamp_ms for point in points.values())
    values = "  ".join(f"{key} {point.value:.4f}" for key, point in sorted(points.items()))
    return f"step {step:>2}  {values}  (logged {max(0, now_ms - newest_ms) / 1000:.1f} s ago)"
