"""Azure Service Bus: where an entity is, how to connect to it, and what azure-servicebus's errors mean.

Rules
-----
1. azure-servicebus is imported when the first client is made: it takes 13 MiB and half a second.
2. The library repeats nothing by itself (``retry_total=0``): who called is told, and calls again.
3. Its own log is silent: all that goes wrong reaches us as an exception.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, Transient

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.servicebus.aio import ServiceBusClient

# A link is opened, or a request to $management answered, in this time.
TRY_S: Final = 30.0
# learn.microsoft.com "service-bus-throttling": wait for at least 10 seconds (read 2026-11).
BUSY_S: Final = 10.0
# The service's words for a link to a session of an entity that has none (amqp:not-allowed).
NO_SESSIONS: Final = "does not require sessions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusAddress:
    """One queue, topic or subscription (``topic`` with ``subscription``).

    It is reached with ``connection_string``, or at ``namespace`` (a host) with ``credential``.
    """

    connection_string: str = field(default="", repr=False)
    namespace: str = ""
    credential: AsyncTokenCredential | None = field(default=None, repr=False)
    queue: str = ""
    topic: str = ""
    subscription: str = ""

    def __str__(self) -> str:
        if self.queue:
            return f"queue {self.queue}"
        return f"subscription {self.topic}/{self.subscription}" if self.subscription else f"topic {self.topic}"

    @property
    def path(self) -> str:
        """The entity's name, as the service writes it."""
        return self.queue or (f"{self.topic}/Subscriptions/{self.subscription}" if self.subscription else self.topic)

    @property
    def host(self) -> str:
        """Where the namespace is."""
        found = re.search(r"Endpoint\s*=\s*sb://([^/;\s]+)", self.connection_string, re.IGNORECASE)
        return found[1] if found else self.namespace

    def open_client(self) -> ServiceBusClient:
        """Return a client; nothing is sent yet."""
        from azure.servicebus.aio import ServiceBusClient

        logging.getLogger("azure.servicebus").propagate = False
        logging.getLogger("azure.servicebus").addHandler(logging.NullHandler())
        options: dict[str, Any] = {"retry_total": 0, "try_timeout": TRY_S, "ssl_context": _tls()}
        if self.connection_string:
            return ServiceBusClient.from_connection_string(self.connection_string, **options)
        assert self.credential is not None, "a namespace needs a credential"
        return ServiceBusClient(self.namespace, self.credential, **options)


@cache
def _tls() -> ssl.SSLContext:
    """Return what the library else makes anew for each link: 17 ms and 0.9 MiB each time (measured 2026-11)."""
    import certifi

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certifi.where())
    return context


def translated(exc: Exception, *, doing: str, address: ServiceBusAddress) -> DestinationError:
    """Return our error for what azure-servicebus raised."""
    from azure.servicebus import exceptions

    about: dict[str, Any] = {"doing": doing, "target": f"{address} at {address.host}"}
    for cause in _causes(exc):
        if isinstance(cause, DestinationError):  # of the credential
            return cause
    text = " ".join(str(exc).split()) or type(exc).__name__
    match exc:
        case exceptions.ServiceBusAuthenticationError() | exceptions.ServiceBusAuthorizationError():
            return AuthFailed(text, hint="check the key or the role (Azure Service Bus Data Owner)", **about)
        case exceptions.MessageSizeExceededError():
            return Rejected(text, code="message-size-exceeded", **about)
        case exceptions.MessagingEntityNotFoundError():
            return Transient(text, hint="create it, or correct queue, topic or subscription", **about)
        case exceptions.MessagingEntityDisabledError():
            return Transient(text, hint="enable it", **about)
        case exceptions.ServiceBusQuotaExceededError():
            return Transient(text, throttled=True, hint="it is full: are its messages received?", **about)
        case exceptions.ServiceBusServerBusyError():
            return Transient(text, throttled=True, retry_after_s=BUSY_S, **about)
        case exceptions.ServiceBusConnectionError() | exceptions.OperationTimeoutError():
            return OutcomeUnknown(text, hint="is it there, and reachable from here?", **about)
    hint = "create it anew, with sessions: a relay needs them" if NO_SESSIONS in text else ""
    return Transient(text, hint=hint, **about)


def is_lost_message(exc: Exception) -> bool:
    """Say whether a message's lock is lost, or the message gone."""
    from azure.servicebus import exceptions

    return isinstance(
        exc,
        exceptions.MessageLockLostError | exceptions.MessageAlreadySettled | exceptions.MessageNotFoundError,
    )


def is_lost_session(exc: Exception) -> bool:
    """Say whether the lock of a session is lost."""
    from azure.servicebus.exceptions import SessionLockLostError

    return isinstance(exc, SessionLockLostError)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or getattr(exc, "inner_exception", None)
