"""The token endpoints: managed identity of App Service and of virtual machines, and Entra ID for an application."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.state import Route, State


class TokenApi:
    """Answers ``/msi/token``, ``/metadata/identity/…``, ``/{tenant}/oauth2/v2.0/token``, and what MSAL asks before."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        well_known = "/{tenant}/v2.0/.well-known/openid-configuration"
        return [
            Route("identity", "token/managed-identity", "GET", "/msi/token", self._managed_identity),
            Route("identity", "token/imds", "GET", "/metadata/identity/oauth2/token", self._virtual_machine),
            Route("identity", "token/client-credentials", "POST", "/{tenant}/oauth2/v2.0/token", self._principal),
            Route("identity", "token/openid-configuration", "GET", well_known, self._openid),
        ]

    async def _managed_identity(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-IDENTITY-HEADER") != self._state.identity.identity_header:
            return web.json_response(
                {"statusCode": 401, "message": "The secret in X-IDENTITY-HEADER is not right."}, status=401
            )
        return self._of_machine(request)

    async def _virtual_machine(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Metadata") != "true":
            return web.json_response(
                {"error": "bad_request", "error_description": "Required metadata header not specified"}, status=400
            )
        return self._of_machine(request)

    def _of_machine(self, request: web.Request) -> web.Response:
        resource = request.query.get("resource", "")
        try:
            token, expires = self._state.identity.for_managed_identity(request.query.get("client_id", ""), resource)
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
            token_url = f"{self._state.place.url}{request.path}"
            token, expires = self._state.identity.for_application(request.match_info["tenant"], form, token_url)
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
