"""What becomes of a daemon whose workspace no longer accepts it: it waits, says why, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.pipelines import TIMEOUT_S, open_pipeline
from tests.plain_store import begin_run
from tests.standins.azureml import RunningWorkspace
from tests.standins.azureml.refusals import Refused

REVOKED = Refused(400, "invalid_request", "Identity not found")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path / "workspace") as running:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{running.place.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", running.place.identity_header)
        yield running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's
            await asyncio.sleep(0.05)


async def test_an_identity_that_is_taken_away_mid_run_parks_the_destination_until_it_is_back(
    workspace: RunningWorkspace, tmp_path: Path
) -> None:
    metric = begin_run(tmp_path / "store")
    metric.write_text("1700000000000 0.5 0\n")
    uri = workspace.place.tracking_uri
    pipeline = open_pipeline(tmp_path / "store", uri, tmp_path / "state", settings={"ca_file": workspace.place.ca})
    (courier,) = pipeline.couriers.values()

    def points() -> int:
        runs = workspace.state.tracking.runs.values()
        return sum(len(series) for run in runs for series in run.series.values())

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [*pipeline.start_uploading(group), *pipeline.start_following(group)]
            await until(lambda: points() == 1)
            workspace.state.identity.refusal = REVOKED
            workspace.state.identity.expire_all()
            with metric.open("a") as file:
                file.write("1700000001000 0.25 1\n")
            await until(lambda: courier.state.name == "auth")
            assert courier.state.error.startswith("signing in to Azure as the system-assigned managed identity: ")
            assert courier.state.error.endswith("(give this machine a managed identity, or check client_id)")
            assert "\n" not in courier.state.error
            workspace.state.identity.refusal = None
            await until(lambda: points() == 2)
            await until(lambda: courier.state.name == "up")
            for task in tasks:
                task.cancel()
    finally:
        await pipeline.close()
    (series,) = [run.series["loss"] for run in workspace.state.tracking.runs.values()]
    assert [(point.value, point.step) for point in series] == [(0.5, 0), (0.25, 1)]


async def test_tokens_that_end_while_a_run_goes_on_hold_nothing_up(workspace: RunningWorkspace, tmp_path: Path) -> None:
    workspace.state.identity.lifetime_s = 1.0
    metric = begin_run(tmp_path / "store")
    uri = workspace.place.tracking_uri
    pipeline = open_pipeline(tmp_path / "store", uri, tmp_path / "state", settings={"ca_file": workspace.place.ca})

    def points() -> int:
        return sum(len(run.series.get("loss", ())) for run in workspace.state.tracking.runs.values())

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [*pipeline.start_uploading(group), *pipeline.start_following(group)]
            for number in range(1, 4):
                with metric.open("a") as file:
                    file.write(f"170000000{number}000 {number}.5 {number}\n")
                await until(lambda wanted=number: points() == wanted)  # type: ignore[misc]
                await asyncio.sleep(1.1)  # past the end of the token
            for task in tasks:
                task.cancel()
    finally:
        await pipeline.close()
    assert workspace.state.log.counts()["token/managed-identity"] >= 3
