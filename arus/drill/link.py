"""A link at sea, and how long it needs for what is to be sent: computed, from what a drill has counted."""

from __future__ import annotations

import re

from msgspec import Struct

from arus.errors import DrillError

#: Bytes of TCP/IP, and of the acknowledgement, beside each message.
OVERHEAD = 60
#: Messages that are under way at a time on a link with this round trip, at most; QoS 2 handshakes as shipped brokers take.
WINDOW, HANDSHAKES = 1000, 20
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M|G)?bit(?:/s)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class SeaLink(Struct, frozen=True):
    """A link."""

    #: Bits a second, and seconds.
    speed: float
    round_trip: float

    def duration(self, size: int, messages: int, handshakes: int) -> float:
        """Return the seconds that it needs at least, the larger of both limits.

        :param size: bytes of all packets.
        :param handshakes: how many of the messages are sent at QoS 2.
        """
        carried = (size + messages * OVERHEAD) * 8 / self.speed
        waited = (messages - handshakes) / WINDOW * self.round_trip
        waited += handshakes / HANDSHAKES * 2 * self.round_trip
        return max(carried, waited)


def parse_link(speed: str, round_trip: str) -> SeaLink:
    """Return a link from what a person has entered: `64kbit` and `600ms`.

    :raises DrillError: it is neither.
    """
    found, time = _SPEED.fullmatch(speed.strip()), _TIME.fullmatch(round_trip.strip())
    if found is None or not float(found[1]):
        raise DrillError(f"{speed!r} is no speed of a link: 64kbit, 2Mbit")
    if time is None:
        raise DrillError(f"{round_trip!r} is no round trip: 600ms, 1.2s")
    seconds = float(time[1]) / (1000 if time[2].lower() == "ms" else 1)
    return SeaLink(float(found[1]) * _FACTORS[(found[2] or "").lower()], seconds)
