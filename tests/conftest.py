"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.standins.azurite import RunningAzurite
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.mosquitto import RunningMosquitto

# How long an example takes says how busy the machine is.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Keep what a command that ran in this process has set up, its standard error above all, from the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMlflow]:
    """A real ``mlflow server`` on SQLite with proxied artifacts, one for the whole session."""
    with RunningMlflow(tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_url(mlflow_server: RunningMlflow) -> str:
    """The URL of ``mlflow_server``."""
    return mlflow_server.url


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMosquitto]:
    """A broker that is open to all, one for the whole session: who stops or kills one starts one of their own."""
    with RunningMosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAzurite]:
    """A blob service in memory, one for the whole session: containers have names of their own."""
    with RunningAzurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running
