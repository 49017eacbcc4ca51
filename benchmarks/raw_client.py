"""The rival of ``sync-points`` and ``sync-runs``: the shortest client that sends a FileStore, and no more.

    python -m benchmarks.raw_client STORE URL IN_FLIGHT

No journal, no look-ups, no retries, no checks: it creates each run, sends its points in batches of 1000, params, files
and end, with IN_FLIGHT requests in flight. What it does not do is what syncd costs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

API = "/api/2.0/mlflow"
BATCH = 1000


class RawClient:
    """Sends one store."""

    def __init__(self, session: aiohttp.ClientSession, url: str, in_flight: int) -> None:
        self._session = session
        self._url = url
        self._in_flight = in_flight
        self._places = asyncio.Semaphore(in_flight)

    async def call(self, path: str, body: bytes) -> Any:
        async with self._places, self._session.post(self._url + API + path, data=body) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def put(self, url: str, body: bytes) -> None:
        async with self._places, self._session.put(url, data=body) as answer:
            answer.raise_for_status()
            await answer.read()

    async def send_store(self, store: Path) -> None:
        for folder in _children(store):
            await self._send_experiment(folder)

    async def _send_experiment(self, folder: Path) -> None:
        name = _yaml(folder / "meta.yaml")["name"]
        experiment = (await self.call("/experiments/create", _json({"name": name})))["experiment_id"]
        rooms = asyncio.Semaphore(self._in_flight)
        async with asyncio.TaskGroup() as group:
            for run in _children(folder):
                await rooms.acquire()
                task = group.create_task(self._send_run(experiment, run))
                task.add_done_callback(lambda _: rooms.release())

    async def _send_run(self, experiment: str, folder: Path) -> None:
        meta = _yaml(folder / "meta.yaml")
        tags = [{"key": file.name, "value": file.read_text()} for file in (folder / "tags").iterdir()]
        create = {"experiment_id": experiment, "start_time": meta["start_time"], "tags": tags}
        info = (await self.call("/runs/create", _json(create)))["run"]["info"]
        run = info["run_id"]
        async with asyncio.TaskGroup() as group:
            params = [{"key": file.name, "value": file.read_text()} for file in (folder / "params").iterdir()]
            if params:
                group.create_task(self.call("/runs/log-batch", _json({"run_id": run, "params": params})))
            for lines in _batches(folder / "metrics"):
                body = b'{"run_id":"%b","metrics":[%b]}' % (run.encode(), b",".join(lines))
                group.create_task(self.call("/runs/log-batch", body))
                await asyncio.sleep(0)
            root = info["artifact_uri"].split(":/", 1)[1].lstrip("/")
            for file in (folder / "artifacts").iterdir():
                url = f"{self._url}/api/2.0/mlflow-artifacts/artifacts/{root}/{file.name}"
                group.create_task(self.put(url, file.read_bytes()))
        end = {"run_id": run, "status": "FINISHED", "end_time": meta["end_time"], "run_name": meta["run_name"]}
        await self.call("/runs/update", _json(end))


def _children(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if (child / "meta.yaml").exists()]


def _batches(folder: Path) -> Iterator[list[bytes]]:
    lines = []
    for file in folder.iterdir():
        key = json.dumps(file.name).encode()
        for line in file.read_bytes().splitlines():
            timestamp, value, step = line.split()
            lines.append(b'{"key":%b,"value":%b,"timestamp":%b,"step":%b}' % (key, value, timestamp, step))
            if len(lines) == BATCH:
                yield lines
                lines = []
    if lines:
        yield lines


def _yaml(file: Path) -> Any:
    return yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


async def send(store: Path, url: str, in_flight: int) -> None:
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        await RawClient(session, url, in_flight).send_store(store)


if __name__ == "__main__":
    asyncio.run(send(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
