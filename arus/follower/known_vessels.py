"""Which vessels are known, and which are forgotten: each name that somebody invents uses storage.

A vessel is proven once a catch-up that was requested of it has ended. Proven vessels are never forgotten. Of the others,
those that were silent for an hour and have no row here are forgotten; at the bound, those that were silent for longest,
with their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy.exc import DBAPIError

from arus.logs import get_logger

from .blockers import is_outage
from .outcome import FORGOTTEN, LATE, Outcome
from .rows import Copy
from .store import Store
from .vessels import VesselState

logger = get_logger(__name__)

#: Maximum number of followed vessels.
MAX_VESSELS = 1000
#: Milliseconds of silence after which a vessel that has no row here and has proved nothing is forgotten.
SILENCE = 3_600_000
#: Part of the bound that is forgotten at a time.
_PART = 20


class KnownVessels:
    """The vessels that are followed.

    :param vessels: by id; shared with the applier.
    :param most: maximum number of them.
    """

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        vessels: dict[str, VesselState],
        *,
        most: int = MAX_VESSELS,
    ) -> None:
        self._store = store
        self._copies = copies
        self._vessels = vessels
        self._most = most
        self._is_said = False

    @property
    def is_full(self) -> bool:
        """Whether there is room for no other vessel."""
        return len(self._vessels) >= self._most

    def add(self, vessel_id: str, epoch: str, outcome: Outcome) -> VesselState | None:
        """Return the initial state of a new vessel; None if there are too many proven ones."""
        if self.is_full and not self._make_room(outcome):
            outcome.count(LATE)
            return None
        vessel = self._vessels[vessel_id] = self._store.new_vessel(vessel_id, epoch)
        logger.info("[MQTT Reliable Sync] following vessel %s", vessel_id)
        return vessel

    def expire(self, now: int, outcome: Outcome) -> None:
        """Forget the vessels that were silent for long, have no row here and have proved nothing.

        :param now: in milliseconds.
        """
        silent = [
            vessel
            for vessel in self._vessels.values()
            if not vessel.is_proven and now - vessel.heard_at >= SILENCE
        ]
        for vessel in silent:
            if not self._store.has_rows(vessel.vessel_id):
                self._forget(vessel, outcome)
        if not self.is_full:
            self._is_said = False

    def forget(self, vessel_ids: Iterable[str], outcome: Outcome) -> None:
        """Forget those of some vessels that have proved nothing, with their rows."""
        for vessel_id in vessel_ids:
            vessel = self._vessels.get(vessel_id)
            if vessel is not None and not vessel.is_proven:
                self._forget(vessel, outcome)

    def _make_room(self, outcome: Outcome) -> bool:
        unproven = [vessel for vessel in self._vessels.values() if not vessel.is_proven]
        if not self._is_said:
            self._is_said = True
            logger.error(
                "[MQTT Reliable Sync] %d vessels are known, %d of them unproven: %s. Does somebody invent them?",
                len(self._vessels),
                len(unproven),
                "those that were silent for longest are forgotten"
                if unproven
                else "no other is followed",
            )
        unproven.sort(key=lambda vessel: vessel.heard_at)
        for vessel in unproven[: max(1, self._most // _PART)]:
            self._forget(vessel, outcome)
        return not self.is_full

    def _forget(self, vessel: VesselState, outcome: Outcome) -> None:
        """Forget a vessel, with its rows; it stays if other rows refer to them, or they may not be deleted."""
        vessel_id = vessel.vessel_id
        try:
            with self._store.savepoint():
                for entity, copy in self._copies.items():
                    rows = self._store.own_rows(vessel_id, entity)
                    copy.delete(self._store.connection, [copy.key_of(row_id) for row_id in rows])
                self._store.forget_vessel(vessel_id)
        except DBAPIError as error:
            if is_outage(error):
                raise
            return
        self._store.held.forget(vessel_id)
        self._store.refusals.forget(vessel_id)
        del self._vessels[vessel_id]
        outcome.count(FORGOTTEN)
        outcome.forgotten.append(vessel_id)
