"""aiomqtt's client, with acknowledgements by hand, refused publications noticed, and reading that can pause.

aiomqtt 2.5 acknowledges what it receives at once, does not say whether it was sent before, makes a task for each
message, takes no notice of the reason code of a PUBACK, and waits for answers when the connection is lost. The
paho-mqtt client inside it can do all that, and its own API is used for it (``manual_ack_set``, ``ack``, ``publish``,
the ``on_message`` and ``on_publish`` callbacks). It reads its socket in pieces of one byte, for which there is no API:
a ``BufferedSocket`` takes the socket's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from syncd.brokers.buffered_socket import BufferedSocket
from syncd.brokers.mqtt import FAILURE, PACKET_TOO_LARGE, PROTOCOL_ERROR, MqttAddress, Refused, reason_code

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

AT_LEAST_ONCE: Final = 1
# CONNECT's Session Expiry Interval that never ends (MQTT 5, section 3.1.2.11.2).
FOR_EVER_S: Final = 2**32 - 1
TIMEOUT_S: Final = 30.0
FLUSH_S: Final = 5.0
SMALL_BYTES: Final = 8 * 1024  # what no broker finds too large
# CONNECT's Receive Maximum (MQTT 5, section 3.1.2.11.3): mosquitto has 20 messages under way without it, and a commit
# then holds no more.
RECEIVE_MAXIMUM: Final = 250
# A broker may send QoS 0 faster than it is read, and for ever.
PACKETS_AT_ONCE: Final = 250
NO_TOPIC: Final = "syncd/nobody/subscribes/to/this"


T = TypeVar("T")
Arrived = Callable[[MQTTMessage], None]


def _ignore(message: MQTTMessage) -> None:
    """Take no notice: who only sends subscribes to nothing."""


async def open_client(
    address: MqttAddress, *, session_expiry_s: float | None = None, arrived: Arrived = _ignore
) -> MqttClient:
    """Return a client; entering it connects.

    Args:
        address: the broker, and who connects to it.
        session_expiry_s: so long the broker keeps the session while the client is away; None for no session.
        arrived: is called with each message that comes.

    Raises:
        AuthFailed: a file of TLS is missing or not what it should be.
    """
    tls = await asyncio.to_thread(address.tls_context)
    return MqttClient(address, tls=tls, session_expiry_s=session_expiry_s, arrived=arrived)


class MqttClient(aiomqtt.Client):
    """A connection; enter it to connect. ``session_expiry_s`` None: the broker keeps no session.

    ``arrived`` is called with each message that comes. ``most_bytes`` is how large a packet may be, None if the broker
    does not tell.
    """

    def __init__(
        self, address: MqttAddress, *, tls: ssl.SSLContext | None, session_expiry_s: float | None, arrived: Arrived
    ) -> None:
        self._version_5 = address.version_5
        self._unanswered: dict[int, tuple[asyncio.Future[Any], int]] = {}  # what is to come, and the payload's bytes
        self._too_large_bytes = 0  # the largest that was on its way when the connection was lost over it
        self.most_bytes: int | None = None
        self._arrived = arrived
        self._buffered: BufferedSocket | None = None
        self._is_paused = False
        self._next_read: asyncio.Handle | None = None
        keeps = session_expiry_s is not None
        properties = None
        if address.version_5 and session_expiry_s is not None:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(FOR_EVER_S, math.ceil(session_expiry_s))
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
        super().__init__(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            identifier=address.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if address.version_5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if address.version_5 else not keeps,
            clean_start=not keeps if address.version_5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            keepalive=address.keepalive_s,
            tls_context=tls,
            timeout=TIMEOUT_S,
        )
        self.pending_calls_threshold = 10_000  # it warns of more
        self._client.manual_ack_set(True)

    async def subscribe_to(self, topics: Sequence[str]) -> None:
        """Subscribe with QoS 1; what was retained is not sent (MQTT 5; in 3.1.1 it comes with ``retain`` set).

        Raises:
            Refused: the broker does not allow one of them.
        """
        for topic in topics:
            if self._version_5:
                options = SubscribeOptions(qos=AT_LEAST_ONCE, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
                answers = await self.subscribe(topic, options=options)
            else:
                answers = await self.subscribe(topic, qos=AT_LEAST_ONCE)
            if any(reason_code(answer) >= FAILURE for answer in answers):
                raise Refused(f"subscribing to {topic}", answers[0])

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self._disconnected.done()

    async def leave(self) -> None:
        """Disconnect, if it is connected."""
        with contextlib.suppress(aiomqtt.MqttError):
            await self.__aexit__(None, None, None)
        if self._disconnected.done():
            self._disconnected.exception()  # else asyncio says that nobody has asked for it

    async def until_disconnected(self) -> None:
        """Wait until the connection is lost; raises aiomqtt's error then."""
        await anext(self.messages)

    def acknowledge(self, message: MQTTMessage) -> None:
        """Tell the broker that a message has been taken, so that it is not sent again."""
        self._client.ack(message.mid, message.qos)

    def pause_reading(self) -> None:
        """Leave what comes to the operating system: the broker has to wait.

        A pause of more than twice ``keepalive_s`` ends the connection.
        """
        if self._buffered is not None and not self._is_paused:
            self._is_paused = True
            self._loop.remove_reader(self._buffered.fileno())

    def resume_reading(self) -> None:
        """Read again."""
        if self._buffered is not None and self._is_paused:
            self._is_paused = False
            self._loop.add_reader(self._buffered.fileno(), self._read)
            self._loop.call_soon(self._read)  # what was read ahead

    async def flush(self) -> None:
        """Wait until the broker has taken all acknowledgements: it answers one packet after the other.

        Who disconnects without that closes the socket on answers that are under way, and the broker then throws away
        what it has not read (seen with mosquitto 2.0.11).
        """
        with contextlib.suppress(aiomqtt.MqttError):
            await self.unsubscribe(NO_TOPIC, timeout=FLUSH_S)

    async def publish_confirmed(self, topic: str, payload: bytes, *, content_type: str) -> int:
        """Publish with QoS 1 and return the broker's answer: 0, or ``NO_SUBSCRIBERS`` (MQTT 5; 3.1.1 does not tell).

        Raises:
            Refused: the broker does not take it (MQTT 5; 3.1.1 does not tell). What is larger than it has said to
                take is not sent to it (section 3.2.2.3.6): it would end the connection, perhaps without a word.
        """
        if self.most_bytes is not None and _packet_bytes(topic, payload, content_type) > self.most_bytes:
            raise Refused(f"publishing {len(payload)} bytes to {topic}", PACKET_TOO_LARGE)
        properties = None
        if self._version_5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content_type
        sent = self._client.publish(topic, payload, AT_LEAST_ONCE, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(sent.rc, "Could not publish message")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._unanswered[sent.mid] = answer, len(payload)
        try:
            await asyncio.wait((answer, self._disconnected), timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise self._why_unanswered(topic, len(payload))
        finally:
            del self._unanswered[sent.mid]
        code = reason_code(answer.result())
        if code >= FAILURE:
            raise Refused(f"publishing to {topic}", answer.result())
        return code

    def _why_unanswered(self, topic: str, size_bytes: int) -> Exception:
        """Return why a publication got no answer.

        A broker ends the connection over a packet that is too large, and with it all that is on its way: the largest of
        that is too large for certain, and of the others nothing is known. mosquitto 2.0.11 answers to what is over its
        message_size_limit with "packet too large", which is no reason that a PUBACK may have: paho-mqtt 2 then
        disconnects with "protocol error".
        """
        why = self._disconnected.exception() if self._disconnected.done() else None
        code = reason_code(getattr(why, "rc", None))
        if code == PACKET_TOO_LARGE or (code == PROTOCOL_ERROR and size_bytes > SMALL_BYTES):
            self._too_large_bytes = self._too_large_bytes or max(size for _, size in self._unanswered.values())
            if size_bytes == self._too_large_bytes:
                return Refused(f"publishing {size_bytes} bytes to {topic}", PACKET_TOO_LARGE)
            return aiomqtt.MqttError("the connection was lost over a larger message")
        return why if isinstance(why, aiomqtt.MqttError) else aiomqtt.MqttError("it was not answered")

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Properties | None = None
    ) -> None:
        self.most_bytes = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        """Put a buffer before the socket, and a reader of ours in the place of aiomqtt's. Called while it connects."""
        self._buffered = client._sock = BufferedSocket(sock)
        self._is_paused = False
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._begin_reading, self._buffered)

    def _begin_reading(self, buffered: BufferedSocket) -> None:
        if self._buffered is buffered:  # else it is closed already
            self._loop.add_reader(buffered.fileno(), self._read)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        self._buffered = None
        super()._on_socket_close(client, userdata, sock)

    def _read(self) -> None:
        """Take in what has come, and acknowledge nothing of it; of much, some at a time."""
        if self._next_read is not None:
            self._next_read.cancel()
        try:
            for _ in range(PACKETS_AT_ONCE):
                if self._buffered is None or self._is_paused:
                    return
                self._client.loop_read()
                if self._buffered is None or not self._buffered.pending():
                    return
        except Exception as exc:  # noqa: BLE001 - the boundary of the connection
            self._end(exc)
        else:
            self._next_read = self._loop.call_soon(self._read)  # others have their turn first

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Properties | None = None
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done():
            self._loop.call_soon_threadsafe(self._end, aiomqtt.MqttCodeError(reason_code, "the broker hung up"))

    def _end(self, why: Exception) -> None:
        """Let nobody wait for a connection that is lost, or was never made."""
        if not self._connected.done():
            self._connected.set_exception(why)
            self._connected.exception()  # else asyncio says that nobody has asked for it
        elif not self._disconnected.done():
            self._disconnected.set_exception(why)

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - aiomqtt's own
        """Wait for an answer as aiomqtt does, but no longer than there is a connection."""
        if fut is self._disconnected:
            return await super()._wait_for(fut, timeout)
        answered = asyncio.ensure_future(super()._wait_for(fut, timeout))
        try:
            await asyncio.wait((answered, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return answered.result()
        finally:
            answered.cancel()
        self._disconnected.result()
        raise aiomqtt.MqttError("the connection was ended")

    def _on_message(self, client: Any, userdata: Any, message: MQTTMessage) -> None:
        self._arrived(message)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        answer, _ = self._unanswered.get(mid, (None, 0))
        if answer is not None and not answer.done():
            answer.set_result(reason_code)


def _packet_bytes(topic: str, payload: bytes, content_type: str) -> int:
    """Return how large a PUBLISH of MQTT 5 is (section 3.3): its one property is the content type."""
    properties = 1 + 2 + len(content_type)
    rest = 2 + len(topic.encode()) + 2 + 1 + properties + len(payload)
    return 1 + max(1, math.ceil(rest.bit_length() / 7)) + rest
