"""paho's client with a write buffer of ours, and the only module that uses paho's internals."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any, cast

from paho.mqtt import MQTTException
from paho.mqtt.client import (
    CallbackAPIVersion,
    Client,
    MQTTErrorCode,
    MQTTMessageInfo,
    MQTTProtocolVersion,
)

from arus.errors import MalformedPacketError, UnsupportedClientError

from .idle_closes import IdleTime
from .keepalive import Keepalive
from .meter import Kind, Meter
from .packets import CONTROL_IDS, PINGREQ_PACKET, PINGRESP, Frame
from .recorder import Recorder
from .transport import accepted_bytes, is_readable, unsent_bytes
from .websocket import CLOSE, PING, PONG, WebSocketReader

_READ_SIZE = 65_536
_WRITE_SIZE = 65_536
#: paho reports the bytes of a WebSocket frame as written when all of them are, so frames are small.
_WEBSOCKET_WRITE_SIZE = 4_096

#: The private attributes of paho's client that this module uses, and those that Flask-MQTT sets.
USED = (
    "_client_id", "_clean_session", "_create_socket_connection", "_in_packet", "_last_mid", "_mid_generate",
    "_packet_handle", "_packet_queue", "_protocol", "_sock_close", "_sock_recv", "_sock_send", "_ssl",
    "_ssl_wrap_socket", "_transport",
)  # fmt: skip
#: What `_packet_handle` must pass a CONNACK to.
_RELIED_ON = ("_handle_connack",)


class DurableClient(Client):
    """A client that writes to a buffer of ours, and receives whole packets from us.

    :param meter: counts what leaves.
    """

    def __init__(
        self,
        client_id: str,
        protocol: MQTTProtocolVersion,
        *,
        websockets: bool,
        meter: Meter | None = None,
    ) -> None:
        v5 = protocol == MQTTProtocolVersion.MQTTv5
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else False,
            protocol=protocol,
            transport="websockets" if websockets else "tcp",
            # paho would reconnect from inside its CONNACK handler, without our loop's knowledge.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.outgoing = bytearray()
        self._meter = meter or Meter()
        #: Bytes of packets that the socket has accepted, and what TLS and WebSockets were found to add to them.
        self._written = self._added = 0
        self._opening: socket.socket | None = None
        self._recorder: Recorder | None = None
        self.idle_time = IdleTime()
        self._keepalive_timer = Keepalive(self.keepalive)
        self._websocket_reader = WebSocketReader() if websockets else None

    def reconnect(self) -> MQTTErrorCode:
        """Clear the buffer of the earlier connection, and connect."""
        self.outgoing.clear()
        self._meter.discarded()
        self._written = self._added = 0
        self._opening = self._recorder = None
        self.idle_time = IdleTime()
        self._keepalive_timer = Keepalive(self.keepalive)
        if self._websocket_reader is not None:
            self._websocket_reader = WebSocketReader()
        return super().reconnect()

    @property
    def is_reached(self) -> bool:
        """Whether the last `reconnect` has opened a TCP connection."""
        return self._opening is not None

    @property
    def heard(self) -> bytes:
        """The beginning of the answer to the WebSocket handshake; empty without one."""
        return bytes(self._recorder.heard) if self._recorder is not None else b""

    def _create_socket_connection(self) -> socket.socket:
        self._opening = super()._create_socket_connection()
        return self._opening if self._ssl else self.record(self._opening)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        self._opening = super()._ssl_wrap_socket(tcp_sock)
        return cast("ssl.SSLSocket", self.record(self._opening))

    def record(self, sock: Any) -> Any:
        """Return the socket on which a WebSocket handshake is recorded; without WebSockets, the socket itself."""
        if self._transport != "websockets":
            return sock
        self._recorder = Recorder(sock)
        return self._recorder

    def give_up(self) -> None:
        """Close the socket that a failed `reconnect` has opened; paho does not close it."""
        self.measure()
        self._sock_close()
        if self._opening is not None:
            self._opening.close()

    def close(self) -> None:
        """Close the socket without DISCONNECT."""
        self.measure()
        self._sock_close()

    def queue(self, packet: bytes | bytearray, kind: Kind) -> None:
        """Add a packet to the buffer."""
        self.outgoing += packet
        self._meter.queued(kind, len(packet))

    def measure(self) -> None:
        """Count what TLS and WebSockets have added since the last call."""
        if self._opening is None or not (self._ssl or self._transport == "websockets"):
            return
        accepted = accepted_bytes(self._opening)
        if accepted is not None and accepted > self._written + self._added:
            self._meter.add(Kind.CONNECTION, accepted - self._written - self._added)
            self._added = accepted - self._written

    def _packet_queue(
        self,
        command: int,  # noqa: ARG002  # the signature is paho's
        packet: bytes | bytearray,
        mid: int,  # noqa: ARG002
        qos: int,  # noqa: ARG002
        info: MQTTMessageInfo | None = None,  # noqa: ARG002
    ) -> MQTTErrorCode:
        # One buffer for paho's packets and ours, so that they can't be interleaved.
        self.queue(packet, Kind.CONNECTION)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _mid_generate(self) -> int:
        self._last_mid = self._last_mid % CONTROL_IDS + 1
        return self._last_mid

    def next_packet_id(self) -> int:
        """Return the packet id of the next control message."""
        return self._mid_generate()

    @property
    def answered_until(self) -> float:
        """The broker has read everything queued before this time, in monotonic seconds."""
        return self._keepalive_timer.answered_until

    def require_keepalive(self, seconds: int) -> None:
        """Use the keepalive that the broker requires for this connection (MQTT 5, 3.2.2.3.14); 0 for none."""
        self._keepalive_timer.required(seconds)

    @property
    def ping_due_at(self) -> float:
        """When `keep_alive` is to be called, in monotonic seconds."""
        return self._keepalive_timer.ping_due_at

    def keep_alive(self) -> bool:
        """Queue a ping if one is due; return whether the connection is alive."""
        sock = self.socket()
        if sock is None:
            return False
        timer = self._keepalive_timer
        is_due = timer.is_ping_due
        # Without a ping on its way nothing can be missed: the system is not asked in each round.
        if is_due or timer.is_waiting:
            # What has arrived and was not read yet, because this process was busy, is a sign of life too.
            if timer.is_lost(unsent_bytes(sock)) and not is_readable(sock):
                return False
            if is_due:
                self.ping()
        return True

    def ping(self) -> None:
        """Queue a ping."""
        self.queue(PINGREQ_PACKET, Kind.KEEPALIVE)
        self._keepalive_timer.pinged(len(self.outgoing))

    def read(self) -> bytes:
        """Return the bytes that have arrived; empty once the broker has closed the connection.

        :raises BlockingIOError: nothing has arrived.
        :raises OSError: the connection is gone.
        :raises MalformedPacketError: it is a WebSocket, and the broker breaks its rules.
        """
        reader = self._websocket_reader
        data = (
            self._sock_recv(_READ_SIZE)
            if reader is None
            else receive_websocket(self.socket(), reader)
        )
        if data:
            self.idle_time.read()
            self._keepalive_timer.read()
        return data

    def write(self) -> int:
        """Write as much of the buffer as the socket accepts; return the number of bytes written.

        :raises BlockingIOError: the socket accepts none now.
        :raises OSError: the connection is gone.
        :raises ValueError: the connection is gone.
        """
        size = _WRITE_SIZE if self._websocket_reader is None else _WEBSOCKET_WRITE_SIZE
        written = self._sock_send(bytes(self.outgoing[:size]))
        if written:
            self.idle_time.wrote(self.outgoing)
            del self.outgoing[:written]
            self._keepalive_timer.wrote(written)
            self._meter.wrote(written)
            self._written += written
        return written

    def feed(self, frame: Frame) -> bool:
        """Let paho handle one whole packet; return whether it expected it.

        :raises MalformedPacketError: a field of the packet is missing or malformed.
        """
        if frame.header & 0xF0 == PINGRESP:
            self._keepalive_timer.answered()
        self._in_packet = {
            "command": frame.header,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(frame.body),
            "packet": bytearray(frame.body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            return self._packet_handle() is MQTTErrorCode.MQTT_ERR_SUCCESS
        except (ArithmeticError, LookupError, MQTTException, ValueError, struct.error) as error:
            # paho parses a packet without checking that its fields are there.
            raise MalformedPacketError("the broker sent a packet that is not MQTT") from error


def receive_websocket(wrapper: Any, reader: WebSocketReader) -> bytes:
    """Return the MQTT bytes that have arrived on a WebSocket; empty once the broker has closed it.

    :param wrapper: paho's WebSocket; its own `recv` would hold a whole frame in memory.
    """
    if wrapper is None:
        raise ConnectionError("the connection is closed")
    while True:
        try:
            data = wrapper._socket.recv(_READ_SIZE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        payload, controls = reader.feed(data)
        closed = not data
        for control in controls:
            if control.opcode == PING:
                answer_control(wrapper, PONG, control.payload)
            elif control.opcode == CLOSE:
                answer_control(wrapper, CLOSE, control.payload)
                closed = True
        if payload or closed:
            return payload


def answer_control(wrapper: Any, opcode: int, payload: bytes) -> None:
    """Send a control frame."""
    frame = wrapper._create_frame(opcode, bytearray(payload))
    if wrapper._sendbuffer:
        wrapper._sendbuffer.extend(frame)  # not in the middle of a frame
    else:
        wrapper._socket.send(frame)


def check_client_library() -> None:
    """Check that the installed paho-mqtt has the private attributes that this module uses.

    :raises UnsupportedClientError: it lacks some of them.
    """
    client = Client(CallbackAPIVersion.VERSION2, client_id="probe")
    missing = [name for name in (*USED, *_RELIED_ON) if not hasattr(client, name)]
    if missing:
        raise UnsupportedClientError(
            f"the installed paho-mqtt lacks {', '.join(missing)}; install the pinned version"
        )
