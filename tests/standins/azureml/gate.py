"""What every request passes: the log, latency, faults, tokens; and what every refusal becomes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from tests.standins.azureml.actions import action_of
from tests.standins.azureml.faults import Asked, Fault
from tests.standins.azureml.identity import ANY_PLANE, MANAGEMENT
from tests.standins.azureml.refusals import Family, Refused, answer_to
from tests.standins.azureml.state import Handler, Route, State

_lost: Final[ContextVar[bool]] = ContextVar("the answer is not to reach the client")
_AUDIENCES: Final[dict[Family, tuple[str, ...]]] = {"tracking": ANY_PLANE, "history": ANY_PLANE, "arm": MANAGEMENT}
_BY_PATH: Final[tuple[tuple[str, Family], ...]] = (
    ("/mlflow/", "tracking"),
    ("/history/", "history"),
    ("/artifact/", "history"),
    ("/subscriptions/", "arm"),
)
_BLOB_KINDS: Final = {"block": "blob/put-block", "blocklist": "blob/put-block-list"}


def gate(state: State, routes: Mapping[web.AbstractRoute, Route]) -> Middleware:
    """Return the middleware; ``routes`` tells what the router's own routes stand for."""

    @web.middleware
    async def pass_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = routes.get(request.match_info.route)
        family = route.family if route is not None else _family_of(request.path)
        if family == "control":
            return await handler(request)
        kind = _kind_of(request, route)
        _lost.set(False)
        began = time.monotonic()
        answer: web.StreamResponse | None = None
        try:
            answer = await _answer(state, request, handler, family, kind)
        finally:
            state.log.note(
                Asked(
                    at_s=time.time(),
                    kind=kind,
                    method=request.method,
                    target=str(request.rel_url),
                    request_bytes=request.content_length or 0,
                    status=0 if answer is None or is_lost() else answer.status,
                    seconds=time.monotonic() - began,
                    authorized="Authorization" in request.headers,
                )
            )
        return answer

    return pass_gate


async def _answer(
    state: State, request: web.Request, handler: Handler, family: Family, kind: str
) -> web.StreamResponse:
    if state.faults.latency_s > 0:
        await asyncio.sleep(state.faults.latency_s)
    fault = state.faults.take(kind)
    try:
        if fault is not None:
            _before(fault)
        if family in _AUDIENCES:
            state.identity.check(request.headers.get("Authorization"), _AUDIENCES[family])
        if state.faults.denies(kind):
            raise _denied(state, family, kind)
        answer = await handler(request)
    except Refused as refused:
        answer = answer_to(refused, family)
    except web.HTTPException as exc:
        answer = web.Response(status=exc.status)  # Azure ML answers what it does not know with an empty body
    except ConnectionError:
        answer = web.Response(status=400)  # the client went away while it was sending
    if is_lost():
        reset(request)
    return answer


def _before(fault: Fault) -> None:
    """Do what a fault does before the call is carried out; raises when it is not to be."""
    match fault.action:
        case "throttle":
            headers = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            raise Refused(429, "REQUEST_LIMIT_EXCEEDED", "The request is being throttled.", headers=headers)
        case "fail":
            raise Refused(fault.status, "INTERNAL_ERROR", "Something failed on purpose.")
        case "drop":
            _lost.set(True)
            raise Refused(503, "Dropped", "No answer reaches the client.")
        case "lose":
            _lost.set(True)


def is_lost() -> bool:
    """Return whether the answer to the request at hand is not to reach the client."""
    return _lost.get()


def reset(request: web.Request) -> None:
    """Close the connection with RST instead of an answer."""
    transport = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _denied(state: State, family: Family, kind: str) -> Refused:
    if family == "blob":
        message = "This request is not authorized to perform this operation using this permission."
        return Refused(403, "AuthorizationPermissionMismatch", message)
    message = (
        "The client '22222222-2222-2222-2222-222222222222' with object id '44444444-4444-4444-4444-444444444444' does "
        f"not have authorization to perform action '{action_of(kind)}' over scope '{state.place.scope}' or the scope "
        "is invalid. If access was recently granted, please refresh your credentials."
    )
    return Refused(403, "AuthorizationFailed", message)


def _family_of(path: str) -> Family:
    return next((family for prefix, family in _BY_PATH if path.startswith(prefix)), "identity")


def _kind_of(request: web.Request, route: Route | None) -> str:
    if route is None:
        return "unknown"
    if route.family != "blob":
        return route.kind
    comp = request.query.get("comp", "")
    if request.method == "PUT":
        return _BLOB_KINDS.get(comp, route.kind)
    return "blob/get-block-list" if comp == "blocklist" else route.kind
