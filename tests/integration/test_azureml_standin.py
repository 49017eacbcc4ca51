"""The stand-in of an Azure ML workspace, seen by Microsoft's own unmodified clients and by plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import aiohttp
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceExistsError
from azure.identity import ClientSecretCredential
from azure.storage.blob import BlobBlock, BlobClient

from tests.standins.azureml import Fault, Habits, Limits, RunningWorkspace, Shelf, WorkspaceProcess
from tests.standins.azureml.plugin_session import FILES, PARAMS, POINTS, TAGS, run_plugin
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.session import API, Session


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path / "workspace") as running:
        yield running


@pytest.fixture
async def session(workspace: RunningWorkspace) -> AsyncIterator[Session]:
    context = ssl.create_default_context(cafile=str(workspace.place.ca))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        made = Session(workspace, http)
        await made.log_in()
        yield made


def blob_client(workspace: RunningWorkspace, url: str, **settings: Any) -> BlobClient:
    return BlobClient.from_blob_url(url, connection_verify=str(workspace.place.ca), retry_total=0, **settings)


def limit_of(answer: Any) -> str:
    """Return the field, limit and size that a refusal names."""
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    message: str = answer["Error"]["Message"]
    assert message.startswith("A field of the entity is over the size limit. ")
    return message.split(". ")[1]


@pytest.fixture(scope="class")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningWorkspace, Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("plugin")
    with RunningWorkspace(folder / "workspace") as running:
        yield running, folder, run_plugin(running.place, folder)


class TestUnmodifiedPlugin:
    def test_all_that_is_written_is_read_back(self, plugin: tuple[RunningWorkspace, Path, dict[str, Any]]) -> None:
        workspace, folder, told = plugin
        assert told["experiment"] == {"kind": "test"}
        assert told["found"] == [told["run_id"]]
        assert told["times"] == [1_700_000_000_000, 1_700_000_005_000]
        assert told["status"] == "FINISHED"
        assert told["params"] == PARAMS
        assert told["tags"] == {**TAGS, "mlflow.runName": "first"}
        assert told["points"] == [repr(point) for point in POINTS]
        assert told["listed"] == ["deep", "empty", "large", "plain.txt"]
        assert workspace.state.tracking.run(told["run_id"]).series["later"][0].value == 1.0
        got = {str(file.relative_to(folder / "got")): file for file in (folder / "got").rglob("*") if file.is_file()}
        assert {name: file.read_bytes() for name, file in got.items()} == FILES
        shelf = Shelf.of_run(told["run_id"])
        assert {name: workspace.state.artifacts.bytes_of(shelf, name) for name in FILES} == FILES

    def test_a_version_is_made_from_a_run_and_from_a_folder(
        self, plugin: tuple[RunningWorkspace, Path, dict[str, Any]]
    ) -> None:
        workspace, _, told = plugin
        assert told["sources"][0].endswith(f"/runs/{told['run_id']}/artifacts/deep")
        origin, container, _ = told["sources"][1].removeprefix("azureml://artifacts/").split("/")
        assert workspace.state.artifacts.bytes_of(Shelf(origin, container), "local/MLmodel") == b"flavors: {}"

    def test_it_is_refused_what_the_service_refuses(
        self, plugin: tuple[RunningWorkspace, Path, dict[str, Any]]
    ) -> None:
        _, _, told = plugin
        refused = told["refused"]
        conflict = f"ArtifactId ExperimentRun/dcid.{told['run_id']}/plain.txt already exists."
        assert refused["logged models"].endswith("failed with error code 404 != 200. Response body: ''")
        assert refused["a file again"] == f"UserError: Resource Conflict: {conflict}"
        assert refused["too many metrics"].startswith("INVALID_PARAMETER_VALUE: Response: {'Error': {")
        assert "FieldName=MetricNames, Limit=50, Size=52." in refused["too many metrics"]
        assert "MaxResults = 25000 is invalid: MaxResults must be less than 1000." in refused["history"]


class TestTokens:
    async def test_a_call_without_a_good_token_is_401(self, session: Session) -> None:
        session.token = "made-up"
        assert (await session.ask("GET", f"{API}/experiments/get?experiment_id=1"))[0] == 401
        await session.log_in()
        session.workspace.state.identity.expire_all()
        status, body, headers = await session.ask("GET", "{scope}?api-version=2022-05-01")
        assert (status, body["error"]["code"]) == (401, "InvalidAuthenticationToken")
        assert headers["WWW-Authenticate"].startswith("Bearer")

    async def test_a_token_ends_with_its_lifetime(self, session: Session) -> None:
        session.workspace.state.identity.lifetime_s = -1.0
        await session.log_in()
        status, body, _ = await session.ask("GET", "{scope}?api-version=2022-05-01")
        assert (status, body["error"]["code"]) == (401, "ExpiredAuthenticationToken")

    async def test_a_token_for_the_data_plane_does_not_open_arm(self, session: Session) -> None:
        await session.log_in("https://ml.azure.com")
        assert (await session.ask("GET", "{scope}?api-version=2022-05-01"))[0] == 401
        await session.mlflow("experiments/create", {"name": "e"})

    def test_azure_identity_gets_a_token_for_a_service_principal(self, workspace: RunningWorkspace) -> None:
        def credential(secret: str) -> ClientSecretCredential:
            identity = workspace.state.identity
            return ClientSecretCredential(
                identity.tenant,
                identity.client_id,
                secret,
                authority=workspace.place.url,
                disable_instance_discovery=True,
                connection_verify=str(workspace.place.ca),
            )

        scope = "https://management.azure.com/.default"
        token = credential(workspace.state.identity.client_secret).get_token(scope).token
        assert workspace.state.identity.grants[token].subject == "service-principal"
        with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
            credential("wrong").get_token(scope)
        workspace.state.identity.refusal = Refused(400, "invalid_client", "no more")
        with pytest.raises(ClientAuthenticationError, match="no more"):
            credential(workspace.state.identity.client_secret).get_token(scope)


class TestArm:
    async def test_the_workspace_tells_its_services(self, session: Session) -> None:
        place = session.workspace.place
        _, body, _ = await session.ask("GET", "{scope}?api-version=2022-05-01")
        assert body["location"] == place.region
        assert body["properties"]["mlFlowTrackingUri"].startswith(
            f"azureml://{place.netloc}/mlflow/v1.0/subscriptions/"
        )
        _, services, _ = await session.ask("GET", body["properties"]["discoveryUrl"])
        assert services["api"] == place.url
        assert (await session.ask("GET", "{scope}"))[1]["error"]["code"] == "MissingApiVersionParameter"

    async def test_datastores_come_in_pages_and_their_secret_opens_them(self, session: Session) -> None:
        session.workspace.state.habits.datastores_page = 1
        _, first, _ = await session.ask("GET", "{scope}/datastores?api-version=2022-05-01")
        _, second, _ = await session.ask("GET", first["nextLink"])
        assert [page["value"][0]["name"] for page in (first, second)] == [
            "workspaceblobstore",
            "workspaceartifactstore",
        ]
        assert "nextLink" not in second
        secrets = "{scope}/datastores/workspaceblobstore/listSecrets?api-version=2022-05-01"
        sas = (await session.ask("POST", secrets))[1]["sasToken"]
        place = session.workspace.place
        for container, opens in ((place.container, True), ("azureml", False)):
            with contextlib.nullcontext() if opens else pytest.raises(HttpResponseError):
                url = f"{place.storage_url}/{container}/some/file?{sas}"
                await asyncio.to_thread(blob_client(session.workspace, url).upload_blob, b"data")
        assert session.workspace.state.blobs.content(f"{place.container}/some/file") == b"data"


class TestTracking:
    async def test_a_resent_point_is_there_twice(self, session: Session) -> None:
        run = await session.new_run()
        body = {"run_id": run, "metrics": [{"key": "m", "value": 1.0, "timestamp": 5, "step": 1}]}
        await session.mlflow("runs/log-batch", body)
        await session.mlflow("runs/log-batch", body)
        assert session.workspace.state.tracking.run(run).series["m"] == [(1.0, 5, 1)] * 2

    async def test_a_param_is_written_once(self, session: Session) -> None:
        run = await session.new_run()
        await session.mlflow("runs/log-parameter", {"run_id": run, "key": "p", "value": "1"})
        await session.mlflow("runs/log-parameter", {"run_id": run, "key": "p", "value": "1"})
        refused = await session.mlflow("runs/log-parameter", {"run_id": run, "key": "p", "value": "2"}, expect=400)
        assert "Changing param values is not allowed" in refused["Error"]["Message"]

    async def test_the_real_limits_are_kept_to(self, session: Session) -> None:
        run = await session.new_run()

        async def refusal(**batch: Any) -> str:
            return limit_of(await session.mlflow("runs/log-batch", {"run_id": run, **batch}, expect=400))

        def points(count: int, key: Callable[[int], str]) -> list[dict[str, Any]]:
            return [{"key": key(n), "value": n, "timestamp": n, "step": n} for n in range(count)]

        def entries(start: int, stop: int) -> list[dict[str, str]]:
            return [{"key": f"k{n}", "value": "v"} for n in range(start, stop)]

        assert (
            await refusal(metrics=points(251, lambda _: "m"))
            == "FieldName=MetricV2Dto.Value/Count, Limit=250, Size=251"
        )
        await session.mlflow("runs/log-batch", {"run_id": run, "metrics": points(50, lambda n: f"m{n}")})
        assert await refusal(metrics=points(1, lambda _: "m50")) == "FieldName=MetricNames, Limit=50, Size=51"
        assert (await refusal(metrics=points(1, lambda _: "m" * 256))).endswith("Limit=255, Size=256")
        await session.mlflow("runs/log-batch", {"run_id": run, "params": entries(0, 100)})
        await session.mlflow("runs/log-batch", {"run_id": run, "params": entries(100, 200)})
        assert await refusal(params=entries(200, 201)) == "FieldName=Parameters, Limit=200, Size=201"
        assert (await refusal(tags=[{"key": "k", "value": "v" * 1001}])).endswith("Limit=1000, Size=1001")
        assert (await refusal(tags=[{"key": "k" * 101, "value": ""}])).endswith("Limit=100, Size=101")
        assert (await refusal(tags=entries(0, 50))).endswith("Limit=50, Size=51")  # with mlflow.runName
        kept = session.workspace.state.tracking.run(run)
        assert (len(kept.series), len(kept.params), len(kept.tags)) == (50, 200, 1)

    async def test_a_limit_may_be_set_while_it_runs(self, session: Session) -> None:
        session.workspace.state.limits.experiment_name_length = 3
        assert limit_of(await session.mlflow("experiments/create", {"name": "four"}, expect=400)).endswith("Size=4")
        session.workspace.state.limits.experiment_name_length = 4
        await session.mlflow("experiments/create", {"name": "four"})

    async def test_history_comes_in_pages_below_a_thousand(self, session: Session) -> None:
        run = await session.new_run()
        for start in range(0, 1200, 200):
            rows = [{"key": "m", "value": n, "timestamp": n, "step": n} for n in range(start, start + 200)]
            await session.mlflow("runs/log-batch", {"run_id": run, "metrics": rows})
        path = f"{API}/metrics/get-history?run_id={run}&metric_key=m"
        status, refused, _ = await session.ask("GET", f"{path}&max_results=1000")
        assert (status, refused["error_code"]) == (400, "BAD_REQUEST")
        assert refused["Error"]["Message"] == "MaxResults = 1000 is invalid: MaxResults must be less than 1000."
        _, first, _ = await session.ask("GET", f"{path}&max_results=999")
        _, second, _ = await session.ask("GET", f"{path}&max_results=999&page_token={first['next_page_token']}")
        assert [row["step"] for row in first["metrics"] + second["metrics"]] == list(range(1200))
        assert "next_page_token" not in second

    async def test_runs_are_searched_deleted_and_restored(self, session: Session) -> None:
        runs = [await session.new_run() for _ in range(3)]
        experiment = session.workspace.state.tracking.run(runs[0]).experiment_id
        for number, run in enumerate(runs):
            await session.mlflow("runs/set-tag", {"run_id": run, "key": "source.id", "value": f"s-{number}"})
            await session.mlflow("runs/log-metric", {"run_id": run, "key": "m", "value": number, "timestamp": 1})

        async def found(text: str = "", **more: Any) -> list[int]:
            body = {"experiment_ids": [experiment], "filter": text, "order_by": ["metrics.m DESC"], **more}
            answer = await session.mlflow("runs/search", body)
            return [runs.index(run["info"]["run_id"]) for run in answer.get("runs", ())]

        assert await found() == [2, 1, 0]
        assert await found("tags.`source.id` = 's-1'") == [1]
        assert await found("tags.`source.id` LIKE 's-%' AND metrics.m < 2") == [1, 0]
        await session.mlflow("runs/delete", {"run_id": runs[2]})
        assert await found() == [1, 0]
        assert await found(run_view_type="DELETED_ONLY") == [2]
        await session.mlflow("runs/set-tag", {"run_id": runs[2], "key": "a", "value": "b"}, expect=400)
        await session.mlflow("runs/restore", {"run_id": runs[2]})
        assert await found(max_results=2) == [2, 1]
        await session.mlflow("runs/search", {"experiment_ids": [experiment], "filter": "a OR b"}, expect=400)

    async def test_what_azure_ml_does_not_have_is_404(self, session: Session) -> None:
        for path in ("/api/2.0/mlflow/logged-models", "/api/2.0/mlflow/logged-models/search", "/api/3.0/mlflow/traces"):
            assert (await session.ask("POST", f"/mlflow/v2.0{{scope}}{path}", {}))[:2] == (404, "")

    async def test_an_older_client_finds_the_same(self, session: Session) -> None:
        run = await session.new_run()
        path = f"/mlflow/v1.0{{scope}}/api/2.0/mlflow/runs/get?run_uuid={run}"
        assert (await session.ask("GET", path))[1]["run"]["info"]["run_id"] == run


class TestArtifacts:
    async def test_a_path_registered_again_conflicts_and_the_others_go_on(self, session: Session) -> None:
        run = await session.new_run()
        await session.register(run, "a")
        second = await session.register(run, "a", "b")
        assert list(second["artifactContentInformation"]) == ["b"]
        assert second["errors"]["a"]["error"]["message"].startswith("Resource Conflict: ArtifactId ExperimentRun/dcid.")
        session.workspace.state.habits.registered_again_conflicts = False
        assert (await session.register(run, "a"))["errors"] == {}
        await session.register(run, *[f"p{n}" for n in range(101)], expect=400)

    async def test_a_listing_goes_on_by_token_and_by_link(self, session: Session) -> None:
        run = await session.new_run()
        await session.register(run, "a", "b", "c")
        session.workspace.state.habits.artifacts_page = 2
        experiment = session.workspace.state.tracking.run(run).experiment_id
        path = f"/history/v1.0{{scope}}/experimentids/{experiment}/runs/{run}/artifacts"
        _, first, _ = await session.ask("GET", path)
        _, by_token, _ = await session.ask("GET", f"{path}?continuationToken={first['continuationToken']}")
        _, by_link, _ = await session.ask("GET", first["nextLink"])
        assert [item["path"] for item in first["value"]] == ["a", "b"]
        assert by_token == by_link
        assert [item["path"] for item in by_link["value"]] == ["c"]
        assert by_link["continuationToken"] is None

    async def test_what_was_never_sent_is_listed_but_not_there(self, session: Session) -> None:
        run = await session.new_run()
        await session.register(run, "a")
        experiment = session.workspace.state.tracking.run(run).experiment_id
        base = f"/history/v1.0{{scope}}/experiments/{experiment}/runs/{run}/artifacts"
        assert [item["path"] for item in (await session.ask("GET", base))[1]["value"]] == ["a"]
        _, info, _ = await session.ask("GET", f"{base}/contentinfo?path=a")
        assert (await session.ask("GET", info["contentUri"]))[0] == 404
        assert (await session.ask("PUT", info["contentUri"]))[2]["x-ms-error-code"] == "AuthorizationPermissionMismatch"
        assert (await session.ask("GET", f"{base}/contentinfo?path=b"))[0] == 404
        session.workspace.state.habits.listed_before_uploaded = False
        assert (await session.ask("GET", base))[1]["value"] == []


class TestStorage:
    async def test_microsofts_client_sends_blocks_and_takes_ranges(self, session: Session) -> None:
        run = await session.new_run()
        url = await session.upload_url(run, "deep/ä b#%.bin")
        data = os.urandom(3_000_001)

        def use() -> None:
            pieces = {"max_single_put_size": 1 << 20, "max_block_size": 1 << 20, "max_single_get_size": 1 << 20}
            client = blob_client(session.workspace, url, max_chunk_get_size=1 << 20, **pieces)
            client.upload_blob(data, validate_content=True)
            assert client.get_blob_properties().size == len(data)
            assert client.download_blob(validate_content=True).readall() == data
            assert client.download_blob(offset=7, length=9).readall() == data[7:16]
            with pytest.raises(ResourceExistsError):
                client.upload_blob(b"other")
            with pytest.raises(ResourceExistsError):
                client.upload_blob(data)
            client.upload_blob(b"other", overwrite=True)
            assert client.download_blob().readall() == b"other"

        await asyncio.to_thread(use)
        counts = session.workspace.state.log.counts()
        assert (counts["blob/put-block"], counts["blob/put-block-list"]) == (6, 2)
        assert session.workspace.state.artifacts.bytes_of(Shelf.of_run(run), "deep/ä b#%.bin") == b"other"

    async def test_waiting_blocks_are_told_and_then_put_together(self, session: Session) -> None:
        run = await session.new_run()
        url = await session.upload_url(run, "a")
        names = [base64.b64encode(f"{n:04}".encode()).decode() for n in range(2)]

        def use() -> None:
            client = blob_client(session.workspace, url)
            client.stage_block(names[0], b"one")
            client.stage_block(names[1], b"two")
            committed, waiting = client.get_block_list("all")
            assert (committed, [block.id for block in waiting]) == ([], names)
            assert not client.exists()
            with pytest.raises(HttpResponseError, match="InvalidBlockList"):
                client.commit_block_list([BlobBlock(base64.b64encode(b"none").decode())])
            client.commit_block_list([BlobBlock(name) for name in reversed(names)])
            assert client.download_blob().readall() == b"twoone"

        await asyncio.to_thread(use)

    async def test_a_body_that_is_not_what_it_says_is_refused(self, session: Session) -> None:
        url = await session.upload_url(await session.new_run(), "a")
        context = ssl.create_default_context(cafile=str(session.workspace.place.ca))

        async def put(data: Any, **headers: str) -> int:
            headers = {"x-ms-blob-type": "BlockBlob", **headers}
            async with (
                aiohttp.ClientSession() as http,
                http.put(url, data=data, headers=headers, ssl=context) as answer,
            ):
                return answer.status

        async def stream() -> AsyncIterator[bytes]:
            yield b"no length"

        assert await put(b"data", **{"Content-MD5": base64.b64encode(bytes(16)).decode()}) == 400
        assert await put(stream()) == 411
        assert await put(b"data", **{"x-ms-blob-type": ""}) == 400
        assert await put(b"data") == 201
        assert await put(b"data", **{"If-None-Match": "*"}) == 409

    async def test_a_sas_ends_with_its_lifetime_and_on_command(self, session: Session) -> None:
        run = await session.new_run()
        access = session.workspace.state.access
        url = await session.upload_url(run, "a")
        access.expire_all()
        access.lifetime_s = -1.0
        late = await session.upload_url(run, "b")
        for stale in (url, late, f"{session.workspace.place.storage_url}/azureml/x"):
            status, body, headers = await session.ask("GET", stale)
            assert (status, headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
            assert "<Code>AuthenticationFailed</Code>" in body


class TestFaults:
    async def test_throttling_ends_after_so_many_calls(self, session: Session) -> None:
        session.workspace.state.faults.throttle_next(2, kind="experiments", retry_after_s=7)
        for name in ("a", "b"):
            status, _, headers = await session.ask("POST", f"{API}/experiments/create", {"name": name})
            assert (status, headers["Retry-After"]) == (429, "7")
        await session.mlflow("experiments/create", {"name": "a"})

    async def test_a_lost_answer_was_applied_and_a_dropped_call_was_not(self, session: Session) -> None:
        faults = session.workspace.state.faults
        for fault, name in ((Fault("lose"), "kept"), (Fault("drop"), "gone")):
            faults.add(fault)
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.mlflow("experiments/create", {"name": name})
        assert [known.name for known in session.workspace.state.tracking.experiments.values()] == ["kept"]
        assert [asked.status for asked in session.workspace.state.log.of("experiments/create")] == [0, 0]

    async def test_a_lost_download_stops_halfway(self, session: Session) -> None:
        url = await session.upload_url(await session.new_run(), "a")
        await asyncio.to_thread(blob_client(session.workspace, url).upload_blob, bytes(4_000_000))
        session.workspace.state.faults.lose_answer("blob/get")
        with pytest.raises(aiohttp.ClientError):
            await session.ask("GET", url)

    async def test_a_missing_permission_is_403(self, session: Session) -> None:
        session.workspace.state.faults.denied.add("runs/create")
        experiment = (await session.mlflow("experiments/create", {"name": "e"}))["experiment_id"]
        refused = await session.mlflow("runs/create", {"experiment_id": experiment}, expect=403)
        assert refused["error_code"] == "AuthorizationFailed"
        session.workspace.state.faults.clear()
        await session.mlflow("runs/create", {"experiment_id": experiment})

    async def test_latency_is_added_to_every_answer(self, session: Session) -> None:
        session.workspace.state.faults.latency_s = 0.2
        began = time.monotonic()
        await session.mlflow("experiments/create", {"name": "e"})
        assert time.monotonic() - began >= 0.2

    async def test_it_comes_back_where_it_was_with_what_it_had(self, session: Session) -> None:
        run = await session.new_run()
        url = session.workspace.place.url
        await asyncio.to_thread(session.workspace.stop)
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.ask("GET", f"{API}/runs/get?run_id={run}")
        await asyncio.to_thread(session.workspace.start)
        assert session.workspace.place.url == url
        assert (await session.ask("GET", f"{API}/runs/get?run_id={run}"))[0] == 200


class TestInAProcess:
    def test_it_is_set_from_outside(self, tmp_path: Path) -> None:
        with WorkspaceProcess(tmp_path) as process:
            told = process.control(latency_s=0.5, limits={"params_per_run": 3}, faults=[{"action": "throttle"}])
            assert (told["latency_s"], told["limits"]["params_per_run"]) == (0.5, 3)
            assert told["faults"][0]["action"] == "throttle"
            assert told["stored"]["runs"] == 0
            with pytest.raises(HTTPError, match="400"):
                process.control(limits={"misspelt": 3})
            authority, port = process.place.ca.read_bytes(), process.place.port
            process.stop()
            process.start()
            assert process.control()["latency_s"] == 0.0
            assert (process.place.ca.read_bytes(), process.place.port) == (authority, port)

    def test_a_workspace_takes_other_limits_from_the_start(self, tmp_path: Path) -> None:
        limits, habits = Limits(params_per_run=1), Habits(system_tags_count=False)
        with RunningWorkspace(tmp_path, limits=limits, habits=habits) as running:
            assert running.state.limits.params_per_run == 1
            assert not running.state.habits.system_tags_count
