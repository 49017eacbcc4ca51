"""Makes FileStore trees of a given shape, byte for byte as MLflow writes them, quickly."""

from __future__ import annotations

import math
import random
import uuid
from pathlib import Path

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
    """Write a store below ``root`` and return the run ids. ``status`` 3 is FINISHED, 1 RUNNING."""
    random_numbers = random.Random(seed)
    experiment = "123456789012345678"
    folder = root / experiment
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(EXPERIMENT_META.format(root=root, experiment=experiment, name=name))
    run_ids = []
    for number in range(runs):
        run = uuid.UUID(int=random_numbers.getrandbits(128)).hex
        run_ids.append(run)
        _write_run(folder / run, metrics, steps, params, files, random_numbers.randbytes(file_bytes), number)
        end = "null" if status == 1 else 1700000000000 + steps * 1000
        meta = RUN_META.format(
            root=root, experiment=experiment, run=run, name=f"run-{number}", end=end, status=status
        )
        (folder / run / "meta.yaml").write_text(meta)
    return run_ids


def _write_run(folder: Path, metrics: int, steps: int, params: int, files: int, content: bytes, number: int) -> None:
    for part in ("metrics", "params", "tags", "artifacts"):
        (folder / part).mkdir(parents=True)
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
