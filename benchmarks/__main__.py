"""Run the benchmarks named, or all: ``python -m benchmarks [NAME …]``. Each prints one Markdown table."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.ceilings import ceiling, flat_memory, import_memory
from benchmarks.following import daemon_at_rest
from benchmarks.live import latency, writer
from benchmarks.messaging import mqtt, service_bus, webhook
from benchmarks.relaying import relay, relay_memory
from benchmarks.results import Others, Row, print_table
from benchmarks.syncing import sync_points, sync_runs
from benchmarks.telling import events
from benchmarks.workspace import following_into_workspace, into_workspace
from benchmarks.workspace_artifacts import workspace_artifact

BENCHMARKS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "import-memory": import_memory,
    "ceiling": ceiling,
    "flat-memory": flat_memory,
    "sync-points": sync_points,
    "sync-runs": sync_runs,
    "workspace": into_workspace,
    "workspace-daemon": following_into_workspace,
    "daemon": daemon_at_rest,
    "latency": latency,
    "writer": writer,
    "events": events,
    "messages-service-bus": service_bus,
    "messages-mqtt": mqtt,
    "messages-webhook": webhook,
    "relay": relay,
    "relay-memory": relay_memory,
    "workspace-artifact": workspace_artifact,
}


def main() -> int:
    """Run them one after another; a failing one does not keep the others from running."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--folder", type=Path, help="where stores and servers are put (default: a temporary one)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are stopped
    failed = 0
    for name in arguments.names or BENCHMARKS:
        folder = Path(tempfile.mkdtemp(prefix=f"syncd-{name}-", dir=arguments.folder))
        begun_s, others = time.monotonic(), Others()
        try:
            print_table(name, BENCHMARKS[name](folder))
        except Exception as error:  # noqa: BLE001 - the boundary of one benchmark
            failed += 1
            print(f"\n{name} failed: {type(error).__name__}: {error}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(
            f"\n{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, of which other processes used "
            f"{others.cores():.1f}; took {time.monotonic() - begun_s:.0f} s.",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
