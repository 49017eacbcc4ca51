"""A null server that notes when each point came. A point's value is the wall time at which it was written.

    python -m benchmarks.recording_server --port 0      # prints its port

``GET /null/latencies`` answers the seconds from written to arrived of all points since the last such question.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field

from tests.standins.null_server import API, NullMlflow


@dataclass
class RecordingMlflow(NullMlflow):
    """The null server with arrival times."""

    latencies_s: list[float] = field(default_factory=list)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        now_s = time.time()
        if target == f"{API}runs/log-batch":
            points = json.loads(body).get("metrics", ())
            self.latencies_s += [now_s - float(point["value"]) for point in points]
        if target == "/null/latencies":
            told, self.latencies_s = self.latencies_s, []
            return 200, json.dumps(told).encode()
        return super().answer(method, target, body)


async def serve(port: int) -> None:
    async with RecordingMlflow(port) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
