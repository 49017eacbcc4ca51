"""Events to an Event Grid topic (or domain) whose input schema is CloudEvents 1.0, several in one request.

The protocol is one POST (api-version 2018-01-01, learn.microsoft.com "Publish events to custom topics", read 2026-11);
azure-eventgrid would bring an SDK for it. A request may have 1 MB; an event of more than 64 kB counts as several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from syncd.core.events import BATCH, Event, encode_batch
from syncd.errors import SubjectGone, Transient
from syncd.rest.client import Auth, Deadlines, RestClient

MOST_BYTES: Final = 1_000_000
SCOPE: Final = "https://eventgrid.azure.net/.default"
_PATH: Final = "/api/events"
_API_VERSION: Final = "2018-01-01"


class EventGridSink:
    """One topic, spoken to with its access ``key``, or a token (``auth``)."""

    def __init__(
        self,
        endpoint: str,
        *,
        key: str = "",
        auth: Auth = None,
        ca_file: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        parts = urlsplit(endpoint)
        path = parts.path if parts.path.strip("/") else _PATH
        self._url = f"{parts.scheme}://{parts.netloc}{path}?api-version={_API_VERSION}"
        headers = {"aeg-sas-key": key} if key else {}
        self._rest = RestClient(
            endpoint, auth=auth, ca_file=ca_file, deadlines=Deadlines.within(timeout_s), connections=2, headers=headers
        )

    async def send(self, events: Sequence[Event]) -> None:
        """Send events in as few requests as they fit into; see ``EventSink``."""
        for together in _cut(events):
            await self._post(encode_batch(together))

    async def _post(self, body: bytes) -> None:
        kind = {"Content-Type": f"{BATCH}; charset=utf-8"}
        try:
            await self._rest.exchange("POST", self._url, data=body, headers=kind, doing="sending events to")
        except SubjectGone as error:  # 404 speaks of the topic
            hint = "is the endpoint that of the topic?"
            raise Transient(error.message, doing=error.doing, target=error.target, hint=hint) from error

    async def close(self) -> None:
        """Disconnect."""
        await self._rest.close()


def _cut(events: Sequence[Event]) -> list[list[Event]]:
    """Cut events into lists whose bodies fit a request, in order."""
    lists: list[list[Event]] = [[]]
    size = 2
    for event in events:
        added = len(encode_batch([event]))
        if lists[-1] and size + added > MOST_BYTES:
            lists.append([])
            size = 2
        lists[-1].append(event)
        size += added
    return [one for one in lists if one]
