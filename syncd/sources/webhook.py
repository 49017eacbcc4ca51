"""Messages that come by HTTP: ``POST /hooks/{source}``, verified, and answered when the journal has committed them.

The HTTP server calls ``answer`` for each request; ``MessageIntake`` reads the same object as a ``MessageSource``.

Rules
-----
1. 2xx is said only after ``complete``: whoever sent it may then forget it.
2. What is not from who it claims to be is answered 401 and counted; nothing of it is read.
3. What waits is bounded in number and bytes; beyond that, and where nobody reads, the answer is 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from syncd.core.messages.bounded_json import parse_bounded
from syncd.core.webhook_signature import Signed, signed_of, wrong_with
from syncd.errors import MessageRefused
from syncd.sources.messages import Message

MOST_WAITING: Final = 1000
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
PATIENCE_S: Final = 20.0
RETRY_AFTER_S: Final = 5
_STATUS_OF_REASON: Final = {"TooLarge": 413, "NotAllowed": 403, "NotSupported": 501}


@dataclass(frozen=True, slots=True, kw_only=True)
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
        self._arrived = asyncio.Event()

    # -- for the HTTP server ---------------------------------------------------------------------------------------

    async def answer(self, request: HookRequest) -> HookAnswer:
        """Return the answer to a request, at the latest after ``patience_s``."""
        if len(request.body) > self.most_bytes:
            self.counts.refused += 1
            return _refusal(413, f"a message may have {self.most_bytes} bytes")
        signed = signed_of(request.headers)
        wrong = self._wrong_with(request, signed)
        if wrong:
            self.counts.unauthorized += 1
            return _refusal(401, wrong)
        if request.method == "OPTIONS":
            return _handshake(request.headers)
        if request.headers.get("aeg-event-type", "").lower() == "subscriptionvalidation":
            return _validation(request.body)
        return await self._hand_over(request, signed.id if signed else "")

    def _wrong_with(self, request: HookRequest, signed: Signed | None) -> str:
        credentials = self._credentials
        if signed is not None and credentials.keys:
            return wrong_with(signed, keys=credentials.keys, body=request.body, now_s=self._wall_s())
        if credentials.token and _same(request.query.get("token", ""), credentials.token):
            return ""
        if credentials.basic and _same(_basic_of(request.headers), ":".join(credentials.basic)):
            return ""
        return "the request does not prove where it comes from (signature, token or password)"

    async def _hand_over(self, request: HookRequest, message_id: str) -> HookAnswer:
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + len(request.body) > MOST_WAITING_BYTES:
            return self._put_off()
        answer: asyncio.Future[HookAnswer] = asyncio.get_running_loop().create_future()
        message = Message(
            id=message_id,
            body=request.body,
            content_type=request.headers.get("content-type", ""),
            headers=request.headers,
            address=f"/hooks/{self.name}",
            handle=answer,
        )
        self._waiting.append(message)
        self._waiting_bytes += len(message.body)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._patience_s):
                return await answer
        except TimeoutError:
            return self._put_off()
        finally:
            self._withdraw(message)

    def _withdraw(self, message: Message) -> None:
        """Take a message back that nobody has taken up."""
        for index, one in enumerate(self._waiting):
            if one is message:
                del self._waiting[index]
                self._waiting_bytes -= len(message.body)
                return

    def _put_off(self) -> HookAnswer:
        self.counts.put_off += 1
        text = "syncd takes no more messages just now; send it again later"
        return HookAnswer(status=503, content={"error": text}, headers={"Retry-After": str(RETRY_AFTER_S)})

    # -- for the intake --------------------------------------------------------------------------------------------

    async def receive(self, *, most: int, most_bytes: int) -> Sequence[Message]:
        """Wait for messages; see ``MessageSource``."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[Message] = []
        size = 0
        while self._waiting and len(taken) < most and size < most_bytes:
            message = self._waiting.popleft()
            size += len(message.body)
            taken.append(message)
        self._waiting_bytes -= size
        return taken

    async def complete(self, messages: Sequence[Message]) -> None:
        """Answer that the messages are taken."""
        self.counts.taken += len(messages)
        for message in messages:
            _answer(message, HookAnswer(status=200, content={"status": "taken"}))

    async def refuse(self, message: Message, *, reason: str, description: str) -> None:
        """Answer that a message is not taken, and why."""
        self.counts.refused += 1
        _answer(message, _refusal(_STATUS_OF_REASON.get(reason, 400), description))

    async def release(self, messages: Sequence[Message]) -> None:
        """Answer that the messages are to be sent again later."""
        for message in messages:
            _answer(message, self._put_off())

    async def close(self) -> None:
        """Answer everything that waits."""
        await self.release(list(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0


def _answer(message: Message, answer: HookAnswer) -> None:
    assert isinstance(message.handle, asyncio.Future)
    if not message.handle.done():  # its sender may have gone
        message.handle.set_result(answer)


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
