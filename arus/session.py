"""The MQTT session: Flask-MQTT's client made durable, and the only module that touches paho's insides.

paho does what it is good at: CONNECT, TLS, WebSockets, keepalive, subscriptions and inbound messages. The
outgoing half is ours: the change log holds what was sent and where each handshake stands, so PUBLISH and
PUBREL are written, and their acknowledgements read, here, and paho's own table of outgoing messages stays
empty. One thread drives it: nothing here is locked, nothing is called back from another thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
import ssl
import struct
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from flask_mqtt import Mqtt
from paho.mqtt import MQTTException
from paho.mqtt.client import (
    CallbackAPIVersion,
    Client,
    MQTTErrorCode,
    MQTTMessage,
    MQTTMessageInfo,
    MQTTProtocolVersion,
)
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from .codec import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    Ack,
    FrameReader,
    decode_ack,
    encode_publish,
    encode_pubrel,
)
from .errors import (
    ConnectError,
    ConnectionLostError,
    MalformedPacketError,
    ProtocolRefusedError,
    RefusedError,
    SessionError,
    UnsupportedClientError,
)
from .message import now_ms
from .negotiation import Negotiation, Version
from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)

#: Packet ids up to here are for control messages and subscriptions; those above belong to the log.
CONTROL_IDS = 16_383
LOG_IDS = 65_535 - CONTROL_IDS

#: The longest session expiry that MQTT 5 can say: never (3.1.2.11.2).
_NEVER_EXPIRES = 0xFFFFFFFF
_UNSUPPORTED_PROTOCOL = 0x84
_PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_READ_SIZE = 65_536
#: Reads between two looks at everything else.
_MAX_READS = 16

_TOUCHED = (
    "_client_id", "_clean_session", "_create_socket_connection", "_handle_connack", "_in_packet", "_last_bytes_received",
    "_last_mid", "_last_msg_out", "_mid_generate", "_packet_handle", "_packet_queue", "_ping_t", "_protocol",
    "_sock_close", "_sock_recv", "_sock_send", "_ssl_wrap_socket", "_transport",
)  # fmt: skip


def packet_id_of(seq: int) -> int:
    """Return the packet id of the change numbered `seq`.

    Being a function of the number, it need not be journalled: after any crash the same change goes out
    under the same id, so that the broker knows a QoS 2 message it already holds.
    """
    return CONTROL_IDS + 1 + seq % LOG_IDS


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted the session (CONNACK)."""

    #: The broker still holds its half of the session.
    session_present: bool
    #: Unacknowledged messages the broker takes at a time; None where it does not say.
    receive_maximum: int | None
    #: The largest packet the broker takes, in bytes; None where it does not say.
    maximum_packet_size: int | None
    protocol: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker; to be acknowledged once it was handled."""

    topic: str
    payload: bytes
    packet_id: int
    qos: int
    retain: bool
    #: The broker has sent it before, maybe.
    dup: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has answered a subscription."""

    packet_id: int
    #: One reason code a filter: 0 to 2 is the granted QoS, from 0x80 on it was refused.
    reasons: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The broker has ended a subscription."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class LookedBack:
    """All retained messages asked for by `look_back` have been received."""


SessionEvent = Connected | Ack | Received | Subscribed | Unsubscribed | LookedBack


