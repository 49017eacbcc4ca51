"""Links: one end of a client's sender or receiver, with its credit and its unsettled deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.standins.service_bus.codec import UInt
from tests.standins.service_bus.entities import Entity, LockLost
from tests.standins.service_bus.frames import Op, Outcome, error, outcome
from tests.standins.service_bus.messages import Stored

if TYPE_CHECKING:
    from typing import Any

    from tests.standins.service_bus.codec import Described
    from tests.standins.service_bus.connection import Session

SEND_CREDIT: Final = 1000


class Link:
    """What all links have: a handle and an address. The client is the receiver of ``outgoing`` ones."""

    outgoing = False

    def __init__(self, session: Session, handle: int, address: str) -> None:
        self.connection_session = session
        self.handle = handle
        self.address = address
        self.closed = False

    def close(self, condition: str = "", description: str = "") -> None:
        """Detach, with an error if there is one."""
        if not self.closed:
            self.closed = True
            why = error(condition, description) if condition else None
            self.connection_session.send(Op.DETACH, [UInt(self.handle), True, why])
            self.left()

    def left(self) -> None:
        """Take note that the link is gone."""


class IncomingLink(Link):
    """The client sends here; transfers in several frames are put together."""

    def __init__(self, session: Session, handle: int, address: str) -> None:
        super().__init__(session, handle, address)
        self.credit = 0
        self.count = 0
        self.delivery_id = 0
        self.message_format = 0
        self._payload = bytearray()
        self._inside = False

    def grant(self) -> None:
        """Let the client send on."""
        if self.credit <= SEND_CREDIT // 2 and not self.closed:
            self.credit = SEND_CREDIT
            self.connection_session.send_flow(self.handle, count=self.count, credit=self.credit)

    def collect(self, fields: list[Any], payload: bytes) -> bytes | None:
        """Take one frame of a transfer; return the whole once it is complete."""
        if not self._inside:
            self.delivery_id, self.message_format, self._inside = int(fields[1]), int(fields[3] or 0), True
        self._payload += payload
        if fields[5]:  # more
            return None
        whole, self._payload, self._inside = bytes(self._payload), bytearray(), False
        self.count += 1
        self.credit -= 1
        return whole


class OutgoingLink(Link):
    """The client receives here."""

    outgoing = True

    def __init__(self, session: Session, handle: int, address: str) -> None:
        super().__init__(session, handle, address)
        self.credit = 0
        self.count = 0

    def flow(self, fields: list[Any]) -> None:
        """Take the client's credit; with drain, use it up."""
        count, credit, drain, echo = int(fields[5] or 0), int(fields[6] or 0), bool(fields[8]), bool(fields[9])
        self.credit = count + credit - self.count
        self.pump()
        if drain:
            self.count += max(0, self.credit)
            self.credit = 0
        if drain or echo:
            self.connection_session.send_flow(self.handle, count=self.count, credit=self.credit, drain=drain)

    def pump(self) -> None:
        """Send what waits."""

    def transfer(self, body: bytes, tag: bytes, *, settled: bool) -> int:
        """Send one message; return its delivery's id."""
        self.count += 1
        self.credit -= 1
        return self.connection_session.send_transfer(self.handle, body, tag, settled=settled)


class MessageReceiver(OutgoingLink):
    """A receiver of an entity, in peek-lock mode."""

    def __init__(self, session: Session, handle: int, address: str, entity: Entity) -> None:
        super().__init__(session, handle, address)
        self.entity = entity
        self.session: str | None = None
        self.unsettled: dict[int, Stored] = {}

    def pump(self) -> None:
        """Deliver what is ready."""
        self.entity.pump()

    def wants(self) -> bool:
        """Say whether it may be sent a message now."""
        return self.credit > 0 and not self.closed

    def deliver(self, message: Stored) -> None:
        """Send it a message that has been locked for it; the delivery's tag is the lock's token."""
        self.unsettled[self.transfer(message.delivered(), message.token.bytes_le, settled=False)] = message

    def lose_session(self) -> None:
        """Tell it that its session's lock has ended."""
        self.close("com.microsoft:session-lock-lost", "The session lock has expired.")

    def left(self) -> None:
        """Leave the entity."""
        self.entity.leave(self)

    def settle(self, delivery_id: int, state: Described | None) -> Described | None:
        """Do with a message what the client says; return the outcome to answer with (echoed, as 7.15 awaits it)."""
        message = self.unsettled.pop(delivery_id)
        try:
            self.entity.held(message.number, self)
        except LockLost:
            return outcome(
                Outcome.REJECTED, [error("com.microsoft:message-lock-lost", "The lock supplied is invalid.")]
            )
        if state is None:
            return None
        fields = [*state.value, None, None]
        if state.descriptor == Outcome.ACCEPTED:
            self.entity.complete(message)
        elif state.descriptor == Outcome.REJECTED:
            self._dead_letter(message, fields[0])
            return outcome(Outcome.REJECTED)  # an echoed error would be read as a failure
        else:
            self.entity.release(message, failed=state.descriptor == Outcome.MODIFIED)
        return state

    def _dead_letter(self, message: Stored, why: Described | None) -> None:
        info = (why.value[2] if why is not None and len(why.value) > 2 else None) or {}
        words = {str(name): str(value or "") for name, value in info.items()}
        self.entity.dead_letter(
            message,
            reason=words.get("DeadLetterReason", ""),
            description=words.get("DeadLetterErrorDescription", ""),
        )
