"""The sessions of a broker in memory: the client's side, and the broker's."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from arus.errors import ConnectError, ConnectionLostError, RefusedError, SessionError
from arus.protocol.topics import matches, validate_filter
from arus.settings import Settings

from .client import Session
from .events import Connected, LookedBack, Received, SessionEvent, Subscribed
from .idle_closes import IdleTime
from .meter import Kind
from .packets import CONTROL_IDS, PUBACK, PUBCOMP, PUBREC, Ack, encode_publish

#: The broker's Receive Maximum.
RECEIVE_MAXIMUM = 1_000


@dataclass(frozen=True, slots=True)
class Published:
    """A message as a subscriber receives it."""

    topic: str
    #: The payload parsed as JSON; bytes if it is not JSON, None if it is empty.
    payload: Any
    qos: int
    retain: bool
    #: The payload as it was sent.
    data: bytes = field(repr=False)
    #: The publisher's client id.
    client_id: str = field(repr=False)


class SessionBroker:
    """Receives, answers and delivers messages, as an MQTT 5 broker with durable sessions does.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[Published] = []
        self._retained: dict[str, Published] = {}
        self._clients: dict[str, _Client] = {}
        self._offline = False
        self._refusal: RefusedError | None = None
        self._rejected: dict[str, int] = {}
        self._holding = False
        self._attempts = 0
        self._endings = 0

    def open_session(self, settings: Settings, client_id: str) -> Session:
        """Return a client's session, not connected yet."""
        return MemorySession(self, settings, client_id)

    def connect(self, session: MemorySession, *, clean_start: bool) -> None:
        """Accept a session's connection, or refuse it; the session receives the answer as an event.

        :raises ConnectError: the broker is unreachable.
        """
        with self._changed:
            self._attempts += 1
            self._changed.notify_all()
            if self._offline:
                raise ConnectError("the memory broker is offline")
            session.open()
            if self._refusal is not None:
                session.end(self._refusal)
                return
            known = self._clients.get(session.client_id)
            present = known is not None and not clean_start
            client = known if known is not None and present else _Client()
            self._clients[session.client_id] = client
            client.session, client.subscribed = session, False
            client.held.clear()
            session.push(
                Connected(
                    session_present=present,
                    receive_maximum=RECEIVE_MAXIMUM,
                    maximum_packet_size=None,
                    protocol="5",
                )
            )
            client.waiting.extendleft(reversed(client.delivered.values()))
            client.repeats += len(client.delivered)
            client.delivered.clear()
            self._hand_over(client)

    def disconnect(self, session: MemorySession, will: tuple[str, bytes] | None) -> None:
        """Close a session's connection, and publish its will if there is one."""
        with self._changed:
            self._endings += 1
            self._changed.notify_all()
            client = self._clients.get(session.client_id)
            if client is None or client.session is not session:
                return
            client.session, client.subscribed = None, False
            if will is not None:
                self._take(*will, qos=1, retain=True, client_id=session.client_id)

    def take(
        self,
        session: MemorySession,
        topic: str,
        data: bytes,
        *,
        packet_id: int,
        qos: int,
        retain: bool,
    ) -> None:
        """Receive a PUBLISH and answer it."""
        with self._changed:
            client = self._client(session)
            reason = self._rejected.get(topic, 0)
            # A QoS 2 message that is sent again was already received the first time.
            if not reason and packet_id not in client.handshakes:
                self._take(topic, data, qos=qos, retain=retain, client_id=session.client_id)
            if qos == 2 and not reason:
                client.handshakes.add(packet_id)
            self._answer(client, Ack(PUBREC if qos == 2 else PUBACK, packet_id, reason))

    def release(self, session: MemorySession, packet_id: int) -> None:
        """Receive a PUBREL and answer it."""
        with self._changed:
            client = self._client(session)
            client.handshakes.discard(packet_id)
            self._answer(client, Ack(PUBCOMP, packet_id, 0))

    def subscribe(self, session: MemorySession, filters: dict[str, int], packet_id: int) -> None:
        """Receive a SUBSCRIBE; send the retained messages of new filters."""
        with self._changed:
            client = self._client(session)
            new = [validate_filter(name) for name in filters if name not in client.filters]
            client.filters |= filters
            client.subscribed = True
            session.push(Subscribed(packet_id, tuple(filters.values())))
            for message in list(self._retained.values()):
                if any(matches(name, message.topic) for name in new):
                    client.waiting.append(message)
            self._hand_over(client)

    def unsubscribe(self, session: MemorySession, filters: Iterable[str]) -> None:
        """Receive an UNSUBSCRIBE."""
        with self._changed:
            for name in filters:
                self._client(session).filters.pop(name, None)

    def retained_on(self, topics: Iterable[str]) -> list[Published]:
        """Return the retained messages of topics."""
        with self._changed:
            return [self._retained[topic] for topic in topics if topic in self._retained]

    def received(self, session: MemorySession, packet_id: int) -> None:
        """Receive the acknowledgement of a message to the application."""
        with self._changed:
            self._client(session).delivered.pop(packet_id, None)
            self._changed.notify_all()

    # -- under the lock -----------------------------------------------------------------------------

    def _client(self, session: MemorySession) -> _Client:
        return self._clients.get(session.client_id) or _Client()

    def _answer(self, client: _Client, ack: Ack) -> None:
        if self._holding:
            client.held.append(ack)
        elif client.session is not None:
            client.session.push(ack)

    def _take(
        self, topic: str, data: bytes, *, qos: int, retain: bool, client_id: str
    ) -> Published:
        message = Published(topic, _decoded(data), qos, retain, data, client_id)
        self._messages.append(message)
        if retain and data:
            self._retained[topic] = message
        elif retain:
            self._retained.pop(topic, None)
        for client in self._clients.values():
            if any(matches(name, topic) for name in client.filters):
                # As received live: the retain flag is for a retained message alone (MQTT 5, 3.3.1.3).
                client.waiting.append(replace(message, retain=False))
                self._hand_over(client)
        self._changed.notify_all()
        return message

    def _hand_over(self, client: _Client) -> None:
        while client.session is not None and client.waiting:
            message = client.waiting.popleft()
            packet_id = 0
            if message.qos:
                client.last_id = packet_id = client.last_id % 65_535 + 1
                client.delivered[packet_id] = message
            client.session.push(
                Received(
                    message.topic,
                    message.data,
                    packet_id,
                    min(message.qos, 1),
                    message.retain,
                    dup=client.repeats > 0,
                )
            )
            client.repeats = max(0, client.repeats - 1)

    def _end(self, reason: str) -> None:
        for client in list(self._clients.values()):
            if client.session is not None:
                client.session.end(ConnectionLostError(reason))
        self._changed.notify_all()


