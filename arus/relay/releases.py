"""The PUBRELs of handshakes that an earlier connection has left, and those that a broker never answers.

MQTT requires a PUBCOMP also for a packet id that the broker does not know (4.3.3), and amqtt sends none. An owner that was
killed before it had journalled the PUBCOMP leaves such a PUBREL to the next owner. Once the broker has answered a ping
that was sent later, it has read the PUBREL: it has the message and may deliver it, so the handshake is complete.
"""

from __future__ import annotations

import math
import time
from collections import deque

from arus.logs import get_logger
from arus.mqtt.client import Session

from .flights import Flights
from .poison import PoisonDetector

logger = get_logger(__name__)

#: Seconds after which a PUBCOMP is not expected any more, if the broker has answered a ping sent after its PUBREL.
UNANSWERED = 10.0


class Releases:
    """Sends the PUBRELs that are left, and finds those that were read and not answered. Lives as long as its owner."""

    def __init__(self, session: Session, poison: PoisonDetector) -> None:
        self._session = session
        self._poison = poison
        #: Packet ids whose PUBREL waits until the one before it is answered.
        self.held: deque[int] = deque()
        #: When the last ping was sent, in monotonic seconds.
        self._pinged_at = -math.inf

    def resume(self, packet_id: int, *, is_first: bool) -> None:
        """Send a PUBREL, or hold it back if the broker may close the connection on one of them."""
        if self._poison.careful and not is_first:
            self.held.append(packet_id)
        else:
            self._session.release(packet_id)

    def completed(self, flights: Flights) -> None:
        """Send the next PUBREL that is held back: the one before it is answered."""
        packet_id = self.held.popleft()
        # An earlier ping does not show that it was read.
        flights[packet_id].sent_at = time.monotonic()
        self._session.release(packet_id)

    def unanswered(self, flights: Flights, now: float) -> list[int]:
        """Return the packet ids of PUBRELs that the broker has read and not answered in time; ping if it may have.

        :param now: monotonic seconds.
        """
        late = {
            packet_id: flight
            for packet_id, flight in flights.items()
            if flight.confirmed and flight.sent_at < now - UNANSWERED and packet_id not in self.held
        }
        if not late:
            return []
        newest = max(flight.sent_at for flight in late.values())
        if max(self._pinged_at, self._session.answered_until) <= newest:
            self._pinged_at = now
            self._session.ping()
        read = [
            packet_id
            for packet_id, flight in late.items()
            if flight.sent_at < self._session.answered_until
        ]
        for packet_id in read:
            entry = late[packet_id].entry
            logger.warning(
                "[MQTT Reliable Sync] change %d on %s counts as delivered: the broker has confirmed it, and does not"
                " answer its release",
                entry.seq,
                entry.topic,
            )
        return read
