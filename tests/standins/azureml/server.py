"""Runs a workspace: in a thread of the test's process, or in a process of its own.

``RunningWorkspace`` is for tests: its ``state`` is at hand, and outlives ``stop`` and ``start``. ``WorkspaceProcess``
is for benchmarks: it takes no time of the process that measures, and is set by ``control``; a restart begins empty.
Both keep their port and, in the folder, their certificate.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

import trustme
from aiohttp import web

from tests.standins.azureml.arm_api import ArmApi
from tests.standins.azureml.artifact_api import ArtifactApi
from tests.standins.azureml.blob_api import BlobApi
from tests.standins.azureml.control_api import CONTROL, ControlApi
from tests.standins.azureml.gate import gate
from tests.standins.azureml.limits import Habits, Limits
from tests.standins.azureml.place import Place
from tests.standins.azureml.registry_api import RegistryApi
from tests.standins.azureml.state import Route, State
from tests.standins.azureml.token_api import TokenApi
from tests.standins.azureml.tracking_api import TrackingApi
from tests.standins.startable import STOP_TIMEOUT_S, Startable, end_group

START_TIMEOUT_S = 30.0
BODY_MAX_BYTES = 1 << 30
BACKLOG = 512


def application(state: State) -> web.Application:
    """Return the server's application."""
    routes: dict[web.AbstractRoute, Route] = {}
    app = web.Application(middlewares=[gate(state, routes)], client_max_size=BODY_MAX_BYTES)
    apis = (TokenApi, ArmApi, TrackingApi, RegistryApi, ArtifactApi, BlobApi, ControlApi)
    for api in apis:
        for route in api(state).routes():
            routes[app.router.add_route(route.method, route.path, route.handler)] = route
    return app


def certificate(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context for 127.0.0.1; the one made first stays in the folder, its CA in ``ca.pem``."""
    ca, own = folder / "ca.pem", folder / "server.pem"
    if not own.exists():
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca))
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(own))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    return context


class RunningWorkspace(Startable):
    """``with RunningWorkspace(tmp_path) as workspace``: one in a thread; ``workspace.state`` has the switches."""

    def __init__(
        self, folder: Path, *, port: int = 0, limits: Limits | None = None, habits: Habits | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.place = Place(port=port, ca=folder / "ca.pem")
        self.state = State(self.place, folder, limits=limits or Limits(), habits=habits or Habits())
        self._tls = certificate(folder)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Serve; returns when connections are taken."""
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="azureml-standin", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the workspace's stand-in did not start")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop serving; open connections are closed, what is stored stays."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._failure is None:
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # noqa: BLE001 - a thread's boundary: start() raises it
            self._failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.AppRunner(application(self.state), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(
                runner, "127.0.0.1", self.place.port, ssl_context=self._tls, backlog=BACKLOG, reuse_address=True
            )
            await site.start()
            self.place.port = int(runner.addresses[0][1])
            self._ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()


class WorkspaceProcess(Startable):
    """``with WorkspaceProcess(tmp_path) as workspace``: a workspace in a process group of its own."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.place = Place(port=port, ca=folder / "ca.pem")
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.standins.azureml"]
        with (self.folder / "standin.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--folder", str(self.folder), "--port", str(self.place.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[3],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        told: IO[str] | None = self._process.stdout
        assert told is not None
        line = told.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"the stand-in did not start:\n{(self.folder / 'standin.log').read_text()[-4000:]}")
        self.place.port = int(json.loads(line)["port"])

    def control(self, **settings: Any) -> dict[str, Any]:
        """Set what ``control_api`` takes, and return what it tells."""
        body = json.dumps(settings).encode()
        request = urllib.request.Request(f"{self.place.url}{CONTROL}", body, method="POST")
        context = ssl.create_default_context(cafile=str(self.place.ca))
        with urllib.request.urlopen(request, timeout=STOP_TIMEOUT_S, context=context) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def stop(self) -> None:
        """End the process: its own group, never by name."""
        process, self._process = self._process, None
        if process is None:
            return
        end_group(process)
        if process.stdout is not None:
            process.stdout.close()


def serve_until_signalled(folder: Path, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints one JSON line with address and CA when connections are taken."""
    stopped = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda _sign, _frame: stopped.set())
    with RunningWorkspace(folder, port=port) as workspace:
        place = workspace.place
        told = {"port": place.port, "url": place.url, "ca": str(place.ca), "tracking_uri": place.tracking_uri}
        print(json.dumps(told), flush=True)
        while not stopped.is_set():
            time.sleep(0.1)
