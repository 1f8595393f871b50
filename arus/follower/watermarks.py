"""The watermarks that a follower publishes: its progress, and what it has received of a catch-up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from arus.protocol.messages import Message, Progress, Verdict, Watermark
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import WATERMARKS

from .vessels import VesselState

#: Items of a catch-up are reported at once when this part of the vessel's window was received.
REPORT_PART = 4
#: Minimum seconds between two watermarks of a vessel.
WATERMARK_PERIOD = 2.0
#: While changes keep coming: watermarks of all vessels in a second, and maximum seconds between two of one vessel.
WATERMARK_RATE = 4.0
LONGEST_PERIOD = 15.0
#: Seconds until a watermark that the broker has refused is published again.
REFUSED_PERIOD = 15.0


class Publish(Protocol):
    """Publishes a retained message on a topic under a vessel's prefix."""

    def __call__(self, vessel_id: str, name: str, message: Message) -> None:
        """Queue the message for the broker."""


def pause_of(vessels: int, *, idle: bool) -> float:
    """Return the minimum seconds between two watermarks of a vessel.

    :param vessels: the number of vessels that are followed.
    :param idle: no more changes are coming for now.
    """
    if idle:
        return WATERMARK_PERIOD
    # Each watermark is received by the broker and delivered by it, like a change: in a large fleet as many as there
    # are changes would double the traffic.
    return min(max(WATERMARK_PERIOD, vessels / WATERMARK_RATE), LONGEST_PERIOD)


class _Published(Struct):
    """The last published watermark of a vessel."""

    seq: int = -1
    epoch: str = ""
    audit: Verdict | None = None
    progress: Progress | None = None
    #: Items of catch-ups that were received until then.
    items: int = 0
    at: float = -math.inf
    #: The broker has refused it.
    is_refused: bool = False


class Watermarks:
    """Publishes the vessels' watermarks, no more often than necessary.

    :param name: the follower's.
    """

    def __init__(
        self, name: str, publish: Publish, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic = f"{WATERMARKS}/{name}"
        self._publish = publish
        self._clock = clock
        self._published: dict[str, _Published] = {}

    def clear(self) -> None:
        """Forget what was published: a new connection has begun."""
        self._published.clear()

    def forget(self, vessel_id: str) -> None:
        """Forget what was published of a vessel."""
        self._published.pop(vessel_id, None)

    def publish(self, vessel: VesselState, *, pause: float) -> None:
        """Publish a vessel's watermark if it has changed.

        :param pause: seconds that the last watermark must be old.
        """
        last = self._published.setdefault(vessel.vessel_id, _Published())
        now = self._clock()
        news = (vessel.seq, vessel.epoch, vessel.audit, vessel.progress)
        if last.is_refused:
            pause = REFUSED_PERIOD
        elif (last.seq, last.epoch, last.audit, last.progress) == news:
            return
        if now - last.at < pause:
            return
        watermark = Watermark(
            vessel_id=vessel.vessel_id,
            epoch=vessel.epoch,
            seq=vessel.seq,
            timestamp=iso(now_ms()),
            audit=vessel.audit,
            catchup=vessel.progress,
        )
        self._publish(vessel.vessel_id, self._topic, watermark)
        last.seq, last.epoch, last.audit, last.progress = news
        last.items, last.at, last.is_refused = vessel.items, now, False

    def refused(self, vessel_id: str) -> None:
        """Note that the broker has refused a vessel's watermark: it is published again, after a pause."""
        last = self._published.get(vessel_id)
        if last is not None:
            last.is_refused = True

    def is_overdue(self, vessel: VesselState, window: int) -> bool:
        """Whether so much of a catch-up was received since the last report that the vessel may be waiting for one.

        :param window: the vessel's, in items.
        """
        last = self._published.get(vessel.vessel_id)
        return vessel.items - (last.items if last else 0) >= window // REPORT_PART

    def is_published(self, vessel: VesselState) -> bool:
        """Whether the vessel's watermark is published as it is now."""
        last = self._published.get(vessel.vessel_id)
        return last is not None and (last.epoch, last.seq) == (vessel.epoch, vessel.seq)
