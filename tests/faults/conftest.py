"""Servers and stores of the fault tests."""

from __future__ import annotations

import itertools
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import oracle, stores
from tests.faults.processes import Ended, killed_sync, sync
from tests.standins.mlflow_server import RunningMlflow, fresh_database


@pytest.fixture(scope="session")
def file_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMlflow]:
    """A server on a FileStore, which appends every point that it is sent."""
    with RunningMlflow(tmp_path_factory.mktemp("file-server"), backend="file") as server:
        yield server


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mlflow.db`` and its artifacts; copy it with ``copy_database``."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copyfile(fresh_database(), folder / "mlflow.db")
    stores.make_in(folder, f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@dataclass
class Case:
    """One store with an experiment of its own, a state directory, and the server that it goes to."""

    folder: Path
    experiment: str
    database: Path
    server: RunningMlflow

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def sync(self, *, url: str = "", state: Path | None = None) -> Ended:
        return sync(self.database, url or self.server.url, state or self.state)

    def killed_sync(self, failpoint: str) -> int | None:
        return killed_sync(failpoint, self.database, self.server.url, self.state)

    def differences(self, **lost: object) -> list[str]:
        return oracle.differences(
            oracle.read_store(self.database, self.experiment),
            oracle.read_server(self.server, self.experiment),
            **lost,  # type: ignore[arg-type]
        )

    def run_named(self, start: str) -> oracle.StoredRun:
        """Return the first run of the source whose name begins like that."""
        runs = oracle.read_store(self.database, self.experiment).runs
        return next(run for run in runs.values() if run.name.startswith(start))

    def drop_models(self) -> None:
        """Take the logged models and the links to them out of the source."""
        with closing(sqlite3.connect(self.database)) as db, db:
            db.execute("DELETE FROM logged_models")
            db.execute("DELETE FROM inputs WHERE source_type LIKE 'RUN_OUTPUT%'")

    def check(self, **lost: object) -> None:
        """Hold the destination against the source."""
        found = self.differences(**lost)
        assert not found, "\n".join(found)


_numbers = itertools.count()


@pytest.fixture
def case_of(template: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[RunningMlflow], Case]:
    """Return a maker of cases."""

    def make(server: RunningMlflow) -> Case:
        experiment = f"{re.sub('[^A-Za-z0-9]+', ' ', request.node.name)[:80]} {next(_numbers)}"
        folder = tmp_path / f"store{next(_numbers)}"
        return Case(folder, experiment, stores.copy_database(template, folder, experiment), server)

    return make


@pytest.fixture
def case(case_of: Callable[[RunningMlflow], Case], mlflow_server: RunningMlflow) -> Case:
    """A case against the SQLite server."""
    return case_of(mlflow_server)


@pytest.fixture
def file_case(case_of: Callable[[RunningMlflow], Case], file_server: RunningMlflow) -> Case:
    """A case against the FileStore server, without the point of the logged model (see test_appending.py)."""
    made = case_of(file_server)
    with closing(sqlite3.connect(made.database)) as db, db:
        db.execute("DELETE FROM logged_model_metrics")
    return made
