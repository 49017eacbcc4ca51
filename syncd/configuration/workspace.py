"""Read what is special about a destination that is an Azure Machine Learning workspace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from syncd.azure.address import WorkspaceAddress
from syncd.azure.clouds import CLOUDS, PUBLIC, Cloud, cloud_of_host
from syncd.configuration.credentials import is_loopback
from syncd.configuration.model import DatastoreRule, WorkspaceSettings
from syncd.configuration.reading import Table
from syncd.configuration.sign_in import SIGN_IN_KEYS, read_sign_in
from syncd.errors import ConfigError

SCHEME: Final = "azureml"
_NAMED: Final = ("subscription_id", "resource_group", "workspace")
ADDRESS_KEYS: Final = (*_NAMED, "config_file")
_CLOUD_KEYS: Final = ("cloud", "authority_host", "resource_manager")
# "token" is a key of every destination.
WORKSPACE_KEYS: Final = (*ADDRESS_KEYS, *_CLOUD_KEYS, *(key for key in SIGN_IN_KEYS if key != "token"), "datastores")


def names_workspace(table: Table) -> bool:
    """Say whether this destination is a workspace: by its URI's scheme, or because it is named without a URI."""
    written = table.content.get("uri", "")
    if isinstance(written, str) and written.partition(":")[0].lower() == SCHEME:
        return True
    return any(key in table.content for key in ADDRESS_KEYS)


def refuse_workspace_keys(table: Table) -> None:
    """Note each key that only a workspace has, in a destination that is none."""
    for key in WORKSPACE_KEYS:
        if table.has(key):
            table.refuse(key, "only an Azure Machine Learning workspace (azureml://…) has this key")


def read_workspace(table: Table) -> WorkspaceSettings | None:
    """Return the workspace of a destination, None if its address is wrong (a problem is noted)."""
    address = _read_address(table)
    cloud = _read_cloud(table, address.host if address is not None else "")
    sign_in = read_sign_in(table)
    datastores = tuple(_read_datastore(rule) for rule in table.tables("datastores"))
    if address is None:
        return None
    return WorkspaceSettings(address=address, cloud=cloud, sign_in=sign_in, datastores=datastores)


def _read_address(table: Table) -> WorkspaceAddress | None:
    forms = [form for form in ("uri", "config_file", _NAMED[0]) if table.has(form)]
    if len(forms) > 1:
        table.refuse(forms[1], f'"{forms[0]}" names the workspace already', "one of them is enough")
    key = forms[0] if forms else _NAMED[0]
    try:
        if key == "uri":
            return _address_of_uri(table)
        if key == "config_file":
            return _address_of_file(table)
        names = [table.text(name) for name in _NAMED]
        return WorkspaceAddress(**dict(zip(_NAMED, names, strict=True))) if all(names) else None
    except ConfigError as error:
        table.refuse(key, error.message, error.hint)
        return None


def _address_of_uri(table: Table) -> WorkspaceAddress:
    for key in _NAMED[1:]:
        if table.has(key):
            table.refuse(key, '"uri" names the workspace already', "one of them is enough")
    address = WorkspaceAddress.of_uri(table.text("uri"))
    if (
        address.host
        and cloud_of_host(address.host) is None
        and not is_loopback(urlsplit(f"//{address.host}").hostname or "")
    ):
        message = f"{address.host} is not a host of Azure's: your Azure tokens are sent there"
        table.document.warn((*table.place, "uri"), message)
    return address


def _address_of_file(table: Table) -> WorkspaceAddress:
    for key in _NAMED[1:]:
        if table.has(key):
            table.refuse(key, '"config_file" names the workspace already', "one of them is enough")
    return address_of_file(table.path("config_file"))


def address_of_file(path: Path) -> WorkspaceAddress:
    """Return the address that a ``config.json`` of Azure names; ConfigError if it cannot be read or names none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError(f"it cannot be read: {path}: {reason}", doing="reading the workspace's address") from exc
    return WorkspaceAddress.of_config_json(text)


def _read_cloud(table: Table, host: str) -> Cloud:
    """Return the cloud: as written, else that of the host; single services of it may lie elsewhere."""
    found = cloud_of_host(host)
    cloud = CLOUDS[table.choice("cloud", tuple(CLOUDS), (found or PUBLIC).name)]
    if found is not None and found != cloud:
        table.refuse("cloud", f"the host {host} is of {found.name}")
    return replace(
        cloud,
        authority_host=_read_url(table, "authority_host", _authority_of(table) or cloud.authority_host),
        resource_manager=_read_url(table, "resource_manager", cloud.resource_manager),
    )


def _authority_of(table: Table) -> str:
    """Return what AZURE_AUTHORITY_HOST says (AKS sets it for workload identities), with its scheme; "" if nothing."""
    host = table.document.environment.get("AZURE_AUTHORITY_HOST", "").rstrip("/")
    return host if "://" in host or not host else f"https://{host}"


def _read_url(table: Table, key: str, default: str) -> str:
    url = table.text(key, default).rstrip("/")
    if urlsplit(url).scheme != "https" or not urlsplit(url).netloc:
        table.refuse(key, f"expected an https:// URL, found {url!r}")
    return url


def _read_datastore(table: Table) -> DatastoreRule:
    rule = DatastoreRule(
        name=table.text("name"),
        artifacts=table.texts("artifacts"),
        larger_than_bytes=table.size_bytes("larger_than", 1) if table.has("larger_than") else None,
    )
    if not rule.artifacts and rule.larger_than_bytes is None:
        table.refuse("name", "this would send every artifact there", 'add "larger_than" or "artifacts" (["*"] is all)')
    table.refuse_unknown_keys(of="[[destinations.datastores]]")
    return rule
