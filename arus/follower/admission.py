"""Which vessels a follower follows: those of `FOLLOW_VESSELS`, and on a shared prefix only those that it knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from arus.logs import get_logger
from arus.protocol.topics import VESSEL_ID_LEVEL, TopicTree, is_vessel_level

from .messages import Message

logger = get_logger(__name__)

#: Vessels on a shared prefix that are reported as not followed.
MAX_REFUSED = 8
#: Milliseconds between two records of such vessels in the database.
RECORDED_EVERY = 60_000


class Admission:
    """Decides whose messages are applied. Used by the follower's thread only.

    :param named: ids of `FOLLOW_VESSELS`; None for every vessel.
    """

    def __init__(self, tree: TopicTree, named: Collection[str] | None) -> None:
        self._tree = tree
        self._named = named
        #: The first vessel of the current batch, if none was known before.
        self._first: str | None = None
        self._recorded_at = 0
        #: Vessels that are not followed because they share the prefix of one that is: when each was last heard, in
        #: milliseconds since the epoch.
        self.refused: dict[str, int] = {}

    def follows(self, vessel_id: str) -> bool:
        """Whether a vessel that the database knows is followed."""
        if self._tree.is_per_vessel and not is_vessel_level(vessel_id):
            return False  # it has no topics there
        return self._named is None or vessel_id in self._named

    def begin(self) -> None:
        """Begin a batch: what the last one has admitted is known now, if it was followed."""
        self._first = None

    def admits(self, message: Message, known: Collection[str], now: int) -> bool:
        """Return whether a message is to be applied.

        :param known: ids of the vessels that are followed.
        :param now: milliseconds since the epoch.
        """
        vessel_id = message.vessel_id
        if vessel_id in known:
            return True
        if self._named is not None:
            return vessel_id in self._named
        if self._tree.is_per_vessel:
            return True
        if message.epoch is None:
            return False  # a last will: it may be of a vessel that has left long ago
        if not known and self._first in {None, vessel_id}:
            self._first = vessel_id
            return True
        self._refuse(vessel_id, self._first or ", ".join(sorted(known)[:3]), now)
        return False

    def to_record(self, now: int) -> dict[str, int] | None:
        """Return the refused vessels if they are to be recorded now; None if not.

        :param now: milliseconds since the epoch.
        """
        latest = max(self.refused.values(), default=0)
        if latest <= self._recorded_at or (
            self._recorded_at and now - self._recorded_at < RECORDED_EVERY
        ):
            return None
        self._recorded_at = now
        return self.refused

    def _refuse(self, vessel_id: str, followed: str, now: int) -> None:
        if vessel_id not in self.refused:
            if len(self.refused) >= MAX_REFUSED:
                return
            logger.error("[MQTT Reliable Sync] %s", not_followed([vessel_id], followed))
        self.refused[vessel_id] = now


#: Admits every vessel.
EVERY_VESSEL = Admission(TopicTree(VESSEL_ID_LEVEL), None)


def not_followed(vessel_ids: Iterable[str], followed: str | None = None) -> str:
    """Return why vessels on a shared prefix are not followed, and how to fix it, in one line.

    :param followed: the vessel that is.
    """
    with_whom = f" as {followed}, which is followed" if followed else " as a followed one"
    return (
        f"not following {', '.join(vessel_ids)}: it publishes under the same prefix{with_whom}; put {{vessel_id}} into"
        " MQTT_TOPIC_PREFIX on the vessels and here, as in fleet/{vessel_id}/sync, or name the vessels to be"
        " followed in FOLLOW_VESSELS"
    )
