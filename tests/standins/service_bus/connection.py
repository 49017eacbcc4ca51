"""One client's connection: sessions and links, flow, transfers, settlements, tokens (amqp-core-transport-v1.0)."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

from tests.standins.service_bus import management
from tests.standins.service_bus.codec import Described, Int, Symbol, UInt, ULong, UShort
from tests.standins.service_bus.entities import Entity
from tests.standins.service_bus.faults import Fault
from tests.standins.service_bus.frames import (
    MAX_FRAME_BYTES,
    Frame,
    Op,
    Outcome,
    error,
    frame,
    outcome,
    read_frame,
    shake_hands,
)
from tests.standins.service_bus.links import IncomingLink, Link, MessageReceiver, OutgoingLink
from tests.standins.service_bus.messages import Part, section, split, unpack_batch

if TYPE_CHECKING:
    from tests.standins.service_bus.broker import Broker

log = logging.getLogger(__name__)

CBS: Final = "$cbs"
MANAGEMENT: Final = "/$management"
SOURCE, TARGET = 0x28, 0x29
WINDOW: Final = 2**31 - 1
TICKS_OF_EPOCH: Final = 621_355_968_000_000_000  # .NET's clock begins in year 1
SESSION_FILTER: Final = Symbol("com.microsoft:session-filter")
NO_SESSION_S: Final = 65.0
# Room for the performative beside the payload.
TRANSFER_HEAD_BYTES: Final = 128


class Dropped(Exception):
    """A fault: the connection ends here."""


class Session:
    """An AMQP session: a channel with links (not to be taken for a session of messages)."""

    def __init__(self, connection: Connection, channel: int, next_incoming: int) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, Link] = {}
        self.next_incoming = next_incoming
        self._next_delivery = 0

    def send(self, op: Op, fields: list[Any], payload: bytes = b"") -> None:
        """Send a frame."""
        self.connection.write(frame(self.channel, op, fields, payload))

    def send_flow(self, handle: int, *, count: int, credit: int, drain: bool = False) -> None:
        """Tell a link's state."""
        session = [UInt(self.next_incoming), UInt(WINDOW), UInt(self._next_delivery), UInt(WINDOW)]
        self.send(Op.FLOW, [*session, UInt(handle), UInt(count), UInt(credit), None, drain])

    def send_transfer(self, handle: int, body: bytes, tag: bytes, *, settled: bool) -> int:
        """Send a message, in several frames if it is large; return its delivery's id."""
        delivery_id, piece_bytes = self._next_delivery, self.connection.max_frame_bytes - TRANSFER_HEAD_BYTES
        self._next_delivery += 1
        for at in range(0, len(body), piece_bytes):
            more = at + piece_bytes < len(body)
            named = [UInt(delivery_id), tag, UInt(0)] if at == 0 else [None, None, None]
            self.send(Op.TRANSFER, [UInt(handle), *named, settled, more], body[at : at + piece_bytes])
        return delivery_id

    def end(self) -> None:
        """Leave every link."""
        for link in self.links.values():
            if not link.closed:
                link.closed = True
                link.left()


