"""Live messages of which nothing can be read, not even their number: they are refused, and are no gap."""

from __future__ import annotations

from .position import Need, Position
from .vessels import VesselState


def note_unread(vessel: VesselState, topic: str, *, retained: bool) -> None:
    """Note a message on a topic of which nothing can be read.

    :param retained: the broker had retained it, so it may be of any age.
    """
    if not retained:
        vessel.unread.add(topic)


def pass_unread(vessel: VesselState, position: Position, previous_seq: int) -> None:
    """Pass changes that were received and refused because nothing of them can be read.

    :param previous_seq: of the next change of the topic. Should it stand for a lost change as well, the next audit
        finds that.
    """
    if position.topic in vessel.unread:
        vessel.unread.remove(position.topic)
        if position.wants is Need.NOTHING:
            position.reach(previous_seq)
            vessel.counted(previous_seq)
