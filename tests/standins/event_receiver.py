"""An HTTP server that receives events: webhooks as Standard Webhooks signs them, and Event Grid's batches.

    async with EventReceiver() as receiver:
        ... receiver.url ... receiver.events ...

What it answers is taken from ``answers`` first, one for each request, then it is ``status``. ``bad_id`` is an event
that is answered ``bad_status`` whatever comes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.standins.ports import free_port


@dataclass
class EventReceiver:
    """One receiver; ``events`` are those that were taken, ``requests`` all that came: (headers, body).

    From the event ``mends_with`` on, which it takes, it answers 200.
    """

    port: int = field(default_factory=free_port)
    status: int = 200
    answers: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    bad_id: str = ""
    bad_status: int = 422
    mends_with: str = ""
    delay_s: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def types(self) -> list[str]:
        return [event["type"].removeprefix("dev.syncd.") for event in self.events]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(({key.lower(): value for key, value in request.headers.items()}, body))
        self.paths.append(request.path_qs)
        await asyncio.sleep(self.delay_s)
        value = json.loads(body)
        events = value if isinstance(value, list) else [value]
        if any(event["id"] == self.bad_id for event in events):
            return web.json_response({"error": {"code": "Bad", "message": "this one never"}}, status=self.bad_status)
        if self.mends_with and any(event["id"] == self.mends_with for event in events):
            self.status = 200
        status = self.answers.pop(0) if self.answers else self.status
        if 200 <= status < 300:
            self.events.extend(events)
        return web.json_response(
            {"error": {"code": "Told", "message": f"told to say {status}"}}, status=status, headers=self.headers
        )
