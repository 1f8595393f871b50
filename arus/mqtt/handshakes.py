"""Open QoS 2 handshakes: how many of them a broker accepts, and whether one more PUBLISH may be sent.

A handshake is open from its PUBLISH to its PUBCOMP. It is part of the broker's half of the session, so it stays
open across reconnects. Brokers limit the number (Mosquitto's `max_inflight_messages`, 20 by default; EMQX's
`max_awaiting_rel`), and reject every PUBLISH above the limit, also at QoS 1. MQTT 5 reports this in the
acknowledgement (0x97, 4.9). MQTT 3.1.1 can't report it: the message is acknowledged and lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: Handshakes that every common broker accepts by default: Mosquitto 20, EMQX 100.
DEFAULT = 20


class Allowance(NamedTuple):
    """The known limits of a broker."""

    #: Handshakes that may be open at a time.
    handshakes: int
    #: Bytes of payload that may be open when one more message is sent; None if unlimited.
    size: int | None = None


#: What every broker accepts: one handshake at a time.
SAFE = Allowance(1, 0)


class Handshakes:
    """The open handshakes of a session, by packet id."""

    def __init__(self) -> None:
        self._allowance = SAFE
        #: Whether the broker's rejections can be seen, and whether the allowance may still grow.
        self._visible = self._grows = False
        #: Bytes of payload of each open handshake, including those left from earlier connections.
        self._open: dict[int, int] = {}
        self._size = 0
        #: Left from earlier connections: the broker may have them open, and their PUBLISH is sent again.
        self._left: set[int] = set()
        #: Times that a PUBLISH had to wait in this connection.
        self.waits = 0

    def begin(
        self,
        allowance: Allowance,
        *,
        visible: bool,
        grows: bool,
        confirmed: Mapping[int, int],
        unconfirmed: Mapping[int, int],
    ) -> None:
        """Begin a connection.

        :param visible: the broker's rejections can be seen (MQTT 5).
        :param grows: the broker has not stated its limit, so the allowance may grow step by step.
        :param confirmed: handshakes that continue with their PUBREL: bytes of payload by packet id.
        :param unconfirmed: the same for those whose PUBLISH is sent again; the broker may have them open.
        """
        self._allowance = allowance
        self._visible = visible
        self._grows = grows
        self._open = {**confirmed, **unconfirmed}
        self._size = sum(self._open.values())
        self._left = set(unconfirmed)
        self.waits = 0

    def learnt(self, allowance: Allowance) -> None:
        """Use an allowance that was found out in the meantime."""
        self._allowance = allowance

    @property
    def allowance(self) -> Allowance:
        """The limits of the broker, as far as they are known."""
        return self._allowance

    @property
    def has_room(self) -> bool:
        """Whether the PUBLISH of a new message may be sent."""
        return not self._open or (
            len(self._open) < self._allowance.handshakes and self._fits(self._size)
        )

    @property
    def worth_feeding(self) -> bool:
        """Whether enough handshakes are free to be worth a transaction: one per message would be slow."""
        free = self._allowance.handshakes - len(self._open)
        return not self._open or bool(self._left) or free >= max(1, self._allowance.handshakes // 4)

    def takes(self, packet_id: int) -> bool:
        """Return whether the PUBLISH with a packet id may be sent now; count a wait if not."""
        takes = self._takes_again(packet_id) if packet_id in self._left else self.has_room
        self.waits += not takes
        return takes

    def _takes_again(self, packet_id: int) -> bool:
        """Whether a handshake left from an earlier connection may be sent again; it is already counted as open."""
        beside = len(self._open) - len(self._left)
        if self._visible:
            return beside < self._allowance.handshakes
        # If more are left than the broker accepts, sending one at a time is still safe: the broker accepted them
        # in the order in which they are sent again, so it already holds the first.
        return beside == 0 or (
            len(self._open) <= self._allowance.handshakes
            and self._fits(self._size - self._open[packet_id])
        )

    def _fits(self, beside: int) -> bool:
        return self._allowance.size is None or beside <= self._allowance.size

    def opened(self, packet_id: int, size: int) -> None:
        """Note that a QoS 2 PUBLISH is sent.

        :param size: bytes of payload.
        """
        self._left.discard(packet_id)
        self._size += size - self._open.get(packet_id, 0)
        self._open[packet_id] = size

    def confirmed(self) -> None:
        """Note a successful PUBREC: on MQTT 5 it shows that the broker has room for the open handshakes."""
        if self._grows and len(self._open) * 2 >= self._allowance.handshakes:
            self._allowance = Allowance(self._allowance.handshakes + 1, self._allowance.size)

    def closed(self, packet_id: int) -> None:
        """Note that a handshake is complete, or never began."""
        self._size -= self._open.pop(packet_id, 0)
        self._left.discard(packet_id)

    def rejected(self, packet_id: int) -> None:
        """Note that the broker rejected a handshake: its limit is the number of the other open ones."""
        self.closed(packet_id)
        self._grows = False
        count = max(1, min(self._allowance.handshakes, len(self._open)))
        self._allowance = Allowance(count, self._allowance.size)
