"""Events to a URL: one POST for each, in CloudEvents' structured mode, signed as Standard Webhooks 1.0 says.

Rules
-----
1. ``webhook-id`` is the event's id, so a receiver may use it to tell what it has already got.
2. 2xx: taken. 410: none is wanted any more. 400, 413, 415 and 422 speak of this event. Everything else may pass: a 404
   is an address at which nobody listens yet, not an event that nobody wants.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from syncd.core.events import STRUCTURED, Event, encode_structured
from syncd.core.webhook_signature import sign
from syncd.errors import DestinationError, Rejected, SinkGone, Transient
from syncd.rest.client import Deadlines, RestClient

_OF_THE_EVENT: Final = frozenset({400, 413, 415, 422})
_DOING: Final = "sending an event to"


class _WebhookClient(RestClient):
    """Says what a receiver's answers mean."""

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        if status == 410:
            hint = "its owner wants no more: take the sink out, or start syncd again to try once more"
            return SinkGone("410: the receiver has gone", doing=doing, target=target, hint=hint)
        error = super().classify(method, status, headers, body, doing=doing, target=target)
        if isinstance(error, Rejected) and status not in _OF_THE_EVENT:
            return Transient(error.message, doing=doing, target=target, hint="is the address right?")
        return error


class WebhookSink:
    """One URL. ``keys`` sign, each of them, so that a receiver may change from one to the next; none: unsigned."""

    def __init__(
        self,
        url: str,
        *,
        keys: Sequence[bytes],
        ca_file: str | None = None,
        timeout_s: float = 30.0,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._keys = tuple(keys)
        self._wall_s = wall_s
        self._rest = _WebhookClient(url, ca_file=ca_file, deadlines=Deadlines.within(timeout_s), connections=2)

    async def send(self, events: Sequence[Event]) -> None:
        """Send events one after another; see ``EventSink``."""
        for event in events:
            body = encode_structured(event)
            await self._rest.exchange("POST", self._url, data=body, headers=self._headers(event, body), doing=_DOING)

    def _headers(self, event: Event, body: bytes) -> dict[str, str]:
        at_s = int(self._wall_s())
        signatures = [sign(key, message_id=event.id, timestamp_s=at_s, body=body) for key in self._keys]
        signed = {"webhook-signature": " ".join(signatures)} if signatures else {}
        return {"Content-Type": STRUCTURED, "webhook-id": event.id, "webhook-timestamp": str(at_s), **signed}

    async def close(self) -> None:
        """Disconnect."""
        await self._rest.close()
