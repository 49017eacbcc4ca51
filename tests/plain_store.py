"""A FileStore with one run, written by hand in a millisecond, where what is in it does not matter."""

from __future__ import annotations

from pathlib import Path


def begin_run(store: Path) -> Path:
    """Return the file of the metric ``loss`` of a run that goes on; points are to be appended to it."""
    run = store / "0" / ("a" * 32)
    (run / "metrics").mkdir(parents=True)
    (store / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: one\nlifecycle_stage: active\n")
    (run / "meta.yaml").write_text(
        f"run_id: {run.name}\nrun_name: first\nexperiment_id: '0'\nstatus: 1\nstart_time: 1700000000000\n"
        "end_time: null\nlifecycle_stage: active\nuser_id: someone\n"
    )
    return run / "metrics" / "loss"
