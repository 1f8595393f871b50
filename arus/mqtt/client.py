"""The MQTT session of one vessel or follower, over any number of connections.

paho handles CONNECT, TLS, WebSockets and subscriptions. The messages of both directions are ours: the change log
records what was sent and the state of each handshake, and a message from the broker is acknowledged after it was
handled. So paho's own tables of messages stay empty.
A session is used by one thread: there are no locks, and no callbacks from other threads.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Collection, Iterable
from typing import Any, cast

from paho.mqtt.client import Client
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from arus.errors import ConnectionLostError, MalformedPacketError, SessionError
from arus.settings import Settings

from .connector import Connector
from .deliveries import Deliveries
from .durable_client import DurableClient, check_client_library
from .events import Discarded, LookedBack, SessionEvent, Subscribed
from .features import Features
from .left_out import LeftOut
from .meter import Kind, Meter
from .negotiation import Negotiation
from .packets import (
    PINGRESP_PACKET,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Ack,
    Frame,
    FrameReader,
    decode_ack,
    encode_ack,
    encode_pubrel,
)
from .refusals import REFUSED, TOO_LARGE
from .transport import acknowledge_at_once, has_pending

#: Reads of the socket in one `receive`, unless TLS has more decrypted data.
_MAX_READS = 16


class Session:
    """One MQTT session.

    :param client_id: must never change: the broker finds its half of the session by it.
    :param receive_maximum: messages that the broker may send before they are acknowledged (MQTT 5).
    :param lasting: whether the broker keeps its half of the session between connections.
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
        self.client_id = client_id
        self._events: list[SessionEvent] = []
        #: Counts what leaves, over all connections.
        self.meter = Meter()
        self._connector = Connector(
            settings,
            client_id,
            receive_maximum=receive_maximum,
            lasting=lasting,
            accepted=self._events.append,
            meter=self.meter,
        )
        #: What the broker supports.
        self.features: Features = self._connector.features
        self._frames = FrameReader(settings.max_packet_size)
        self._deliveries = Deliveries(settings.max_packet_size)
        #: When the broker last sent anything but the answer to a ping, in monotonic seconds.
        self.heard_at = -math.inf
        #: Packet id of the UNSUBSCRIBE that ends a look-back.
        self._look_back_id: int | None = None
        self._left_out = LeftOut()
        #: When each unacknowledged message of `publish_beside` was queued, in monotonic seconds.
        self._beside: dict[int, float] = {}
        #: Why the connection has ended; raised once all earlier events have been returned.
        self._ended: SessionError | None = None

    @property
    def client(self) -> DurableClient:
        """Paho's client of the connection."""
        return self._connector.client

    @property
    def negotiation(self) -> Negotiation:
        """The negotiation of the MQTT version with the broker."""
        return self._connector.negotiation

    @property
    def v5(self) -> bool:
        """Whether the connection speaks MQTT 5."""
        return self._connector.version == "5"

    # -- connection -----------------------------------------------------------------------------

    def connect(
        self, *, clean_start: bool, will_topic: str | None = None, will: bytes | None = None
    ) -> None:
        """Open a connection and queue CONNECT; `receive` returns the answer.

        Blocks for at most the connect timeout per step (name lookup, TCP, TLS, WebSocket).

        :param will_topic: where the broker publishes `will`, retained, if the connection ends without DISCONNECT.
        :param clean_start: make the broker discard its half of the session.
        :raises ConnectError: the broker can't be reached, or its certificate is not accepted.
        """
        self._frames = self._frames.renewed()
        self._deliveries.begin()
        self._events.clear()
        self._beside.clear()
        self._left_out = LeftOut()
        self._look_back_id = self._ended = None
        self._connector.open(clean_start=clean_start, will_topic=will_topic, will=will)
        self.client.on_subscribe = self._on_subscribe
        self.client.on_unsubscribe = self._on_unsubscribe

    def close(self) -> None:
        """Drop the connection without DISCONNECT: the broker publishes the will."""
        self._connector.close()

    def say_goodbye(self, deadline: float, *, unread: bool = False) -> None:
        """Write the buffer and a DISCONNECT until `deadline` (monotonic), then close: no will is published.

        :param unread: messages may be on their way.
        """
        self.client.disconnect()
        with contextlib.suppress(SessionError):  # the link was lost: the will is published
            _write(self, deadline)
            _discard(self._connector, deadline if unread else -math.inf)
        self.close()

    # -- reading and writing: in each round of the owner, so without a call of `client` -----------------

    def fileno(self) -> int | None:
        """Return the socket to wait on, or None if there is none."""
        sock = self._connector.client.socket()
        return sock.fileno() if sock is not None else None

    @property
    def wants_write(self) -> bool:
        """Whether something is waiting to be written."""
        return bool(self._connector.client.outgoing)

    @property
    def buffered(self) -> int:
        """Bytes waiting to be written."""
        return len(self._connector.client.outgoing)

    def receive(self) -> list[SessionEvent]:
        """Return the events that have arrived; those from before the end of a connection are returned first.

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
        events = self._events.copy()
        self._events.clear()
        return events

    def _read(self) -> None:
        reads = 0
        while reads < _MAX_READS or has_pending(self.client.socket()):
            reads += 1
            try:
                data = self._connector.read()
                if data != PINGRESP_PACKET:
                    self.heard_at = time.monotonic()
                for frame in self._frames.feed(data):
                    self._take(frame)
            except BlockingIOError:
                break
            except MalformedPacketError as error:
                raise self._first(ConnectionLostError(str(error))) from error
            except SessionError as error:
                raise self._first(error) from error
        acknowledge_at_once(self.client.socket())

    def _take(self, frame: Frame) -> None:
        kind = frame.header & 0xF0
        if kind in {PUBACK, PUBREC, PUBCOMP}:
            ack = decode_ack(frame.header, frame.body)
            is_beside = self._beside.pop(ack.packet_id, None) is not None
            if is_beside and ack.kind == PUBREC and ack.reason < REFUSED:
                self.release(ack.packet_id)  # raised to QoS 2: the handshake must not stay open
            self._events.append(ack)
        elif kind == PUBLISH:
            delivery = self._deliveries.take(frame, v5=self.v5)
            self._events.append(delivery)
            if isinstance(delivery, Discarded) and delivery.packet_id:
                self.acknowledge(delivery.packet_id)
        elif kind == PUBREL:
            packet_id = decode_ack(frame.header, frame.body).packet_id
            self.client.queue(encode_ack(PUBCOMP, packet_id), Kind.ACKNOWLEDGEMENTS)
        else:
            self._connector.check_refusal(frame.header, frame.body)
            expected = self.client.feed(frame)
            if not expected or self._ended is not None or self._connector.ended is not None:
                raise self._first(ConnectionLostError("the broker sent an unexpected packet"))

    def _on_subscribe(
        self, _client: Client, _userdata: Any, packet_id: int, reasons: list[ReasonCode], _props: Any
    ) -> None:  # fmt: skip
        answers = self._left_out.answers(packet_id, [reason.value for reason in reasons])
        self._events.append(Subscribed(packet_id, answers))

    def _on_unsubscribe(self, _client: Client, _userdata: Any, packet_id: int, *_: Any) -> None:
        if packet_id == self._look_back_id:
            self._look_back_id = None
            self._events.append(LookedBack())

    def flush(self) -> None:
        """Write as much of the buffer as the socket accepts.

        :raises SessionError: the connection is gone.
        """
        client = self._connector.client
        while client.outgoing:
            try:
                if not client.write():
                    return
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                raise self._first(self._connector.lost(error)) from error

    @property
    def ping_due_at(self) -> float:
        """When `keep_alive` is to be called, in monotonic seconds."""
        return self._connector.client.ping_due_at

    def keep_alive(self) -> None:
        """Send a ping if one is due.

        :raises SessionError: the last ping was not answered.
        """
        if not self._connector.client.keep_alive():
            raise self._first(ConnectionLostError("the broker did not answer a ping"))

    def ping(self) -> None:
        """Queue a ping: `answered_until` shows when the broker has read everything before it."""
        self.client.ping()

    @property
    def answered_until(self) -> float:
        """The broker has read all packets queued before this time (monotonic): it has answered a later ping."""
        return self.client.answered_until

    def _first(self, error: SessionError) -> SessionError:
        """Return why the connection has ended: the first reason that is known."""
        return self._ended or self._connector.ended or error

    # -- publishing -------------------------------------------------------------------------------

    def publish_entry(
        self,
        topic: bytes,
        payload: bytes,
        *,
        packet_id: int,
        qos: int,
        dup: bool = False,
        retain: bool = True,
        kind: Kind = Kind.CHANGES,
    ) -> None:
        """Queue a PUBLISH with a packet id above `CONTROL_IDS`; a change's sending has been journalled before."""
        retain = retain and self.features.retains
        packet = self._connector.aliases.encode_publish(
            topic, payload, packet_id=packet_id, qos=qos, retain=retain, dup=dup, v5=self.v5
        )
        self.client.queue(packet, kind)

    def publish_beside(
        self, topic: str, payload: bytes, *, retain: bool, kind: Kind = Kind.OTHER
    ) -> int:
        """Queue a QoS 1 message that is not a change of the log; return its packet id. One that is too large counts as refused."""
        packet_id = self.client.next_packet_id()
        if not self._connector.accepts(topic, payload):
            self._events.append(Ack(PUBACK, packet_id, TOO_LARGE))  # it would end the connection
            return packet_id
        self._beside[packet_id] = time.monotonic()
        self.publish_entry(
            topic.encode(), payload, packet_id=packet_id, qos=1, retain=retain, kind=kind
        )
        return packet_id

    def release(self, packet_id: int) -> None:
        """Queue a PUBREL; the arrival of its PUBREC has been journalled before."""
        self.client.queue(encode_pubrel(packet_id), Kind.CHANGES)

    @property
    def beside(self) -> int:
        """The number of unacknowledged messages of `publish_beside`: they count towards the window too."""
        return len(self._beside)

    @property
    def oldest_beside(self) -> float:
        """When the oldest of these was queued, in monotonic seconds; infinity if there is none."""
        return next(iter(self._beside.values()), math.inf)

    # -- subscriptions ----------------------------------------------------------------------------

    def look_back(self, topics: Iterable[str]) -> None:
        """Request the retained messages of topics; `LookedBack` follows the last of them.

        Subscribes at QoS 0 and unsubscribes at once: the answer to UNSUBSCRIBE arrives after all messages of the
        subscription, and the session keeps nothing of it.
        """
        for topic in topics:
            self.client.subscribe(topic, 0)
        _, self._look_back_id = self.client.unsubscribe(list(topics))

    def ask(self, filters: Iterable[tuple[str, int]], *, others_only: Collection[str] = ()) -> int:
        """Queue a SUBSCRIBE and return its packet id; `Subscribed` is the answer.

        The broker sends retained messages for a subscription that is new to it, not for one that it already has
        (MQTT 5, 3.8.3.1; MQTT 3.1.1 sends them each time).

        :param filters: topic filters, each with its QoS. One that the broker does not take is left out, and counts as refused.
        :param others_only: filters for which the broker need not send our own messages; MQTT 3.1.1 sends them.
        """
        return _subscribe(self, list(filters), others_only)

    def forget(self, filters: Iterable[str]) -> None:
        """Queue an UNSUBSCRIBE."""
        self.client.unsubscribe(list(filters))

    def acknowledge(self, packet_id: int) -> None:
        """Queue the acknowledgement of a message that was received in this connection."""
        self.client.queue(self._deliveries.acknowledgement(packet_id), Kind.ACKNOWLEDGEMENTS)


