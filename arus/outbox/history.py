"""The history of the last days: when the link went up and down, the changes delivered in each minute, the counts of a day.

Minutes without activity are not written: an idle ship writes nothing.
"""

from __future__ import annotations

import math
import time

from arus.protocol.times import now_ms

from . import sql
from .log import FencedTransaction
from .usage import KEEP as KEEP_DAYS
from .usage import DataBudget

#: Milliseconds of a minute.
MINUTE = 60_000
#: Seconds between two writes of the current minute.
INTERVAL = 5.0
#: Milliseconds for which the history is kept.
KEEP = 31 * 86_400_000


#: Seconds between two notes of what they stand at.
_CLOSE_INTERVAL = 60.0


class History:
    """Counts delivered changes, and writes the counts in the owner's transactions. Runs in the relay's thread.

    :param days: in which zone a day begins.
    """

    def __init__(self, days: DataBudget) -> None:
        self._days = days
        self._closed_at = -math.inf
        #: Something was counted since the counters were noted.
        self._counted = True
        self._begun = False
        self._published = 0
        self._sent = 0
        self._depth = 0
        self._written_depth = -1
        self._written_at = 0.0

    def begin(self, fenced: FencedTransaction) -> None:
        """Note what the counters stand at before the first day that is counted, before this transaction counts."""
        if not self._begun:
            fenced.execute(sql.usage.BEFORE_DAYS, {})
            self._begun = True

    def note(self, *, published: int, depth: int, sent: int = 0) -> None:
        """Count acknowledged changes and bytes sent, and note how many changes are undelivered now."""
        self._published += published
        self._counted = self._counted or bool(published) or depth != self._depth
        self._sent += sent
        self._depth = depth

    @property
    def due(self) -> bool:
        """Whether there is unwritten activity, and it is time to write it."""
        moved = self._published or self._depth != self._written_depth
        now = time.monotonic()
        return (bool(moved) and now - self._written_at >= INTERVAL) or self._close_is_due(now)

    def _close_is_due(self, now: float) -> bool:
        return self._counted and now - self._closed_at >= _CLOSE_INTERVAL

    def write(self, fenced: FencedTransaction) -> None:
        """Add the unwritten activity to the current minute, in the owner's transaction."""
        now = now_ms()
        minute = now - now % MINUTE
        fenced.execute(
            sql.history.ADD_SAMPLE,
            {
                "minute": minute,
                "depth": self._depth,
                "published": self._published,
                "sent": self._sent,
            },
        )
        self._published = self._sent = 0
        self._written_depth = self._depth
        self._written_at = time.monotonic()
        if self._close_is_due(self._written_at):
            self._close(fenced, now)

    def _close(self, fenced: FencedTransaction, now: int) -> None:
        fenced.execute(sql.usage.CLOSE_DAY, {"day": self._days.day(now)})
        self._closed_at, self._counted = self._written_at, False


def note_link(
    fenced: FencedTransaction, connected: bool, generation: int, reason: str | None = None
) -> None:
    """Record that the link went up or down, in the owner's transaction."""
    event = {"at": now_ms(), "connected": connected, "reason": reason, "generation": generation}
    fenced.execute(sql.history.ADD_EVENT, event)


def forget_old(fenced: FencedTransaction) -> None:
    """Delete history that is older than `KEEP`, and usage likewise, in the owner's transaction."""
    before = now_ms() - KEEP
    fenced.execute(sql.history.FORGET_SAMPLES, {"before": before})
    fenced.execute(sql.history.FORGET_EVENTS, {"before": before})
    # In UTC: a day more or less does not matter here.
    day = DataBudget(zone="UTC").day_before(now_ms(), KEEP_DAYS)
    fenced.execute(sql.usage.FORGET, {"before": day})
    fenced.execute(sql.usage.FORGET_COUNTS, {"before": day})
