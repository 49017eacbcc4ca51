"""The daemon's HTTP server: probes, metrics, the API and webhooks. Imported only where ``[http]`` is configured.

Rules
-----
1. What is answered comes from ``Served``; this module knows HTTP only.
2. A body is read up to the limit of who gets it, and not before it is known who that is; those that come slowly are
   bounded together, too.
3. What fails here is logged and answered 500; it never ends the daemon.
4. aiohttp's server is used without its application: a message to a hook is one request, and its routes, middlewares and
   time-outs would cost each of them more than checking its signature.
5. How many connections there are and how long each may be waited for, ``connections`` decides.
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
from syncd.http.connections import Connections, Server
from syncd.http.counts import HttpCounts
from syncd.sources.webhook import TAKEN, HookAnswer, HookRequest

log = structlog.get_logger(__name__)

MOST_EVENTS: Final = 1000
LONGEST_WAIT_S: Final = 60.0
BODY_S: Final = 30.0  # a hook's body must have come by then
MOST_SLOW_BYTES: Final = 64 * 1024 * 1024  # of all bodies that did not come with their heads
_PIECE_BYTES: Final = 64 * 1024
_HOOKS: Final = "/hooks/"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>syncd</title>
<h1>syncd</h1><p>This is the daemon's HTTP server.</p>
<ul><li><a href="/api/v1/status">status</a><li><a href="/api/v1/runs">runs</a><li><a href="/api/v1/events">events</a>
<li><a href="/metrics">metrics</a><li><a href="/livez">livez</a><li><a href="/readyz">readyz</a></ul>
"""


class Hook(Protocol):
    """Who takes the requests of one ``/hooks/NAME``."""

    most_bytes: int

    def answer(self, request: HookRequest) -> asyncio.Future[HookAnswer]:
        """Return the answer to a request, which is to come."""
        ...

    def not_read(self, status: int) -> None:
        """Take note that a request was answered so before its body was read."""
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

    async def events(self, since: str, types: tuple[str, ...], limit: int) -> tuple[list[dict[str, Any]], str] | None:
        """Return the events behind that id ("": the oldest that is kept), None if it is not kept.

        Beside them the id of the last one that was looked at, wanted or not; behind it one goes on.
        """
        ...

    async def metrics(self, http: HttpCounts) -> str:
        """Return all metrics in the text format of Prometheus, with those of this server."""
        ...


