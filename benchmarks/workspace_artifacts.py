"""``workspace-artifact``: one large artifact into the stand-in of a workspace, whose memory is to be flat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import SYNCD, measured
from benchmarks.results import Row
from benchmarks.stores import make_file_store
from tests.standins.azureml import WorkspaceProcess

SIZES_MIB = (64, 1024, 5 * 1024)


def workspace_artifact(folder: Path) -> Iterator[Row]:
    """The largest RSS of ``syncd sync`` as the artifact grows; the file is sparse, all of it is sent."""
    for size_mib in SIZES_MIB:
        store = folder / f"store-{size_mib}"
        make_file_store(store, runs=1, metrics=1, steps=1)
        [run] = [meta.parent for meta in store.glob("*/*/meta.yaml")]
        (run / "artifacts").mkdir(exist_ok=True)
        with (run / "artifacts" / "large.bin").open("wb") as file:
            file.truncate(size_mib << 20)
        with WorkspaceProcess(folder / f"workspace-{size_mib}") as workspace:
            state = ["--state-dir", str(folder / f"state-{size_mib}"), "--json"]
            command = [*SYNCD, "sync", str(store), "--to", workspace.place.tracking_uri, *state]
            spent = measured(command, cwd=folder, extra=workspace.place.client_environment())
            stored_bytes = workspace.control()["stored"]["blob_bytes"]
        if stored_bytes < size_mib << 20:
            raise RuntimeError(f"{stored_bytes} bytes arrived of {size_mib} MiB")
        rate = size_mib / spent.wall_s
        noise = f"{spent.wall_s:.0f} s, {rate:.0f} MiB/s, {spent.cpu_s:.0f} s CPU"
        yield Row(f"{size_mib:,} MiB in one artifact, peak memory", "flat", f"{spent.peak_mib:.0f} MiB", noise)
