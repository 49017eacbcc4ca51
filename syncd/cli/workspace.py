"""``syncd workspace``: what a workspace is, and what one may do there."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from syncd.azure.address import WorkspaceAddress
from syncd.azure.arm import ArmClient, Datastore, WorkspaceFacts
from syncd.cli.exit_codes import ExitCode, exit_code_of
from syncd.cli.report import print_json, print_table, printable
from syncd.configuration import (
    Configuration,
    DestinationSettings,
    WorkspaceSettings,
    destination_of_argument,
    find_file,
    load,
)
from syncd.configuration.workspace import address_of_file
from syncd.errors import AuthFailed, ConfigError
from syncd.runtime.workspace_check import Checked, check_workspace
from syncd.runtime.workspace_clients import WorkspaceClients

_DOING = "choosing the workspace"


def execute(arguments: argparse.Namespace) -> int:
    """Run the command."""
    settings, workspace = chosen(arguments)
    if arguments.action == "show":
        return asyncio.run(_show(settings, workspace, as_json=arguments.json))
    return asyncio.run(_check(settings, workspace, write=arguments.write, as_json=arguments.json))


# -- which workspace -------------------------------------------------------------------------------------------------


def chosen(arguments: argparse.Namespace) -> tuple[DestinationSettings, WorkspaceSettings]:
    """Return the workspace that the arguments mean, and how to reach it.

    An address of its own is reached with the credentials of a destination of ``--config`` that is the same workspace,
    else with those of the environment. Anything else is a destination of the configuration.
    """
    address = _address(arguments)
    if address is None:
        return _configured(load(find_file(arguments.config)), arguments.workspace)
    if arguments.config:
        for settings in load(find_file(arguments.config)).servers:
            if settings.workspace is not None and _is_same(settings.workspace.address, address):
                workspace = replace(settings.workspace, address=address if address.host else settings.workspace.address)
                return replace(settings, uri=workspace.address.uri, workspace=workspace), workspace
    settings = destination_of_argument(address.uri, name=address.workspace)
    assert settings.workspace is not None  # its URI is azureml://
    return settings, settings.workspace


def _address(arguments: argparse.Namespace) -> WorkspaceAddress | None:
    named = (arguments.subscription, arguments.resource_group, arguments.workspace_name)
    if any(named):
        if not all(named) or arguments.workspace:
            message = "expected either WORKSPACE, or --subscription, --resource-group and --workspace-name together"
            raise ConfigError(message, doing=_DOING)
        return WorkspaceAddress(subscription_id=named[0], resource_group=named[1], workspace=named[2])
    text = arguments.workspace or ""
    if text.startswith("azureml:"):
        return WorkspaceAddress.of_uri(text)
    if text.lower().startswith("/subscriptions/"):
        return WorkspaceAddress.of_resource_id(text)
    if text.endswith(".toml"):
        raise ConfigError("this is a configuration", doing=_DOING, target=text, hint=f"give it as --config {text}")
    return address_of_file(Path(text)) if text.endswith(".json") else None


def _configured(configuration: Configuration, name: str | None) -> tuple[DestinationSettings, WorkspaceSettings]:
    found = [one for one in configuration.servers if one.workspace is not None and name in (None, one.name)]
    if len(found) == 1 and found[0].workspace is not None:
        return found[0], found[0].workspace
    file = str(configuration.file)
    if found:
        names = ", ".join(settings.name for settings in found)
        raise ConfigError("several destinations are workspaces", doing=_DOING, target=file, hint=f"name one of {names}")
    what = f"no destination of that name is a workspace: {name}" if name else "no destination is a workspace"
    raise ConfigError(what, doing=_DOING, target=file, hint="or give an azureml:// URI, or a config.json of Azure")


def _is_same(one: WorkspaceAddress, other: WorkspaceAddress) -> bool:
    return one.scope.lower() == other.scope.lower()  # names in Azure Resource Manager are the same in any case


# -- show ------------------------------------------------------------------------------------------------------------


async def _show(settings: DestinationSettings, workspace: WorkspaceSettings, *, as_json: bool) -> int:
    clients = WorkspaceClients(settings, workspace)
    async with clients.resource_manager() as rest:
        arm = ArmClient(rest, workspace.address)
        facts = await arm.workspace()
        datastores, refused = await _datastores(arm)
    signed_in_as = str(clients.credentials.sign_in)
    if as_json:
        print_json("workspace show", _shown(facts, datastores, refused, workspace, signed_in_as))
    else:
        _print_facts(facts, workspace, signed_in_as)
        _print_datastores(datastores, refused)
    return ExitCode.DONE if refused is None else exit_code_of(refused)


async def _datastores(arm: ArmClient) -> tuple[list[Datastore], AuthFailed | None]:
    """Return the datastores, or why they may not be listed: the rest is worth showing."""
    try:
        return [datastore async for datastore in arm.datastores()], None
    except AuthFailed as error:
        return [], error


def _shown(
    facts: WorkspaceFacts,
    datastores: Sequence[Datastore],
    refused: AuthFailed | None,
    workspace: WorkspaceSettings,
    signed_in_as: str,
) -> dict[str, Any]:
    return {
        "workspace": {**asdict(facts), "tracking_uri": _tracking_uri(facts), "cloud": workspace.cloud.name},
        "signed_in_as": signed_in_as,
        "datastores": None if refused is not None else [asdict(datastore) for datastore in datastores],
        "datastores_error": str(refused) if refused is not None else None,
    }


def _tracking_uri(facts: WorkspaceFacts) -> str:
    """Return the URI to write into a configuration; as Azure tells it if it is of another form."""
    return WorkspaceAddress.of_uri(facts.tracking_uri).uri if facts.tracking_uri else ""


def _print_facts(facts: WorkspaceFacts, workspace: WorkspaceSettings, signed_in_as: str) -> None:
    rows = (
        ("workspace", facts.friendly_name),
        ("state", facts.provisioning_state),
        ("location", f"{facts.location} ({workspace.cloud.name})"),
        ("MLflow URI", _tracking_uri(facts) or "none"),
        ("id", facts.id),
        ("workspace id", facts.workspace_id),
        ("storage account", facts.storage_account),
        ("discovery", facts.discovery_url),
        ("signed in as", signed_in_as),
    )
    for name, value in rows:
        print(f"{name:<16} {printable(value or '-')}")


def _print_datastores(datastores: Sequence[Datastore], refused: AuthFailed | None) -> None:
    print()
    if refused is not None:
        print(f"datastores: {printable(str(refused))}", file=sys.stderr)
        return
    rows = [
        [one.name, one.kind, one.account, one.container, one.credentials, "yes" if one.is_default else ""]
        for one in datastores
    ]
    print_table(["datastore", "kind", "account", "container", "credentials", "default"], rows)


# -- check -----------------------------------------------------------------------------------------------------------


async def _check(settings: DestinationSettings, workspace: WorkspaceSettings, *, write: bool, as_json: bool) -> int:
    checks: list[Checked] = []
    async for checked in check_workspace(settings, workspace, write=write):
        checks.append(checked)
        if not as_json:
            print(_line(checked), flush=True)
    errors = [checked.error for checked in checks if checked.error is not None]
    if as_json:
        told = [_told(checked) for checked in checks]
        print_json("workspace check", {"uri": settings.uri, "checks": told, "ok": not errors})
    return exit_code_of(errors[0]) if errors else ExitCode.DONE


def _told(checked: Checked) -> dict[str, str | None]:
    return {
        "what": checked.what,
        "state": checked.state,
        "detail": checked.detail,
        "permission": checked.permission or None,
        "role": checked.role or None,
        "hint": checked.hint or None,
    }


def _line(checked: Checked) -> str:
    text = f"{checked.state}: {checked.what}: {checked.detail}"
    if checked.state == "ok":
        return printable(text)
    if checked.hint:
        text += f" ({checked.hint})"
    elif checked.permission:
        role = f', which the role "{checked.role}" has' if checked.role else ""
        text += f" (needs {checked.permission}{role})"
    return printable(text)
