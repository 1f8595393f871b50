"""The loop of one partition: a follower's loop whose vessels come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from arus.follower.loop import RECEIVE_MAXIMUM, Loop
from arus.follower.outcome import Inbound
from arus.follower.parts import Common, Parts
from arus.follower.roll_calls import NoRollCalls
from arus.mqtt.client import Session
from arus.mqtt.connection import Opened
from arus.protocol.topics import STATUS

from .lease import Lease
from .members import Members
from .names import link_of, session_of

#: Seconds between two looks for proposals.
PROPOSALS = 2.0
#: Seconds without a message after which the checks for due work are rarer, and seconds between two of them: a process
#: may have many partitions.
CALM = 5.0
CALM_TICK = 1.5


class PartitionLoop(Loop):
    """Follows the vessels of one partition until it is stopped.

    :param vessels: ids of the vessels: the same set that the parts were made with. It is changed here.
    :param statuses: the first status of each vessel, as far as it is known.
    :param lease: of the connection of the parts.
    :param learn: is told of the session when it is connected.
    """

    def __init__(
        self,
        common: Common,
        parts: Parts,
        number: int,
        members: Members,
        vessels: set[str],
        statuses: Mapping[str, str | None],
        lease: Lease,
        *,
        stopping: Callable[[], bool],
        learn: Callable[[Session], None],
    ) -> None:
        client_id = session_of(common.name, number)
        super().__init__(
            common,
            parts,
            Session(common.settings.of_all(), client_id, receive_maximum=RECEIVE_MAXIMUM),
            stopping=stopping,
            waker=members.waker.fileno(),
            link=link_of(common.name, number),
            vessels=vessels,
        )
        self._roll_calls = NoRollCalls()  # all vessels would answer each partition
        self._members = members
        self._followed = vessels
        self._lease = lease
        self._learn = learn
        self._proposals_due = 0.0
        self._introduce(statuses)

    @property
    def session(self) -> Session:
        """Its session."""
        return self._session

    def _round(self) -> None:
        self._lease.check()
        if self._members.are_changed:
            self._change()
        super()._round()

    def _opened(self, opened: Opened) -> None:
        super()._opened(opened)
        self._learn(self._session)
        if not opened.connected.session_present:
            return
        # The broker has kept nothing of vessels that were followed in another partition before.
        held = set(self._applier.subscribed(self._link))
        for vessel in self._applier.vessels.values():
            if not held.issuperset(self._subscriptions.filters_of(vessel.vessel_id)):
                vessel.session_lost()
        self._applier.save({})

    def _tick(self) -> None:
        super()._tick()
        now = time.monotonic()
        if now - self._heard >= CALM:
            self._next_tick = max(self._next_tick, now + CALM_TICK)

    def _propose(self) -> None:
        if time.monotonic() >= self._proposals_due:
            self._proposals_due = time.monotonic() + PROPOSALS
            super()._propose()

    def _change(self) -> None:
        """Follow the vessels that have come, and no more those that have gone."""
        members = self._members.take()
        added, removed = members.keys() - self._followed, self._followed - members.keys()
        self._followed |= added
        self._followed -= removed
        connected = self._connection.is_open
        self._subscriptions.change(sorted(added), sorted(removed), connected=connected)
        self._forget(self._applier.forget(removed))
        self._introduce({vessel_id: members[vessel_id] for vessel_id in added})

    def _introduce(self, vessels: Mapping[str, str | None]) -> None:
        """Apply the first statuses of vessels that are not known yet: some brokers do not send retained messages."""
        for vessel_id, status in sorted(vessels.items()):
            if status is not None and vessel_id not in self._applier.vessels:
                topic = f"{self._tree.prefix_of(vessel_id)}/{STATUS}"
                self._inbox.add(Inbound(topic, status.encode(), True), None)
