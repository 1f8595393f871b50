"""Counts the bytes that leave on a session's connections, by what they are for.

Packets of all kinds share one buffer, and a connection may end with some of it unsent. So the meter notes what is
queued, in order, and counts it when the socket accepts it: compression or another encoding of payloads needs no other
count. What TLS and WebSockets add is known to the system alone (`arus.mqtt.transport.accepted_bytes`).
"""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum


class Kind(StrEnum):
    """What bytes are for."""

    #: Changes, and the releases of their handshakes.
    CHANGES = "changes"
    CATCHUPS = "catchups"
    DIGESTS = "digests"
    STATUSES = "statuses"
    #: The dictionaries that messages are compressed with.
    DICTIONARIES = "dictionaries"
    KEEPALIVE = "keepalive"
    #: Acknowledgements of messages of the broker.
    ACKNOWLEDGEMENTS = "acknowledgements"
    #: CONNECT, subscriptions, DISCONNECT, probes of the broker, and what TLS and WebSockets add.
    CONNECTION = "connection"
    #: Any other message.
    OTHER = "other"


#: What was sent when nothing was; nobody changes it. To make a counter takes as long as ten look-ups.
_NOTHING: Counter[Kind] = Counter()


class Meter:
    """Counts bytes by their kind. Used by the session's thread."""

    def __init__(self) -> None:
        self._sent: Counter[Kind] = Counter()
        #: What is queued and not accepted yet, in order: kind and bytes.
        self._queued: deque[tuple[Kind, int]] = deque()
        #: Bytes of other sessions with the same broker, such as probes, whose threads add them.
        self._beside: deque[int] = deque()

    def queued(self, kind: Kind, count: int) -> None:
        """Note bytes at the end of the buffer."""
        if self._queued and self._queued[-1][0] is kind:
            count += self._queued.pop()[1]
        self._queued.append((kind, count))

    def wrote(self, count: int) -> None:
        """Note that the socket has accepted bytes from the beginning of the buffer."""
        queued = self._queued
        while count > 0 and queued:
            kind, size = queued[0]
            if size > count:
                queued[0] = (kind, size - count)
                self._sent[kind] += count
                return
            queued.popleft()
            self._sent[kind] += size
            count -= size

    def discarded(self) -> None:
        """Note that the buffer was cleared: the connection has ended."""
        self._queued.clear()

    def add(self, kind: Kind, count: int) -> None:
        """Count bytes that do not pass through the buffer."""
        self._sent[kind] += count

    def beside(self, other: Meter) -> None:
        """Count what another session has sent. Safe to call from any thread."""
        self._beside.append(other.take().total())

    def take(self) -> Counter[Kind]:
        """Return what was sent since the last call."""
        while self._beside:
            self._sent[Kind.CONNECTION] += self._beside.popleft()
        if not self._sent:
            return _NOTHING
        sent, self._sent = self._sent, Counter()
        return sent
