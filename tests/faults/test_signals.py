"""SIGTERM with a backlog, while retrying, and twice; a server that restarts in the middle."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Case
from tests.faults.processes import daemon, wait_for, waiting, write_config
from tests.faults.test_answers import with_many_runs
from tests.standins.mlflow_server import RunningMlflow
from tests.standins.ports import free_port


def journaled(case: Case) -> bool:
    return waiting(case.state)["delivery"] > 5


def test_sigterm_while_nothing_answers_ends_in_time_and_leaves_the_rest(case: Case, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = write_config(
        tmp_path / "a.toml", state=case.state, url=url, stores=[case.database], daemon="shutdown_grace_s = 1.5"
    )
    with daemon(config) as running:
        wait_for("the backlog", lambda: journaled(case))
        time.sleep(1)  # now it retries
        begun_s = time.monotonic()
        assert running.terminate() == 0
        assert 1.0 < time.monotonic() - begun_s < 15  # by default it would be 20
        assert "stays in the journal" in running.text()
    assert waiting(case.state)["delivery"] > 5


def test_sigterm_with_a_backlog_drains_it(case: Case, tmp_path: Path) -> None:
    case.drop_models()  # a link to a model that has not been read when reading ends becomes a dead letter
    with_many_runs(case, 15)
    config = write_config(
        tmp_path / "a.toml",
        state=case.state,
        url=case.server.url,
        stores=[case.database],
        daemon="shutdown_grace_s = 100",
    )
    with daemon(config) as running:
        wait_for("the backlog", lambda: journaled(case), every_s=0.02)
        assert running.terminate() == 0
        assert "everything was delivered" in running.text()
    assert waiting(case.state)["delivery"] == 0
    assert case.sync().code == 0  # what had not been read yet
    case.check()


def test_what_sigterm_left_is_sent_by_the_next_start(case: Case, tmp_path: Path) -> None:
    with_many_runs(case, 15)
    config = write_config(
        tmp_path / "a.toml",
        state=case.state,
        url=case.server.url,
        stores=[case.database],
        daemon="shutdown_grace_s = 0.1",
    )
    with daemon(config) as running:
        wait_for("the backlog", lambda: journaled(case), every_s=0.02)
        assert running.terminate() == 0
    with daemon(config) as running:
        wait_for("all is delivered", lambda: not case.differences(), every_s=1)
        assert running.terminate() == 0
    case.check()


def test_a_second_sigterm_ends_at_once(case: Case, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = write_config(
        tmp_path / "a.toml", state=case.state, url=url, stores=[case.database], daemon="shutdown_grace_s = 1000"
    )
    with daemon(config) as running:
        wait_for("the backlog", lambda: journaled(case))
        running.process.send_signal(signal.SIGTERM)
        wait_for("stopping", lambda: "stopping" in running.text())
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 128 + signal.SIGTERM
    assert case.sync().code == 0
    case.check()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RunningMlflow]:
    with RunningMlflow(tmp_path / "server") as server:
        yield server


def test_a_server_that_restarts_in_the_middle(case: Case, own_server: RunningMlflow, tmp_path: Path) -> None:
    """With NaN points in what is sent again, which MLflow 3.15 refuses on SQL."""
    with_many_runs(case, 25)
    case.server = own_server
    config = write_config(tmp_path / "a.toml", state=case.state, url=own_server.url, stores=[case.database])
    with daemon(config) as running:
        wait_for("the first runs", lambda: journaled(case) and waiting(case.state)["remote"] > 3, every_s=0.02)
        own_server.stop()
        time.sleep(1)
        own_server.start()
        wait_for("all is delivered", lambda: not case.differences(), every_s=1)
        assert running.terminate() == 0
    case.check()
    assert waiting(case.state)["dead_letter"] == 0
