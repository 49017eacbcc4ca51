"""Sign in to Azure with azure-identity: asynchronously, without anybody there, and without its own retries.

Rules
-----
1. Only the credentials of ``sign_in`` are used, each by its own class: no chain of azure-identity or azureml-mlflow,
   which may end in a browser or a device code.
2. An azure-identity credential lives for one token: its cache would return a token that was refused, its secret may
   have been replaced, and it would hold a connection that is needed once an hour.
3. Every failure is AuthFailed (one line, and what to do) or Transient (the service did not answer, or is busy).
4. azure-identity is imported when the first token is asked for: it takes half a second and 20 MiB.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from syncd.azure.sign_in import (
    AzureCli,
    FixedToken,
    ManagedIdentity,
    ManagedIdentityOrCli,
    ServicePrincipal,
    SignIn,
    WorkloadIdentity,
)
from syncd.azure.sign_in_errors import SignInBusy, translated
from syncd.azure.tokens import Token, Tokens
from syncd.errors import AuthFailed, DestinationError, Transient
from syncd.rest.client import TokenProvider

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions

SIGN_IN_S: Final = 30.0
CLI_S: Final = 25  # the Azure CLI takes seconds to start; less than SIGN_IN_S, so that its process is ended
FIXED_LIFE_S: Final = 3600.0
DOING: Final = "signing in to Azure as"


class Credentials:
    """One way to sign in, and the tokens that it gave; for REST clients and, as AsyncTokenCredential, for Azure's SDKs.

    ``authority_host`` is the https URL of Entra ID in the cloud at hand. ``ca_file`` is the CA of a TLS proxy, None for
    the system's.
    """

    def __init__(
        self, sign_in: SignIn, *, authority_host: str, ca_file: str | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.sign_in = sign_in
        self._authority_host = authority_host
        self._ca_file = ca_file
        self._now = now
        self._tokens = Tokens(self._sign_in)

    def provider(self, scope: str) -> TokenProvider:
        """Return what hands a REST client its tokens for that scope."""

        async def provide(refused: bool) -> str:
            return (await self._tokens.get(scope, refused=refused)).text

        return provide

    async def token(self, scope: str, *, refused: bool = False) -> Token:
        """Return a token for that scope, a new one if the last was ``refused``.

        Raises:
            AuthFailed: nobody is signed in; its hint says what to do.
            Transient: the sign-in service cannot be reached, or is busy.
        """
        return await self._tokens.get(scope, refused=refused)

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """Return a token as azure-core's AsyncTokenCredential does; raises as ``token``."""
        from azure.core.credentials import AccessToken

        token = await self.token(scopes[0])
        return AccessToken(token.text, int(token.expires_on_s))

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Return a token as azure-core's AsyncSupportsTokenInfo does; a claims challenge renews it."""
        from azure.core.credentials import AccessTokenInfo

        token = await self.token(scopes[0], refused=bool(options and options.get("claims")))
        return AccessTokenInfo(token.text, int(token.expires_on_s))

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()

    async def _sign_in(self, scope: str) -> Token:
        if isinstance(self.sign_in, FixedToken):
            self.sign_in = FixedToken(self.sign_in.token.renewed())
            return Token(self.sign_in.token.reveal(), self._now() + FIXED_LIFE_S)
        if isinstance(self.sign_in, ManagedIdentityOrCli):
            return await self._sign_in_by_machine(self.sign_in, scope)
        return await self._signed_in(self.sign_in, scope)

    async def _sign_in_by_machine(self, sign_in: ManagedIdentityOrCli, scope: str) -> Token:
        """Try the managed identity, then the Azure CLI, and keep to the one that gave a token.

        An identity that is there and busy is waited for: the CLI's account may be another one.
        """
        failures: list[DestinationError] = []
        for one in (ManagedIdentity(sign_in.client_id), AzureCli()):
            try:
                token = await self._signed_in(one, scope)
            except SignInBusy:
                raise
            except DestinationError as error:
                failures.append(error)
                continue
            self.sign_in = one
            return token
        words = "; ".join(
            f"{one}: {error.message}" for one, error in zip(("managed identity", "az"), failures, strict=True)
        )
        raise AuthFailed(
            f"no credentials found ({words})",
            doing="signing in to Azure",
            hint="run `az login`, give this machine a managed identity, or set `credential` or the AZURE_* variables",
        ) from failures[-1]

    async def _signed_in(self, sign_in: _ByAzureIdentity, scope: str) -> Token:
        await asyncio.to_thread(_import_azure_identity)
        from azure.core.exceptions import AzureError

        try:
            async with asyncio.timeout(SIGN_IN_S):
                async with _credential(sign_in, self._authority_host, self._ca_file) as credential:
                    info = await credential.get_token_info(scope)
        except TimeoutError as exc:
            raise Transient(f"no answer in {SIGN_IN_S:g} s", doing=DOING, target=str(sign_in)) from exc
        except (AzureError, ValueError, TypeError, OSError) as exc:  # the last three: of its files and their content
            raise translated(exc, sign_in, doing=DOING) from exc
        return Token(info.token, info.expires_on, info.refresh_on)


_ByAzureIdentity = ServicePrincipal | WorkloadIdentity | ManagedIdentity | AzureCli


def _import_azure_identity() -> None:
    import azure.identity.aio  # noqa: F401

    # What fails is told by our errors; without a handler Python would print azure-identity's warnings to stderr.
    logging.getLogger("azure").addHandler(logging.NullHandler())


def _credential(sign_in: _ByAzureIdentity, authority_host: str, ca_file: str | None) -> Any:
    """Return azure-identity's credential: one attempt, with deadlines and our CA."""
    from azure.identity import aio

    transport: dict[str, Any] = {"retry_total": 0, "read_timeout": SIGN_IN_S, "connection_verify": ca_file or True}
    entra: dict[str, Any] = {"authority": authority_host, "connection_timeout": 10, **transport}
    match sign_in:
        case ServicePrincipal():
            return _principal(sign_in, entra)
        case WorkloadIdentity():
            return aio.WorkloadIdentityCredential(
                tenant_id=sign_in.tenant_id,
                client_id=sign_in.client_id,
                token_file_path=str(sign_in.token_file),
                **entra,
            )
        case ManagedIdentity():
            # Its endpoint is on the machine itself: no proxy leads there.
            return aio.ManagedIdentityCredential(
                client_id=sign_in.client_id or None, use_env_settings=False, **transport
            )
        case AzureCli():
            return aio.AzureCliCredential(tenant_id=sign_in.tenant_id, process_timeout=CLI_S)


def _principal(sign_in: ServicePrincipal, entra: dict[str, Any]) -> Any:
    from azure.identity import aio

    who = (sign_in.tenant_id, sign_in.client_id)
    if sign_in.secret is not None:
        return aio.ClientSecretCredential(*who, sign_in.secret.renewed().reveal(), **entra)
    password = sign_in.certificate_password.renewed().reveal() if sign_in.certificate_password is not None else None
    return aio.CertificateCredential(*who, str(sign_in.certificate_file), password=password, **entra)
