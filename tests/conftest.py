"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.standins.mlflow_server import RunningMlflow


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMlflow]:
    """A real ``mlflow server`` on SQLite with proxied artifacts, one for the whole session."""
    with RunningMlflow(tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_url(mlflow_server: RunningMlflow) -> str:
    """The URL of ``mlflow_server``."""
    return mlflow_server.url
