"""Try what syncd does in a workspace, one permission after the other, and say what each attempt showed.

Rules
-----
1. Nothing is changed unless writing is asked for. Then a run is made in an experiment of its own, and deleted.
2. Each attempt is made once: who asks wants to know how it is now.
3. What could not be tried is told as such, and why: it may be right or wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient
from syncd.azure.permissions import (
    BLOB_CONTRIBUTOR,
    LIST_DATASTORE_SECRETS,
    READ_ARTIFACTS,
    READ_DATASTORES,
    READ_RUNS,
    READ_WORKSPACE,
    WRITE_RUNS,
    missing_action,
    smallest_role,
)
from syncd.configuration.model import DestinationSettings, WorkspaceSettings
from syncd.core.jwt import claims_of
from syncd.core.requests import CreateRun, LogBatch
from syncd.destinations.azureml.rest import AzuremlRest
from syncd.destinations.base import Destination, RemoteSubject
from syncd.destinations.local_upload import LocalUpload
from syncd.destinations.mlflow_rest import API
from syncd.errors import AuthFailed, DestinationError
from syncd.runtime.clock import wall_ms_now
from syncd.runtime.workspace_clients import WorkspaceClients

EXPERIMENT: Final = "syncd-check"
MOST_EXPERIMENTS: Final = 50
_BY_IDENTITY: Final = "None"
State = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One attempt: what, how it went, in plain words; the permission it needs and the smallest built-in role with it.

    ``hint`` says what to do when it failed, ``error`` is what it failed with.
    """

    what: str
    state: State
    detail: str
    permission: str = ""
    role: str = ""
    hint: str = ""
    error: DestinationError | None = None


class _NotTried(Exception):
    """An attempt that cannot be made; its text says why."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    what: str
    permission: str
    make: Callable[[], Awaitable[str]]


async def check_workspace(
    settings: DestinationSettings, workspace: WorkspaceSettings, *, write: bool
) -> AsyncIterator[Checked]:
    """Yield the outcome of each attempt as it is made; ``write`` tries writing, too."""
    clients = WorkspaceClients(settings, workspace)
    async with clients.resource_manager() as rest:
        attempts = _Attempts(workspace, clients, ArmClient(rest, workspace.address))
        signed_in = await _outcome(_Attempt("sign-in", "", attempts.sign_in))
        yield signed_in
        for attempt in attempts.after_sign_in(write=write):
            if signed_in.state == "ok":
                yield await _outcome(attempt)
            else:
                yield _checked(attempt, "not checked", "nobody is signed in")


async def _outcome(attempt: _Attempt) -> Checked:
    try:
        return _checked(attempt, "ok", await attempt.make())
    except _NotTried as reason:
        return _checked(attempt, "not checked", str(reason))
    except DestinationError as error:
        permission = (missing_action(error.message) if isinstance(error, AuthFailed) else "") or attempt.permission
        return Checked(attempt.what, "failed", _words(error), permission, smallest_role(permission), error.hint, error)


def _checked(attempt: _Attempt, state: State, detail: str) -> Checked:
    return Checked(attempt.what, state, detail, attempt.permission, smallest_role(attempt.permission))


def _words(error: DestinationError) -> str:
    """Return what went wrong; of a missing permission, which the hint names, not the service's long sentence."""
    missing = isinstance(error, AuthFailed) and missing_action(error.message)
    return ": ".join(
        part for part in (f"{error.doing} {error.target}".strip(), "refused" if missing else error.message) if part
    )


