"""What another syncd relays, into a real mlflow server: ``syncd verify`` finds nothing, whatever it went through."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.cli.main import main
from syncd.core.relay.values import MOST_BYTES, Parcel
from syncd.sources.in_memory import InMemorySource
from tests.awkward import build_awkward_store
from tests.integration.test_message_intake import running
from tests.relaying import ORIGIN, relayed
from tests.standins.mlflow_server import RunningMlflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    build_awkward_store(folder, "mlruns", big_artifact_bytes=3_000_000)
    return folder


async def verify(store: Path, server: RunningMlflow) -> None:
    assert await asyncio.to_thread(main, ["verify", str(store), "--against", server.url]) == 0


def put(source: InMemorySource, parcels: Sequence[Parcel], **fields: Any) -> None:
    for parcel in parcels:
        source.put(parcel.body, **fields)


async def test_a_relayed_store_arrives_whole_and_once_however_often_it_is_told(store: Path, tmp_path: Path) -> None:
    with RunningMlflow(tmp_path / "server") as server:
        source = InMemorySource("bus")
        told = relayed(store)
        for parcels in told.values():
            put(source, parcels)
        async with running(tmp_path / "state", server, "unused", source, relay=True) as case:
            await case.settled()
            await verify(store, server)
            # Half of it comes again, in any order; then the edge's journal was lost, and it sends all anew.
            parcels = [parcel for of in told.values() for parcel in of]
            again = random.Random(1).sample(parcels, len(parcels) // 2)
            put(source, again, deliveries=2)
            anew = relayed(store, origin=replace(ORIGIN, journal="journal-2", journal_made_s=ORIGIN.journal_made_s + 9))
            for parcels in anew.values():
                put(source, parcels)
            await case.settled()
            await verify(store, server)
            assert source.refused == []


async def test_what_may_not_be_relayed_or_is_no_parcel_is_refused_and_the_rest_is_taken(
    store: Path, tmp_path: Path
) -> None:
    parcels = [parcel for of in relayed(store).values() for parcel in of]
    with RunningMlflow(tmp_path / "server") as server:
        source = InMemorySource("bus")
        put(source, parcels[:3])
        async with running(tmp_path / "strict", server, "unused", source) as case:
            await case.settled()
            assert [one.reason for one in source.refused] == ["NotAllowed"] * 3
            assert all("set relay = true" in one.description for one in source.refused)
        source = InMemorySource("bus")
        for parcel in parcels:
            put(source, [parcel])
            source.put(spoiled(parcel, zlib.compress(b"0" * (MOST_BYTES + 1))))
            source.put(spoiled(parcel, b"no zlib"))
        async with running(tmp_path / "state", server, "unused", source, relay=True) as case:
            await case.settled()
            await verify(store, server)
            assert {one.reason for one in source.refused} == {"Malformed"}
            assert len(source.refused) == 2 * len(parcels)
            assert all("/data_base64" in one.description for one in source.refused)


def spoiled(parcel: Parcel, data: bytes) -> dict[str, Any]:
    """Return a parcel's event with other data, as somebody might send it who knows the rest."""
    return {**json.loads(parcel.body), "id": f"{parcel.id}-{len(data)}", "data_base64": base64.b64encode(data).decode()}
