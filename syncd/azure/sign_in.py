"""How to sign in to Azure without anybody there: values, no I/O.

None of them can open a browser or ask for a device code: there is no way to write down one that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self


class RenewableSecret(Protocol):
    """A secret whose text may be read anew where it came from."""

    def reveal(self) -> str:
        """Return the text."""
        ...

    def renewed(self) -> Self:
        """Return the secret as its origin holds it now."""
        ...


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A bearer token that something else provides; of a file it is read again when it was refused."""

    token: RenewableSecret

    def __str__(self) -> str:
        return "the fixed token"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePrincipal:
    """An application of Microsoft Entra ID, with a secret or else a certificate (PEM or PKCS #12, with its key)."""

    tenant_id: str
    client_id: str
    secret: RenewableSecret | None = None
    certificate_file: Path | None = None
    certificate_password: RenewableSecret | None = None

    def __str__(self) -> str:
        return f"the service principal {self.client_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadIdentity:
    """A Kubernetes service account, whose token in ``token_file`` Entra ID exchanges for one of ``client_id``."""

    tenant_id: str
    client_id: str
    token_file: Path

    def __str__(self) -> str:
        return f"the workload identity {self.client_id}"


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """The identity that Azure has given this machine or app; "" is the system-assigned one."""

    client_id: str = ""

    def __str__(self) -> str:
        return f"the managed identity {self.client_id}" if self.client_id else "the system-assigned managed identity"


@dataclass(frozen=True, slots=True)
class AzureCli:
    """Who is logged in with ``az login``; "" is that account's home tenant."""

    tenant_id: str = ""

    def __str__(self) -> str:
        return "the Azure CLI"


@dataclass(frozen=True, slots=True)
class ManagedIdentityOrCli:
    """The managed identity where the machine has one, else the Azure CLI."""

    client_id: str = ""

    def __str__(self) -> str:
        return "a managed identity or the Azure CLI"


SignIn = FixedToken | ServicePrincipal | WorkloadIdentity | ManagedIdentity | AzureCli | ManagedIdentityOrCli
