"""Registering artifacts: those of one run that are wanted at the same time go in one call.

The first one goes at once. While a few calls of a run are under way, which takes most of a second on a busy workspace,
those that come gather, and go together with the next call: nothing waits for company that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from syncd.azure.blob import BlobAddress
from syncd.destinations.azureml.shelf import Shelf
from syncd.errors import Rejected

CALLS_AT_ONCE: Final = 3  # of one run
_Outcome = BlobAddress | Exception | None
Send = Callable[[Shelf, Sequence[str]], Awaitable[Mapping[str, BlobAddress | Rejected | None]]]


@dataclass(slots=True)
class _Gathering:
    """The paths of one run that wait for a call, who waits for each, and how many calls are under way."""

    shelf: Shelf
    waiting: dict[str, asyncio.Future[_Outcome]] = field(default_factory=dict)
    calls: int = 0


class Registrations:
    """Registers artifacts by ``send``, at most ``most`` in a call. ``close`` ends the calls that are under way."""

    def __init__(self, send: Send, *, most: int) -> None:
        self._send = send
        self._most = most
        self._gatherings: dict[Shelf, _Gathering] = {}
        self._calling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the calls that are under way; whoever waits for one is cancelled."""
        for task in self._calling:
            task.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)

    async def register(self, shelf: Shelf, path: str) -> BlobAddress | None:
        """Return where to send the artifact, None if it was registered before.

        Raises:
            DestinationError: what the call, or the service of this path, said.
        """
        gathering = self._gatherings.setdefault(shelf.run, _Gathering(shelf.run))
        future = gathering.waiting.setdefault(path, asyncio.get_running_loop().create_future())
        if gathering.calls < CALLS_AT_ONCE:
            gathering.calls += 1
            task = asyncio.create_task(self._send_all(gathering))
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)
        outcome = await asyncio.shield(future)  # others may wait for it, too
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _send_all(self, gathering: _Gathering) -> None:
        try:
            while gathering.waiting:
                await self._send_some(gathering)
        finally:
            gathering.calls -= 1
            if not gathering.calls and not gathering.waiting:
                del self._gatherings[gathering.shelf]

    async def _send_some(self, gathering: _Gathering) -> None:
        paths = list(gathering.waiting)[: self._most]
        futures = {path: gathering.waiting.pop(path) for path in paths}
        try:
            outcomes: Mapping[str, _Outcome] = await self._send(gathering.shelf, paths)
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            outcomes = dict.fromkeys(paths, error)
        except BaseException:
            for future in futures.values():
                future.cancel()
            raise
        for path, future in futures.items():
            future.set_result(outcomes[path])
