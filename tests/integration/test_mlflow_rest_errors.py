"""Each fault between syncd and an MLflow server gets its class of error, and what was promised about it holds."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncd.core.facts import DatasetInput
from syncd.core.requests import CreateRun, LogBatch, LogInputs
from syncd.core.source_tags import SOURCE_RUN_ID
from syncd.destinations.base import RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_reader import MlflowReader
from syncd.destinations.mlflow_rest import MlflowRest
from syncd.destinations.mlflow_server import MlflowServer
from syncd.errors import (
    ArtifactChanged,
    AuthFailed,
    ConfigError,
    DestinationError,
    OutcomeUnknown,
    Rejected,
    SubjectGone,
    Transient,
)
from syncd.rest.client import BasicAuth, BearerAuth, Deadlines
from syncd.rest.uploads import BytesUpload
from tests.standins.fault_proxy import FaultProxy, Rule
from tests.standins.null_server import NullMlflow
from tests.standins.ports import free_port

QUICK = Deadlines(connect_s=1.0, stall_s=0.4, total_s=0.8)
SOON_S = 10.0  # on a busy machine; an answer that drips takes longer, and silence has no end
POINT = b'{"key":"m","value":1.5,"timestamp":1600000000000,"step":3}'


@pytest.fixture
async def upstream() -> AsyncIterator[NullMlflow]:
    async with NullMlflow() as server:
        yield server


@pytest.fixture
async def proxy(upstream: NullMlflow) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(upstream.url) as proxy:
        yield proxy


@pytest.fixture
async def server(proxy: FaultProxy) -> AsyncIterator[MlflowServer]:
    async with MlflowRest(proxy.url, deadlines=QUICK) as rest:
        yield MlflowServer(rest)


RUN = RemoteSubject("a" * 32, f"mlflow-artifacts:/1/{'a' * 32}/artifacts")
BATCH = LogBatch(RUN.id, [POINT])


async def failure(server: MlflowServer, request: LogBatch = BATCH) -> DestinationError:
    with pytest.raises(DestinationError) as caught:
        await server.send(request)
    return caught.value


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_throttling_with_seconds(proxy: FaultProxy, server: MlflowServer, status: int) -> None:
    proxy.add(Rule("answer", status=status, headers={"Retry-After": "7"}))
    error = await failure(server)
    assert type(error) is Transient
    assert (error.throttled, error.retry_after_s, error.server_fault) == (True, 7.0, False)


@pytest.mark.parametrize("status", [429, 503])
async def test_throttling_with_a_date(proxy: FaultProxy, server: MlflowServer, status: int) -> None:
    when = email.utils.formatdate(time.time() + 30, usegmt=True)
    proxy.add(Rule("answer", status=status, headers={"Retry-After": when}))
    error = await failure(server)
    assert type(error) is Transient
    assert error.throttled
    assert error.retry_after_s == pytest.approx(30, abs=3)


@pytest.mark.parametrize("wish", ["soon", "", "nan", "-3", "inf"])
async def test_an_unreadable_wish_is_none_or_nothing_to_wait_for(
    proxy: FaultProxy, server: MlflowServer, wish: str
) -> None:
    proxy.add(Rule("answer", status=429, headers={"Retry-After": wish}))
    error = await failure(server)
    assert isinstance(error, Transient)
    assert error.throttled
    assert error.retry_after_s in (None, 0.0)


async def test_503_without_a_wish_is_an_outage(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=503, body="<html>maintenance</html>"))
    error = await failure(server)
    assert type(error) is Transient
    assert (error.throttled, error.retry_after_s) == (False, None)


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_server_error_page_may_have_been_applied(proxy: FaultProxy, server: MlflowServer, status: int) -> None:
    proxy.add(Rule("answer", status=status, body="<html>\x00 oops</html>"))
    error = await failure(server)
    assert type(error) is OutcomeUnknown
    assert error.server_fault == (status == 500)
    assert error.target == RUN.id


@pytest.mark.parametrize("status", [408, 500, 502, 504])
async def test_a_get_that_fails_is_only_transient(proxy: FaultProxy, server: MlflowServer, status: int) -> None:
    proxy.add(Rule("answer", status=status))
    with pytest.raises(Transient) as caught:
        await server.ensure_experiment("e")
    assert type(caught.value) is Transient


@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "Connection refused"), ("no-such-host.invalid", "[A-Z][a-z]+ .*(known|resolution)")]
)
async def test_nobody_there_is_said_in_plain_words(host: str, why: str) -> None:
    port = free_port()
    async with MlflowRest(f"http://{host}:{port}") as rest:
        with pytest.raises(Transient) as caught:
            await rest.text("/version", doing="asking")
    assert re.fullmatch(f"cannot connect to {host}:{port}: {why}", caught.value.message)


async def test_rejection_keeps_the_servers_words_whole(proxy: FaultProxy, server: MlflowServer) -> None:
    words = "Invalid value " + "x" * 20_000 + " end"
    proxy.add(Rule("answer", status=400, body=f'{{"error_code":"INVALID_PARAMETER_VALUE","message":"{words}"}}'))
    error = await failure(server)
    assert type(error) is Rejected
    assert (error.code, error.status, error.message) == ("INVALID_PARAMETER_VALUE", 400, words)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, '{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Run with id=a not found"}'),
        (400, '{"error_code":"INVALID_PARAMETER_VALUE","message":"The run a must be in the \'active\' state. x"}'),
        (400, '{"error_code":"INVALID_PARAMETER_VALUE","message":"The run a must be in \'active\' lifecycle_stage."}'),
        (500, '{"error_code":"INVALID_STATE","message":"Could not create run under experiment"}'),
    ],
)
async def test_a_deleted_run_is_gone(proxy: FaultProxy, server: MlflowServer, status: int, body: str) -> None:
    proxy.add(Rule("answer", status=status, body=body))
    assert type(await failure(server)) is SubjectGone


async def test_a_404_page_of_a_gateway_rejects_nothing(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=404, body="default backend - 404"))
    error = await failure(server)
    assert isinstance(error, Transient)
    assert "gateway" in error.hint


async def test_a_filestores_changed_param_is_rejected_though_it_is_a_500(
    proxy: FaultProxy, server: MlflowServer
) -> None:
    body = '{"error_code":"INTERNAL_ERROR","message":"Changing param values is not allowed. Param with key=\'a\'"}'
    proxy.add(Rule("answer", status=500, body=body))
    assert type(await failure(server)) is Rejected


CLASH = '{"error_code":"BAD_REQUEST","message":"(sqlite3.IntegrityError) UNIQUE constraint failed: %s"}'
NAN = b'{"key":"m","value":"NaN","timestamp":1600000000000,"step":3}'


async def test_a_race_of_two_writers_is_tried_again_once(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    proxy.add(Rule("answer", status=400, body=CLASH % "params.key, params.run_uuid", times=1))
    await server.send(LogBatch(RUN.id, [POINT], {"p": "1"}))
    assert (upstream.counts.batches, upstream.counts.points) == (1, 1)
    proxy.add(Rule("answer", status=400, body=CLASH % "params.key, params.run_uuid"))
    error = await failure(server)
    assert type(error) is Rejected
    assert error.code == "BAD_REQUEST"


async def test_a_clash_of_model_metrics_is_not_taken_for_a_repeated_point(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    proxy.add(Rule("answer", status=400, body=CLASH % "metrics.key", times=1))
    proxy.add(Rule("pass", times=1))
    proxy.add(Rule("answer", status=400, body=CLASH % "logged_model_metrics.model_id"))
    assert type(await failure(server, LogBatch(RUN.id, [POINT, NAN]))) is Rejected
    assert upstream.counts.points == 1


@pytest.mark.parametrize("body", ["<html>sign in</html>", "", "[1]", '{"a":', "\x00\x01"])
async def test_a_200_that_is_not_json_is_never_success(proxy: FaultProxy, server: MlflowServer, body: str) -> None:
    proxy.add(Rule("answer", status=200, body=body))
    assert type(await failure(server)) is OutcomeUnknown
    with pytest.raises(Transient):
        await server.ensure_experiment("e")


async def test_a_200_page_for_an_upload_is_never_success(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=200, body="<html>sign in</html>"))
    with pytest.raises(Transient, match="sign in"):
        await server.upload(RUN, BytesUpload("a", b"x"))


async def test_json_of_another_service_is_never_success(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=200, body='{"status":"ok"}'))
    with pytest.raises(OutcomeUnknown, match="'run'"):
        await server.create(CreateRun("1", "n", "u", 1, {}))


async def test_a_redirect_is_not_followed_and_hides_its_query(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=302, headers={"Location": "https://login.example/sso?ticket=SECRET"}))
    error = await failure(server)
    assert type(error) is AuthFailed
    assert "login.example/sso" in str(error)
    assert "SECRET" not in str(error)


# -- the connection ------------------------------------------------------------------------------------------------


async def test_reset_before_it_was_answered(proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow) -> None:
    proxy.add(Rule("reset"))
    assert type(await failure(server)) is OutcomeUnknown
    assert upstream.counts.points == 0


async def test_lost_answer_is_unknown_and_sent_once(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    proxy.add(Rule("lost_answer"))
    assert type(await failure(server)) is OutcomeUnknown
    assert upstream.counts.batches == 1


async def test_a_put_is_not_silently_repeated_on_a_reused_connection(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    await server.send(BATCH)
    proxy.add(Rule("lost_answer", method="PUT"))
    with pytest.raises(OutcomeUnknown):
        await server.upload(RUN, BytesUpload("a", b"x"))
    assert upstream.counts.artifact_files == 1


@pytest.mark.parametrize("fault", ["stall", "lost_then_stall", "deaf", "half_answer"])
async def test_silence_ends_in_time(proxy: FaultProxy, server: MlflowServer, fault: str) -> None:
    proxy.add(Rule(fault))  # type: ignore[arg-type]
    begun = time.monotonic()
    assert type(await failure(server)) is OutcomeUnknown
    assert time.monotonic() - begun < SOON_S


async def test_a_slow_loris_answer_ends_in_time(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("drip", drip_s=0.1))  # each byte comes before stall_s, the whole never
    begun = time.monotonic()
    assert type(await failure(server)) is OutcomeUnknown
    assert QUICK.stall_s < time.monotonic() - begun < SOON_S


async def test_a_slow_loris_body_ends_in_time(proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow) -> None:
    upstream.experiments |= {f"experiment {n}": str(n) for n in range(5)}
    proxy.add(Rule("drip_body", drip_s=0.1))
    begun = time.monotonic()
    with pytest.raises(Transient):
        await server.ensure_experiment("experiment 3")
    assert QUICK.stall_s < time.monotonic() - begun < SOON_S


async def test_an_upload_to_a_peer_that_stops_reading_ends_in_time(
    proxy: FaultProxy, server: MlflowServer, tmp_path: Path
) -> None:
    proxy.add(Rule("deaf"))
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await server.upload(RUN, BigUpload(64 << 20))
    assert time.monotonic() - begun < SOON_S


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with MlflowRest(f"http://127.0.0.1:{bound.getsockname()[1]}", deadlines=QUICK) as rest:
            error = await failure(MlflowServer(rest))
    assert type(error) is Transient


async def test_an_unknown_host_is_transient() -> None:
    async with MlflowRest("http://no-such-host.invalid", deadlines=QUICK) as rest:
        assert type(await failure(MlflowServer(rest))) is Transient


async def test_a_plain_server_behind_https_is_transient(upstream: NullMlflow) -> None:
    async with MlflowRest(upstream.url.replace("http:", "https:"), deadlines=QUICK) as rest:
        assert isinstance(await failure(MlflowServer(rest)), Transient)


async def test_cancelling_a_request_leaves_the_client_usable(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    reached = asyncio.Event()
    proxy.on_request = lambda *_: reached.set()
    proxy.add(Rule("stall", times=1))
    sending = asyncio.create_task(server.send(BATCH))
    await reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await server.send(BATCH)
    assert upstream.counts.points == 1


# -- credentials ---------------------------------------------------------------------------------------------------


async def test_a_refused_token_is_refreshed_once_and_the_request_sent_again(
    proxy: FaultProxy, upstream: NullMlflow
) -> None:
    asked: list[bool] = []

    async def token(refresh: bool) -> str:
        asked.append(refresh)
        return "new" if refresh else "old"

    proxy.add(Rule("unauthorized", until="Bearer new"))
    async with MlflowRest(proxy.url, auth=BearerAuth(token), deadlines=QUICK) as rest:
        server = MlflowServer(rest)
        await server.send(BATCH)
        await server.upload(RUN, BytesUpload("a", b"xyz"))
    assert asked == [False, True, False, True]
    assert (upstream.counts.points, upstream.counts.artifact_bytes) == (1, 3)


@pytest.mark.parametrize("status", [401, 403])
async def test_still_refused_is_auth_failed(proxy: FaultProxy, status: int) -> None:
    asked: list[bool] = []

    async def token(refresh: bool) -> str:
        asked.append(refresh)
        return "SECRET"

    proxy.add(Rule("answer", status=status, body='{"error_code":"PERMISSION_DENIED","message":"no"}'))
    async with MlflowRest(proxy.url, auth=BearerAuth(token), deadlines=QUICK) as rest:
        error = await failure(MlflowServer(rest))
    assert type(error) is AuthFailed
    assert asked == [False, True]
    assert "SECRET" not in repr(error) + str(error)


async def test_basic_credentials_from_the_url_are_sent_and_not_shown(proxy: FaultProxy) -> None:
    proxy.add(Rule("unauthorized", until="Basic dXNlcjpwQHNz"))
    async with MlflowRest(proxy.url.replace("http://", "http://user:p%40ss@"), deadlines=QUICK) as rest:
        await MlflowServer(rest).send(BATCH)
        assert "p%40ss" not in rest.base_url
    async with MlflowRest(proxy.url, auth=BasicAuth("user", "wrong"), deadlines=QUICK) as rest:
        assert type(await failure(MlflowServer(rest))) is AuthFailed
    assert "wrong" not in repr(BasicAuth("user", "wrong"))


@pytest.mark.parametrize("url", ["ftp://host", "host:5000", "", "http://", "http://[bad"])
def test_a_bad_address_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        MlflowRest(url)


async def test_credentials_do_not_go_to_another_artifact_host(proxy: FaultProxy, upstream: NullMlflow) -> None:
    async def token(_refresh: bool) -> str:
        return "t"

    elsewhere = RemoteSubject(RUN.id, f"mlflow-artifacts://127.0.0.1:{proxy.port}/1/x/artifacts")
    proxy.add(Rule("unauthorized", until="Bearer t"))
    async with MlflowRest(upstream.url, auth=BearerAuth(token)) as rest:
        with pytest.raises(AuthFailed):
            await MlflowServer(rest).upload(elsewhere, BytesUpload("a", b"x"))
    trusted = [f"127.0.0.1:{proxy.port}"]
    async with MlflowRest(upstream.url, auth=BearerAuth(token), trusted_hosts=trusted) as rest:
        await MlflowServer(rest).upload(elsewhere, BytesUpload("a", b"x"))
    assert upstream.counts.artifact_files == 1


# -- uploads -------------------------------------------------------------------------------------------------------


class BigUpload:
    """Zeros, counted; ``fail_at`` raises ArtifactChanged after so many bytes were given."""

    def __init__(self, size_bytes: int, fail_at: int | None = None) -> None:
        self.path = "big"
        self.size_bytes = size_bytes
        self.fail_at = fail_at

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        given = 0
        while given < self.size_bytes:
            piece = bytes(min(1 << 20, self.size_bytes - given))
            given += len(piece)
            yield piece
            if self.fail_at is not None and given >= self.fail_at:
                raise ArtifactChanged("it changed")


@pytest.mark.parametrize("fail_at", [1, 3 << 20, 4 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_changed_artifact_never_completes_its_request(
    server: MlflowServer, upstream: NullMlflow, fail_at: int, chunked: bool
) -> None:
    server._artifacts.chunked = chunked
    with pytest.raises(ArtifactChanged):
        await server.upload(RUN, BigUpload(4 << 20, fail_at))
    assert upstream.counts.artifact_files == 0
    await server.upload(RUN, BigUpload(4 << 20))
    assert upstream.counts.artifact_files == 1


@pytest.mark.parametrize("change", [-1, 1])
async def test_an_artifact_of_another_length_never_completes_its_request(
    server: MlflowServer, upstream: NullMlflow, change: int
) -> None:
    upload = BytesUpload("a", b"x" * 100)
    upload.size_bytes += change
    with pytest.raises(ArtifactChanged):
        await server.upload(RUN, upload)
    assert upstream.counts.artifact_files == 0


async def test_a_refusal_in_the_middle_of_an_upload_is_understood(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=413, body='{"error_code":"","message":"too large"}'))
    with pytest.raises(Rejected) as caught:
        await server.upload(RUN, BigUpload(4 << 20))
    assert caught.value.status == 413


async def test_a_server_may_take_its_time_to_store_an_upload(
    proxy: FaultProxy, server: MlflowServer, upstream: NullMlflow
) -> None:
    proxy.add(Rule("late", drip_s=(QUICK.stall_s + QUICK.total_s) / 2))
    await server.upload(RUN, BigUpload(2 << 20))
    assert upstream.counts.artifact_files == 1


async def test_bandwidth_is_asked_for_and_does_not_count_as_silence(upstream: NullMlflow) -> None:
    asked: list[int] = []

    async def throttle(size: int) -> None:
        asked.append(size)
        await asyncio.sleep(QUICK.total_s * 1.2 if len(asked) == 1 else QUICK.stall_s * 1.2)

    async with MlflowRest(upstream.url, deadlines=QUICK, throttle=throttle) as rest:
        await MlflowServer(rest).upload(RUN, BigUpload(3 << 20))
        assert asked == [1 << 20] * 3
        await MlflowServer(rest).send(BATCH)
    assert len(asked) == 4
    assert upstream.counts.artifact_bytes == 3 << 20


@pytest.mark.parametrize("root", ["s3://bucket/x", "file:///srv/x", "/srv/x", "dbfs:/x"])
async def test_artifacts_that_the_server_does_not_serve_are_rejected_with_a_hint(
    server: MlflowServer, root: str
) -> None:
    with pytest.raises(Rejected) as caught:
        await server.upload(RemoteSubject("r", root), BytesUpload("a", b"x"))
    assert "--serve-artifacts" in caught.value.hint


async def test_disabled_artifact_serving_is_rejected_not_retried(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=503, body='{"detail":"Artifact serving is disabled. Run `mlflow server` …"}'))
    with pytest.raises(Rejected):
        await server.upload(RUN, BytesUpload("a", b"x"))
    proxy.rules[0].path = "artifacts"
    assert not (await server.probe()).proxied_artifacts


async def test_artifacts_that_are_forbidden_are_served_all_the_same(proxy: FaultProxy, server: MlflowServer) -> None:
    proxy.add(Rule("answer", status=403, path="mlflow-artifacts"))
    assert (await server.probe()).proxied_artifacts


BAD_NAMES = ["a%20b", "%2e%2e", "a#b", "a\tb", "a\nb", "../a", "/a", "a//b", "a/", "", ".", "\udcff", "x" * 256]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_the_server_would_change_is_rejected_unsent(
    server: MlflowServer, upstream: NullMlflow, name: str
) -> None:
    with pytest.raises(Rejected) as caught:
        await server.upload(RUN, BytesUpload(name, b"x"))
    assert caught.value.code == "UNHOLDABLE_NAME"
    assert upstream.counts.requests == 0


async def test_text_that_is_not_utf8_is_rejected_unsent(server: MlflowServer, upstream: NullMlflow) -> None:
    error = await failure(server, LogBatch(RUN.id, params={"p": "\udcff"}))
    assert type(error) is Rejected
    assert upstream.counts.requests == 0


async def test_of_several_runs_the_smallest_id_is_chosen_in_whatever_order_they_come(
    proxy: FaultProxy, server: MlflowServer
) -> None:
    tags = [{"key": SOURCE_RUN_ID, "value": "s"}]
    runs = [{"info": {"run_id": i}, "data": {"tags": tags}} for i in ("c", "a", "b")]
    runs.insert(0, {"info": {"run_id": "0"}, "data": {"tags": [{"key": SOURCE_RUN_ID, "value": "S"}]}})
    proxy.add(Rule("answer", status=200, body=json.dumps({"runs": runs})))
    found = (await server.find("run", "1", ["s"])).get("s")
    assert found is not None
    assert found.id == "a"


# -- with a real server --------------------------------------------------------------------------------------------


async def test_a_lost_create_is_found_again(mlflow_url: str) -> None:
    source = uuid.uuid4().hex
    async with FaultProxy(mlflow_url) as proxy, MlflowRest(proxy.url) as rest:
        server = MlflowServer(rest)
        experiment = await server.ensure_experiment(f"lost {source}")
        proxy.add(Rule("lost_answer", path="runs/create", times=1))
        with pytest.raises(OutcomeUnknown):
            await server.create(CreateRun(experiment.id, "n", "u", 1, {SOURCE_RUN_ID: source}))
        found = (await server.find("run", experiment.id, [source])).get(source)
        assert found is not None
        assert found.adopted
        assert len(await MlflowReader(rest).runs_by_source(experiment.id, source)) == 1


async def test_a_deleted_experiment_is_rejected_with_a_hint(mlflow_url: str) -> None:
    name = uuid.uuid4().hex
    async with MlflowRest(mlflow_url) as rest:
        server = MlflowServer(rest)
        made = await server.ensure_experiment(name)
        run = CreateRun(made.id, "n", "u", 1, {})
        body = {"experiment_id": made.id}
        await rest.call("POST", "/api/2.0/mlflow/experiments/delete", body, doing="deleting")
        with pytest.raises(Rejected, match="deleted") as caught:
            await server.ensure_experiment(name)
        assert caught.value.hint
        with pytest.raises(SubjectGone):
            await server.create(run)


async def test_two_that_create_an_experiment_at_once_get_the_same(mlflow_url: str) -> None:
    name = uuid.uuid4().hex
    async with MlflowRest(mlflow_url) as one, MlflowRest(mlflow_url) as two:
        servers = [MlflowServer(one), MlflowServer(two)] * 3
        found = await asyncio.gather(*(server.ensure_experiment(name) for server in servers))
    assert len({experiment.id for experiment in found}) == 1


async def test_the_default_experiment_is_judged_by_the_others(mlflow_url: str, upstream: NullMlflow) -> None:
    async with MlflowRest(mlflow_url) as rest:
        await MlflowServer(rest).ensure_experiment("another")
        assert not (await MlflowServer(rest).ensure_experiment("Default")).appends
        assert (await MlflowServer(rest, duplicates="appended").ensure_experiment("Default")).appends
    upstream.experiments["Default"] = "0"
    async with MlflowRest(upstream.url) as rest:
        assert (await MlflowServer(rest).ensure_experiment("Default")).appends
        upstream.experiments["x"] = "123456789012345678"
        assert (await MlflowServer(rest).ensure_experiment("x")).appends


async def test_an_interrupted_upload_leaves_the_old_artifact(mlflow_url: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    seen = (tmp_path / "f").stat()
    async with MlflowRest(mlflow_url) as rest:
        server, reader = MlflowServer(rest), MlflowReader(rest)
        experiment = await server.ensure_experiment(uuid.uuid4().hex)
        run = await server.create(CreateRun(experiment.id, "n", "u", 1, {}))
        await server.upload(run, BytesUpload("f", b"good"))
        with pytest.raises(ArtifactChanged):
            await server.upload(run, LocalUpload(str(tmp_path), "f", seen.st_size, seen.st_mtime_ns + 1))
        big = BigUpload(4 << 20, 2 << 20)
        big.path = "f"
        with pytest.raises(ArtifactChanged):
            await server.upload(run, big)
        assert b"".join([p async for p in reader.content(run, "f")]) == b"good"


async def test_runs_that_state_the_same_dataset_in_the_same_moment_all_have_it(mlflow_url: str) -> None:
    async with MlflowRest(mlflow_url) as rest:
        server, reader = MlflowServer(rest), MlflowReader(rest)
        for number in range(5):
            experiment = await server.ensure_experiment(f"datasets {uuid.uuid4().hex}")
            made = [
                await server.create(CreateRun(experiment.id, f"run {run}", "u", 1, {SOURCE_RUN_ID: f"{number}.{run}"}))
                for run in range(6)
            ]
            dataset = DatasetInput("iris", "0a1b", "local", "{}")
            await asyncio.gather(*(server.send(LogInputs(run.id, [dataset])) for run in made))
            for run in made:
                assert [one.name for one in (await reader.run(run.id)).datasets] == ["iris"]
