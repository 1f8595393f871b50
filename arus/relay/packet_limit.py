"""How large a message may be for the packet size that the broker accepts."""

from __future__ import annotations

from typing import NamedTuple

from arus.mqtt.packets import PUBLISH_OVERHEAD
from arus.registry import MAX_TOPIC


class PacketLimit(NamedTuple):
    """The packet size that the broker accepts in one connection."""

    #: The prefix of all topics.
    prefix: str
    #: The largest packet, in bytes; None if the broker does not announce it.
    maximum: int | None = None

    def room(self, topic: str) -> int | None:
        """Return the bytes of payload that fit into a packet on a topic, or on one below it; None for no limit."""
        if self.maximum is None:
            return None
        return self.maximum - len((self.prefix + topic).encode()) - MAX_TOPIC - PUBLISH_OVERHEAD

    def fits(self, topic: str, payload: bytes) -> bool:
        """Whether the broker accepts a message of this size."""
        room = self.room(topic)
        return room is None or len(payload) <= room

    def excess(self, topic: str, payload: bytes) -> int | None:
        """Return the size in bytes of a packet that is larger than the broker accepts; None if it is not."""
        if self.maximum is None:
            return None
        size = len(payload) + len(f"{self.prefix}/{topic}".encode()) + PUBLISH_OVERHEAD
        return size if size > self.maximum else None
