"""The daemon's HTTP server over real connections: bodies that come slowly, hooks, what is asked wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from syncd.http import connections as connections_module
from syncd.http import server as server_module
from syncd.http.counts import HttpCounts
from syncd.http.server import HttpServer
from syncd.sources.webhook import TAKEN, HookAnswer, HookRequest

MOST_BYTES = 1000
PATIENCE_S = 60.0


class Hook:
    """Answers at once."""

    most_bytes = MOST_BYTES

    def __init__(self) -> None:
        self.asked: list[HookRequest] = []
        self.not_read_as: list[int] = []
        self.waiting: list[asyncio.Future[HookAnswer]] = []

    def not_read(self, status: int) -> None:
        self.not_read_as.append(status)

    def answer(self, request: HookRequest) -> asyncio.Future[HookAnswer]:
        self.asked.append(request)
        answer: asyncio.Future[HookAnswer] = asyncio.get_running_loop().create_future()
        if request.body == b"fail":
            answer.set_exception(LookupError("unforeseen"))
        elif request.body == b"wait":
            self.waiting.append(answer)
        else:
            answer.set_result(TAKEN)
        return answer


class Nothing:
    """A daemon of which nothing is told."""

    def live(self) -> str:
        return ""

    def ready(self) -> str:
        return "the disk is full"

    async def status(self) -> Mapping[str, Any]:
        return {"schema": 1}

    async def runs(self) -> Mapping[str, Any]:
        return {"runs": ["x" * 1_000_000] * 30}  # more than sockets hold that are not read

    async def events(self, since: str, types: tuple[str, ...], limit: int) -> tuple[list[dict[str, Any]], str] | None:
        return None if since else ([{"id": "1", "types": types, "limit": limit}], "1")

    async def metrics(self, http: HttpCounts) -> str:
        return "syncd_up 1\n"


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
async def http(hook: Hook) -> AsyncIterator[HttpServer]:
    running = HttpServer(Nothing(), host="127.0.0.1", port=0, token="", hooks={"a b": hook})
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(PATIENCE_S):
        while running.address is None:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0)
    yield running
    task.cancel()
    await asyncio.wait([task])


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, http: HttpServer) -> Client:
        assert http.address is not None
        return cls(*await asyncio.open_connection(*http.address))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, with_body: bool = True) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(head.split()[1]), await self._reader.readexactly(size if with_body else 0)

    def close(self) -> None:
        self._writer.close()

    @property
    def is_at_end(self) -> bool:
        return self._reader.at_eof()

    async def is_cut_off(self) -> bool:
        """Wait for the end of what can be read; return whether it came without an answer."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True


def request(method: str, path: str, body: bytes = b"", *, size: int | None = None, fields: str = "") -> bytes:
    length = len(body) if size is None else size
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n".encode() + body


async def test_a_body_is_the_same_however_it_comes(http: HttpServer, hook: Hook) -> None:
    body = b"0123456789" * 100
    client = await Client.of(http)
    await client.send(request("POST", "/hooks/a%20b?token=x", body, fields="X-One: 1\r\n"))
    assert await client.answer() == (200, b'{"status": "taken"}')
    await client.send(request("POST", "/hooks/a%20b", size=len(body), fields="Expect: 100-continue\r\n"))
    head = await client._reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 100")
    await client.send(body[:10])
    await client.send(body[10:])
    assert (await client.answer())[0] == 200
    chunks = b"3e8\r\n" + body + b"\r\n0\r\n\r\n"
    await client.send(b"POST /hooks/a%20b HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (await client.answer())[0] == 200
    assert [one.body for one in hook.asked] == [body] * 3
    assert (hook.asked[0].headers["x-one"], hook.asked[0].query) == ("1", {"token": "x"})


async def test_a_body_is_read_up_to_the_limit_of_who_gets_it(http: HttpServer, hook: Hook) -> None:
    large = b"a" * (MOST_BYTES + 1)
    chunks = b"3e9\r\n" + large + b"\r\n0\r\n\r\n"
    chunked = b"POST /hooks/a%20b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pieces in (
        [request("POST", "/hooks/a%20b", large)],
        [request("POST", "/hooks/a%20b", size=len(large))],
        [chunked + chunks],
        [chunked + chunks[:500], chunks[500:]],
        [chunked + chunks[:-5]],
    ):
        client = await Client.of(http)
        for piece in pieces:
            await client.send(piece)
        assert (await client.answer())[0] == 413
        client.close()
    assert not hook.asked
    assert hook.not_read_as == [413] * 5
    assert http._connections.counts.answers == {413: 5}
    assert http._slow_bytes == 0


