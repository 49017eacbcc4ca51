"""Running the pipeline inside the test's own event loop, beside a fault proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from syncd.cli.exit_codes import exit_code_of
from syncd.configuration import DaemonSettings, destination_of_argument, names_of_arguments, source_of_argument
from syncd.errors import SyncdError
from syncd.journal.journal import Journal
from syncd.runtime.one_shot import sync_once
from syncd.runtime.pipeline import Pipeline

TIMEOUT_S = 200.0
# Two of them stay below the 15 connections of an MLflow server's database, beyond which it stands still for 30 s.
CONCURRENCY = 4


@dataclass
class Synced:
    """How a sync ended."""

    code: int
    error: str
    totals: dict[str, Any]
    faults: list[str]


def open_pipeline(
    store: Path,
    url: str,
    state: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    on_delete: Literal["keep", "delete"] = "keep",
    **more: Any,
) -> Pipeline:
    """Open what ``syncd sync`` opens; ``settings`` are further ones of the destination."""
    [name] = names_of_arguments([str(store)])
    return Pipeline(
        Journal.open(state),
        daemon=DaemonSettings(state_dir=state, flush_interval_s=0.0, **more),
        sources=[replace(source_of_argument(str(store), name=name), on_delete=on_delete)],
        destinations=[replace(destination_of_argument(url), max_concurrency=CONCURRENCY, **(settings or {}))],
    )


async def deliver(
    store: Path,
    url: str,
    state: Path,
    *,
    patience_s: float = 120.0,
    timeout_s: float = TIMEOUT_S,
    settings: Mapping[str, Any] | None = None,
    on_delete: Literal["keep", "delete"] = "keep",
) -> Synced:
    """Do what ``syncd sync`` does, with a patience of one's own."""
    pipeline = open_pipeline(store, url, state, settings=settings, on_delete=on_delete)
    code, error = 0, ""
    try:
        async with asyncio.timeout(timeout_s):
            await sync_once(pipeline, patience_s=patience_s)
    except SyncdError as exc:
        code, error = int(exit_code_of(exc)), str(exc)
    finally:
        totals = pipeline.totals().as_mapping()
        faults = [fault for uploader in pipeline.uploaders.values() for fault in uploader.faults.values()]
        await pipeline.close()
    return Synced(code, error, totals, faults)
