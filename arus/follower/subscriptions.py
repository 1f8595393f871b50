"""A follower's subscriptions: the vessels' changes, catch-ups, statuses and digests."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.events import Subscribed
from arus.mqtt.packets import in_packets
from arus.protocol.topics import CATCHUP, CONFLICTS, DICTIONARY, DIGEST, STATUS, TopicTree

from .outcome import Inbound

logger = get_logger(__name__)

#: SUBACK reason codes from this one on are refusals (MQTT 5, 3.9.3).
_REFUSED = 0x80
#: Names of the retained topics with a vessel's current state.
_PRESENT = (STATUS, DIGEST)

#: Seconds without a message after which the messages that waited at the broker count as received, and seconds after
#: which they do in any case.
QUIET = 1.0
LONGEST_BACKLOG = 60.0


class Subscriptions:
    """The subscriptions of one session. Used by the follower's thread only.

    :param tree: the vessels' topics.
    :param topics: the entities' topics, under a vessel's prefix.
    :param named: the vessels that are followed; None for every vessel.
    """

    def __init__(
        self,
        session: Session,
        tree: TopicTree,
        topics: Iterable[str],
        named: Collection[str] | None,
    ) -> None:
        self._session = session
        self._tree = tree
        self._topics = list(topics)
        prefixes = prefixes_of(tree, named)
        #: Retained topics with the current state, which are read again on each connection.
        self._present = [f"{prefix}/{name}" for prefix in prefixes for name in _PRESENT]
        #: All filters.
        self.filters = self._filters_of(prefixes)
        #: The filters of each SUBSCRIBE of this connection that is not answered yet, by packet id.
        self._asked: dict[int, Sequence[str]] = {}
        self._answered = False
        self._answered_at = 0.0
        #: A retained status or digest was received in this connection: the broker sends such messages for the filters.
        self.are_present_read = False
        #: What had waited for us at the broker is applied, and this was reported.
        self._backlog_applied = False
        self._is_current = False

    @property
    def answered(self) -> bool:
        """Whether the broker has answered in this connection."""
        return self._answered

    @property
    def is_current(self) -> bool:
        """Whether what had waited for us at the broker is applied.

        A request that is sent before would be for what is on its way, and its answer would find the queue full.
        """
        return self._is_current

    def has_become_current(self, heard_at: float) -> bool:
        """Return whether `is_current` has become true since the last call in this connection.

        :param heard_at: when the last message was received, in monotonic seconds.
        """
        if self._is_current or not self._answered:
            return False
        now = time.monotonic()
        quiet = now - heard_at >= QUIET or now - self._answered_at >= LONGEST_BACKLOG
        self._is_current = self._backlog_applied or quiet
        return self._is_current

    def applied(self, messages: Iterable[Inbound]) -> None:
        """Note that messages are applied."""
        if not self.are_present_read:
            # A retained message is sent for the new subscription, so it is behind all that had waited.
            self.are_present_read = any(
                message.retain and self._is_present(message.topic) for message in messages
            )
            self._backlog_applied = self._backlog_applied or self.are_present_read

    def _filters_of(self, prefixes: Sequence[str]) -> list[str]:
        return [
            # First: the broker sends the retained dictionaries before the messages that need them.
            *(f"{prefix}/{DICTIONARY}/+" for prefix in prefixes),
            *(f"{prefix}/{topic}" for prefix in prefixes for topic in self._topics),
            *(f"{prefix}/{CATCHUP}/{topic}" for prefix in prefixes for topic in self._topics),
            *(f"{prefix}/{CONFLICTS}" for prefix in prefixes),
            *(f"{prefix}/{name}" for prefix in prefixes for name in _PRESENT),
        ]

    def filters_of(self, vessel_id: str) -> list[str]:
        """Return the filters for one vessel."""
        return self._filters_of([self._tree.prefix_of(vessel_id)])

    def change(self, added: Iterable[str], removed: Iterable[str], *, connected: bool) -> None:
        """Subscribe to further vessels, and to others no more.

        :param connected: subscriptions can be made now; otherwise the next connection makes them.
        """
        gone = [one for vessel_id in removed for one in self.filters_of(vessel_id)]
        new = [one for vessel_id in added for one in self.filters_of(vessel_id)]
        self.filters = [one for one in self.filters if one not in gone] + new
        self._present = [one for one in self.filters if one.endswith(_PRESENT)]
        if not connected:
            return
        for some in in_packets(gone):
            self._session.forget(some)
        self._ask(new)

    def _is_present(self, topic: str) -> bool:
        found = self._tree.split(topic)
        return found is not None and found[1] in _PRESENT

    def ask(self, *, session_present: bool, held: Iterable[str] = ()) -> None:
        """Subscribe to everything, on a new connection.

        :param session_present: the broker may have kept messages for us.
        :param held: filters that the session has; those that are not wanted any more are unsubscribed from.
        """
        self._backlog_applied = not session_present
        self.are_present_read = False
        # The broker sends no retained messages for a subscription that it already has: make these new.
        stale = [one for one in held if one not in self.filters]
        for some in in_packets([*self._present, *stale]):
            self._session.forget(some)
        self._asked = {}
        self._ask(self.filters)

    def _ask(self, filters: Sequence[str]) -> None:
        # All packets are sent at once: on a slow link, each round trip would cost a second.
        for some in in_packets(filters):
            self._asked[self._session.ask([(one, 1) for one in some])] = some

    def take(self, event: Subscribed) -> bool:
        """Process an answer of the broker; return whether it was the last one to `ask`."""
        asked = self._asked.pop(event.packet_id, None)
        if asked is None:
            return False
        refused = [
            name for name, reason in zip(asked, event.reasons, strict=False) if reason >= _REFUSED
        ]
        if refused:
            logger.error(
                "[MQTT Reliable Sync] the broker refuses the subscription to %s", ", ".join(refused)
            )
        if self._asked:
            return False
        self._answered = True
        self._answered_at = time.monotonic()
        return True

    def lost(self) -> None:
        """Note that the connection has ended."""
        self._asked.clear()
        self._answered = self._is_current = self.are_present_read = False


def prefixes_of(tree: TopicTree, named: Collection[str] | None) -> list[str]:
    """Return the prefixes of the filters for vessels.

    :param named: the vessels; None for every vessel.
    """
    if named is None or not tree.is_per_vessel:
        return [tree.any_vessel]
    return [tree.prefix_of(vessel_id) for vessel_id in sorted(named)]