async def test_a_body_must_come_in_time(http: HttpServer, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BODY_S", 0.01)
    client = await Client.of(http)
    await client.send(request("POST", "/hooks/a%20b", b"a", size=2))
    assert (await client.answer())[0] == 408
    assert not hook.asked
    assert http._slow_bytes == 0


async def test_bodies_that_come_slowly_are_bounded_together_and_hold_up_no_other(
    http: HttpServer, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_SLOW_BYTES", MOST_BYTES)
    slow = await Client.of(http)
    await slow.send(request("POST", "/hooks/a%20b", b"a" * 800, size=801))
    async with asyncio.timeout(PATIENCE_S):
        while http._slow_bytes < 800:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0)
    other, quick = await Client.of(http), await Client.of(http)
    await other.send(request("POST", "/hooks/a%20b", b"b" * 800, size=801))
    assert (await other.answer())[0] == 503
    await quick.send(request("POST", "/hooks/a%20b", b"c" * 800))
    assert (await quick.answer())[0] == 200
    await slow.send(b"a")
    assert (await slow.answer())[0] == 200
    assert [one.body[:1] for one in hook.asked] == [b"c", b"a"]
    assert http._slow_bytes == 0


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (request("GET", "/readyz"), 503, b"the disk is full"),
        (request("GET", "/metrics"), 200, b"syncd_up 1"),
        (request("GET", "/api/v1/events?type=a&type=b&limit=7"), 200, b'"types": ["a", "b"], "limit": 7'),
        (request("GET", "/api/v1/events?limit=x"), 400, b"expected a number"),
        (request("GET", "/api/v1/events?wait_s=61"), 400, b"from 0 to 60"),
        (request("GET", "/api/v1/events?since=gone"), 404, b"no event of that id"),
        (request("POST", "/api/v1/reload"), 501, b"restart"),
        (request("DELETE", "/metrics"), 405, b"Method Not Allowed"),
        (request("GET", "/nothing"), 404, b"Not Found"),
        (request("POST", "/hooks/other"), 404, b"no source"),
        (request("GET", "/hooks/a%20b"), 405, b"expected POST"),
        (request("POST", "/hooks/a%20b", b"fail"), 500, b"failed unexpectedly: LookupError"),
        (request("POST", "/api/v1/reload", fields="Origin: http://[\r\n"), 403, b"other sites"),
    ],
)
async def test_whatever_is_asked_is_answered(http: HttpServer, asked: bytes, status: int, said: bytes) -> None:
    client = await Client.of(http)
    await client.send(asked)
    answered, body = await client.answer()
    assert (answered, said in body) == (status, True), body


async def test_a_head_alone_is_answered_without_a_body(http: HttpServer) -> None:
    client = await Client.of(http)
    await client.send(request("HEAD", "/livez") + request("GET", "/livez"))
    assert (await client.answer(with_body=False))[0] == 200
    assert await client.answer() == (200, b'{"ok": true, "reason": ""}')


# -- connections -------------------------------------------------------------------------------------------------------


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0)


async def test_who_only_holds_connections_keeps_nobody_out(
    http: HttpServer, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MOST", 3)
    counts = http._connections.counts
    silent, half_a_head, half_a_body = [await Client.of(http) for _ in range(3)]
    await half_a_head.send(b"GET /livez HTTP/1.1\r\nHost: ")
    await half_a_body.send(request("POST", "/hooks/a%20b", b"a", size=2))
    await until(lambda: http._slow_bytes == 1)
    assert (counts.connections, counts.cut_off) == (3, 0)
    others = []
    for held in (silent, half_a_head, half_a_body):
        others.append(await Client.of(http))
        await others[-1].send(request("GET", "/livez"))
        assert (await others[-1].answer())[0] == 200
        assert await held.is_cut_off()
    await until(lambda: http._slow_bytes == 0)
    assert (counts.connections, counts.cut_off) == (3, 3)
    assert not hook.asked


async def test_who_is_worked_for_does_not_go_for_another(
    http: HttpServer, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MOST", 2)
    first, second = await Client.of(http), await Client.of(http)
    for client in (first, second):
        await client.send(request("POST", "/hooks/a%20b", b"wait"))
    await until(lambda: len(hook.waiting) == 2)
    refused = await Client.of(http)
    assert await refused.is_cut_off()
    for answer in hook.waiting:
        answer.set_result(TAKEN)
    assert [(await client.answer())[0] for client in (first, second)] == [200, 200]
    third = await Client.of(http)
    await third.send(request("GET", "/livez"))
    assert (await third.answer())[0] == 200
    assert await first.is_cut_off()


async def test_a_head_must_come_in_time(http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "HEAD_S", 0.2)
    client = await Client.of(http)
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            await client.send(b"GET /livez HTTP/1.1\r\nX: ")
            while not client.is_at_end:
                await client.send(b"a")
                await asyncio.sleep(0.01)
    await until(lambda: http._connections.counts.connections == 0)
    assert not http._connections.counts.answers


async def test_an_answer_must_be_read_in_time(http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "WAIT_S", 0.2)
    client, counts = await Client.of(http), http._connections.counts
    await client.send(request("GET", "/api/v1/runs") * 2)
    async with asyncio.timeout(PATIENCE_S):
        while counts.cut_off == 0:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.05)
    assert (counts.connections, counts.answers) == (0, {200: 1})
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n"]
)
async def test_what_is_no_http_is_counted_and_fills_no_log(
    http: HttpServer, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = await Client.of(http)
    await client.send(sent)
    assert (await client.answer())[0] == 400
    assert await client.is_cut_off()
    assert http._connections.counts.answers == {400: 1}
    assert not caplog.records


async def test_a_sender_who_goes_before_the_end_of_its_body_is_no_error_of_ours(http: HttpServer, hook: Hook) -> None:
    client = await Client.of(http)
    await client.send(request("POST", "/hooks/a%20b", b"a", size=2))
    await until(lambda: http._slow_bytes == 1)
    with capture_logs() as logged:
        client.close()
        await until(lambda: http._connections.counts.answers == {400: 1})
    assert (hook.asked, logged) == ([], [])
