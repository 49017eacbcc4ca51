"""The HTTP server's connections: how many there are, and how long each may keep the server waiting.

Rules
-----
1. Unless a request of it is worked on, a connection has us wait: for a head, for a body, or until its answer is read.
2. Where there are ``MOST`` already, a new one takes the place of the one that has us wait for longest: whoever only
   holds places keeps nobody out, the probes of whoever watches the daemon least of all. Where every one is worked on,
   the new one is closed.
3. A head must have come within ``HEAD_S``, from the connection's beginning or the answer before. Whatever else we wait
   for ends the connection after ``WAIT_S``.
4. What is no HTTP is answered 400 and counted. aiohttp would log each with a traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from syncd.http.counts import HttpCounts

MOST: Final = 500  # a process may often have no more than 1,024 files
HEAD_S: Final = 30.0
WAIT_S: Final = 60.0
_LOOK_S: Final = 1.0


class Connections:
    """All connections of one server."""

    def __init__(self) -> None:
        self.counts = HttpCounts()
        self._waited_for: dict[web.RequestHandler, float] = {}  # since when, the longest first
        self._open: set[web.RequestHandler] = set()

    def opened(self, connection: web.RequestHandler) -> None:
        """Make room for a connection, which may have to go itself."""
        self._open.add(connection)
        self.counts.connections = len(self._open)
        self.wait_for(connection)
        if len(self._open) > MOST:
            self._cut_off(next(iter(self._waited_for)))

    def closed(self, connection: web.RequestHandler) -> None:
        """Take note that a connection has ended."""
        self._open.discard(connection)
        self._waited_for.pop(connection, None)
        self.counts.connections = len(self._open)

    def work_on(self, connection: web.RequestHandler) -> None:
        """Take note that nothing is waited for."""
        self._waited_for.pop(connection, None)

    def wait_for(self, connection: web.RequestHandler) -> None:
        """Take note that something is waited for from now on."""
        if connection in self._open:
            self._waited_for.pop(connection, None)
            self._waited_for[connection] = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Cut off whoever is waited for too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            late = [one for one, since_s in self._waited_for.items() if since_s + WAIT_S < loop.time()]
            for connection in late:
                self._cut_off(connection)

    def _cut_off(self, connection: web.RequestHandler) -> None:
        self.closed(connection)
        self.counts.cut_off += 1
        if connection.transport is not None:
            connection.transport.abort()  # close() would wait for what is not read


class Server(web.Server):
    """aiohttp's server, whose connections are known to ``connections``."""

    def __init__(
        self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], connections: Connections
    ) -> None:
        super().__init__(answer)
        self._known = connections

    def __call__(self) -> web.RequestHandler:
        """Return what serves one connection."""
        return _Connection(self, self._known)


class _Connection(web.RequestHandler):
    __slots__ = ("_known",)

    def __init__(self, server: Server, known: Connections) -> None:
        about = {"access_log": None, "keepalive_timeout": HEAD_S}
        super().__init__(server, loop=asyncio.get_running_loop(), **about)  # type: ignore[arg-type]  # None is for none
        self._known = known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._known.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._known.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        self._known.counts.answers[status] += 1
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = web.json_response({"error": "this is no request that can be read"}, status=status)
        response.force_close()
        return response
