"""A reverse proxy for HTTP/1.1 that causes faults on command.

    async with FaultProxy("http://127.0.0.1:5000") as proxy:
        proxy.add(Rule(fault="answer", status=429, headers={"Retry-After": "3"}, path="log-batch", times=2))
        ... use proxy.url ...

    python -m tests.standins.fault_proxy --to http://127.0.0.1:5000 --port 0      # prints its port

Rules
-----
1. The first rule that matches a request decides; without one the request passes. A rule with ``times`` ends after so
   many requests, one with ``chance`` applies to that part of the requests, drawn from the proxy's own seeded generator.
2. A fault is real: connections are reset with RST, stalls hold the socket open until the proxy closes.
3. From another process: ``POST /__faults__`` with a JSON list of rules replaces all rules, ``GET`` tells rules and
   counts, ``DELETE`` removes them and lets stalled requests go on to be dropped.

Faults
------
``answer``          answers ``status`` with ``headers`` and ``body``; forwards nothing
``reset``           reads the request's head, then resets the connection
``lost_answer``     forwards the whole request, takes the answer and resets instead of passing it on
``half_answer``     forwards, passes the head and half of the answer's body, then resets
``stall``           forwards nothing, answers nothing
``lost_then_stall`` forwards, then answers nothing
``deaf``            does not even read the request's body (a half-open peer)
``drip``            forwards, then passes the answer on one byte each ``drip_s`` seconds
``drip_body``       the same, but the head of the answer comes at once
``held``            waits ``drip_s`` seconds before it forwards
``late``            forwards, then waits ``drip_s`` seconds before it passes the answer on
``unauthorized``    answers 401 until the request's Authorization header equals ``until``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

Fault = Literal[
    "pass",
    "answer",
    "reset",
    "lost_answer",
    "half_answer",
    "stall",
    "lost_then_stall",
    "deaf",
    "drip",
    "drip_body",
    "held",
    "late",
    "unauthorized",
]
CONTROL = "/__faults__"
PIECE = 1 << 16


@dataclass
class Rule:
    """Which requests meet which fault. ``method`` and ``path`` are regular expressions, searched for."""

    fault: Fault
    method: str = ""
    path: str = ""
    times: int | None = None
    chance: float = 1.0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    until: str = ""
    drip_s: float = 0.05

    def __post_init__(self) -> None:
        if self.fault not in get_args(Fault):
            raise ValueError(f"no such fault: {self.fault}")

    def matches(self, method: str, target: str) -> bool:
        return bool(re.search(self.method, method) and re.search(self.path, target)) and self.times != 0


def random_mix(seed: int, chance: float, *, path: str = "") -> list[Rule]:
    """Return rules under which each request meets some fault with about that chance; the draw is the proxy's."""
    kinds = [
        Rule("answer", status=429, headers={"Retry-After": "0"}),
        Rule("answer", status=503),
        Rule("answer", status=500, body="<html>oops</html>"),
        Rule("answer", status=502, body="<html>bad gateway</html>"),
        Rule("reset"),
        Rule("lost_answer"),
        Rule("half_answer"),
    ]
    random.Random(seed).shuffle(kinds)
    for rule in kinds:
        rule.path = path
        rule.chance = chance / len(kinds)
    return kinds


@dataclass(frozen=True)
class _Head:
    raw: bytes
    method: str
    target: str
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))


