"""Makes FileStore trees of a given shape, byte for byte as MLflow writes them, quickly."""

from __future__ import annotations

import math
import os
import random
import time
import uuid
from pathlib import Path

EXPERIMENT = "123456789012345678"
EXPERIMENT_META = """artifact_location: {root}/{experiment}
creation_time: 1700000000000
experiment_id: '{experiment}'
last_update_time: 1700000000000
lifecycle_stage: active
name: {name}
"""

RUN_META = """artifact_uri: {root}/{experiment}/{run}/artifacts
end_time: {end}
entry_point_name: ''
experiment_id: '{experiment}'
lifecycle_stage: active
run_id: {run}
run_name: {name}
run_uuid: {run}
source_name: ''
source_type: 4
source_version: ''
start_time: 1700000000000
status: {status}
tags: []
user_id: bench
"""


def make_file_store(
    root: Path,
    *,
    runs: int,
    metrics: int,
    steps: int,
    params: int = 0,
    files: int = 0,
    file_bytes: int = 2_000,
    name: str = "bench",
    seed: int = 0,
    status: int = 3,
) -> list[str]:
    """Write a store below ``root`` and return the run ids. ``status`` 3 is FINISHED a day ago, 1 RUNNING."""
    random_numbers = random.Random(seed)
    folder = root / EXPERIMENT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(EXPERIMENT_META.format(root=root, experiment=EXPERIMENT, name=name))
    run_ids = []
    for number in range(runs):
        run = uuid.UUID(int=random_numbers.getrandbits(128)).hex
        run_ids.append(run)
        write_run(
            folder / run,
            metrics=metrics,
            steps=steps,
            params=params,
            files=files,
            content=random_numbers.randbytes(file_bytes),
            number=number,
            status=status,
        )
    if status == 3:
        _make_old(root)
    return run_ids


def _make_old(root: Path) -> None:
    """Set every mtime below back by a day: what was written a moment ago is followed closely for a minute."""
    then_s = time.time() - 86_400
    for path in (*root.rglob("*"), root):
        os.utime(path, (then_s, then_s))


def write_run(
    folder: Path,
    *,
    metrics: int,
    steps: int,
    params: int = 0,
    files: int = 0,
    content: bytes = b"",
    number: int = 0,
    status: int = 3,
) -> None:
    """Write one run below its experiment's folder, its meta.yaml last; the folder's name is its id."""
    for part in ("metrics", "params", "tags", "artifacts"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for metric in range(metrics):
        lines = [
            f"{1700000000000 + step * 1000} {math.exp(-step / 300) + metric + number / 1000!r} {step}\n"
            for step in range(steps)
        ]
        (folder / "metrics" / f"metric_{metric}").write_text("".join(lines))
    for param in range(params):
        (folder / "params" / f"param_{param}").write_text(f"value {param}")
    (folder / "tags" / "mlflow.runName").write_text(f"run-{number}")
    (folder / "tags" / "mlflow.user").write_text("bench")
    for file in range(files):
        (folder / "artifacts" / f"file_{file}.bin").write_bytes(content)
    end = "null" if status == 1 else 1700000000000 + steps * 1000
    root, experiment, run = folder.parent.parent, folder.parent.name, folder.name
    meta = RUN_META.format(root=root, experiment=experiment, run=run, name=f"run-{number}", end=end, status=status)
    (folder / "meta.yaml").write_text(meta)