class _Attempts:
    """The attempts at one workspace."""

    def __init__(self, workspace: WorkspaceSettings, clients: WorkspaceClients, arm: ArmClient) -> None:
        self._workspace = workspace
        self._clients = clients
        self._arm = arm

    async def _located(self) -> WorkspaceAddress:
        try:
            return await self._arm.located()
        except DestinationError as error:
            raise _NotTried("its host is not known: Azure does not tell it, and no azureml:// URI names it") from error

    def after_sign_in(self, *, write: bool) -> list[_Attempt]:
        """Return the attempts that need somebody to be signed in."""
        rules = dict.fromkeys(rule.name for rule in self._workspace.datastores)
        return [
            _Attempt("workspace", READ_WORKSPACE, self._read_workspace),
            _Attempt("datastores", READ_DATASTORES, self._list_datastores),
            *(_Attempt(f"datastore {name}", LIST_DATASTORE_SECRETS, partial(self._open, name)) for name in rules),
            _Attempt("runs", READ_RUNS, self._read_runs),
            _Attempt("artifacts", READ_ARTIFACTS, self._read_artifacts),
            _Attempt("writing", WRITE_RUNS, self._write if write else _without_writing),
        ]

    async def sign_in(self) -> str:
        """Get a token, and tell whose it is."""
        token = await self._clients.credentials.token(self._clients.scope)
        claims = claims_of(token.text)
        names = (("upn", "user"), ("appid", "application"), ("oid", "object id"), ("tid", "tenant"))
        told = [f"{name} {claims[key]}" for key, name in names if claims.get(key)]
        return f"as {self._clients.credentials.sign_in}" + (f" ({', '.join(told)})" if told else "")

    async def _read_workspace(self) -> str:
        facts = await self._arm.workspace()
        return f"{facts.friendly_name} in {facts.location}"

    async def _list_datastores(self) -> str:
        names = [datastore.name async for datastore in self._arm.datastores()]
        return ", ".join(names) or "there are none"

    async def _open(self, name: str) -> str:
        datastore = await self._arm.datastore(name)
        if datastore.credentials in ("", _BY_IDENTITY):
            raise _NotTried(
                f"it keeps no credentials: the identity itself needs the role {BLOB_CONTRIBUTOR!r} "
                f"on the storage account {datastore.account}"
            )
        secret = await self._arm.datastore_secret(name)
        return f"{datastore.kind}, container {datastore.container} of {datastore.account}, opened by {secret.kind}"

    async def _read_runs(self) -> str:
        async with self._clients.tracking(await self._located()) as rest:
            count = len(await _experiments(rest))
        return f"experiments can be listed ({f'at least {count}' if count == MOST_EXPERIMENTS else count} found)"

    async def _read_artifacts(self) -> str:
        address = await self._located()
        async with self._clients.tracking(address) as rest:
            run = await _any_run(rest, await _experiments(rest))
        artifacts = self._clients.artifacts(address)
        try:
            async for _ in artifacts.files(run):
                break
        finally:
            await artifacts.close()
        return f"those of run {run.id} can be listed"

    async def _write(self) -> str:
        await self._located()
        destination, reader = await self._clients.doors()
        try:
            experiment = await destination.ensure_experiment(EXPERIMENT)
            now_ms = wall_ms_now()
            run = await destination.create(CreateRun(experiment.id, "check", "", now_ms, {}))
            try:
                point = f'{{"key":"check","value":1.0,"timestamp":{now_ms},"step":0}}'
                await destination.send(LogBatch(run.id, lines=[point.encode()]))
                await _upload(destination, run)
                files = [file.path async for file in reader.files(run)]
            finally:
                await destination.discard("run", run.id)
        finally:
            await destination.close()
        return f"a run with a point and {len(files)} artifact was made and deleted; the experiment {EXPERIMENT} stays"


async def _without_writing() -> str:
    raise _NotTried(f"--write makes a run in an experiment {EXPERIMENT}, and deletes it")


async def _experiments(rest: AzuremlRest) -> list[str]:
    body = {"max_results": MOST_EXPERIMENTS}
    answer = await rest.call("POST", f"{API}/experiments/search", body, doing="listing experiments")
    return [str(item["experiment_id"]) for item in answer.get("experiments") or ()]


async def _any_run(rest: AzuremlRest, experiments: list[str]) -> RemoteSubject:
    body = {"experiment_ids": experiments, "max_results": 1}
    answer = await rest.call("POST", f"{API}/runs/search", body, doing="searching runs") if experiments else {}
    for run in answer.get("runs") or ():
        return RemoteSubject(str(run["info"]["run_id"]), str(run["info"].get("artifact_uri", "")))
    raise _NotTried("there is no run yet whose artifacts could be listed")


async def _upload(destination: Destination, run: RemoteSubject) -> None:
    with tempfile.TemporaryDirectory(prefix="syncd-check-") as folder:
        file = Path(folder) / "check.txt"
        file.write_text("syncd workspace check --write\n")
        seen = file.stat()
        await destination.upload(run, LocalUpload(folder, file.name, seen.st_size, seen.st_mtime_ns))
