"""The in-flight window: how many messages may be unacknowledged at a time."""

from __future__ import annotations

import math

from .poison import PoisonDetector

#: A window that adapts begins here and never goes below `FLOOR` or above `CEILING`.
START = 16
FLOOR = 4
CEILING = 16_384
#: Bound on the bytes in flight.
MAX_BYTES = 16 * 1024 * 1024
#: A message is late if it takes longer than the shortest round trip times this factor, plus `_SLACK` seconds.
_TOLERANCE = 2.0
_SLACK = 0.1
#: More is tolerated until the first queue is detected: a lost packet delays all packets after it, and with one lost
#: in each direction a message takes three round trips, although the link could carry many more messages.
_TOLERANCE_AT_START = 3.5
#: Messages by which a timely acknowledgement widens the window: in a round trip to twice its size, at the start to
#: three times.
_GROWTH = 1
_GROWTH_AT_START = 2


class Window:
    """Adapts to the link as TCP does: a slow start, then by the round trip (as TCP Vegas).

    A satellite link needs thousands of messages in flight to be fully used. A slow link needs few, and each further
    message is only sent twice if the link is cut. So the window grows while it is used and acknowledgements are
    timely, and shrinks to what the link carries once a queue has built up in front of the link.

    :param fixed: a size that never changes, or None to adapt.
    :param poison: while it is careful, messages are sent one at a time, which is no measure of the link.
    """

    def __init__(self, fixed: int | None, poison: PoisonDetector) -> None:
        self._fixed = fixed
        self._poison = poison
        self.connected(None)

    def connected(self, receive_maximum: int | None) -> None:
        """Begin a connection.

        :param receive_maximum: how many messages the broker accepts at a time (MQTT 5, 3.2.2.3.3); None if it does
            not say, which means 65,535.
        """
        #: Messages that the broker accepts at a time.
        self.limit = receive_maximum or 65_535
        self._size = float(self._fixed or START)
        self._full = False
        self._starting = True
        self._shortest = math.inf
        #: Since when all messages were late, in monotonic seconds.
        self._late_since = math.inf
        #: Messages sent before this time are no measure of the window's current size.
        self._judged_from = -math.inf

    @property
    def size(self) -> int:
        """Messages that may be unacknowledged."""
        return 1 if self._poison.careful else min(int(self._size), self.limit)

    def room(self, messages: int, in_bytes: int) -> int:
        """Return how many more messages may be sent in addition to those in flight."""
        # The publisher waits until a quarter is free, so a window that is in full use is not always full.
        size = self.size
        self._full = messages * 2 >= size
        return size - messages if messages < size and in_bytes < MAX_BYTES else 0

    def acknowledged(self, round_trip: float, now: float, unread: float = 0.0) -> None:
        """Adapt to a message that was acknowledged after `round_trip` seconds.

        :param unread: seconds for which the socket was not read before: the acknowledgement may have arrived at any
            time in them.
        """
        if self._fixed is not None or self._poison.careful or now - round_trip < self._judged_from:
            return
        self._shortest = min(self._shortest, round_trip)
        round_trip = max(0.0, round_trip - unread)
        tolerance = _TOLERANCE_AT_START if self._starting else _TOLERANCE
        if not self._full:
            self._late_since = math.inf
        elif round_trip <= self._shortest * tolerance + _SLACK:
            self._late_since = math.inf
            growth = _GROWTH_AT_START if self._starting else _GROWTH
            self._size = min(CEILING, self.limit, self._size + growth)
        else:
            # A lost packet delays many messages, a queue delays all of them.
            self._late_since = min(self._late_since, now)
            tolerated = self._shortest * _TOLERANCE + _SLACK
            if now - self._late_since >= tolerated:
                self._shrink(tolerated / round_trip, now)

    def _shrink(self, factor: float, now: float) -> None:
        """Shrink the window to what the link carries in a tolerable round trip."""
        if self._size <= FLOOR:
            # So few messages cause no lasting queue: the round trip of the link itself has become longer.
            self._shortest = math.inf
        self._size = max(FLOOR, self._size * factor)
        self._starting = False
        self._late_since = math.inf
        self._judged_from = now
