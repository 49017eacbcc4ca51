"""Messages that come by HTTP: ``POST /hooks/{source}``, verified, and answered when the journal has committed them.

The HTTP server calls ``answer`` for each request; ``MessageIntake`` reads the same object as a ``MessageSource``.

Rules
-----
1. 2xx is said only after ``complete``: whoever sent it may then forget it.
2. What is not from who it claims to be is answered 401 and counted, and logged once in ``WARN_AGAIN_S``; nothing of it
   is read.
3. What waits is bounded in number and bytes; beyond that, and where nobody reads, the answer is 503 with Retry-After.
4. A request costs no timer and no task of its own: one timer watches whoever has waited longest.
5. What comes while a batch is committed is the next batch: one commit answers everybody who sends side by side.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from syncd.core.messages.bounded_json import parse_bounded
from syncd.core.webhook_signature import Signed, signed_of, wrong_with
from syncd.errors import MessageRefused
from syncd.sources.messages import Message

log = structlog.get_logger(__name__)

MOST_WAITING: Final = 1000
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
PATIENCE_S: Final = 20.0
GATHER_S: Final = 0.001  # waited for more, while they are fewer than the last time and more are coming
RETRY_AFTER_S: Final = 5
WARN_AGAIN_S: Final = 60.0
_STATUS_OF_REASON: Final = {"TooLarge": 413, "NotAllowed": 403, "NotSupported": 501}
_SECRET: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
_NO_PROOF: Final = "the request does not prove where it comes from (signature, token or password)"


@dataclass(slots=True, kw_only=True)  # frozen, it would take three times as long to make
class HookRequest:
    """A request to ``/hooks/{source}``: names of headers in lower case, the body whole."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HookAnswer:
    """What is answered: a status, a JSON object, and headers beside Content-Type."""

    status: int
    content: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


