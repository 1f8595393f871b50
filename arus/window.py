"""The in-flight window: how many messages may be unacknowledged at a time."""

from __future__ import annotations

import math

#: A window that adapts begins here and never goes below `FLOOR` or above `CEILING`.
START = 128
FLOOR = 16
CEILING = 16_384
#: Bound on the bytes in flight.
MAX_BYTES = 16 * 1024 * 1024
#: Queueing that is put up with, in round trips and in seconds, before the window shrinks.
_TOLERANCE = 2.0
_SLACK = 0.1
#: Round trips up to which a window grows steeply.
_PROMPT = 1.25
#: Seconds after which the shortest round trip is measured anew: links change.
_MEMORY = 300.0


class Window:
    """Adapts to the round trip as TCP Vegas does: grows while it is full and nothing queues up.

    A satellite link needs hundreds of messages in flight to be full; a slow one needs few, and each more
    is only a message that goes twice when the link is cut.

    :param fixed: a size that never changes, or None to adapt.
    """

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._size = float(fixed or START)
        self._peer_limit = CEILING
        self._shortest = math.inf
        self._shortest_at = 0.0
        self._acked = 0
        self._fastest = math.inf
        self._was_full = False

    def connected(self, receive_maximum: int | None) -> None:
        """Begin a connection.

        :param receive_maximum: what the broker takes at a time (MQTT 5, 3.2.2.3.3); None where it does
            not say: 65,535.
        """
        self._peer_limit = receive_maximum or 65_535
        self._shortest = math.inf
        self._acked = 0
        self._fastest = math.inf
        self._was_full = False
        if self._fixed is None:
            self._size = float(START)

    @property
    def size(self) -> int:
        """Messages that may be unacknowledged."""
        return min(int(self._size), self._peer_limit)

    def room(self, messages: int, in_bytes: int) -> int:
        """Return how many more messages may be sent beside those in flight."""
        room = self.size - messages
        if room <= 0 or in_bytes >= MAX_BYTES:
            self._was_full = True
            return 0
        return room

    def acknowledged(self, round_trip: float, now: float) -> None:
        """Learn from a message that took `round_trip` seconds until its acknowledgement."""
        if round_trip <= self._shortest or now - self._shortest_at > _MEMORY:
            self._shortest, self._shortest_at = round_trip, now
        self._fastest = min(self._fastest, round_trip)
        self._acked += 1
        if self._fixed is None and self._acked >= self._size:
            self._adapt()

    def _adapt(self) -> None:
        """Once a window's worth was acknowledged: grow, hold or shrink."""
        # By the fastest of them: a lost packet delays many, a queue delays all.
        queueing = self._fastest > self._shortest * _TOLERANCE + _SLACK
        if queueing:
            self._size = max(FLOOR, self._size * 0.7)
        elif self._was_full:
            # Steeply while nothing at all is felt: far away, each step takes a round trip.
            prompt = self._fastest <= self._shortest * _PROMPT + _SLACK / 2
            self._size = min(CEILING, self._size * (4 if prompt else 2))
        self._acked = 0
        self._fastest = math.inf
        self._was_full = False
