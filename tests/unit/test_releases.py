"""PUBRELs that an earlier connection has left."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from arus.relay.flights import Flight, Flights
from arus.relay.poison import FRUITLESS, PoisonDetector, Suspect
from arus.relay.releases import UNANSWERED, Releases


class Session:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.released: list[int] = []
        self.answered_until = -1.0
        self.pings = 0

    def release(self, packet_id: int) -> None:
        self.released.append(packet_id)

    def ping(self) -> None:
        self.pings += 1


def test_one_that_was_held_back_was_not_read_before_it_was_sent() -> None:
    """Its ten seconds begin when it is sent: an earlier ping says nothing about it."""
    poison = PoisonDetector()
    for _ in range(FRUITLESS):
        poison.hung_up([Suspect(1, 0, confirmed=True)], acknowledged=False)
    session: Any = Session()
    releases, flights = Releases(session, poison), Flights()
    entry: Any = SimpleNamespace(seq=1, topic="alerts")
    queue: Any = None
    began = time.monotonic() - 2 * UNANSWERED
    for packet_id in (1, 2):
        releases.resume(packet_id, is_first=not flights)
        flights.add(packet_id, Flight(queue, entry, 0, began, 2, confirmed=True))
    assert session.released == [1]
    session.answered_until = time.monotonic()
    flights.remove(1)
    releases.completed(flights)
    assert session.released == [1, 2]
    assert releases.unanswered(flights, time.monotonic()) == []
    later = time.monotonic() + UNANSWERED + 1
    assert releases.unanswered(flights, later) == []
    assert session.pings == 1
    session.answered_until = later
    assert releases.unanswered(flights, later) == [2]