TAKEN: Final = HookAnswer(status=200, content={"status": "taken"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request may prove itself with; one of them is enough.

    ``keys`` are of signatures (several while one is replaced by another), ``token`` is that of a secret URL
    (``?token=``), ``basic`` user and password.
    """

    keys: Sequence[bytes] = ()
    token: str = ""
    basic: tuple[str, str] | None = None


@dataclass(slots=True)
class HookCounts:
    """What became of requests since the start."""

    taken: int = 0
    unauthorized: int = 0
    refused: int = 0
    put_off: int = 0


class WebhookSource:
    """Requests to one address. ``most_bytes`` is the largest body; the HTTP server should read no more."""

    def __init__(
        self,
        name: str,
        *,
        credentials: Credentials,
        most_bytes: int,
        patience_s: float = PATIENCE_S,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.most_bytes = most_bytes
        self.counts = HookCounts()
        self._credentials = credentials
        self._patience_s = patience_s
        self._wall_s = wall_s
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._warned_s = -math.inf
        self._held = 0  # handed over and not settled
        self._together = 1  # as many came at once the last time
        self._unanswered: OrderedDict[object, float] = OrderedDict()  # until when each may wait, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    # -- for the HTTP server ---------------------------------------------------------------------------------------

    def answer(self, request: HookRequest) -> asyncio.Future[HookAnswer]:
        """Return the answer to a request, which comes at the latest after ``patience_s``.

        Who no longer wants it may cancel it; the message is then taken all the same.
        """
        answer: asyncio.Future[HookAnswer] = asyncio.get_running_loop().create_future()
        signed = signed_of(request.headers)
        at_once = self._at_once(request, signed)
        if at_once is not None:
            answer.set_result(at_once)
        else:
            self._hand_over(request, signed.id if signed else "", answer)
        return answer

    def not_read(self, status: int) -> None:
        """Count a request that was answered so before its body was read."""
        if status == 503:
            self.counts.put_off += 1
        else:
            self.counts.refused += 1

    def _at_once(self, request: HookRequest, signed: Signed | None) -> HookAnswer | None:
        """Return the answer to what is no message that may be taken, None if it is one."""
        if len(request.body) > self.most_bytes:
            self.counts.refused += 1
            return _refusal(413, f"max_message_bytes of this source is {self.most_bytes}")
        wrong = self._wrong_with(request, signed)
        if wrong:
            self._count_unauthorized(wrong)
            return _refusal(401, wrong)
        if request.method == "OPTIONS":
            return _handshake(request.headers)
        if request.headers.get("aeg-event-type", "").lower() == "subscriptionvalidation":
            return _validation(request.body)
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + len(request.body) > MOST_WAITING_BYTES:
            return self._put_off()
        return None

    def _count_unauthorized(self, why: str) -> None:
        self.counts.unauthorized += 1
        now_s = self._wall_s()
        if abs(now_s - self._warned_s) >= WARN_AGAIN_S:
            self._warned_s = now_s
            count = self.counts.unauthorized
            log.warning("a request is not believed; others are only counted", source=self.name, reason=why, count=count)

    def _wrong_with(self, request: HookRequest, signed: Signed | None) -> str:
        credentials = self._credentials
        if signed is not None and credentials.keys:
            return wrong_with(signed, keys=credentials.keys, body=request.body, now_s=self._wall_s())
        if credentials.token and _same(request.query.get("token", ""), credentials.token):
            return ""
        if credentials.basic and _same(_basic_of(request.headers), ":".join(credentials.basic)):
            return ""
        return _NO_PROOF

    def _hand_over(self, request: HookRequest, message_id: str, answer: asyncio.Future[HookAnswer]) -> None:
        message = Message(
            id=message_id,
            body=request.body,
            content_type=request.headers.get("content-type", ""),
            headers=_without_secrets(request.headers),
            address=f"/hooks/{self.name}",
            handle=answer,
        )
        self._waiting.append(message)
        self._waiting_bytes += len(message.body)
        if not self._held:  # else whoever settles the last one does
            self._changed.set()
        loop = answer.get_loop()
        until_s = loop.time() + self._patience_s
        self._unanswered[answer] = until_s
        if self._timer is None:
            self._timer = loop.call_at(until_s, self._lose_patience)

    def _lose_patience(self) -> None:
        """Put off whoever has waited for too long, and come back when the next one will have."""
        loop = asyncio.get_running_loop()
        while self._unanswered:
            answer, until_s = next(iter(self._unanswered.items()))
            if until_s > loop.time():
                self._timer = loop.call_at(until_s, self._lose_patience)
                return
            if self._waiting and self._waiting[0].handle is answer:  # nobody has taken it up
                self._waiting_bytes -= len(self._waiting.popleft().body)
            self._answer(answer, self._put_off())
        self._timer = None

    def _put_off(self) -> HookAnswer:
        self.counts.put_off += 1
        text = "syncd takes no more messages just now; send it again later"
        return HookAnswer(status=503, content={"error": text}, headers={"Retry-After": str(RETRY_AFTER_S)})

    # -- for the intake --------------------------------------------------------------------------------------------

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages; see ``MessageSource``."""
        await self._gather(most)
        while not self._waiting:  # who came has lost patience
            await self._gather(most)
        taken: list[Message] = []
        size = 0
        while self._waiting and len(taken) < most and size < most_bytes:
            message = self._waiting.popleft()
            size += len(message.body)
            taken.append(message)
        self._waiting_bytes -= size
        self._held = len(taken)
        return taken

    async def _gather(self, most: int) -> None:
        """Wait until the batch before is settled, and for what comes together."""
        while not self._waiting or self._held:
            self._changed.clear()
            await self._changed.wait()
        seen = 0
        while seen < len(self._waiting) < most:
            seen = len(self._waiting)
            await asyncio.sleep(GATHER_S if seen < self._together else 0)
        self._together = seen

    async def complete(self, messages: Sequence[Message]) -> None:
        """Answer that the messages are taken."""
        self.counts.taken += len(messages)
        for message in messages:
            self._settle(message, TAKEN)

    async def refuse(self, refused: Sequence[tuple[Message, MessageRefused]]) -> None:
        """Answer that messages are not taken, and why."""
        self.counts.refused += len(refused)
        for message, refusal in refused:
            self._settle(message, _refusal(_STATUS_OF_REASON.get(refusal.reason, 400), str(refusal)))

    async def release(self, messages: Sequence[Message]) -> None:
        """Answer that the messages are to be sent again later."""
        for message in messages:
            self._settle(message, self._put_off())

    async def close(self) -> None:
        """Answer everything that waits."""
        while self._waiting:
            self._answer(self._waiting.popleft().handle, self._put_off())
        self._waiting_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self, message: Message, said: HookAnswer) -> None:
        self._held -= 1
        if not self._held:
            self._changed.set()
        self._answer(message.handle, said)

    def _answer(self, answer: object, said: HookAnswer) -> None:
        assert isinstance(answer, asyncio.Future)
        self._unanswered.pop(answer, None)
        if not answer.done():  # its sender may have gone, or lost its patience
            answer.set_result(said)


def _refusal(status: int, why: str) -> HookAnswer:
    return HookAnswer(status=status, content={"error": why})


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


def _basic_of(headers: Mapping[str, str]) -> str:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


def _without_secrets(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers as they may be kept and shown: of a refused message all are."""
    if _SECRET.isdisjoint(headers):
        return headers
    return {name: value for name, value in headers.items() if name not in _SECRET}


def _handshake(headers: Mapping[str, str]) -> HookAnswer:
    """Let a sender of CloudEvents send here (HTTP 1.1 Web Hooks for Event Delivery 1.0, section 4)."""
    origin = headers.get("webhook-request-origin", "")
    allowed = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"} if origin.isprintable() and origin else {}
    return HookAnswer(status=200, headers={"Allow": "POST, OPTIONS", **allowed})


def _validation(body: bytes) -> HookAnswer:
    """Prove to Event Grid that this address is to get its events (its schema's validation handshake)."""
    try:
        events = parse_bounded(body)
        code = events[0]["data"]["validationCode"]
    except (MessageRefused, LookupError, TypeError) as exc:
        return _refusal(400, f"no validationCode: {exc}")
    if not isinstance(code, str):
        return _refusal(400, "validationCode is no text")
    return HookAnswer(status=200, content={"validationResponse": code})
