"""The in-flight window: how many messages may be unacknowledged at a time."""

from __future__ import annotations

import math

#: A window that adapts begins here and never goes below `FLOOR` or above `CEILING`.
START = 16
FLOOR = 4
CEILING = 16_384
#: Bound on the bytes in flight.
MAX_BYTES = 16 * 1024 * 1024
#: A message that takes longer than so many of the shortest round trip and `_SLACK` seconds is late.
_TOLERANCE = 2.0
_SLACK = 0.1
#: Until the first queue was met more is put up with: a lost packet holds up all behind it, and with one each way
#: a message takes three round trips though the link would carry many more.
_TOLERANCE_AT_START = 3.5
#: Messages by which an acknowledgement in time widens the window: in a round trip to twice its size, three times
#: at the start.
_GROWTH = 1
_GROWTH_AT_START = 2


class Window:
    """Adapts to the link as TCP does: a slow start, then by the round trip (as TCP Vegas).

    A satellite link needs thousands of messages in flight to be full; a slow one needs few, and each more
    is only a message that goes twice when the link is cut. So the window grows while it is made use of and
    acknowledgements come in time, and shrinks to what the link carries once a queue has built up before it.

    :param fixed: a size that never changes, or None to adapt.
    """

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self.connected(None)

    def connected(self, receive_maximum: int | None) -> None:
        """Begin a connection.

        :param receive_maximum: what the broker takes at a time (MQTT 5, 3.2.2.3.3); None where it does
            not say: 65,535.
        """
        self._limit = receive_maximum or 65_535
        self._size = float(self._fixed or START)
        self._full = False
        self._starting = True
        self._shortest = math.inf
        #: Since when each message was late, in monotonic seconds.
        self._late_since = math.inf
        #: Messages sent before then say nothing of the window's present size.
        self._judged_from = -math.inf

    @property
    def size(self) -> int:
        """Messages that may be unacknowledged."""
        return min(int(self._size), self._limit)

    def room(self, messages: int, in_bytes: int) -> int:
        """Return how many more messages may be sent beside those in flight."""
        # The flow waits until a quarter is free, so the window is not always full to the brim.
        self._full = messages * 2 >= self.size
        return max(0, self.size - messages) if in_bytes < MAX_BYTES else 0

    def acknowledged(self, round_trip: float, now: float, deaf: float = 0.0) -> None:
        """Learn from a message that took `round_trip` seconds until its acknowledgement.

        :param deaf: seconds for which nothing was read just before: it may have come at any time of them.
        """
        if self._fixed is not None or now - round_trip < self._judged_from:
            return
        self._shortest = min(self._shortest, round_trip)
        round_trip = max(0.0, round_trip - deaf)
        tolerance = _TOLERANCE_AT_START if self._starting else _TOLERANCE
        if not self._full:
            self._late_since = math.inf
        elif round_trip <= self._shortest * tolerance + _SLACK:
            self._late_since = math.inf
            growth = _GROWTH_AT_START if self._starting else _GROWTH
            self._size = min(CEILING, self._limit, self._size + growth)
        else:
            # A lost packet makes many late, a queue all of them.
            self._late_since = min(self._late_since, now)
            tolerated = self._shortest * _TOLERANCE + _SLACK
            if now - self._late_since >= tolerated:
                self._shrink(tolerated / round_trip, now)

    def _shrink(self, factor: float, now: float) -> None:
        """Leave of the window what the link carries in a round trip that is tolerated."""
        if self._size <= FLOOR:
            # So few make no queue that lasts: it is the link that has become longer.
            self._shortest = math.inf
        self._size = max(FLOOR, self._size * factor)
        self._starting = False
        self._late_since = math.inf
        self._judged_from = now
