"""The daemon's HTTP server: probes, metrics, the API and webhooks. Imported only where ``[http]`` is configured.

Rules
-----
1. What is answered comes from ``Served``; this module knows HTTP only.
2. A body is read up to the limit of who gets it, and not before it is known who that is.
3. What fails here is logged and answered 500; it never ends the daemon.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from syncd.errors import SyncdError
from syncd.http.access import wrong_with
from syncd.sources.webhook import HookAnswer, HookRequest

log = structlog.get_logger(__name__)

MOST_EVENTS: Final = 1000
LONGEST_WAIT_S: Final = 60.0
BODY_S: Final = 30.0  # a hook's body must have come by then
_PIECE_BYTES: Final = 64 * 1024
_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>syncd</title>
<h1>syncd</h1><p>This is the daemon's HTTP server.</p>
<ul><li><a href="/api/v1/status">status</a><li><a href="/api/v1/runs">runs</a><li><a href="/api/v1/events">events</a>
<li><a href="/metrics">metrics</a><li><a href="/livez">livez</a><li><a href="/readyz">readyz</a></ul>
"""


class Hook(Protocol):
    """Who takes the requests of one ``/hooks/NAME``."""

    most_bytes: int

    async def answer(self, request: HookRequest) -> HookAnswer:
        """Return the answer to a request."""
        ...


class Served(Protocol):
    """What is served. Everything that is returned can be written as JSON."""

    def live(self) -> str:
        """Say why the daemon is stuck, "" if it is not."""
        ...

    def ready(self) -> str:
        """Say why nothing can be taken just now, "" if it can."""
        ...

    async def status(self) -> Mapping[str, Any]:
        """Return what ``syncd status --json`` prints."""
        ...

    async def runs(self) -> Mapping[str, Any]:
        """Return what ``syncd runs --json`` prints."""
        ...

    async def events(self, since: str, types: tuple[str, ...], limit: int) -> list[dict[str, Any]] | None:
        """Return the events behind that id ("": the oldest that is kept), None if it is not kept."""
        ...

    async def metrics(self) -> str:
        """Return all metrics in the text format of Prometheus."""
        ...


class HttpServer:
    """Listens on one address while ``run`` runs. ``hooks`` are by name; ``token`` "" asks for none."""

    def __init__(self, served: Served, *, host: str, port: int, token: str, hooks: Mapping[str, Hook]) -> None:
        self._served = served
        self._host = host
        self._port = port
        self._token = token
        self._hooks = hooks
        self.address: tuple[str, int] | None = None

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            SyncdError: the address cannot be listened on.
        """
        runner = web.AppRunner(self.application(), access_log=None, keepalive_timeout=30, handle_signals=False)
        await runner.setup()
        try:
            await self._listen(runner)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self._host, self._port, shutdown_timeout=1.0)
        try:
            await site.start()
        except OSError as exc:
            words = exc.strerror or str(exc)
            hint = "another process may have it; change listen of [http]"
            raise SyncdError(words, doing="listening on", target=f"{self._host}:{self._port}", hint=hint) from exc
        self.address = runner.addresses[0][:2]
        log.info("HTTP is served", address="{}:{}".format(*self.address))

    def application(self) -> web.Application:
        """Return what answers."""
        app = web.Application(middlewares=[self._guard], client_max_size=_PIECE_BYTES)
        app.router.add_get("/", self._page)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/runs", self._runs)
        app.router.add_get("/api/v1/events", self._events)
        app.router.add_post("/api/v1/reload", self._reload)
        app.router.add_route("*", "/hooks/{source}", self._hook)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse who may not ask; answer JSON also where something is wrong."""
        refusal = wrong_with(request.method, request.path, request.headers, token=self._token, own_host=self._host)
        if refusal is not None:
            status, why = refusal
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            return _json({"error": why}, status=status, headers=headers)
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _json({"error": error.reason}, status=error.status, headers=allow)
        except SyncdError as error:
            return _json({"error": str(error)}, status=503)
        except Exception as exc:
            log.exception("a request failed unexpectedly", path=request.path)
            return _json({"error": f"failed unexpectedly: {type(exc).__name__}"}, status=500)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE, content_type="text/html", headers={"Content-Security-Policy": "default-src 'none'"}
        )

    async def _live(self, _: web.Request) -> web.Response:
        return _probe(self._served.live())

    async def _ready(self, _: web.Request) -> web.Response:
        return _probe(self._served.ready())

    async def _metrics(self, _: web.Request) -> web.Response:
        text = await self._served.metrics()
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, _: web.Request) -> web.Response:
        return _json(await self._served.status())

    async def _runs(self, _: web.Request) -> web.Response:
        return _json(await self._served.runs())

    async def _events(self, request: web.Request) -> web.Response:
        """Answer the events behind ``since``; with ``wait_s`` wait so long for the first one."""
        query = request.query
        since, types = query.get("since", ""), tuple(query.getall("type", ()))
        limit = int(_number(query.get("limit", str(MOST_EVENTS)), least=1, most=MOST_EVENTS))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _number(query.get("wait_s", "0"), least=0, most=LONGEST_WAIT_S)
        while True:
            events = await self._served.events(since, types, limit)
            if events is None:
                return _json({"error": "no event of that id is kept (any more)", "since": since}, status=404)
            if events or loop.time() >= until_s:
                return _json({"schema": 1, "events": events, "next": events[-1]["id"] if events else since or None})
            await asyncio.sleep(0.2)

    async def _reload(self, _: web.Request) -> web.Response:
        return _json({"error": "reloading is not in this version yet: restart syncd"}, status=501)

    async def _hook(self, request: web.Request) -> web.Response:
        name = request.match_info["source"]
        hook = self._hooks.get(name)
        if hook is None:
            return _json({"error": "there is no source of kind webhook of that name"}, status=404)
        if request.method not in ("POST", "OPTIONS"):
            return _json({"error": "expected POST"}, status=405, headers={"Allow": "POST, OPTIONS"})
        body = await _read_body(request, hook.most_bytes)
        if body is None:
            refused = {"error": f"a message may have {hook.most_bytes} bytes"}
            return _json(refused, status=413, headers={"Connection": "close"})
        headers = {key.lower(): value for key, value in request.headers.items()}
        asked = HookRequest(method=request.method, headers=headers, query=dict(request.query), body=body)
        answer = await hook.answer(asked)
        return _json(answer.content, status=answer.status, headers=answer.headers)


async def _read_body(request: web.Request, most_bytes: int) -> bytes | None:
    """Return a body of at most so many bytes, None if it has more."""
    if (request.content_length or 0) > most_bytes:
        return None
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while piece := await request.content.read(_PIECE_BYTES):
                body += piece
                if len(body) > most_bytes:
                    return None
    except TimeoutError as exc:
        raise web.HTTPRequestTimeout from exc
    return bytes(body)


def _number(text: str, *, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError as exc:
        raise web.HTTPBadRequest(reason=f"expected a number, found {text[:40]!r}") from exc
    if not least <= number <= most:
        raise web.HTTPBadRequest(reason=f"expected a number from {least:g} to {most:g}, found {number:g}")
    return number


def _probe(why: str) -> web.Response:
    return _json({"ok": not why, "reason": why}, status=503 if why else 200)


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, default=str)
    body = text.encode("utf-8", "backslashreplace")
    kept = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **(headers or {})}
    return web.Response(body=body, status=status, content_type="application/json", headers=kept)
