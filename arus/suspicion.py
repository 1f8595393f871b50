"""Suspicion: which message a broker hangs up on, where it can't or does not say.

In MQTT 3.1.1 a broker that finds a packet too large can only hang up. The message would go again with each
connection, and nothing behind it would ever pass. So once several connections in a row have ended by the
broker's hand without a single acknowledgement, messages go one at a time; one that the broker hangs up on
three times is quarantined.

Bad links end connections too. A small message is therefore never blamed: it can't be too large for anyone,
and would be quarantined for the weather.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Connections without a single acknowledgement before messages go one at a time.
FRUITLESS = 3
#: Hang-ups on the same message before it is quarantined.
STRIKES = 3
#: Bytes of payload below which a message is above suspicion.
SMALL = 16 * 1024


class Suspicion:
    """Counts hang-ups. Lives as long as its owner."""

    def __init__(self) -> None:
        self._fruitless = 0
        self._strikes: Counter[int] = Counter()

    @property
    def careful(self) -> bool:
        """Whether messages are to go one at a time."""
        return self._fruitless >= FRUITLESS

    def hung_up(self, in_flight: Sequence[tuple[int, int]], *, acknowledged: bool) -> None:
        """Note that the broker has ended a connection.

        :param in_flight: number and bytes of payload of each message that was unacknowledged.
        :param acknowledged: anything was acknowledged in this connection.
        """
        if self.careful:
            if len(in_flight) == 1 and in_flight[0][1] >= SMALL:
                self._strikes[in_flight[0][0]] += 1
        elif in_flight and not acknowledged:
            self._fruitless += 1
        else:
            self._fruitless = 0

    def convicted(self, seq: int) -> bool:
        """Whether a message is to be quarantined."""
        return self._strikes[seq] >= STRIKES

    def clear(self) -> None:
        """Begin anew: the queue is empty, or the culprit is found."""
        self._fruitless = 0
        self._strikes.clear()
