"""The changes in flight, by packet id: sent, and not completed."""

from __future__ import annotations

import math
import time
from collections.abc import Container

from msgspec import Struct

from arus.outbox.topic_queue import TopicQueue
from arus.protocol.entries import Entry

from .poison import Suspect


class Flight(Struct):
    """A change that was sent and is not completed."""

    topic_queue: TopicQueue
    entry: Entry
    #: Bytes of payload.
    size: int
    #: When the PUBLISH was sent or, once it is confirmed, the PUBREL; in monotonic seconds.
    sent_at: float
    #: The QoS of the packet.
    qos: int
    #: PUBREC has arrived: its PUBREL is due or sent.
    confirmed: bool = False


class Flights(dict[int, Flight]):
    """The changes in flight. A change is added with `add` and removed with `remove`, which count the bytes."""

    def __init__(self) -> None:
        super().__init__()
        #: Bytes of payload of all.
        self.size = 0

    def add(self, packet_id: int, flight: Flight) -> None:
        """Add a change that is sent."""
        self[packet_id] = flight
        self.size += flight.size

    def remove(self, packet_id: int) -> None:
        """Remove a change that is completed, or will be sent again."""
        self.size -= self.pop(packet_id).size

    def forget(self) -> None:
        """Remove all: the connection has ended."""
        self.clear()
        self.size = 0

    @property
    def rows(self) -> dict[int, int]:
        """Bytes of each change's row, by packet id."""
        return {packet_id: len(flight.entry.data) for packet_id, flight in self.items()}

    @property
    def oldest(self) -> float:
        """When the oldest was sent, in monotonic seconds; infinity if there is none."""
        return min((flight.sent_at for flight in self.values()), default=math.inf)

    @property
    def has_qos_2(self) -> bool:
        """Whether any PUBLISH of QoS 2 is not confirmed."""
        return any(flight.qos == 2 and not flight.confirmed for flight in self.values())

    def suspects(self, held: Container[int], answered_until: float) -> list[Suspect]:
        """Return all of which a packet was sent in this connection and not answered.

        :param held: packet ids whose PUBREL was not sent yet.
        :param answered_until: when the last ping was sent that the broker has answered, in monotonic seconds.
        """
        now = time.monotonic()
        return [
            Suspect(
                flight.entry.seq,
                flight.size,
                flight.confirmed,
                flight.entry.topic,
                now - flight.sent_at,
                answered_until >= flight.sent_at,
            )
            for packet_id, flight in self.items()
            if packet_id not in held
        ]
