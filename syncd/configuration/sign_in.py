"""Read how to sign in to Azure: the keys of ``credential``, and where nothing is written, the environment.

Rules
-----
1. What the environment says is read here, once; what is signed in with later is a value.
2. No value of ``credential`` and no variable leads to a sign-in that waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

from syncd.azure.sign_in import (
    AzureCli,
    FixedToken,
    ManagedIdentity,
    ManagedIdentityOrCli,
    ServicePrincipal,
    SignIn,
    WorkloadIdentity,
)
from syncd.configuration.reading import Table, warn_of_written_secret
from syncd.configuration.secret import Secret

Credential = Literal[
    "default",
    "environment",
    "service-principal",
    "workload-identity",
    "managed-identity",
    "azure-cli",
    "token",
]
TENANT, CLIENT, SECRET = "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"
CERTIFICATE, CERTIFICATE_PASSWORD = "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_CLIENT_CERTIFICATE_PASSWORD"
FEDERATED_FILE = "AZURE_FEDERATED_TOKEN_FILE"
# Where azure-identity finds the endpoint of a managed identity outside virtual machines (App Service, Azure ML, Arc).
_IDENTITY_ENDPOINTS: Final = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT")
_KEYS: Final[Mapping[Credential, tuple[str, ...]]] = {
    "default": (),
    "environment": (),
    "service-principal": ("tenant_id", "client_id", "client_secret", "certificate_file", "certificate_password"),
    "workload-identity": ("tenant_id", "client_id", "federated_token_file"),
    "managed-identity": ("client_id",),
    "azure-cli": ("tenant_id",),
    "token": ("token",),
}
SIGN_IN_KEYS: Final = ("credential", *dict.fromkeys(key for keys in _KEYS.values() for key in keys))


def read_sign_in(table: Table) -> SignIn:
    """Return how to sign in; a key that the chosen ``credential`` does not use is a problem."""
    written = [key for key in SIGN_IN_KEYS if table.has(key)]
    credential: Credential = table.choice("credential", get_args(Credential), _implied(written))
    for key in written:
        if key != "credential" and key not in _KEYS[credential]:
            table.refuse(key, f'credential = "{credential}" does not use this key', _users_of(key))
    match credential:
        case "default":
            return sign_in_of_environment(table.document.environment)
        case "environment":
            return _of_environment(table)
        case "service-principal":
            return _read_principal(table)
        case "workload-identity":
            return _read_workload_identity(table)
        case "managed-identity":
            return ManagedIdentity(table.text("client_id", ""))
        case "azure-cli":
            return AzureCli(table.text("tenant_id", ""))
        case "token":
            return FixedToken(_read_secret(table, "token", required=True) or Secret("", origin="written out"))


def sign_in_of_environment(environment: Mapping[str, str]) -> SignIn:
    """Return what ``credential = "default"`` is: the first of these for which the environment has what it needs.

    A service principal (AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH), a
    workload identity (AZURE_FEDERATED_TOKEN_FILE), a managed identity (of AZURE_CLIENT_ID if that is set), the Azure
    CLI. This is the order of azure-identity's DefaultAzureCredential, without what needs a person or a desktop.
    """
    tenant_id, client_id = environment.get(TENANT, ""), environment.get(CLIENT, "")
    principal = _principal_of(environment)
    if principal is not None:
        return principal
    if tenant_id and client_id and (token_file := environment.get(FEDERATED_FILE)):
        return WorkloadIdentity(tenant_id=tenant_id, client_id=client_id, token_file=Path(token_file))
    if any(environment.get(name) for name in _IDENTITY_ENDPOINTS):
        return ManagedIdentity(client_id)
    return ManagedIdentityOrCli(client_id)


def _principal_of(environment: Mapping[str, str]) -> ServicePrincipal | None:
    tenant_id, client_id = environment.get(TENANT, ""), environment.get(CLIENT, "")
    secret, certificate = environment.get(SECRET), environment.get(CERTIFICATE)
    if not (tenant_id and client_id):
        return None
    if secret:
        return ServicePrincipal(tenant_id=tenant_id, client_id=client_id, secret=_secret_of(secret))
    if certificate:
        password = environment.get(CERTIFICATE_PASSWORD)
        return ServicePrincipal(
            tenant_id=tenant_id,
            client_id=client_id,
            certificate_file=Path(certificate),
            certificate_password=_secret_of(password) if password else None,
        )
    return None


def _of_environment(table: Table) -> SignIn:
    principal = _principal_of(table.document.environment)
    if principal is None:
        hint = f"set {TENANT}, {CLIENT}, and {SECRET} or {CERTIFICATE}"
        table.refuse("credential", "the environment names no service principal", hint)
    return principal or ManagedIdentity()


def _read_principal(table: Table) -> ServicePrincipal:
    secret = _read_secret(table, "client_secret")
    certificate_file = table.path("certificate_file") if table.has("certificate_file") else None
    if table.has("client_secret") == table.has("certificate_file"):
        message = "a service principal needs either client_secret or certificate_file"
        table.refuse("credential" if table.has("credential") else "client_secret", message)
    if certificate_file is not None and not certificate_file.is_file():
        table.refuse("certificate_file", f"there is no such file: {certificate_file}")
    return ServicePrincipal(
        tenant_id=table.text("tenant_id"),
        client_id=table.text("client_id"),
        secret=secret,
        certificate_file=certificate_file,
        certificate_password=_read_secret(table, "certificate_password"),
    )


def _read_workload_identity(table: Table) -> WorkloadIdentity:
    token_file = _text_or_variable(table, "federated_token_file", FEDERATED_FILE)
    return WorkloadIdentity(
        tenant_id=_text_or_variable(table, "tenant_id", TENANT),
        client_id=_text_or_variable(table, "client_id", CLIENT),
        token_file=table.document.resolve(token_file),
    )


def _text_or_variable(table: Table, key: str, variable: str) -> str:
    if table.has(key):
        return table.text(key)
    text = table.document.environment.get(variable, "")
    if not text:
        table.refuse("credential", f"a workload identity needs {key}", f"set it, or {variable}")
    return text


def _read_secret(table: Table, key: str, *, required: bool = False) -> Secret | None:
    if required and not table.require(key):
        return None
    secret = table.secret(key)
    warn_of_written_secret(table, key, secret)
    return secret


def _secret_of(text: str) -> Secret:
    return Secret(text, origin="environment")


def _implied(written: list[str]) -> Credential:
    if "token" in written:
        return "token"
    if "client_secret" in written or "certificate_file" in written:
        return "service-principal"
    return "workload-identity" if "federated_token_file" in written else "default"


def _users_of(key: str) -> str:
    return "it is for " + ", ".join(f'"{credential}"' for credential, keys in _KEYS.items() if key in keys)
