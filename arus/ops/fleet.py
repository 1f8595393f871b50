"""The fleet of one application ashore: `runtime.fleet`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from arus.errors import NotAshoreError
from arus.follower.admission import Admission
from arus.follower.fleet import (
    FleetPage,
    FleetState,
    FleetSummary,
    FleetVessel,
    VesselDetails,
    has_vessels,
    owners_of,
    read_page,
    read_row_ids,
    read_state,
    read_summary,
    read_vessel,
)
from arus.follower.fleet_query import FleetQuery
from arus.relay.leadership import LeadershipLock
from arus.settings import Settings


class Fleet:
    """What the database ashore knows of the vessels; each method reads it anew.

    Each method may raise `NotAshoreError` (on a vessel) and `LogUnavailableError`.

    :param lock: held by a process that follows.
    """

    def __init__(self, engine: Engine, settings: Settings, lock: LeadershipLock) -> None:
        self._engine = engine
        self._settings = settings
        self._lock = lock

    @property
    def is_ashore(self) -> bool:
        """Whether the application is ashore (LOCAL_MODE is false)."""
        return not self._settings.local_mode

    @property
    def has_vessels(self) -> bool:
        """Whether the application is ashore, and its database has copies of vessels' rows."""
        if not self.is_ashore:
            return False
        with self._connected() as connection:
            return has_vessels(connection)

    def page(self, query: FleetQuery) -> FleetPage:
        """Return a page of the vessels.

        :raises InvalidCursorError: the cursor is none of this list.
        """
        with self._connected() as connection:
            return read_page(connection, query)

    def every(self, query: FleetQuery) -> Iterator[FleetVessel]:
        """Yield all vessels of a query, a page at a time."""
        cursor = query.cursor
        while True:
            page = self.page(
                FleetQuery(query.q, query.filters, query.order, query.limit, cursor),
            )
            yield from page.items
            if (cursor := page.next) is None:
                return

    def summary(self) -> FleetSummary:
        """Return the figures of all vessels."""
        with self._connected() as connection:
            return read_summary(connection)

    def state(self) -> FleetState:
        """Return whether the vessels are followed now, and the figures of all."""
        with self._connected() as connection:
            return read_state(connection, following=self._lock.is_held(connection))

    def is_followed(self) -> bool:
        """Return whether a process follows the vessels now."""
        with self._connected() as connection:
            return self._lock.is_held(connection)

    def vessel(self, vessel_id: str) -> VesselDetails:
        """Return one vessel.

        :raises UnknownVesselError: there is none with this id.
        """
        with self._connected() as connection:
            return read_vessel(connection, vessel_id)

    def follows(self, vessel_id: str) -> bool:
        """Return whether the settings have the vessel followed; if not, its rows stay as they were."""
        return Admission(self._settings.topics, self._settings.follow_vessels).follows(vessel_id)

    def row_ids(self, vessel_id: str, entity: str, *, after: str = "", limit: int) -> list[str]:
        """Return ids of a vessel's rows here, in the order of the ids.

        :param after: the id after which to continue.
        """
        with self._connected() as connection:
            return read_row_ids(connection, vessel_id, entity, after=after, limit=limit)

    def owners_of(self, entity: str, row_ids: Collection[str]) -> dict[str, str]:
        """Return the vessels that rows here belong to, by row id; rows that no vessel has sent are left out."""
        with self._connected() as connection:
            return owners_of(connection, entity, row_ids)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if not self.is_ashore:
            raise NotAshoreError
        with self._engine.connect() as connection:
            yield connection