class _DurableClient(Client):
    """paho's client with our write buffer under it."""

    def __init__(self, client_id: str, protocol: MQTTProtocolVersion, *, websockets: bool) -> None:
        v5 = protocol == MQTTProtocolVersion.MQTTv5
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else False,
            protocol=protocol,
            transport="websockets" if websockets else "tcp",
            # paho would reconnect from inside its CONNACK handler, out of our loop's sight.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.outgoing = bytearray()
        self._opening: socket.socket | None = None

    def reconnect(self) -> MQTTErrorCode:
        self.outgoing.clear()
        return super().reconnect()

    def _create_socket_connection(self) -> socket.socket:
        self._opening = super()._create_socket_connection()
        return self._opening

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        self._opening = super()._ssl_wrap_socket(tcp_sock)
        return self._opening

    def give_up(self) -> None:
        """Close what a failed `reconnect` has opened; paho forgets it."""
        self._sock_close()
        if self._opening is not None:
            self._opening.close()

    def _packet_queue(
        self,
        command: int,  # noqa: ARG002  # the signature is paho's
        packet: bytes | bytearray,
        mid: int,  # noqa: ARG002
        qos: int,  # noqa: ARG002
        info: MQTTMessageInfo | None = None,  # noqa: ARG002
    ) -> MQTTErrorCode:
        # One buffer for paho's packets and ours: neither can land in the middle of the other's.
        self.outgoing += packet
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _mid_generate(self) -> int:
        self._last_mid = self._last_mid % CONTROL_IDS + 1
        return self._last_mid

    def feed(self, header: int, body: bytes) -> MQTTErrorCode:
        """Let paho handle one whole packet."""
        self._in_packet = {
            "command": header,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        return self._packet_handle()


def check_client_library() -> None:
    """Check that the installed paho-mqtt has what the session touches.

    :raises UnsupportedClientError: it lacks something.
    """
    client = Client(CallbackAPIVersion.VERSION2, client_id="probe")
    missing = [name for name in _TOUCHED if not hasattr(client, name)]
    if missing:
        raise UnsupportedClientError(
            f"the installed paho-mqtt lacks {', '.join(missing)}; install the pinned version"
        )


class Session(Mqtt):
    """One MQTT session of one vessel, over as many connections as it takes.

    :param client_id: stable for ever: the broker finds its half of the session by it.
    :param receive_maximum: messages that the broker may send before they are acknowledged (MQTT 5).
    :param lasting: the broker is to keep its half of the session.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        *,
        receive_maximum: int = 100,
        lasting: bool = True,
    ) -> None:
        check_client_library()
        with warnings.catch_warnings():
            # Flask-MQTT builds a client of paho's old callback version first; ours replaces it.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            super().__init__(connect_async=True)
        self._settings = settings
        # Flask-MQTT's name for it; it sets it anew with each connection.
        self.client_id = self._wanted_client_id = client_id
        self._receive_maximum = receive_maximum
        #: Packet id of the UNSUBSCRIBE that ends a look-back.
        self._look_back_id: int | None = None
        self._lasting = lasting
        self.negotiation = Negotiation(settings.protocol)
        self._version: Version = "5"
        self._frames = FrameReader()
        self._events: list[SessionEvent] = []
        #: When each unacknowledged packet of `publish_beside` was queued, in monotonic seconds.
        self._beside: dict[int, float] = {}
        #: When the ping was sent that the broker has not answered yet; 0 without one.
        self._pinged_at = 0.0
        #: The broker has read all that was queued before then: it has answered a later ping. Monotonic seconds.
        self.answered_until = -math.inf
        self._ended: SessionError | None = None
        #: A CONNECT was sent and not answered.
        self._asking = False
        self._clean_start_wanted = False
        self.client: _DurableClient

    # -- connection -----------------------------------------------------------------------------

    def connect(
        self, *, clean_start: bool, will_topic: str | None = None, will: bytes | None = None
    ) -> None:
        """Open a connection and queue CONNECT; the answer comes from `receive`.

        Blocks for at most the connect timeout a step (name, TCP, TLS, WebSocket).

        :param will_topic: where the broker says `will`, retained, when the connection ends without a word.
        :param clean_start: make the broker forget its half of the session.
        :raises ConnectError: there is no broker there, or its certificate is not accepted.
        """
        self._version = self.negotiation.choose(now_ms())
        self._frames = FrameReader()
        self._events.clear()
        self._beside.clear()
        self._pinged_at = 0.0
        self.answered_until = -math.inf
        self._look_back_id = None
        self._ended = None
        self._clean_start_wanted = clean_start
        config = self._flask_mqtt_config(will_topic, will)
        self.client = _DurableClient(
            self._wanted_client_id,
            _PROTOCOLS[self._version],
            websockets=self._settings.broker.websockets,
        )
        try:
            # Flask-MQTT asks nothing of the application but its config; init_app ends in _connect below.
            self.init_app(cast("Flask", SimpleNamespace(config=config)))
            self.client.on_message = self._on_message
            self.client.on_subscribe = self._handle_subscribe
            self.client.on_unsubscribe = self._handle_unsubscribe
            self.client.reconnect()
        except (OSError, ValueError) as error:
            self.client.give_up()
            raise ConnectError(explain(error, self._settings)) from error
        self._asking = True
        _tune(self.client.socket())

    def _flask_mqtt_config(self, will_topic: str | None, will: bytes | None) -> dict[str, Any]:
        settings = self._settings
        config: dict[str, Any] = {
            "MQTT_CLIENT_ID": self._wanted_client_id,
            "MQTT_CLEAN_SESSION": self._clean_start_wanted,
            "MQTT_TRANSPORT": "websockets" if settings.broker.websockets else "tcp",
            "MQTT_PROTOCOL_VERSION": _PROTOCOLS[self._version],
            "MQTT_BROKER_URL": settings.broker.host,
            "MQTT_BROKER_PORT": settings.broker.port,
            "MQTT_KEEPALIVE": settings.keepalive,
        }
        if will_topic is not None:
            config |= {
                "MQTT_LAST_WILL_TOPIC": will_topic,
                "MQTT_LAST_WILL_MESSAGE": will,
                "MQTT_LAST_WILL_QOS": 1,
                "MQTT_LAST_WILL_RETAIN": True,
            }
        return config

    def _connect(self) -> None:
        """Replace Flask-MQTT's: credentials, TLS and what MQTT 5 adds, but no network and no thread."""
        client = self.client
        prepare(client, self._settings)
        properties = None
        if self.v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = _NEVER_EXPIRES if self._lasting else 0
            properties.ReceiveMaximum = self._receive_maximum
        client.connect_async(
            self.broker_url,
            self.broker_port,
            keepalive=self.keepalive,
            clean_start=self._clean_start_wanted,
            properties=properties,
        )

    def _handle_connect(  # Flask-MQTT's is of paho's first callback version
        self,
        _client: Client,
        _userdata: Any,
        flags: Any,
        reason: ReasonCode,
        properties: Properties,
    ) -> None:
        self._asking = False
        if reason.is_failure:
            self._ended = self._refused(reason)
            return
        self.connected = True
        self.negotiation.accepted(self._version, now_ms())
        self._events.append(
            Connected(
                session_present=flags.session_present,
                receive_maximum=getattr(properties, "ReceiveMaximum", None),
                maximum_packet_size=getattr(properties, "MaximumPacketSize", None),
                protocol=self._version,
            )
        )

    def _handle_disconnect(  # as above
        self,
        _client: Client,
        _userdata: Any,
        flags: Any,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        from_broker = flags.is_disconnect_packet_from_server
        self._ended = ConnectionLostError(
            f"the broker ended the connection: {reason}" if from_broker else str(reason),
            reason.value if from_broker else None,
            hung_up=from_broker,
        )

    def _refused(self, reason: ReasonCode) -> SessionError:
        if reason.value != _UNSUPPORTED_PROTOCOL:
            self.negotiation.answered()
        elif self.negotiation.refused(self._version, now_ms()):
            return ProtocolRefusedError()
        return RefusedError(str(reason), reason.value)

    def close(self) -> None:
        """Drop the connection without a word: the broker publishes the will."""
        self.connected = False
        if self._asking:
            self._asking = False
            self.negotiation.unanswered(self._version)
        if hasattr(self, "client"):
            self.client._sock_close()

    def say_goodbye(self, deadline: float) -> None:
        """Write what is buffered and a DISCONNECT until `deadline` (monotonic), then close: no will."""
        self.client.disconnect()
        with contextlib.suppress(SessionError):  # the link went just now: the will speaks instead
            self.flush()
            while self.wants_write and (left := deadline - time.monotonic()) > 0:
                poll = select.poll()
                poll.register(cast("int", self.fileno()), select.POLLOUT)
                poll.poll(left * 1000)
                self.flush()
        self.close()

    # -- the loop's side --------------------------------------------------------------------------

    def fileno(self) -> int | None:
        """Return the socket to wait on, or None where there is none."""
        sock = self.client.socket() if hasattr(self, "client") else None
        return sock.fileno() if sock is not None else None

    @property
    def wants_write(self) -> bool:
        """Whether something is waiting to be written."""
        return bool(self.client.outgoing)

    @property
    def buffered(self) -> int:
        """Bytes waiting to be written."""
        return len(self.client.outgoing)

    def receive(self) -> list[SessionEvent]:
        """Read what has arrived; what came before the end of a connection is handed over before it.

        :raises SessionError: the connection ended.
        """
        if self._ended is not None:
            raise self._ended
        try:
            self._read()
        except SessionError as error:
            if not self._events:
                raise
            self._ended = error
        events, self._events = self._events, []
        return events

    def _read(self) -> None:
        client = self.client
        reads = 0
        # What TLS has decrypted already, no poll of the socket tells.
        while reads < _MAX_READS or _pending(client.socket()):
            reads += 1
            try:
                data = client._sock_recv(_READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                self._lost(f"the connection was lost: {error}", hung_up=_is_reset(error))
            if not data:
                self._lost("the broker closed the connection", hung_up=True)
            client._last_bytes_received = time.monotonic()
            try:
                for header, body in self._frames.feed(data):
                    self._take(header, body)
            except MalformedPacketError as error:
                self._lost(str(error))
        _acknowledge_at_once(client.socket())

    def _take(self, header: int, body: bytes) -> None:
        if header & 0xF0 in {PUBACK, PUBREC, PUBCOMP}:
            ack = decode_ack(header, body)
            self._beside.pop(ack.packet_id, None)
            self._events.append(ack)
            return
        try:
            taken = self.client.feed(header, body) is MQTTErrorCode.MQTT_ERR_SUCCESS
        except (ArithmeticError, LookupError, MQTTException, ValueError, struct.error) as error:
            # paho takes a packet apart without looking whether its fields are there.
            raise MalformedPacketError("the broker sent a packet that is not MQTT") from error
        if self._ended is not None:
            raise self._ended
        if not taken:
            self._lost("the broker sent a packet that is not expected")

    def flush(self) -> None:
        """Write as much of the buffer as the socket takes.

        :raises SessionError: the connection is gone.
        """
        client = self.client
        while client.outgoing:
            try:
                written = client._sock_send(bytes(client.outgoing[:_READ_SIZE]))
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                self._lost(f"the connection was lost: {error}", hung_up=_is_reset(error))
            if not written:
                return
            del client.outgoing[:written]
            client._last_msg_out = time.monotonic()

    def keep_alive(self) -> None:
        """Ping when it is time to.

        :raises SessionError: the last ping was not answered.
        """
        if self._pinged_at and self.client._ping_t != self._pinged_at:
            self.answered_until = self._pinged_at
        rc = self.client.loop_misc()
        self._pinged_at = self.client._ping_t
        if self._ended is not None:
            raise self._ended
        if rc is not MQTTErrorCode.MQTT_ERR_SUCCESS or self.client.socket() is None:
            self._lost("the broker did not answer a ping")

    def publish_entry(
        self,
        topic: bytes,
        payload: bytes,
        *,
        packet_id: int,
        qos: int,
        dup: bool,
        retain: bool = True,
    ) -> None:
        """Queue a PUBLISH under a packet id above `CONTROL_IDS`; of a change it was journalled."""
        self.client.outgoing += encode_publish(
            topic, payload, packet_id=packet_id, qos=qos, retain=retain, dup=dup, v5=self.v5
        )

    def publish_beside(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Queue a QoS 1 message that is not a change of the log; return its packet id."""
        packet_id = self.client._mid_generate()
        self._beside[packet_id] = time.monotonic()
        self.client.outgoing += encode_publish(
            topic.encode(),
            payload,
            packet_id=packet_id,
            qos=1,
            retain=retain,
            dup=False,
            v5=self.v5,
        )
        return packet_id

    def look_back(self, topics: Iterable[str]) -> None:
        """Ask for the retained messages of topics; `LookedBack` follows the last of them.

        At QoS 0 and unsubscribed at once: the answer to the second request comes behind all that the
        first one has brought, and nothing of it stays in the session.
        """
        for topic in topics:
            self.client.subscribe(topic, 0)
        _, self._look_back_id = self.client.unsubscribe(list(topics))

    def ask(self, filters: Iterable[tuple[str, int]]) -> int:
        """Queue a SUBSCRIBE; `Subscribed` brings the answer. Return its packet id.

        Retained messages come with a subscription that is new to the broker, not with one that it knows
        (MQTT 5, 3.8.3.1; MQTT 3.1.1 sends them each time).

        :param filters: topic filters, each with its QoS.
        """
        if self.v5:
            wanted: Any = [
                (name, SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB))
                for name, qos in filters
            ]  # fmt: skip
        else:
            wanted = list(filters)
        _, packet_id = self.client.subscribe(wanted)
        return cast("int", packet_id)

    def forget(self, filters: Iterable[str]) -> int:
        """Queue an UNSUBSCRIBE; `Unsubscribed` brings the answer. Return its packet id."""
        _, packet_id = self.client.unsubscribe(list(filters))
        return cast("int", packet_id)

    def acknowledge(self, packet_id: int) -> None:
        """Queue the PUBACK of a message that was received at QoS 1 in this connection."""
        self.client.ack(packet_id, 1)

    def _handle_subscribe(
        self, _client: Client, _userdata: Any, packet_id: int, reasons: list[ReasonCode], _props: Any
    ) -> None:  # fmt: skip
        self._events.append(Subscribed(packet_id, tuple(reason.value for reason in reasons)))

    def _handle_unsubscribe(
        self, _client: Client, _userdata: Any, packet_id: int, *_: Any
    ) -> None:  # fmt: skip
        ended = packet_id == self._look_back_id
        self._events.append(LookedBack() if ended else Unsubscribed(packet_id))

    def release(self, packet_id: int) -> None:
        """Queue a PUBREL; that its PUBREC arrived was journalled."""
        self.client.outgoing += encode_pubrel(packet_id)

    @property
    def beside(self) -> int:
        """Unacknowledged messages that are no changes of the log: they take room in the window too."""
        return len(self._beside)

    @property
    def oldest_beside(self) -> float:
        """When the oldest of these was queued, in monotonic seconds; infinity without any."""
        return next(iter(self._beside.values()), math.inf)

    @property
    def v5(self) -> bool:
        """Whether the connection speaks MQTT 5."""
        return self._version == "5"

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._events.append(
            Received(
                message.topic,
                bytes(message.payload),
                message.mid,
                message.qos,
                retain=message.retain,
                dup=message.dup,
            )
        )

    def _lost(self, reason: str, *, hung_up: bool = False) -> None:
        raise self._ended or ConnectionLostError(reason, hung_up=hung_up)


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that does not stay open when its handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def prepare(client: Client, settings: Settings) -> None:
    """Tell a client, before it connects, how to reach the broker and as whom.

    :raises ssl.SSLError: a certificate or key can't be used.
    :raises OSError: its file can't be read.
    """
    client.connect_timeout = settings.connect_timeout
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.broker.tls:
        client.tls_set_context(tls_context(settings))
        client.tls_insecure_set(not settings.tls_verify)
    if settings.broker.websockets:
        client.ws_set_options(path=settings.broker.path)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return what a TLS connection to the broker is made with.

    :raises ssl.SSLError: a certificate or key can't be used.
    :raises OSError: its file can't be read.
    """
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.sslsocket_class = _TlsSocket
    if settings.tls_cert is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def explain(error: Exception, settings: Settings) -> str:
    """Return, for people, why a connection to the broker could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {settings.broker}: {error.reason or error}; does the broker speak TLS there?"
    if isinstance(error, ConnectionResetError) and settings.broker.tls:
        return f"{settings.broker} hung up on the TLS handshake; does the broker speak TLS there?"
    if isinstance(error, socket.gaierror):
        return f"the name {settings.broker.host!r} can't be resolved"
    return f"{settings.broker} can't be reached: {error}"


def _is_reset(error: Exception) -> bool:
    return isinstance(error, ConnectionResetError | BrokenPipeError)


def _tune(sock: Any) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _pending(sock: Any) -> bool:
    return hasattr(sock, "pending") and sock.pending() > 0


def _acknowledge_at_once(sock: Any) -> None:
    """Tell the kernel not to delay TCP acknowledgements: a broker's Nagle would wait 40 ms for them."""
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_QUICKACK"):
        # Closed by the other side meanwhile? The next read says so.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