class Connection:
    """Serves one client until it goes away."""

    def __init__(self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.max_frame_bytes = MAX_FRAME_BYTES
        self._broker = broker
        self._reader = reader
        self._writer = writer
        self._sessions: dict[int, Session] = {}
        self._authorized = False
        self._heart: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Send bytes, if the client is still there."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def drop(self) -> None:
        """Cut the connection without a word."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Serve the client."""
        try:
            await shake_hands(self._reader, self._writer)
            while True:
                found = await read_frame(self._reader)
                if found.code == Op.CLOSE:
                    self.write(frame(0, Op.CLOSE))
                    break
                if found.code is not None:
                    self._take(found)
                await self._writer.drain()
        except Dropped:
            self.drop()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            log.exception("the connection failed")
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
        self._writer.close()
        for session in self._sessions.values():
            session.end()

    def _take(self, found: Frame) -> None:
        fields = found.fields + [None] * 14
        if found.code == Op.OPEN:
            self._open(fields)
        elif found.code == Op.BEGIN:
            self._sessions[found.channel] = Session(self, found.channel, int(fields[1] or 0))
            begin = [UShort(found.channel), UInt(0), UInt(WINDOW), UInt(WINDOW), UInt(255)]
            self.write(frame(found.channel, Op.BEGIN, begin))
        elif (
            found.channel in self._sessions
        ):  # a client may still write to a session that it has ended, and end it again
            self._take_on(self._sessions[found.channel], found, fields)

    def _take_on(self, session: Session, found: Frame, fields: list[Any]) -> None:
        match found.code:
            case Op.END:
                self._sessions.pop(found.channel).end()
                self.write(frame(found.channel, Op.END))
            case Op.ATTACH:
                self._attach(session, fields)
            case Op.FLOW:
                link = session.links.get(fields[4])
                if isinstance(link, OutgoingLink):
                    link.flow(fields)
            case Op.TRANSFER:
                self._transfer(session, fields, found.payload)
            case Op.DISPOSITION:
                self._disposition(session, fields)
            case Op.DETACH:
                link = session.links.pop(int(fields[0]), None)
                if link is not None:
                    link.close()

    def _open(self, fields: list[Any]) -> None:
        self.max_frame_bytes = min(fields[2] or MAX_FRAME_BYTES, MAX_FRAME_BYTES)
        self.write(frame(0, Op.OPEN, ["stand-in", fields[1], UInt(MAX_FRAME_BYTES), UShort(4999), UInt(240_000)]))
        if fields[4]:
            self._heart = asyncio.create_task(self._beat(fields[4] / 2000))

    async def _beat(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            self.write(frame(0))

    # -- links -----------------------------------------------------------------------------------------------------

    def _attach(self, session: Session, fields: list[Any]) -> None:
        receives, source, target = bool(fields[2]), fields[5], fields[6]
        node = (source if receives else target).value[0]
        address = re.sub(r"^[a-z]+://[^/]+/", "", node or "")
        refusal = self._refusal(address, receives=receives)
        entity = self._broker.entity(address)
        if refusal is None and receives and entity is not None:
            self._attach_receiver(session, fields, address, entity)
            return
        make = OutgoingLink if receives else IncomingLink
        link = make(session, int(fields[1]), address)
        session.links[link.handle] = link
        if refusal is not None:
            self._refuse(link, fields, *refusal)
            return
        self._confirm(link, fields)
        if isinstance(link, IncomingLink):
            link.grant()

    def _refusal(self, address: str, *, receives: bool) -> tuple[str, str] | None:
        """Return why a link may not be attached."""
        if address == CBS:
            return None
        if not self._authorized:
            return "amqp:unauthorized-access", "Unauthorized access. 'Listen' claim(s) are required."
        if self._broker.faults.take(Fault.ATTACH_BUSY):
            return "com.microsoft:server-busy", "The request was terminated because the entity is being throttled."
        name = address.removesuffix(MANAGEMENT)
        if not self._broker.targets(name):
            return "amqp:not-found", f"The messaging entity '{address}' could not be found."
        if receives and not address.endswith(MANAGEMENT) and self._broker.entity(name) is None:
            return "amqp:not-allowed", "Messages are received from a subscription of a topic."
        return None

    def _attach_receiver(self, session: Session, fields: list[Any], address: str, entity: Entity) -> None:
        link = MessageReceiver(session, int(fields[1]), address, entity)
        session.links[link.handle] = link
        filters = (fields[5].value + [None] * 8)[7] or {}
        if SESSION_FILTER not in filters:
            if entity.rules.sessions:
                words = "It is not possible for an entity that requires sessions to create a non-sessionful receiver."
                return self._refuse(link, fields, "amqp:not-allowed", words)
            entity.receivers.append(link)
            return self._confirm(link, fields)
        if not entity.rules.sessions:
            words = "A sessionful message receiver cannot be created on an entity that does not require sessions."
            return self._refuse(link, fields, "amqp:not-allowed", words)
        wanted = filters[SESSION_FILTER]
        wanted = wanted.value if isinstance(wanted, Described) else wanted
        return self._attach_session(link, fields, wanted)

    def _attach_session(self, link: MessageReceiver, fields: list[Any], wanted: str | None) -> None:
        session = wanted if wanted is not None else link.entity.free_session()
        if session is None:
            self._wait_for_session(link, fields)
            return
        until_s = link.entity.accept_session(session, link)
        if until_s is None:
            words = "The requested session cannot be accepted. It may be locked by another receiver."
            self._refuse(link, fields, "com.microsoft:session-cannot-be-locked", words)
            return
        link.session = session
        link.entity.receivers.append(link)
        source = (list(fields[5].value) + [None] * 8)[:8]
        source[7] = {SESSION_FILTER: session}
        ticks = int(until_s * 1e7) + TICKS_OF_EPOCH
        self._confirm(link, fields, source=source, properties={Symbol("com.microsoft:locked-until-utc"): ticks})

    def _wait_for_session(self, link: MessageReceiver, fields: list[Any]) -> None:
        """Hold the attach back until a session is free, as the service does, or until the client's time is over."""
        waiting = link.entity.waiting_for_session

        def give(session: str) -> None:
            if not link.closed:
                self._attach_session(link, fields, session)

        def give_up() -> None:
            if give in waiting:
                waiting.remove(give)
                self._refuse(link, fields, "com.microsoft:timeout", "No session became available in time.")

        waiting.append(give)
        wish_ms = (fields[13] or {}).get(Symbol("com.microsoft:timeout"))
        asyncio.get_running_loop().call_later(wish_ms / 1000 if wish_ms else NO_SESSION_S, give_up)

    def _confirm(self, link: Link, fields: list[Any], *, source: Any = None, properties: Any = None) -> None:
        name, handle, role, sends, receives = fields[:5]
        node = Described(ULong(SOURCE), source or (fields[5].value if fields[5] else []))
        attach = [name, handle, not role, sends, receives, node, fields[6], None, None, UInt(0) if role else None]
        attach += [ULong(self._broker.max_message_bytes), None, None, properties]
        link.connection_session.send(Op.ATTACH, attach)

    def _refuse(self, link: Link, fields: list[Any], condition: str, description: str) -> None:
        name, handle, role, sends, receives = fields[:5]
        source = None if role else Described(ULong(SOURCE), [None])
        target = Described(ULong(TARGET), [None]) if role else None
        attach = [name, handle, not role, sends, receives, source, target, None, None, UInt(0) if role else None]
        link.connection_session.send(Op.ATTACH, attach)
        link.close(condition, description)

    # -- transfers -------------------------------------------------------------------------------------------------

    def _transfer(self, session: Session, fields: list[Any], payload: bytes) -> None:
        session.next_incoming += 1
        link = session.links.get(int(fields[0]))
        if not isinstance(link, IncomingLink) or link.closed:
            return
        whole = link.collect(fields, payload)
        if whole is None:
            return
        state = self._receive(link, whole)
        if state is not None:
            numbers = [UInt(link.delivery_id), UInt(link.delivery_id)]
            session.send(Op.DISPOSITION, [True, *numbers, True, state])
        link.grant()

    def _receive(self, link: IncomingLink, payload: bytes) -> Described | None:
        if link.address == CBS:
            self._take_token(link, payload)
        elif link.address.endswith(MANAGEMENT):
            self._manage(link, payload)
        else:
            return self._enqueue(link, payload)
        return outcome(Outcome.ACCEPTED)

    def _enqueue(self, link: IncomingLink, payload: bytes) -> Described | None:
        faults = self._broker.faults
        if faults.take(Fault.SEND_DROPPED):
            raise Dropped
        if faults.take(Fault.SEND_BUSY):
            words = "The request was terminated because the entity is being throttled."
            return outcome(Outcome.REJECTED, [error("com.microsoft:server-busy", words)])
        if len(payload) > self._broker.max_message_bytes:
            link.close("amqp:link:message-size-exceeded", "The received message is too large.")
            return None
        for message in unpack_batch(payload, link.message_format):
            for entity in self._broker.targets(link.address):
                entity.put(message)
        if faults.take(Fault.SEND_UNANSWERED):
            raise Dropped
        return outcome(Outcome.ACCEPTED)

    def _take_token(self, link: IncomingLink, payload: bytes) -> None:
        refused = self._broker.faults.take(Fault.BAD_TOKEN)
        self._authorized = self._authorized or not refused
        status = {"status-code": Int(401 if refused else 202)}
        status["status-description"] = "InvalidSignature" if refused else "Accepted"  # type: ignore[assignment]
        self._answer(link, payload, status, True)

    def _manage(self, link: IncomingLink, payload: bytes) -> None:
        values = {part: value for part, value, _ in split(payload)}
        operation = str((values.get(Part.APPLICATION_PROPERTIES) or {}).get("operation", ""))
        entity = self._broker.entity(link.address.removesuffix(MANAGEMENT))
        answered = management.answer(entity, operation, values.get(Part.VALUE) or {})
        self._answer(link, payload, answered.properties(), answered.body)

    def _answer(self, link: IncomingLink, request: bytes, properties: dict[str, Any], body: Any) -> None:
        """Send the answer to a request over the link that goes the other way."""
        asked = next((value for part, value, _ in split(request) if part == Part.PROPERTIES), [None])
        correlation = [None] * 5 + [asked[0]]
        content = section(Part.PROPERTIES, correlation) + section(Part.APPLICATION_PROPERTIES, properties)
        for other in link.connection_session.links.values():
            if isinstance(other, OutgoingLink) and other.address == link.address and not other.closed:
                other.transfer(content + section(Part.VALUE, body), uuid.uuid4().bytes, settled=True)
                return

    def _disposition(self, session: Session, fields: list[Any]) -> None:
        if not fields[0]:  # about what we sent an answer to
            return
        first, last = int(fields[1]), int(fields[1] if fields[2] is None else fields[2])
        settled, state = bool(fields[3]), fields[4]
        for link in session.links.values():
            if not isinstance(link, MessageReceiver):
                continue
            for delivery_id in [number for number in range(first, last + 1) if number in link.unsettled]:
                if self._broker.faults.take(Fault.SETTLE_DROPPED):
                    raise Dropped
                answered = link.settle(delivery_id, state)
                if self._broker.faults.take(Fault.SETTLE_UNANSWERED):
                    raise Dropped
                if not settled:
                    numbers = [UInt(delivery_id), UInt(delivery_id)]
                    session.send(Op.DISPOSITION, [False, *numbers, True, answered])
