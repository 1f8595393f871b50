"""Idle closes: the broker, or a proxy or firewall on the way, ends connections that carry nothing for some time.

A connection that is pinged more often never ends so. The evidence is several connections in a row that the other side
closed after the same time without a packet, with nothing in flight, while none of them was longer without a packet
before; each was made at the first attempt. A bad link ends connections at other times, or without a close.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable

from .diagnosis import Diagnosis

#: Connections in a row that must end so.
TIMES = 5
#: Seconds below which a connection does not count as idle.
SHORTEST = 5.0
#: By how much the idle times may differ: a part of them, and seconds.
_PART, _SECONDS = 0.03, 1.0
#: The keepalive to set, as a part of the idle time that is allowed.
_SAFE = 0.7

_PINGREQ = b"\xc0\x00"
_SAYS = "the connection was closed after {seconds} s without a packet, {times} times in a row"
_FOUND = re.compile(r"closed after (\d+) s without a packet")


class IdleTime:
    """Measures for how long a connection carries nothing.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved_at = clock()
        #: The longest time without a packet after which there was one, in seconds.
        self.longest = 0.0

    def read(self) -> None:
        """Note that bytes were received."""
        now = self._clock()
        self.longest = max(self.longest, now - self._moved_at)
        self._moved_at = now

    def wrote(self, buffer: bytes | bytearray) -> None:
        """Note that bytes of `buffer` were sent; a ping counts once it is answered."""
        if buffer != _PINGREQ:
            self._moved_at = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds since the last packet."""
        return self._clock() - self._moved_at


class IdleCloses:
    """Recognises idle closes over the connections of one client.

    :param keepalive: MQTT_KEEPALIVE, in seconds.
    """

    def __init__(self, keepalive: int) -> None:
        self._keepalive = keepalive
        #: How long each of the last connections had carried nothing when it was closed, in seconds.
        self._closes: deque[float] = deque(maxlen=TIMES)
        self._longest = 0.0
        self._in_a_row = 0

    def clear(self) -> None:
        """Forget the evidence: a connection ended otherwise, or could not be made."""
        self._closes.clear()
        self._longest = 0.0
        self._in_a_row = 0

    def closed(self, idle: IdleTime) -> Diagnosis | None:
        """Note that the other side closed an open connection with nothing in flight; return the diagnosis, if there is one."""
        seconds = idle.seconds
        spread = max(_SECONDS, seconds * _PART)
        if self._closes and abs(seconds - sum(self._closes) / len(self._closes)) > spread:
            self.clear()
        self._longest = max(self._longest, idle.longest)
        self._closes.append(seconds)
        self._in_a_row += 1
        if len(self._closes) < TIMES or min(self._closes) < SHORTEST:
            return None
        if self._longest > max(self._closes) + spread:
            return None
        return self._diagnose(min(*self._closes, float(self._keepalive)))

    def _diagnose(self, allowed: float) -> Diagnosis:
        return Diagnosis(
            _SAYS.format(seconds=int(allowed), times=self._in_a_row),
            f"set MQTT_KEEPALIVE to {max(1, int(allowed * _SAFE))}: the broker, or a proxy or firewall on the way,"
            " closes idle connections",
        )


def idle_limit(reason: str) -> int | None:
    """Return after how many seconds connections are closed, if `reason` is the diagnosis of idle closes."""
    found = _FOUND.search(reason)
    return int(found[1]) if found else None
