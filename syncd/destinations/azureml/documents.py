"""JSON documents that syncd keeps among a run's artifacts, without asking more of a workspace than a plain upload does.

Rules
-----
1. An artifact is written once and never replaced. A document is a folder: ``1.json`` has the whole of it, each higher
   number what was changed then. Objects merge, anything else is replaced.
2. A path can be registered once. Whoever registers a number has it for itself: of two daemons that change a document at
   the same time each writes its own change, and neither loses the other's.
3. A number that was registered and never sent (a process ended in between) is passed over.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection
from typing import Any, Final
from weakref import WeakValueDictionary

from syncd.azure.blob import BlobAddress
from syncd.destinations.azureml.artifacts import RunArtifacts
from syncd.destinations.azureml.shelf import Shelf
from syncd.errors import Rejected
from syncd.rest.client import Json
from syncd.rest.uploads import BytesUpload

_NUMBERED: Final = re.compile(r"(\d{1,9})\.json")


class Documents:
    """Reads and writes documents among the artifacts of runs."""

    def __init__(self, artifacts: RunArtifacts) -> None:
        self._artifacts = artifacts
        self._unsent: dict[tuple[Shelf, str], tuple[bytes, BlobAddress]] = {}  # registered here, and not sent yet
        self._writing: WeakValueDictionary[Shelf, asyncio.Lock] = WeakValueDictionary()

    async def load(self, shelf: Shelf, folder: str, paths: Collection[str]) -> Json | None:
        """Return the document in that folder, given all paths of the run; None if nothing of it is there."""
        document: Json | None = None
        for number in sorted(_numbers(folder, paths)):
            path = f"{folder}/{number}.json"
            part = await self.read(shelf, path)
            if part is not None:
                self._unsent.pop((shelf.run, path), None)  # its answer was lost
                document = _merged(document or {}, part)
        return document

    async def read(self, shelf: Shelf, path: str) -> Json | None:
        """Return one file, None if it is not there.

        Raises:
            Rejected: it is no JSON object.
        """
        content = await self._artifacts.small(shelf, path)
        if content is None:
            return None
        try:
            value: Any = json.loads(content.decode("utf-8", "surrogatepass"))
        except ValueError as exc:
            raise Rejected(f"it is no JSON: {exc}", doing="reading", target=path) from exc
        if not isinstance(value, dict):
            raise Rejected("it is no JSON object", doing="reading", target=path)
        return value

    async def change(self, shelf: Shelf, folder: str, change: Callable[[Json | None], Json]) -> Json:
        """Write the change that ``change`` finds necessary, if it is one; return the document with it."""
        taken = 0
        while True:
            paths = await self._artifacts.paths(shelf)
            held = await self.load(shelf, folder, paths)
            part = change(held)
            wanted = _merged(held or {}, part)
            if wanted == held:
                return wanted
            number = self._unsent_number(shelf, folder, part) or max({taken, *_numbers(folder, paths)}) + 1
            if await self.write(shelf, f"{folder}/{number}.json", part):
                return wanted
            taken = number

    async def write(self, shelf: Shelf, path: str, document: Json) -> bool:
        """Write a file that nobody has written; return False if somebody else has registered its path before."""
        key, content = (shelf.run, path), _encoded(document)
        async with self._writing.setdefault(shelf.run, asyncio.Lock()):
            unsent, address = self._unsent.get(key, (content, None))
            if unsent != content:
                return False
            address = address or await self._artifacts.claim(shelf, path)
            if address is None:
                return False
            self._unsent[key] = (content, address)
            await self._artifacts.put(shelf, BytesUpload(path, content), address)
            self._unsent.pop(key, None)
            return True

    def is_unsent(self, shelf: Shelf, path: str, document: Json) -> bool:
        """Whether this process has registered that path for this very file, which has not arrived there yet."""
        unsent = self._unsent.get((shelf.run, path))
        return unsent is not None and unsent[0] == _encoded(document)

    def _unsent_number(self, shelf: Shelf, folder: str, part: Json) -> int | None:
        mine = [path for run, path in self._unsent if run == shelf.run and self.is_unsent(shelf, path, part)]
        return max(_numbers(folder, mine), default=None)


def _merged(held: Json, part: Json) -> Json:
    return held | {
        key: held[key] | value if isinstance(value, dict) and isinstance(held.get(key), dict) else value
        for key, value in part.items()
    }


def _encoded(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def _numbers(folder: str, paths: Collection[str]) -> set[int]:
    names = (path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/"))
    return {int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))}
