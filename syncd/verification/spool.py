"""The spool: everything that sources state, merged, in a temporary database; ``verify`` compares it run by run.

Rules
-----
1. One thread calls ``take``; after ``seal`` any number of threads may read.
2. Facts merge here as rule 2 of ``core.facts`` says, so what is read back is the source's present state.
3. Text is kept as bytes, since names may hold what is not UTF-8.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from syncd.core.changes import decode_head, encode_head
from syncd.core.compare.points import ModelPoint, ToldPoint, told_point
from syncd.core.facts import (
    ArtifactSeen,
    DatasetInput,
    ExperimentSeen,
    Fact,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    ProblemFound,
    Reading,
    RunSeen,
    SubjectDeleted,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)

READINGS_PER_COMMIT = 200

_SCHEMA = """
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL, store BLOB NOT NULL,
    head BLOB, -- NULL until it is stated, and when it is deleted
    UNIQUE (source, kind, key, store)
);
-- params, tags, datasets (as JSON), links to models and artifacts (value: size, time and root as JSON)
CREATE TABLE small (
    subject INTEGER NOT NULL, section TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (subject, section, key)
) WITHOUT ROWID;
CREATE TABLE metric_keys (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
-- spelling: '-0.0' where the source says so and the value is told as 0.0, otherwise ''
CREATE TABLE points (
    subject INTEGER NOT NULL, metric INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, step INTEGER NOT NULL,
    is_nan INTEGER NOT NULL, value REAL NOT NULL, spelling TEXT NOT NULL,
    PRIMARY KEY (subject, metric, timestamp_ms, step, is_nan, value, spelling)
) WITHOUT ROWID;
CREATE TABLE model_points (
    model INTEGER NOT NULL, run INTEGER NOT NULL, metric INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
    step INTEGER NOT NULL, is_nan INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (run, metric, timestamp_ms, step, is_nan, value, model)
) WITHOUT ROWID;
CREATE INDEX model_points_by_model ON model_points (model);
CREATE TABLE problems (
    source INTEGER NOT NULL, place BLOB NOT NULL, what BLOB NOT NULL, PRIMARY KEY (source, place)
) WITHOUT ROWID;
"""
_INSERT_POINT = "INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_MODEL_POINT = "INSERT OR IGNORE INTO model_points VALUES (?, ?, ?, ?, ?, ?, ?)"
# What a run must have is marked 1; a model's points, which a server also puts on the run that logged them, 0.
_WANTED_POINTS = """
SELECT timestamp_ms, step, is_nan, value, 1 AS required FROM points WHERE subject = :subject AND metric = :metric
UNION ALL
SELECT timestamp_ms, step, is_nan, value, 0 FROM model_points WHERE run = :subject AND metric = :metric
ORDER BY timestamp_ms, step, is_nan, value
"""
_METRICS_OF_RUN = """
SELECT name FROM metric_keys WHERE id IN (
    SELECT metric FROM points WHERE subject = :subject UNION SELECT metric FROM model_points WHERE run = :subject
) ORDER BY name
"""
_POINTS_OF_MODEL = """
SELECT k.name, r.key, p.timestamp_ms, p.step, p.is_nan, p.value FROM model_points AS p
JOIN metric_keys AS k ON k.id = p.metric JOIN subjects AS r ON r.id = p.run WHERE p.model = ?
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An experiment, run or model as its source states it. ``source`` is the number of its source."""

    number: int
    source: int
    head: ExperimentSeen | RunSeen | ModelSeen
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[DatasetInput] = ()
    model_inputs: Sequence[str] = ()
    model_outputs: Mapping[str, int] = field(default_factory=dict)  # model -> step
    artifacts: Mapping[str, ArtifactSeen] = field(default_factory=dict)


class Spool:
    """A temporary database of facts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._subjects: dict[tuple[int, SubjectKey], int] = {}
        self._metrics: dict[str, int] = {}
        self._readings = 0
        self._writer = self._open()
        self._writer.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;")
        self._writer.executescript(_SCHEMA)
        self._writer.execute("BEGIN")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        with self._guard:
            self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close the database; its file belongs to the caller's temporary directory."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    # -- writing ---------------------------------------------------------------------------------------------------

    def take(self, source: int, reading: Reading) -> None:
        """Merge a reading of that source."""
        for fact in reading.facts:
            self._take(source, fact)
        self._readings += 1
        if self._readings % READINGS_PER_COMMIT == 0:
            self._writer.execute("COMMIT")
            self._writer.execute("BEGIN")

    def seal(self) -> None:
        """Make everything readable; nothing is taken any more."""
        self._writer.execute("COMMIT")
        self._subjects.clear()
        self._metrics.clear()

    def _take(self, source: int, fact: Fact) -> None:
        if isinstance(fact, ProblemFound):
            self._take_problem(source, fact)
            return
        subject = self._subject(source, fact.subject)
        match fact:
            case ExperimentSeen() | RunSeen() | ModelSeen():
                self._writer.execute("UPDATE subjects SET head = ? WHERE id = ?", (encode_head(fact), subject))
            case MetricsLogged():
                self._take_points(source, subject, fact)
            case ParamsLogged():
                self._put(subject, "param", fact.params.items())
            case TagsSet():
                self._put(subject, "tag", fact.tags.items())
            case TagsDeleted():
                self._writer.executemany(
                    "DELETE FROM small WHERE subject = ? AND section = 'tag' AND key = ?",
                    [(subject, _bytes(key)) for key in fact.keys],
                )
            case InputsLogged():
                self._put(subject, "dataset", ((_json(asdict(dataset)), "") for dataset in fact.datasets))
                self._put(subject, "model input", ((model, "") for model in fact.model_inputs))
            case OutputsLogged():
                self._put(subject, "model output", ((model, str(step)) for model, step in fact.models))
            case ArtifactSeen():
                about = {"root": fact.root, "size_bytes": fact.size_bytes, "mtime_ns": fact.mtime_ns}
                self._put(subject, "artifact", [(fact.path, _json(about))])
            case SubjectDeleted():
                self._forget(subject)

    def _subject(self, source: int, key: SubjectKey) -> int:
        known = self._subjects.get((source, key))
        if known is None:
            row = (source, key.kind, _bytes(key.id), _bytes(key.store))
            self._writer.execute("INSERT OR IGNORE INTO subjects (source, kind, key, store) VALUES (?, ?, ?, ?)", row)
            query = "SELECT id FROM subjects WHERE source = ? AND kind = ? AND key = ? AND store = ?"
            known = int(self._writer.execute(query, row).fetchone()[0])
            self._subjects[source, key] = known
        return known

    def _metric(self, name: str) -> int:
        known = self._metrics.get(name)
        if known is None:
            self._writer.execute("INSERT OR IGNORE INTO metric_keys (name) VALUES (?)", (_bytes(name),))
            query = "SELECT id FROM metric_keys WHERE name = ?"
            known = int(self._writer.execute(query, (_bytes(name),)).fetchone()[0])
            self._metrics[name] = known
        return known

    def _put(self, subject: int, section: str, items: Iterable[tuple[str, str]]) -> None:
        self._writer.executemany(
            "INSERT OR REPLACE INTO small VALUES (?, ?, ?, ?)",
            [(subject, section, _bytes(key), _bytes(value)) for key, value in items],
        )

    def _take_points(self, source: int, subject: int, fact: MetricsLogged) -> None:
        points = json.loads(b"[" + fact.lines.replace(b"\n", b",") + b"]")
        if fact.subject.kind == "model":
            rows = (
                (
                    subject,
                    self._subject(source, SubjectKey("run", point.get("run_id", ""))),
                    self._metric(point["key"]),
                    *told_point(float(point["value"]), int(point["timestamp"]), int(point["step"])),
                )
                for point in points
            )
            self._writer.executemany(_INSERT_MODEL_POINT, list(rows))
            return
        self._writer.executemany(_INSERT_POINT, [(subject, *self._point_row(point)) for point in points])

    def _point_row(self, point: Mapping[str, Any]) -> tuple[int, int, int, int, float, str]:
        value = float(point["value"])
        is_negative_zero = value == 0 and math.copysign(1.0, value) < 0
        told = told_point(value, int(point["timestamp"]), int(point["step"]))
        return self._metric(point["key"]), *told, "-0.0" if is_negative_zero else ""

    def _take_problem(self, source: int, fact: ProblemFound) -> None:
        place = (source, _bytes(fact.where))
        if fact.what:
            self._writer.execute("INSERT OR REPLACE INTO problems VALUES (?, ?, ?)", (*place, _bytes(fact.what)))
        else:
            self._writer.execute("DELETE FROM problems WHERE source = ? AND place = ?", place)

    def _forget(self, subject: int) -> None:
        self._writer.execute("UPDATE subjects SET head = NULL WHERE id = ?", (subject,))
        self._writer.execute("DELETE FROM small WHERE subject = ?", (subject,))
        self._writer.execute("DELETE FROM points WHERE subject = ?", (subject,))
        self._writer.execute("DELETE FROM model_points WHERE model = ?", (subject,))

    # -- reading ---------------------------------------------------------------------------------------------------

    def _rows(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        reader: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if reader is None:
            reader = self._local.connection = self._open()
        return reader.execute(query, parameters)

    def numbers(self, kind: str) -> list[int]:
        """Return the numbers of all stated subjects of a kind, source by source."""
        query = "SELECT id FROM subjects WHERE kind = ? AND head IS NOT NULL ORDER BY source, id"
        return [row[0] for row in self._rows(query, (kind,))]

    def subject(self, number: int) -> Spooled:
        """Return all that is known of a subject but for its points."""
        source, head = self._rows("SELECT source, head FROM subjects WHERE id = ?", (number,)).fetchone()
        sections: dict[str, dict[str, str]] = {}
        for section, key, value in self._rows("SELECT section, key, value FROM small WHERE subject = ?", (number,)):
            sections.setdefault(section, {})[_text(key)] = _text(value)
        seen = decode_head(head)
        return Spooled(
            number,
            source,
            seen,
            params=sections.get("param", {}),
            tags=sections.get("tag", {}),
            datasets=[DatasetInput(**json.loads(dataset)) for dataset in sections.get("dataset", ())],
            model_inputs=list(sections.get("model input", ())),
            model_outputs={model: int(step) for model, step in sections.get("model output", {}).items()},
            artifacts={
                path: ArtifactSeen(subject=seen.subject, path=path, **json.loads(about))
                for path, about in sections.get("artifact", {}).items()
            },
        )

    def is_stated(self, source: int, kind: str, key: str) -> bool:
        """Whether the source has a run or model of that id."""
        query = "SELECT 1 FROM subjects WHERE source = ? AND kind = ? AND key = ? AND head IS NOT NULL"
        return self._rows(query, (source, kind, _bytes(key))).fetchone() is not None

    def experiment(self, source: int, key: SubjectKey) -> ExperimentSeen | None:
        """Return an experiment that the source has stated."""
        query = "SELECT head FROM subjects WHERE source = ? AND kind = 'experiment' AND key = ? AND store = ?"
        row = self._rows(query, (source, _bytes(key.id), _bytes(key.store))).fetchone()
        head = decode_head(row[0]) if row and row[0] is not None else None
        return head if isinstance(head, ExperimentSeen) else None

    def metrics(self, run: int) -> list[str]:
        """Return the metric keys of a run."""
        return [_text(row[0]) for row in self._rows(_METRICS_OF_RUN, {"subject": run})]

    def points(self, run: int, metric: str) -> Iterator[tuple[ToldPoint, bool]]:
        """Yield a run's points of that key in ascending order, and whether the run must have them."""
        known = self._rows("SELECT id FROM metric_keys WHERE name = ?", (_bytes(metric),)).fetchone()
        if known is None:
            return
        for *told, required in self._rows(_WANTED_POINTS, {"subject": run, "metric": known[0]}):
            yield tuple(told), bool(required)

    def model_points(self, model: int) -> list[ModelPoint]:
        """Return a model's points."""
        return [(_text(name), _text(run), tuple(told)) for name, run, *told in self._rows(_POINTS_OF_MODEL, (model,))]

    def problems(self) -> list[tuple[int, str, str]]:
        """Return (source, where, what) of everything that could not be read."""
        query = "SELECT source, place, what FROM problems ORDER BY source, place"
        return [(source, _text(place), _text(what)) for source, place, what in self._rows(query)]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
