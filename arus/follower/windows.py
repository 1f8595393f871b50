"""How much of catch-ups the vessels may send at a time: all of them share the queue that the broker keeps for us."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .requests import Patience, is_silent, is_to_be_asked
from .vessels import VesselState

#: Items of catch-ups that all vessels together may send beyond those that were reported to them as received: brokers
#: drop messages when 1,000 wait for a client (Mosquitto as shipped). The live changes share this queue.
WINDOW = 800
#: The smallest window of one vessel: with a smaller one it would wait for our reports most of the time.
LEAST = 100
#: What vessels that have not answered leave to those that have: somebody may invent vessels.
RESERVE = 2 * LEAST
#: Milliseconds for which a vessel that sends nothing keeps its window from the others.
KEPT = 60_000


class Windows:
    """Gives each vessel that is to catch up a window; the others wait until there is room."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}

    def of(self, vessel_id: str) -> int:
        """Return a vessel's window, in items."""
        return self._given.get(vessel_id, LEAST)

    def give(
        self, vessels: Collection[VesselState], now: int, patience: Patience
    ) -> list[VesselState]:
        """Return the vessels of which something may be requested now.

        :param now: in milliseconds since the epoch.
        """
        silent = {one.vessel_id for one in vessels if is_silent(one, now, patience)}
        answering = {one.vessel_id for one in vessels if one.is_proven or one.was_equal} - silent
        receiving = [one.vessel_id for one in vessels if _is_receiving(one, now)]
        self._keep([one for one in receiving if one in self._given], silent, answering)
        waiting = [
            vessel
            for vessel in vessels
            if vessel.vessel_id not in self._given and is_to_be_asked(vessel, now, patience)
        ]
        # Those that were asked longest ago first, so that one that does not answer holds up nobody.
        waiting.sort(key=_asked_at)
        most = WINDOW - RESERVE if len(vessels) > 1 else WINDOW
        for number, vessel in enumerate(waiting):
            vessel_id = vessel.vessel_id
            left = self._left(vessel_id, answering)
            if left >= LEAST:
                share = LEAST if vessel_id in silent else left // (len(waiting) - number)
                self._given[vessel_id] = max(LEAST, min(share, most))
        held_up = {vessel.vessel_id for vessel in waiting} - set(self._given)
        return [vessel for vessel in vessels if vessel.vessel_id not in held_up]

    def _keep(
        self, receiving: Iterable[str], silent: Collection[str], answering: Collection[str]
    ) -> None:
        """Take back the windows that are not used."""
        before, self._given = self._given, {}
        for vessel_id in receiving:
            # The broker's queue is longer than what is shared: answers that come late all the same find room.
            if vessel_id not in silent:
                self._given[vessel_id] = before[vessel_id]
        for vessel_id in receiving:
            if vessel_id in silent and self._left(vessel_id, answering) >= LEAST:
                self._given[vessel_id] = LEAST

    def _left(self, vessel_id: str, answering: Collection[str]) -> int:
        """Return how much can be given to a vessel."""
        left = WINDOW - sum(self._given.values())
        if not answering or vessel_id in answering:
            return left
        others = sum(given for name, given in self._given.items() if name not in answering)
        return min(left, WINDOW - RESERVE - others)


def _is_receiving(vessel: VesselState, now: int) -> bool:
    """Whether an answer of a vessel has been requested or is arriving."""
    return any(
        request is not None
        and not request.failed
        and abs(now - max(request.asked_at, request.heard_at)) < KEPT
        for request in (position.request for position in vessel.positions.values())
    )


def _asked_at(vessel: VesselState) -> int:
    return max(
        (position.request.asked_at for position in vessel.positions.values() if position.request),
        default=0,
    )