@dataclass(slots=True)
class _Client:
    """The broker's side of a session."""

    #: Its filters, each with its QoS.
    filters: dict[str, int] = field(default_factory=dict)
    #: Packet ids of QoS 2 messages that were received and not released.
    handshakes: set[int] = field(default_factory=set)
    #: Acknowledgements that are held back.
    held: list[Ack] = field(default_factory=list)
    #: Messages for the client: not delivered yet, and delivered but not acknowledged, by packet id.
    waiting: deque[Published] = field(default_factory=deque)
    delivered: dict[int, Published] = field(default_factory=dict)
    #: How many of those that wait have been delivered before; they come first.
    repeats: int = 0
    last_id: int = 0
    #: The session object while connected.
    session: MemorySession | None = None
    #: Whether it has subscribed in the present connection.
    subscribed: bool = False

    @property
    def unacknowledged(self) -> int:
        """The number of messages for the client that it has not acknowledged."""
        return len(self.waiting) + len(self.delivered)


class MemorySession(Session):
    """The relay's session with a broker in memory, without encoded packets.

    The relay waits on one end of a socket pair, which is readable while there are events.
    """

    def __init__(self, broker: SessionBroker, settings: Settings, client_id: str) -> None:
        super().__init__(settings, client_id)
        self._broker = broker
        self._pending: deque[SessionEvent] = deque()
        self._lock = threading.Lock()
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._end_reason: SessionError | None = None
        self._will: tuple[str, bytes] | None = None
        self._last_id = 0
        self._sent_beside: dict[int, float] = {}
        self._pinged_at = float("-inf")

    # -- the broker's side --------------------------------------------------------------------------

    def open(self) -> None:
        """Start a connection."""
        with self._lock:
            self._pending.clear()
            self._end_reason = None
            self._ends = socket.socketpair()
            for end in self._ends:
                end.setblocking(False)

    def push(self, *events: SessionEvent) -> None:
        """Queue events for the relay to receive."""
        with self._lock:
            if self._ends is not None:
                self._pending.extend(events)
                self._wake(self._ends[1])

    def end(self, error: SessionError) -> None:
        """End the connection once the relay has received the earlier events."""
        with self._lock:
            if self._ends is not None and self._end_reason is None:
                self._end_reason = error
                self._wake(self._ends[1])

    @staticmethod
    def _wake(end: socket.socket) -> None:
        with contextlib.suppress(
            BlockingIOError
        ):  # the buffer is full of wake-ups, so the relay will wake
            end.send(b"!")

    # -- the relay's side ---------------------------------------------------------------------------

    def connect(
        self, *, clean_start: bool, will_topic: str | None = None, will: bytes | None = None
    ) -> None:
        """Open a connection; `receive` returns the answer.

        :raises ConnectError: the broker is unreachable.
        """
        self._will = None if will_topic is None else (will_topic, will or b"")
        self._sent_beside.clear()
        self.client.idle_time = IdleTime()
        self._broker.connect(self, clean_start=clean_start)

    def close(self) -> None:
        """Drop the connection; the broker publishes the will."""
        self._broker.disconnect(self, self._will)
        with self._lock:
            ends, self._ends = self._ends, None
            self._pending.clear()
        for end in ends or ():
            end.close()

    def say_goodbye(self, deadline: float, *, unread: bool = False) -> None:  # noqa: ARG002  # nothing takes time here
        """Close the connection; the broker discards the will."""
        self._will = None
        self.close()

    def fileno(self) -> int | None:
        """Return the file descriptor to wait on, or None if there is no connection."""
        return self._ends[0].fileno() if self._ends is not None else None

    @property
    def wants_write(self) -> bool:
        """Never: the broker receives at once what is published."""
        return False

    @property
    def buffered(self) -> int:
        """Bytes waiting to be written: none."""
        return 0

    def receive(self) -> list[SessionEvent]:
        """Return the events that have arrived; those before the end of a connection are returned before its error.

        :raises SessionError: the connection ended.
        """
        with self._lock:
            if self._end_reason is not None and not self._pending:
                raise self._end_reason
            if self._ends is not None and self._end_reason is None:
                with contextlib.suppress(BlockingIOError):
                    while self._ends[0].recv(4_096):
                        pass
            events = list(self._pending)
            self._pending.clear()
        if events:
            self.client.idle_time.read()
        for event in events:
            if isinstance(event, Ack):
                self._sent_beside.pop(event.packet_id, None)
        return events

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    @property
    def ping_due_at(self) -> float:
        """Never: the broker detects no timeouts."""
        return float("inf")

    def keep_alive(self) -> None:
        """Do nothing: the broker detects no timeouts."""

    def ping(self) -> None:
        """Note the time: the broker has received everything before it."""
        self._pinged_at = time.monotonic()

    @property
    def answered_until(self) -> float:
        """When the last ping was sent, in monotonic seconds."""
        return self._pinged_at

    def publish_entry(
        self,
        topic: bytes,
        payload: bytes,
        *,
        packet_id: int,
        qos: int,
        dup: bool = False,  # noqa: ARG002  # the broker detects a repeat by the packet id
        retain: bool = True,
        kind: Kind = Kind.CHANGES,
    ) -> None:
        """Publish a change."""
        self._count(topic, payload, kind)
        self._broker.take(
            self, topic.decode(), payload, packet_id=packet_id, qos=qos, retain=retain
        )

    def publish_beside(
        self, topic: str, payload: bytes, *, retain: bool, kind: Kind = Kind.OTHER
    ) -> int:
        """Publish a QoS 1 message that is not a change; return its packet id."""
        self._count(topic.encode(), payload, kind)
        packet_id = self._next_id()
        self._sent_beside[packet_id] = time.monotonic()
        self._broker.take(self, topic, payload, packet_id=packet_id, qos=1, retain=retain)
        return packet_id

    def _count(self, topic: bytes, payload: bytes, kind: Kind) -> None:
        """Count the bytes that an encoded packet would have; only these, as no other packets are made here."""
        packet = encode_publish(
            topic, payload, packet_id=1, qos=1, retain=False, dup=False, v5=True
        )
        self.meter.add(kind, len(packet))

    def release(self, packet_id: int) -> None:
        """Release a QoS 2 message."""
        self._broker.release(self, packet_id)

    @property
    def beside(self) -> int:
        """The number of unacknowledged messages that are not changes of the log."""
        return len(self._sent_beside)

    @property
    def oldest_beside(self) -> float:
        """When the oldest of these was sent, in monotonic seconds; infinity if there are none."""
        return next(iter(self._sent_beside.values()), float("inf"))

    def look_back(self, topics: Iterable[str]) -> None:
        """Request the retained messages of topics; `LookedBack` follows the last of them."""
        found = self._broker.retained_on(topics)
        self.push(*(Received(one.topic, one.data, 0, 0, retain=True) for one in found))
        self.push(LookedBack())

    def ask(
        self,
        filters: Iterable[tuple[str, int]],
        *,
        others_only: Collection[str] = (),  # noqa: ARG002  # it sends our own messages too, as MQTT 3.1.1 does
    ) -> int:
        """Subscribe; the answer arrives as `Subscribed`. Return the packet id."""
        packet_id = self._next_id()
        self._broker.subscribe(self, dict(filters), packet_id)
        return packet_id

    def forget(self, filters: Iterable[str]) -> None:
        """Unsubscribe."""
        self._broker.unsubscribe(self, filters)

    def acknowledge(self, packet_id: int) -> None:
        """Acknowledge a message that was received at QoS 1 in this connection."""
        self._broker.received(self, packet_id)

    def _next_id(self) -> int:
        self._last_id = self._last_id % CONTROL_IDS + 1
        return self._last_id


def _decoded(data: bytes) -> Any:
    if not data:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
