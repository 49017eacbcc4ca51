"""An MLflow server on a FileStore: it keeps repeated points, and says some refusals with a 500."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from syncd.core.requests import CreateRun, LogBatch
from syncd.core.source_tags import SOURCE_RUN_ID
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import MlflowServer
from syncd.errors import Rejected, SubjectGone, Transient
from tests.standins.mlflow_server import RunningMlflow

POINT = b'{"key":"m","value":1.5,"timestamp":1600000000000,"step":3}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RunningMlflow(tmp_path_factory.mktemp("file-store"), backend="file", serve_artifacts=False) as server:
        yield server.url


async def test_a_file_store_is_known_to_append_and_does(url: str) -> None:
    async with MlflowRest(url) as rest:
        server, reader = MlflowServer(rest), MlflowReader(rest)
        experiment = await server.ensure_experiment(uuid.uuid4().hex)
        assert experiment.appends
        assert (await MlflowServer(rest).ensure_experiment("Default")).appends
        assert not (await MlflowServer(rest, duplicates="ignored").ensure_experiment(experiment.name)).appends
        assert (await reader.experiments())[experiment.name].appends
        run = await server.create(CreateRun(experiment.id, "n", "u", 1, {SOURCE_RUN_ID: "s"}))
        for _ in range(2):
            await server.send(LogBatch(run.id, [POINT]))
        assert [p async for p in reader.history(run.id, "m")] == [(1.5, 1_600_000_000_000, 3)] * 2
        found = (await server.find("run", experiment.id, ["s"])).get("s")
        assert found is not None
        assert found.id == run.id


async def test_refusals_of_a_file_store(url: str) -> None:
    async with MlflowRest(url) as rest:
        server = MlflowServer(rest)
        experiment = await server.ensure_experiment(uuid.uuid4().hex)
        run = await server.create(CreateRun(experiment.id, "n", "u", 1, {}))
        await server.send(LogBatch(run.id, params={"p": "1"}))
        with pytest.raises(Rejected, match="Changing param values"):
            await server.send(LogBatch(run.id, params={"p": "2"}))
        await server.send(LogBatch(run.id, [POINT]))
        with pytest.raises(Transient) as caught:  # "m" is a file there and cannot be a folder
            await server.send(LogBatch(run.id, [POINT.replace(b'"m"', b'"m/n"')]))
        assert caught.value.server_fault
        await rest.call(
            "POST", "/api/2.0/mlflow/experiments/delete", {"experiment_id": experiment.id}, doing="deleting"
        )
        with pytest.raises(SubjectGone):
            await server.create(CreateRun(experiment.id, "n", "u", 1, {}))


async def test_a_server_that_serves_no_artifacts_is_recognized(url: str) -> None:
    async with MlflowRest(url) as rest:
        facts = await MlflowServer(rest).probe()
    assert not facts.proxied_artifacts