class HttpServer:
    """Listens on one address while ``run`` runs. ``hooks`` are by name; ``token`` "" asks for none."""

    def __init__(self, served: Served, *, host: str, port: int, token: str, hooks: Mapping[str, Hook]) -> None:
        self._served = served
        self._host = host
        self._port = port
        self._token = token
        self._hooks = hooks
        self._slow_bytes = 0
        self._connections = Connections()
        self._routes: dict[str, tuple[str, Callable[[web.BaseRequest], Awaitable[web.Response]]]] = {
            "/": ("GET", self._page),
            "/livez": ("GET", self._live),
            "/readyz": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/api/v1/status": ("GET", self._status),
            "/api/v1/runs": ("GET", self._runs),
            "/api/v1/events": ("GET", self._events),
            "/api/v1/reload": ("POST", self._reload),
        }
        self.address: tuple[str, int] | None = None

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            SyncdError: the address cannot be listened on.
        """
        runner = web.ServerRunner(Server(self._answer, self._connections), shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner)
            await self._connections.watch()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.ServerRunner) -> None:
        site = web.TCPSite(runner, self._host, self._port)
        try:
            await site.start()
        except OSError as exc:
            words = exc.strerror or str(exc)
            hint = "another process may have it; change listen of [http]"
            raise SyncdError(words, doing="listening on", target=f"{self._host}:{self._port}", hint=hint) from exc
        self.address = runner.addresses[0][:2]
        log.info("HTTP is served", address="{}:{}".format(*self.address))

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self._connections.work_on(request.protocol)
        try:
            answer = await self._answer_to(request)
        finally:
            self._connections.wait_for(request.protocol)
        self._connections.counts.answers[answer.status] += 1
        return answer

    async def _answer_to(self, request: web.BaseRequest) -> web.Response:
        """Answer a request; JSON also where something is wrong."""
        path = request.path
        refused = wrong_with(request.method, path, request.headers, token=self._token, own_host=self._host)
        if refused is not None:
            status, why = refused
            return _refusal(status, why, {"WWW-Authenticate": "Bearer"} if status == 401 else None)
        try:
            if path.startswith(_HOOKS):
                return await self._hook(request, path[len(_HOOKS) :])
            return await self._route(request, path)
        except _Refused as error:
            return _refusal(error.status, str(error), error.headers)
        except SyncdError as error:
            return _refusal(503, str(error))
        except ConnectionError:
            return _refusal(400, "the body was not sent to its end")  # nobody will read it
        except Exception as exc:
            log.exception("a request failed unexpectedly", path=path)
            return _refusal(500, f"failed unexpectedly: {type(exc).__name__}")

    async def _route(self, request: web.BaseRequest, path: str) -> web.Response:
        if path not in self._routes:
            raise _Refused(404, "Not Found")
        method, answer = self._routes[path]
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            raise _Refused(405, "Method Not Allowed", {"Allow": "GET, HEAD" if method == "GET" else method})
        return await answer(request)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _page(self, _: web.BaseRequest) -> web.Response:
        return web.Response(
            text=_PAGE, content_type="text/html", headers={"Content-Security-Policy": "default-src 'none'"}
        )

    async def _live(self, _: web.BaseRequest) -> web.Response:
        return _probe(self._served.live())

    async def _ready(self, _: web.BaseRequest) -> web.Response:
        return _probe(self._served.ready())

    async def _metrics(self, _: web.BaseRequest) -> web.Response:
        text = await self._served.metrics(self._connections.counts)
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, _: web.BaseRequest) -> web.Response:
        return _json(await self._served.status())

    async def _runs(self, _: web.BaseRequest) -> web.Response:
        return _json(await self._served.runs())

    async def _events(self, request: web.BaseRequest) -> web.Response:
        """Answer the events behind ``since``; with ``wait_s`` wait so long for the first one."""
        query = request.query
        since, types = query.get("since", ""), tuple(query.getall("type", ()))
        limit = int(_number(query.get("limit", str(MOST_EVENTS)), least=1, most=MOST_EVENTS))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _number(query.get("wait_s", "0"), least=0, most=LONGEST_WAIT_S)
        while True:
            found = await self._served.events(since, types, limit)
            if found is None:
                return _json({"error": "no event of that id is kept (any more)", "since": since}, status=404)
            events, since = found
            if events or loop.time() >= until_s:
                return _json({"schema": 1, "events": events, "next": since or None})
            await asyncio.sleep(0.2)

    async def _reload(self, _: web.BaseRequest) -> web.Response:
        raise _Refused(501, "reloading is not in this version yet: restart syncd")

    # -- hooks -----------------------------------------------------------------------------------------------------

    async def _hook(self, request: web.BaseRequest, name: str) -> web.Response:
        hook = self._hooks.get(name)
        if hook is None:
            raise _Refused(404, "there is no source of kind webhook of that name")
        if request.method not in ("POST", "OPTIONS"):
            raise _Refused(405, "expected POST", {"Allow": "POST, OPTIONS"})
        try:
            body = await self._body(request, hook.most_bytes)
        except _Refused as error:
            hook.not_read(error.status)
            raise
        headers = {key.lower(): value for key, value in request.headers.items()}
        query = dict(request.query) if request.query_string else {}
        answer = await hook.answer(HookRequest(method=request.method, headers=headers, query=query, body=body))
        if answer is TAKEN:
            return web.Response(body=_TAKEN_BODY, headers=_JSON)
        return _json(answer.content, status=answer.status, headers=answer.headers)

    async def _body(self, request: web.BaseRequest, most_bytes: int) -> bytes:
        """Return a body of at most so many bytes; one that came with its head, as most do, needs no time-out."""
        if (request.content_length or 0) > most_bytes:
            raise _too_large(most_bytes)
        if request.content.is_eof():
            body = request.content.read_nowait()
        else:
            body = await self._read_slowly(request, most_bytes)
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
        return body

    async def _read_slowly(self, request: web.BaseRequest, most_bytes: int) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(_CONTINUE)
            request.writer.output_size = 0  # so says aiohttp's application, which would do it
        body = bytearray()
        self._connections.wait_for(request.protocol)
        try:
            async with asyncio.timeout(BODY_S):
                while piece := await request.content.read(_PIECE_BYTES):
                    body += piece
                    self._slow_bytes += len(piece)
                    if len(body) > most_bytes:
                        raise _too_large(most_bytes)
                    if self._slow_bytes > MOST_SLOW_BYTES:
                        raise _Refused(503, "too much comes at once", {"Retry-After": "5", **_CLOSE})
        except TimeoutError as exc:
            raise _Refused(408, f"a body must have come within {BODY_S:g} s", _CLOSE) from exc
        finally:
            self._slow_bytes -= len(body)
            self._connections.work_on(request.protocol)
        return bytes(body)


class _Refused(Exception):
    """A request is not served: the status, why, and headers."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


def _too_large(most_bytes: int) -> _Refused:
    return _Refused(413, f"max_message_bytes of this source is {most_bytes}", _CLOSE)


def _number(text: str, *, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError as exc:
        raise _Refused(400, f"expected a number, found {text[:40]!r}") from exc
    if not least <= number <= most:
        raise _Refused(400, f"expected a number from {least:g} to {most:g}, found {number:g}")
    return number


def _probe(why: str) -> web.Response:
    return _json({"ok": not why, "reason": why}, status=503 if why else 200)


def _refusal(status: int, why: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return _json({"error": why}, status=status, headers=headers)


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=_as_json(value), status=status, headers={**_JSON, **(headers or {})})


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


_CLOSE: Final = {"Connection": "close"}
_JSON: Final = {
    "Content-Type": "application/json; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_TAKEN_BODY: Final = _as_json(TAKEN.content)  # by far the most frequent answer
