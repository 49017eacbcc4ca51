"""MQTT: where a broker is, and what aiomqtt's errors mean. ``mqtt_client`` connects, and alone imports aiomqtt."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from syncd.errors import AuthFailed, DestinationError, OutcomeUnknown, Rejected, Transient

# CONNACK and DISCONNECT codes of MQTT 5 (section 2.4); paho-mqtt 2 gives those of 3.1.1 these numbers as well.
BAD_USER, NOT_AUTHORIZED, BANNED, BAD_METHOD = 0x86, 0x87, 0x8A, 0x8C
# A connection that ends without a reason; the session taken over (mosquitto 2.0.11 gives no reason then).
_LOST: Final = frozenset({0x80, 0x8E})
_REFUSED: Final = frozenset({BAD_USER, NOT_AUTHORIZED, BANNED, BAD_METHOD})
PROTOCOL_ERROR, PACKET_TOO_LARGE = 0x82, 0x95
FAILURE: Final = 0x80
NO_SUBSCRIBERS: Final = 0x10  # section 3.4.2.1: it was taken, and nobody gets it


class Refused(Exception):
    """The broker does not take a subscription or publication; ``rc`` says why (MQTT 5)."""

    def __init__(self, what: str, rc: Any) -> None:
        super().__init__(f"{what}: {rc}")
        self.rc = rc


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttAddress:
    """One broker and who connects to it. Files are PEM; ``ca_file`` None is the system's trust."""

    host: str
    port: int
    client_id: str
    version_5: bool = True
    tls: bool = False
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive_s: int = 60

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to encrypt, from the files as they are now; None without TLS.

        Raises:
            AuthFailed: a file is missing or not what it should be.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.client_certificate is not None:
                context.load_cert_chain(self.client_certificate, self.client_key)
        except (OSError, ssl.SSLError) as exc:
            hint = "check ca_file, client_certificate and client_key"
            raise AuthFailed(str(exc), doing="preparing TLS for", target=str(self), hint=hint) from exc
        return context


def translated(exc: Exception, *, doing: str, address: MqttAddress) -> DestinationError:
    """Return our error for what aiomqtt raised; a lost answer is OutcomeUnknown."""
    if isinstance(exc, DestinationError):
        return exc
    about: dict[str, Any] = {"doing": doing, "target": str(address)}
    told = exc if exc.__cause__ is None else exc.__cause__  # the broker's own reason
    code = reason_code(getattr(told, "rc", None))
    text = str(told) or type(told).__name__
    if code in _REFUSED:
        return AuthFailed(text, hint="check username, password and what the broker allows them", **about)
    if code == PACKET_TOO_LARGE:
        return Rejected(text, code="message-size-exceeded", **about)
    if code in _LOST:
        hint = f"if this comes again and again, another client connects with client_id {address.client_id!r}"
        return OutcomeUnknown(text, hint=hint, **about)
    if "certificate" in text.lower():
        return Transient(text, hint="check ca_file, and that host is a name in the broker's certificate", **about)
    unreachable = isinstance(exc.__context__, OSError)  # aiomqtt keeps its text alone
    hint = "is the broker there, and are host, port and tls right?" if unreachable else ""
    return OutcomeUnknown(text, hint=hint, **about)


def reason_code(rc: Any) -> int:
    """Return the number of one of paho's reason codes, 0 for none."""
    value = getattr(rc, "value", rc)
    return value if isinstance(value, int) else 0
