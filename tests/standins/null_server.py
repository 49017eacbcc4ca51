"""An MLflow server that accepts everything, keeps nothing and counts: shows a client's own ceiling.

    python -m tests.standins.null_server --port 0      # prints its port; GET /null/counts tells what came

Raw asyncio.Protocol. Bodies are not parsed: a point is an occurrence of ``"timestamp":`` in a log-batch body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import uuid
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow/"
PROXY = "/api/2.0/mlflow-artifacts/"


@dataclass
class Counts:
    """What came so far."""

    requests: int = 0
    points: int = 0
    batches: int = 0
    runs: int = 0
    models: int = 0
    artifact_files: int = 0
    artifact_bytes: int = 0
    body_bytes: int = 0


@dataclass
class NullMlflow:
    """The accepting server. Use as ``async with NullMlflow() as server``; ``server.url``, ``server.counts``."""

    port: int = 0
    counts: Counts = field(default_factory=Counts)
    experiments: dict[str, str] = field(default_factory=dict)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body for a request; ``body`` is empty for artifacts."""
        path, _, query = target.partition("?")
        if path == f"{API}runs/log-batch":
            self.counts.batches += 1
            self.counts.points += body.count(b'"timestamp":')
            return 200, b"{}"
        if path.startswith(f"{PROXY}artifacts") and method == "PUT":
            self.counts.artifact_files += 1
            return 200, b"{}"
        if path.startswith(f"{PROXY}mpu/"):
            return 501, b'{"error_code":"NOT_IMPLEMENTED","message":"Multipart upload is not supported"}'
        if path in ("/health", "/version"):
            return 200, b"OK" if path == "/health" else b"3.15.0"
        if path == "/null/counts":
            return 200, json.dumps(asdict(self.counts)).encode()
        value = self._object(method, path, query, body)
        return (404, b'{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no"}') if value is None else (200, value)

    def _object(self, method: str, path: str, query: str, body: bytes) -> bytes | None:
        name = path.removeprefix(API)
        value: Any = {}
        if name == "experiments/create":
            identity = self.experiments.setdefault(json.loads(body)["name"], str(len(self.experiments) + 1))
            value = {"experiment_id": identity}
        elif name == "experiments/get-by-name":
            wanted = parse_qs(query)["experiment_name"][0]
            if wanted not in self.experiments:
                return None
            value = {"experiment": {"experiment_id": self.experiments[wanted], "name": wanted}}
        elif name == "experiments/search":
            found = [{"experiment_id": i, "name": n, "lifecycle_stage": "active"} for n, i in self.experiments.items()]
            value = {"experiments": found}
        elif name == "runs/create":
            self.counts.runs += 1
            value = {"run": {"info": self._info(json.loads(body)["experiment_id"], uuid.uuid4().hex)}}
        elif name == "runs/get":
            value = {"run": {"info": self._info("1", parse_qs(query)["run_id"][0]), "data": {}}}
        elif name == "logged-models" and method == "POST":
            self.counts.models += 1
            identity = f"m-{uuid.uuid4().hex}"
            root = f"mlflow-artifacts:/1/models/{identity}/artifacts"
            value = {"model": {"info": {"model_id": identity, "experiment_id": "1", "artifact_uri": root}, "data": {}}}
        return json.dumps(value).encode()

    @staticmethod
    def _info(experiment: str, run: str) -> dict[str, str]:
        root = f"mlflow-artifacts:/{experiment}/{run}/artifacts"
        return {"run_id": run, "experiment_id": experiment, "artifact_uri": root, "lifecycle_stage": "active"}


class _Connection(asyncio.Protocol):
    """One keep-alive connection: a state of (in head, in body of known length, in chunks)."""

    def __init__(self, server: NullMlflow) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._method = ""
        self._target = ""
        self._left = -1  # bytes of body to come; -1: in a head
        self._chunked = False
        self._keep = True  # whether the body is wanted
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Take what can be taken from the buffer; False when more must come."""
        if self._left < 0 and not self._chunked:
            return self._take_head()
        return self._take_chunks() if self._chunked else self._take_body()

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self._method, self._target, _ = first.decode("latin-1").split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines)}
        self._chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        self._left = -1 if self._chunked else int(headers.get(b"content-length", b"0"))
        self._keep = not (self._method == "PUT" and urlsplit(self._target).path.startswith(f"{PROXY}artifacts"))
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _take_body(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self._account(bytes(self._buffer[:taken]) if self._keep else b"", taken)
        del self._buffer[:taken]
        self._left -= taken
        if self._left:
            return False
        self._answer()
        return bool(self._buffer)

    def _take_chunks(self) -> bool:
        if self._left <= 0:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            if size == 0:
                if len(self._buffer) < end + 4:
                    return False
                del self._buffer[: end + 4]
                self._chunked = False
                self._answer()
                return bool(self._buffer)
            del self._buffer[: end + 2]
            self._left = size + 2
        taken = min(self._left, len(self._buffer))
        payload = min(taken, max(0, self._left - 2))
        self._account(bytes(self._buffer[:payload]) if self._keep else b"", payload)
        del self._buffer[:taken]
        self._left -= taken
        return bool(self._buffer)

    def _account(self, data: bytes, size: int) -> None:
        self._server.counts.body_bytes += size
        if self._keep:
            self._body.append(data)
        else:
            self._server.counts.artifact_bytes += size

    def _answer(self) -> None:
        self._server.counts.requests += 1
        status, body = self._server.answer(self._method, self._target, b"".join(self._body))
        self._body.clear()
        self._left = -1
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._write(head.encode() + body)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT, then print the counts."""
    async with NullMlflow(port) as server:
        print(server.port, flush=True)
        stop = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        await stop.wait()
        print(json.dumps(asdict(server.counts)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