class FaultProxy:
    """Forwards to ``upstream``; ``seen`` counts requests as "METHOD path", ``faulted`` faults by name."""

    def __init__(self, upstream: str, *, port: int = 0, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.port = port
        self.rules: list[Rule] = []
        self.seen: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.on_request: Callable[[str, str], None] | None = None
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._released = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.clear()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def add(self, *rules: Rule) -> None:
        self.rules.extend(rules)

    def clear(self) -> None:
        """Remove all rules and let go of stalled requests (their connections are reset)."""
        self.rules.clear()
        self._released.set()
        self._released = asyncio.Event()

    def _decide(self, head: _Head) -> Rule:
        for rule in self.rules:
            if not rule.matches(head.method, head.target):
                continue
            if rule.fault == "unauthorized" and head.headers.get("authorization") == rule.until:
                continue
            if rule.chance < 1 and self._random.random() >= rule.chance:
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule
        return Rule("pass")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is over."""
        head = await _read_head(reader)
        if head is None:
            return False
        if head.target.startswith(CONTROL):
            return await self._control(head, reader, writer)
        self.seen[f"{head.method} {urlsplit(head.target).path}"] += 1
        if self.on_request is not None:
            self.on_request(head.method, head.target)
        rule = self._decide(head)
        if rule.fault != "pass":
            self.faulted[rule.fault] += 1
        match rule.fault:
            case "answer":
                await _drain(head, reader)
                await _answer(writer, rule.status, rule.headers, rule.body.encode())
                return True
            case "unauthorized":
                await _drain(head, reader)
                await _answer(writer, 401, {"WWW-Authenticate": "Bearer"}, b'{"error_code":"UNAUTHENTICATED"}')
                return True
            case "reset":
                _reset(writer)
                return False
            case "deaf" | "stall":
                if rule.fault == "stall":
                    await _drain(head, reader)
                await self._released.wait()
                _reset(writer)
                return False
            case "held":
                await asyncio.sleep(rule.drip_s)
        return await self._forward(rule, head, reader, writer)

    async def _forward(
        self, rule: Rule, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
        try:
            upstream.write(head.raw)
            await _pipe(head, reader, upstream)
            answer = await _read_head(upstream_reader)
            if answer is None:
                _reset(writer)
                return False
            match rule.fault:
                case "lost_answer":
                    _reset(writer)
                    return False
                case "lost_then_stall":
                    await self._released.wait()
                    _reset(writer)
                    return False
                case "half_answer":
                    writer.write(answer.raw)
                    writer.write(await upstream_reader.read(max(1, answer.length // 2)) if answer.length > 1 else b"")
                    await writer.drain()
                    _reset(writer)
                    return False
                case "drip" | "drip_body":
                    slow = await upstream_reader.readexactly(answer.length) if not answer.chunked else b""
                    if rule.fault == "drip":
                        slow = answer.raw + slow
                    else:
                        writer.write(answer.raw)
                    for byte in slow:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(rule.drip_s)
                    return True
            if rule.fault == "late":
                await asyncio.sleep(rule.drip_s)
            writer.write(answer.raw)
            await _pipe(answer, upstream_reader, writer)
            return True
        finally:
            upstream.close()

    async def _control(self, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = await reader.readexactly(head.length)
        try:
            if head.method == "POST":
                rules = [Rule(**rule) for rule in json.loads(body)]
                self.rules[:] = rules
            elif head.method == "DELETE":
                self.clear()
        except (ValueError, TypeError) as exc:
            await _answer(writer, 400, {}, str(exc).encode())
            return True
        told = {"rules": [asdict(r) for r in self.rules], "seen": self.seen, "faulted": self.faulted}
        await _answer(writer, 200, {"Content-Type": "application/json"}, json.dumps(told).encode())
        return True


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return _Head(raw, words[0], words[1], headers)


async def _pipe(head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass a body on as it is, piece by piece."""
    while head.chunked:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        writer.write(line + await reader.readexactly(size + 2))
        await writer.drain()
        if size == 0:
            return
    left = head.length
    while left:
        piece = await reader.read(min(PIECE, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        writer.write(piece)
        await writer.drain()
    await writer.drain()


async def _drain(head: _Head, reader: asyncio.StreamReader) -> None:
    """Read a body and forget it."""
    while head.chunked:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        await reader.readexactly(size + 2)
        if size == 0:
            return
    left = head.length
    while left:
        piece = await reader.read(min(PIECE, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)


async def _answer(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(upstream: str, port: int, seed: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with FaultProxy(upstream, port=port, seed=seed) as proxy:
        print(proxy.port, flush=True)
        stop = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(serve(given.to, given.port, given.seed))
