"""Tokens: who gets one, how long it lives, what it opens.

Two ways to one: a managed identity in App Service's form (``GET /msi/token`` with the secret header) and a service
principal's client credentials (``POST /{tenant}/oauth2/v2.0/token``). Every other API asks ``Identity.check``.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.standins.azureml.refusals import Refused

MANAGEMENT = ("https://management.azure.com", "https://management.core.windows.net")
ANY_PLANE = (*MANAGEMENT, "https://ml.azure.com")


@dataclass(frozen=True)
class Grant:
    """What is known of an issued token."""

    subject: str
    audience: str
    expires_at_s: float


@dataclass
class Identity:
    """Issues and checks tokens. ``lifetime_s`` holds for tokens issued from now on.

    ``refusal`` not None is the answer of every token endpoint: it is then raised instead of issuing.
    """

    tenant: str
    client_id: str
    client_secret: str
    identity_header: str
    lifetime_s: float = 3600.0
    refusal: Refused | None = None
    now: Callable[[], float] = time.time
    grants: dict[str, Grant] = field(default_factory=dict)

    def for_managed_identity(self, header: str | None, resource: str) -> tuple[str, float]:
        """Return token and end of life; refuses a wrong secret header or an unknown resource."""
        if self.refusal is not None:
            raise self.refusal
        if header != self.identity_header:
            raise Refused(401, "Unauthorized", "The secret in X-IDENTITY-HEADER is not right.")
        return self._issue("managed-identity", resource)

    def for_service_principal(self, tenant: str, form: dict[str, str]) -> tuple[str, float]:
        """Return token and end of life for ``grant_type=client_credentials``."""
        if self.refusal is not None:
            raise self.refusal
        if tenant != self.tenant:
            raise Refused(400, "invalid_request", f"AADSTS90002: Tenant '{tenant}' not found.")
        if form.get("grant_type") != "client_credentials":
            raise Refused(400, "unsupported_grant_type", "AADSTS70003: only client_credentials here.")
        if form.get("client_id") != self.client_id:
            message = f"AADSTS700016: Application with identifier '{form.get('client_id')}' was not found."
            raise Refused(400, "unauthorized_client", message)
        if form.get("client_secret") != self.client_secret:
            raise Refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        return self._issue("service-principal", form.get("scope", "").removesuffix("/.default"))

    def _issue(self, subject: str, resource: str) -> tuple[str, float]:
        audience = resource.rstrip("/")
        if audience not in ANY_PLANE:
            raise Refused(400, "invalid_resource", f"AADSTS500011: The resource principal named {resource} is unknown.")
        expires = self.now() + self.lifetime_s
        claims = {"aud": audience, "exp": int(expires), "oid": subject, "tid": self.tenant, "uti": uuid.uuid4().hex}
        token = f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}.c2ln"
        self.grants[token] = Grant(subject, audience, expires)
        return token, expires

    def expire_all(self) -> None:
        """Make every token issued so far worthless."""
        self.grants.clear()

    def check(self, authorization: str | None, audiences: tuple[str, ...]) -> Grant:
        """Return the grant behind an Authorization header, or raise 401."""
        challenge = {"WWW-Authenticate": f'Bearer authorization_uri="https://login.windows.net/{self.tenant}"'}
        scheme, _, token = (authorization or "").partition(" ")
        grant = self.grants.get(token)
        if scheme != "Bearer" or grant is None:
            message = "The access token is missing, unknown or revoked."
            raise Refused(401, "InvalidAuthenticationToken", message, headers=challenge)
        if grant.expires_at_s <= self.now():
            message = "The access token expiry UTC time is earlier than current UTC time."
            raise Refused(401, "ExpiredAuthenticationToken", message, headers=challenge)
        if grant.audience not in audiences:
            message = f"The access token is for '{grant.audience}', not for this service."
            raise Refused(401, "InvalidAuthenticationTokenAudience", message, headers=challenge)
        return grant


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
