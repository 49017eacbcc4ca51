"""Tokens: who gets one, how long it lives, what it opens.

A managed identity gets one by being there. An application gets one for its secret, for an assertion that it signed with
its certificate, or for the token of a federated identity. Every other API asks ``Identity.check``.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.standins.azureml.refusals import Refused

MANAGEMENT = ("https://management.azure.com", "https://management.core.windows.net")
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
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

    ``user_assigned`` are client ids of managed identities beside the system-assigned one, ``certificates`` what the
    application signs with, ``federated_tokens`` the service account tokens that its federated credential accepts.
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
    user_assigned: set[str] = field(default_factory=set)
    certificates: list[x509.Certificate] = field(default_factory=list)
    federated_tokens: set[str] = field(default_factory=set)

    def for_managed_identity(self, client_id: str, resource: str) -> tuple[str, float]:
        """Return token and end of life; refuses an identity that the machine does not have, or an unknown resource."""
        if self.refusal is not None:
            raise self.refusal
        if client_id and client_id not in self.user_assigned:
            raise Refused(400, "invalid_request", "Identity not found")
        return self._issue(client_id or "managed-identity", resource)

    def for_application(self, tenant: str, form: dict[str, str], token_url: str) -> tuple[str, float]:
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
        return self._issue(self._proven(form, token_url), form.get("scope", "").removesuffix("/.default"))

    def _proven(self, form: dict[str, str], token_url: str) -> str:
        """Return who the application is by what it shows: its secret, a signed assertion, or a federated token."""
        assertion = form.get("client_assertion")
        if assertion is None:
            if form.get("client_secret") != self.client_secret:
                raise Refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
            return "service-principal"
        if form.get("client_assertion_type") != JWT_BEARER:
            raise Refused(400, "invalid_request", "AADSTS900144: client_assertion_type is not right.")
        if assertion in self.federated_tokens:
            return "workload-identity"
        if assertion.count(".") != 2:
            raise Refused(401, "invalid_client", "AADSTS700213: No matching federated identity record found.")
        if not any(_is_signed_by(certificate, assertion) for certificate in self.certificates):
            raise Refused(401, "invalid_client", "AADSTS700027: The certificate is not registered on application.")
        claims = _claims(assertion)
        if (
            claims["aud"] != token_url
            or {claims["iss"], claims["sub"]} != {self.client_id}
            or claims["exp"] < self.now()
        ):
            raise Refused(401, "invalid_client", "AADSTS50027: JWT token is invalid or malformed.")
        return "certificate"

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


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(_decoded(token.split(".")[1]))
    return claims


def _is_signed_by(certificate: x509.Certificate, token: str) -> bool:
    """Say whether the assertion bears the certificate's PS256 signature."""
    signed, _, signature = token.rpartition(".")
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
    try:
        key.verify(_decoded(signature), signed.encode(), pss, hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
