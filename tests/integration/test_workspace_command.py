"""``syncd workspace``, ``validate``, ``doctor``, ``sync`` and ``verify`` against the stand-in of a workspace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.cli.exit_codes import ExitCode
from syncd.cli.main import main
from tests.plain_store import begin_run
from tests.standins.azureml import RunningWorkspace
from tests.standins.azureml.actions import WORKSPACES

SOURCE = "[[sources]]\nname = 'runs'\nkind = 'mlruns'\npath = '.'\n"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    with RunningWorkspace(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@pytest.fixture
def workspace(serving: RunningWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunningWorkspace]:
    """A workspace, on a machine with a managed identity that trusts its CA; the working directory is empty."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "MSI_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{serving.place.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", serving.place.identity_header)
    monkeypatch.setenv("SSL_CERT_FILE", str(serving.place.ca))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield serving
    serving.state.faults.clear()


@pytest.fixture
def config(workspace: RunningWorkspace, tmp_path: Path) -> str:
    """A configuration that names the workspace as people know it; Azure tells where it is."""
    place = workspace.place
    return write_config(
        tmp_path,
        f"name = 'w'\nsubscription_id = '{place.subscription}'\nresource_group = '{place.resource_group}'\n"
        f"workspace = '{place.workspace}'\nresource_manager = '{place.url}'\nca_file = '{place.ca}'",
    )


def write_config(folder: Path, *destinations: str) -> str:
    tables = "".join(f"[[destinations]]\n{keys}\n" for keys in destinations)
    state = f"[daemon]\nstate_dir = '{folder / 'journal'}'\n"
    (folder / "w.toml").write_text(f"{state}{SOURCE}{tables}")
    return str(folder / "w.toml")


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {check["what"]: check["state"] for check in answer["checks"]}


class TestShow:
    def test_it_tells_where_the_workspace_is_and_lists_its_datastores(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, answer = as_json(capsys, "workspace", "show", "--config", config)
        assert code == ExitCode.DONE
        assert answer["command"] == "workspace show"
        told = answer["workspace"]
        assert told["tracking_uri"] == workspace.place.tracking_uri
        assert (told["location"], told["cloud"]) == ("westeurope", "AzureCloud")
        assert told["storage_account"].endswith("/standinstorage")
        assert [one["name"] for one in answer["datastores"]] == ["workspaceblobstore", "workspaceartifactstore"]
        assert answer["signed_in_as"] == "the system-assigned managed identity"
        assert main(["workspace", "show", "--config", config]) == ExitCode.DONE
        printed = capsys.readouterr().out
        assert workspace.place.tracking_uri in printed
        assert "workspaceblobstore" in printed

    @pytest.mark.parametrize("form", ["uri", "id", "config.json", "names"])
    def test_every_way_to_name_it_leads_there(
        self,
        workspace: RunningWorkspace,
        config: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        form: str,
    ) -> None:
        place = workspace.place
        names = {
            "subscription_id": place.subscription,
            "resource_group": place.resource_group,
            "workspace_name": place.workspace,
        }
        (tmp_path / "config.json").write_text(json.dumps(names))
        group = place.resource_group.upper()  # Azure takes names in any case
        arguments = {
            "uri": [place.tracking_uri],
            "id": [place.scope],
            "config.json": [str(tmp_path / "config.json")],
            "names": [
                f"--subscription={place.subscription}",
                f"--resource-group={group}",
                "--workspace-name=ws-standin",
            ],
        }[form]
        code, answer = as_json(capsys, "workspace", "show", *arguments, "--config", config)
        assert (code, answer["workspace"]["id"]) == (ExitCode.DONE, place.scope)

    def test_a_missing_permission_names_the_role_and_hides_nothing_else(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        workspace.state.faults.denied.add("arm/datastores")
        code, answer = as_json(capsys, "workspace", "show", "--config", config)
        assert (code, answer["datastores"]) == (ExitCode.UNREACHABLE, None)
        assert (
            f'{WORKSPACES}/datastores/read is missing: give the identity the role "Reader"'
            in answer["datastores_error"]
        )
        assert answer["workspace"]["location"] == "westeurope"

    @pytest.mark.parametrize(
        ("destinations", "arguments", "words"),
        [
            (["name = 'm'\nuri = 'https://h'"], [], "no destination is a workspace"),
            (["name = 'm'\nuri = 'https://h'"], ["m"], "no destination of that name is a workspace: m"),
            (["name = 'a'\nuri = 'azureml://{s}'", "name = 'b'\nuri = 'azureml://h{s}'"], [], "name one of a, b"),
            ([], ["--subscription", "s"], "--resource-group and --workspace-name together"),
            ([], ["no/such.json"], "it cannot be read"),
            ([], ["a.toml"], "give it as --config a.toml"),
            ([], ["azureml://h/x"], "expected /subscriptions/"),
        ],
    )
    def test_a_workspace_that_is_not_named_well_is_an_error(
        self,
        workspace: RunningWorkspace,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        destinations: list[str],
        arguments: list[str],
        words: str,
    ) -> None:
        keys = [text.format(s=workspace.place.scope) for text in destinations]
        more = ["--config", write_config(tmp_path, *keys)] if keys else []
        assert main(["workspace", "check", *arguments, *more]) == ExitCode.CONFIGURATION
        assert words in capsys.readouterr().err


class TestCheck:
    def test_reading_is_tried_and_writing_only_when_asked_for(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, answer = as_json(capsys, "workspace", "check", "--config", config)
        assert (code, answer["ok"]) == (ExitCode.DONE, True)
        assert states(answer) == {
            "sign-in": "ok",
            "workspace": "ok",
            "datastores": "ok",
            "runs": "ok",
            "artifacts": "not checked",
            "writing": "not checked",
        }
        assert workspace.state.tracking.runs == {}
        assert main(["workspace", "check", "--config", config, "--write"]) == ExitCode.DONE
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].startswith("ok: writing: a run with a point and 1 artifact was made and deleted")
        (run,) = workspace.state.tracking.runs.values()
        assert run.lifecycle_stage == "deleted"

    def test_artifacts_are_tried_where_there_is_a_run(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tracking = workspace.state.tracking
        tracking.create_run({"experiment_id": tracking.create_experiment("e", {}).identity})
        workspace.state.faults.denied.add("artifacts/list")
        _, answer = as_json(capsys, "workspace", "check", workspace.place.tracking_uri, "--config", config)
        (check,) = [check for check in answer["checks"] if check["what"] == "artifacts"]
        assert check["state"] == "failed"
        assert (check["permission"], check["role"]) == (f"{WORKSPACES}/metadata/artifacts/read", "Reader")

    def test_each_missing_permission_is_named_with_the_smallest_role(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = write_config(
            Path(config).parent,
            f"name = 'w'\nuri = '{workspace.place.tracking_uri}'\nresource_manager = '{workspace.place.url}'\n"
            f"ca_file = '{workspace.place.ca}'\n"
            "[[destinations.datastores]]\nname = 'workspaceblobstore'\nlarger_than = '1GiB'",
        )
        workspace.state.faults.denied |= {"arm/list-secrets", "runs/create"}
        code, answer = as_json(capsys, "workspace", "check", "--config", config, "--write")
        assert (code, answer["ok"]) == (ExitCode.UNREACHABLE, False)
        failed = {check["what"]: check for check in answer["checks"] if check["state"] == "failed"}
        assert list(failed) == ["datastore workspaceblobstore", "writing"]
        secrets = failed["datastore workspaceblobstore"]
        assert secrets["permission"] == f"{WORKSPACES}/datastores/listSecrets/action"
        assert failed["writing"]["permission"] == f"{WORKSPACES}/experiments/runs/write"
        assert {check["role"] for check in failed.values()} == {"AzureML Data Scientist"}
        assert all('give the identity the role "AzureML Data Scientist"' in check["hint"] for check in failed.values())

    def test_nobody_signed_in_leaves_the_rest_unchecked(
        self,
        workspace: RunningWorkspace,
        config: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("IDENTITY_HEADER", "wrong")
        code, answer = as_json(capsys, "workspace", "check", "--config", config)
        assert code == ExitCode.UNREACHABLE
        assert states(answer).pop("sign-in") == "failed"
        assert {check["detail"] for check in answer["checks"][1:]} == {"nobody is signed in"}
        assert answer["checks"][0]["hint"] == "give this machine a managed identity, or check client_id"

    def test_without_its_address_nothing_is_guessed(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        workspace.state.faults.denied.add("arm/workspace")
        _, answer = as_json(capsys, "workspace", "check", "--config", config, "--write")
        assert states(answer)["workspace"] == "failed"
        rest = [check for check in answer["checks"] if check["what"] in ("runs", "artifacts", "writing")]
        assert {check["state"] for check in rest} == {"not checked"}
        assert all("its host is not known" in check["detail"] for check in rest)


class TestOtherCommands:
    def test_validate_and_doctor_know_a_workspace(
        self, workspace: RunningWorkspace, config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, answer = as_json(capsys, "validate", "--config", config)
        assert code == ExitCode.DONE
        assert any("Azure Machine Learning" in check["detail"] for check in answer["checks"])
        _, answer = as_json(capsys, "doctor", "--config", config)
        found = {finding["name"]: finding for finding in answer["findings"]}
        assert found["destination w"]["state"] == "ok"
        assert found["credentials of w"]["value"].startswith("the system-assigned managed identity, accepted")
        assert found["clock against w"]["state"] == "ok"

    def test_refused_credentials_are_the_workspaces_own_words(
        self,
        workspace: RunningWorkspace,
        config: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("IDENTITY_HEADER", "wrong")
        assert main(["validate", "--config", config]) == ExitCode.UNREACHABLE
        assert "signing in to Azure as the system-assigned managed identity" in capsys.readouterr().out
        _, answer = as_json(capsys, "doctor", "--config", config)
        found = {finding["name"]: finding for finding in answer["findings"]}
        assert found["destination w"]["state"] == "unknown"
        assert found["credentials of w"]["advice"] == "give this machine a managed identity, or check client_id"

    def test_sync_and_verify_take_the_environments_credentials(
        self, workspace: RunningWorkspace, tmp_path: Path
    ) -> None:
        """In processes of their own: the CA is the environment's, too."""
        begin_run(tmp_path / "mlruns").write_text("1700000000000 0.5 0\n1700000000001 0.25 1\n")
        uri = workspace.place.tracking_uri
        environment = {**os.environ, **workspace.place.principal_environment()}
        del environment["IDENTITY_ENDPOINT"], environment["MLFLOW_TRACKING_URI"]
        assert syncd(environment, "sync", "mlruns", "--to", uri)[0] == ExitCode.DONE
        assert syncd(environment, "verify", "mlruns", "--against", uri)[0] == ExitCode.DONE
        subjects = {grant.subject for grant in workspace.state.identity.grants.values()}
        assert "service-principal" in subjects
        environment["AZURE_CLIENT_SECRET"] = "wrong"
        for command in (["verify", "mlruns", "--against", uri], ["sync", "mlruns", "--to", uri, "--patience", "0.1"]):
            code, told = syncd(environment, *command)
            assert code == ExitCode.UNREACHABLE
            assert "AADSTS7000215" in told
            assert "the client secret is wrong" in told
            assert "MLFLOW_TRACKING" not in told


def syncd(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "syncd.cli.main", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout + ended.stderr
