"""Open QoS 2 handshakes: how many of them a broker takes, and whether one more PUBLISH may leave.

A handshake is open from its PUBLISH to its PUBCOMP. The broker's half of the session keeps it, so it stays open
over reconnects. Brokers bound the number (Mosquitto's `max_inflight_messages`, 20 by default; EMQX's
`max_awaiting_rel`), and reject every PUBLISH beyond it, of QoS 1 too. MQTT 5 says so in the acknowledgement
(0x97, 4.9); MQTT 3.1.1 has no word for it: the message is acknowledged and lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: What brokers take by default: Mosquitto 20, EMQX 100.
DEFAULT = 20


class Allowance(NamedTuple):
    """What a broker is known to take."""

    #: Handshakes that may be open at a time.
    handshakes: int
    #: Bytes of payload that may be open beside one more message; None where nothing bounds them.
    size: int | None = None


#: What every broker takes: one handshake, and nothing beside it.
SAFE = Allowance(1, 0)


class Handshakes:
    """The open handshakes of a session, by packet id."""

    def __init__(self) -> None:
        self._allowance = SAFE
        #: The broker's rejections can be seen, and none was seen yet.
        self._visible = self._grows = False
        #: Bytes of payload of each open handshake, those left from earlier connections included.
        self._open: dict[int, int] = {}
        self._size = 0
        #: Left from earlier connections: the broker may have them open, and their PUBLISH goes again.
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
        :param grows: so more may be tried, step by step: the broker has not said what it takes.
        :param confirmed: bytes of payload by packet id of what goes on with its PUBREL.
        :param unconfirmed: the same of what goes again, and may be open at the broker.
        """
        self._allowance = allowance
        self._visible = visible
        self._grows = grows
        self._open = {**confirmed, **unconfirmed}
        self._size = sum(self._open.values())
        self._left = set(unconfirmed)
        self.waits = 0

    def learnt(self, allowance: Allowance) -> None:
        """Take what was found out of the broker in the meantime."""
        self._allowance = allowance

    @property
    def allowance(self) -> Allowance:
        """What the broker takes, as far as it is known."""
        return self._allowance

    @property
    def has_room(self) -> bool:
        """Whether a PUBLISH that is not of these handshakes may leave."""
        return not self._open or (
            len(self._open) < self._allowance.handshakes and self._fits(self._size)
        )

    @property
    def worth_feeding(self) -> bool:
        """Whether a fair part is free: a transaction for each message would be slow."""
        free = self._allowance.handshakes - len(self._open)
        return not self._open or bool(self._left) or free >= max(1, self._allowance.handshakes // 4)

    def takes(self, packet_id: int) -> bool:
        """Whether the PUBLISH of a packet id may leave now; counted if not."""
        takes = self._takes_again(packet_id) if packet_id in self._left else self.has_room
        self.waits += not takes
        return takes

    def _takes_again(self, packet_id: int) -> bool:
        """Whether one may go again that was left, and is counted already."""
        beside = len(self._open) - len(self._left)
        if self._visible:
            return beside < self._allowance.handshakes
        # Where more are left than the broker takes, one at a time is safe still: the broker has taken them in
        # the order in which they go again, so the first is one that it holds.
        return beside == 0 or (
            len(self._open) <= self._allowance.handshakes
            and self._fits(self._size - self._open[packet_id])
        )

    def _fits(self, beside: int) -> bool:
        return self._allowance.size is None or beside <= self._allowance.size

    def opened(self, packet_id: int, size: int) -> None:
        """Note that a PUBLISH of QoS 2 leaves.

        :param size: bytes of payload.
        """
        self._left.discard(packet_id)
        self._size += size - self._open.get(packet_id, 0)
        self._open[packet_id] = size

    def confirmed(self) -> None:
        """Note a PUBREC that says success: on MQTT 5 the broker has room for what was open."""
        if self._grows and len(self._open) * 2 >= self._allowance.handshakes:
            self._allowance = Allowance(self._allowance.handshakes + 1, self._allowance.size)

    def closed(self, packet_id: int) -> None:
        """Note that a handshake is over, or never began."""
        self._size -= self._open.pop(packet_id, 0)
        self._left.discard(packet_id)

    def rejected(self, packet_id: int) -> None:
        """Note that the broker has no room for one: it takes no more than are open beside it."""
        self.closed(packet_id)
        self._grows = False
        count = max(1, min(self._allowance.handshakes, len(self._open)))
        self._allowance = Allowance(count, self._allowance.size)
