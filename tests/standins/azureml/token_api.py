"""The token endpoints: App Service's managed identity, and Entra ID for a service principal."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.state import Route, State


class TokenApi:
    """Answers ``/msi/token``, ``/{tenant}/oauth2/v2.0/token`` and what MSAL asks before it asks for a token."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        well_known = "/{tenant}/v2.0/.well-known/openid-configuration"
        return [
            Route("identity", "token/managed-identity", "GET", "/msi/token", self._managed_identity),
            Route("identity", "token/client-credentials", "POST", "/{tenant}/oauth2/v2.0/token", self._principal),
            Route("identity", "token/openid-configuration", "GET", well_known, self._openid),
        ]

    async def _managed_identity(self, request: web.Request) -> web.StreamResponse:
        resource = request.query.get("resource", "")
        secret = request.headers.get("X-IDENTITY-HEADER")
        try:
            token, expires = self._state.identity.for_managed_identity(secret, resource)
        except Refused as refused:
            return web.json_response({"statusCode": refused.status, "message": refused.message}, status=refused.status)
        body = {
            "access_token": token,
            "expires_on": str(int(expires)),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": self._state.identity.client_id,
        }
        return web.json_response(body)

    async def _principal(self, request: web.Request) -> web.StreamResponse:
        form = {key: str(value) for key, value in (await request.post()).items()}
        try:
            token, expires = self._state.identity.for_service_principal(request.match_info["tenant"], form)
        except Refused as refused:
            body: dict[str, Any] = {"error": refused.code, "error_description": refused.message}
            return web.json_response(body, status=refused.status)
        seconds = max(0, int(expires - time.time()))
        body = {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}
        return web.json_response(body)

    async def _openid(self, request: web.Request) -> web.StreamResponse:
        base = f"{self._state.place.url}/{request.match_info['tenant']}"
        body = {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "issuer": f"{base}/v2.0",
        }
        return web.json_response(body)
