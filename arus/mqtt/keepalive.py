"""The keepalive of one connection: when to ping, and when the broker counts as gone.

MQTT lets a client close a connection whose ping is not answered in a reasonable time (MQTT 5, 3.1.2.10). On a slow
link the ping waits behind what we are sending, and its answer behind what the broker is sending. So the time starts
again with each byte that arrives, and as long as bytes in front of the ping leave.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class _Ping(NamedTuple):
    #: When it was queued, in monotonic seconds.
    at: float
    #: Bytes of the connection up to its end.
    end: int


class Keepalive:
    """Decides from what was read and written; used by one thread.

    :param period: seconds without traffic after which a ping is due, if the broker does not require it earlier, and
        within which it must be answered.
    :param clock: returns monotonic seconds.
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = self._interval = period
        self._clock = clock
        self._read_at = self._written_at = clock()
        #: Bytes that the system has accepted, and those of them that the other side's system has acknowledged.
        self._written = 0
        self._delivered = 0
        #: When bytes in front of an unanswered ping were last delivered, in monotonic seconds.
        self._delivered_at = -math.inf
        #: Unanswered pings, oldest first.
        self._pings: deque[_Ping] = deque()
        #: The broker has read everything queued before this time: it has answered a later ping. Monotonic seconds.
        self.answered_until = -math.inf

    def required(self, seconds: int) -> None:
        """Note the keepalive that the broker requires: it closes a connection that is silent for longer.

        :param seconds: 0 if it requires none.
        """
        # A longer one is not used: a client may ping more often, and the settings may say so because of a firewall.
        if seconds:
            self._interval = min(self._interval, seconds)

    def read(self) -> None:
        """Note that bytes have arrived."""
        self._read_at = self._clock()

    def wrote(self, count: int) -> None:
        """Note that the system has accepted bytes."""
        self._written += count
        self._written_at = self._clock()

    def pinged(self, buffered: int) -> None:
        """Note that a ping was queued at the end of `buffered` bytes that the system has not accepted yet."""
        self._pings.append(_Ping(self._clock(), self._written + buffered))

    def answered(self) -> None:
        """Note that the broker has answered the oldest ping."""
        if self._pings:
            self.answered_until = self._pings.popleft().at

    @property
    def ping_due_at(self) -> float:
        """When to send a ping: the broker closes a connection on which it receives nothing for too long."""
        if not self._pings:
            return min(self._written_at, self._read_at) + self._interval
        return max(self._written_at, self._pings[-1].at) + self._interval

    @property
    def is_waiting(self) -> bool:
        """Whether a ping is not answered yet."""
        return bool(self._pings)

    @property
    def is_ping_due(self) -> bool:
        """Whether to send a ping."""
        return self._clock() >= self.ping_due_at

    def is_lost(self, unsent: int) -> bool:
        """Whether the oldest ping should have been answered.

        :param unsent: accepted bytes that the other side's system has not acknowledged.
        """
        now = self._clock()
        delivered = self._written - unsent
        if self._pings and self._delivered < min(delivered, self._pings[0].end):
            self._delivered_at = now
        self._delivered = max(self._delivered, delivered)
        if not self._pings:
            return False
        return now - max(self._pings[0].at, self._read_at, self._delivered_at) >= self._period