def has_unread(session: Session) -> bool:
    """Return whether a session is to `receive` although its socket is not readable.

    It has ended, TLS holds data, or the session itself has answered a message that is too large for the broker.
    """
    return (
        session._ended is not None or bool(session._events) or has_pending(session.client.socket())
    )


def _wait(client: DurableClient, event: int, timeout: float) -> None:
    """Wait until a client's socket is ready, for some seconds at most."""
    poll = select.poll()
    poll.register(cast("Any", client.socket()), event)
    poll.poll(timeout * 1000)


def _write(session: Session, deadline: float) -> None:
    """Write the buffer of a session, until `deadline` (monotonic) at most.

    :raises SessionError: the connection is gone.
    """
    session.flush()
    while session.wants_write and (left := deadline - time.monotonic()) > 0:
        _wait(session.client, select.POLLOUT, left)
        session.flush()


def _discard(connector: Connector, deadline: float) -> None:
    """Read what arrives until `deadline` (monotonic), or until the broker has closed the connection after a DISCONNECT.

    TCP resets a connection that is closed with unread data, and a broker that finds it reset publishes the will.

    :raises SessionError: the broker has closed it.
    """
    while (left := deadline - time.monotonic()) > 0:
        _wait(connector.client, select.POLLIN, left)
        with contextlib.suppress(BlockingIOError):
            connector.read()


def _subscribe(session: Session, asked: list[tuple[str, int]], others_only: Collection[str]) -> int:
    """Queue a SUBSCRIBE to those filters that the broker takes; return its packet id."""
    taken = [each for each in asked if session.features.takes(each[0])]
    wanted: Any = _with_options(taken, others_only) if session.v5 else taken
    client = session.client
    packet_id = client.subscribe(wanted)[1] if taken else client.next_packet_id()
    assert packet_id is not None, "there is a connection"
    session._left_out.note(packet_id, [each not in taken for each in asked])
    if not taken:
        session._events.append(Subscribed(packet_id, session._left_out.answers(packet_id)))
    return packet_id


def _with_options(
    filters: Iterable[tuple[str, int]], others_only: Collection[str]
) -> list[tuple[str, SubscribeOptions]]:
    """Return filters with the options of MQTT 5 (3.8.3.1)."""
    return [
        (name, SubscribeOptions(
            qos=qos,
            noLocal=name in others_only,
            retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
        ))
        for name, qos in filters
    ]  # fmt: skip
