"""The data budget: what may still be sent today, and how much was (`MQTT_DATA_BUDGET`). Runs in the relay's thread.

Three classes share the budget of a day. Urgent changes, statuses and what keeps the connection are always sent, and a
reserve is kept for them. Other changes are sent until only the reserve is left, and then wait for midnight in the
ship's zone. Catch-ups and digests get at most half of what those changes get, so that a follower that requests all
rows does not use up the day: a long catch-up is sent over several days.

Without a budget the bytes are counted all the same.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.meter import Kind
from arus.outbox import sql
from arus.outbox.log import ChangeLog, FencedTransaction
from arus.outbox.usage import DataBudget, add_usage, in_units
from arus.protocol.times import now_ms
from arus.registry import URGENT

logger = get_logger(__name__)

#: Seconds after which unwritten counts cause a transaction of their own; without a budget, the minimum between two writes.
LATEST, EARLIEST = 600.0, 5.0
#: Bytes that a PUBLISH is counted with in addition to its payload, before it leaves: its header and a long topic.
PACKET = 60
_PACED = (Kind.CATCHUPS, Kind.DIGESTS)


class Budget:
    """Counts what leaves, and decides what may leave. Lives as long as its owner."""

    def __init__(self, log: ChangeLog, session: Session, budget: DataBudget) -> None:
        self._log = log
        self._session = session
        #: What the data budget allows, and in which zone its days begin.
        self.limits = budget
        self._is_limited = budget.limit is not None
        #: The present day and its bounds, in milliseconds since the epoch.
        self._day = ""
        self._begins_at = self._ends_at = 0
        #: Bytes sent on this day, by kind.
        self._used: Counter[str] = Counter()
        #: What is not written yet: by day and kind for the usage, by kind for the counters, and since the last report.
        self._unsaved: Counter[tuple[str, str]] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._unreported = 0
        #: What was counted in advance: the day, and the bytes.
        self._charged: tuple[str, int] = ("", 0)
        #: When the counts were last written, in monotonic seconds.
        self._saved_at = time.monotonic()
        #: Only urgent changes may be sent; catch-ups and digests may not be.
        self.holds_changes = False
        self.holds_catchups = False
        #: What of this is in the database; None if that is not known.
        self._journalled: tuple[int | None, int | None] | None = None
        self._changed = False

    # -- counting ---------------------------------------------------------------------------------

    def look(self) -> bool:
        """Count what has left; return whether catch-ups may go on that were held back."""
        now = now_ms()
        held = self.holds_catchups
        if self._session.fileno() is not None:
            self._session.client.measure()
        self._collect()
        if not self._begins_at <= now < self._ends_at:
            self._begin_day(now)
        if self._is_limited:
            self._check()
        self._changed = self._changed or held != self.holds_catchups
        return held and not self.holds_catchups

    def _collect(self) -> None:
        for kind, count in self._session.meter.take().items():
            self._used[kind] += count
            self._unsaved[self._day, kind] += count
            self._uncounted[kind] += count
            self._unreported += count

    def _begin_day(self, now: int) -> None:
        budget = self.limits
        # Before the first look: what was sent while there was no day belongs to the day that begins.
        first = {kind: self._unsaved.pop(("", kind), 0) for kind in Kind}
        self._day = budget.day(now)
        self._begins_at, self._ends_at = budget.begin(now), budget.end(now)
        self._used = self._log.used(self._day)
        for kind, count in first.items():
            self._unsaved[self._day, kind] += count
        for (day, name), count in self._unsaved.items():
            if day == self._day:  # the clock was set back to a day before
                self._used[name] += count
        self.holds_changes = self.holds_catchups = False

    def _check(self) -> None:
        total = self._used.total()
        if total >= self.limits.ordinary:
            self._hold_changes(total)
        if sum(self._used[kind] for kind in _PACED) >= self.limits.catchups:
            self._hold_catchups()

    # -- deciding ---------------------------------------------------------------------------------

    @property
    def room(self) -> float:
        """Bytes that changes that are not urgent may have now; infinity without a budget."""
        if not self._is_limited:
            return math.inf
        if self.holds_changes:
            return 0.0
        self._collect()
        return self.limits.ordinary - self._used.total() - self._session.buffered

    def may_send(self, priority: int) -> bool:
        """Whether changes of a priority may be sent now."""
        return not self.holds_changes or priority == URGENT

    def refuses(self, payload: int, room: float) -> bool:
        """Return whether a change that is not urgent has to wait for the next day.

        One that needs more than half of a day's part is sent as long as anything may be: it might fit into no day.

        :param payload: its bytes.
        :param room: bytes that it may have.
        """
        size = payload + PACKET
        if size <= room or (size > self.limits.ordinary // 2 and room > 0):
            return False
        self._hold_changes(self.limits.ordinary - room)
        return True

    def admits(self, payload: int) -> bool:
        """Whether a message of a catch-up, or a digest, may be sent now."""
        if not self._is_limited:
            return True
        self._collect()
        size = payload + PACKET
        used = sum(self._used[kind] for kind in _PACED) + self._session.buffered
        left = min(self.limits.catchups - used, self.room)
        if not self.holds_catchups and (
            size <= left or (size > self.limits.catchups // 2 and left > 0)
        ):
            return True
        self._hold_catchups()
        return False

    def _hold_changes(self, used: float) -> None:
        if not self.holds_changes:
            self.holds_changes = True
            logger.warning(
                "[MQTT Reliable Sync] today's data budget is spent (%s of %s, with %s reserved): until midnight only"
                " urgent changes are sent",
                in_units(used),
                in_units(self.limits.limit or 0),
                in_units(self.limits.reserve),
            )
        self._hold_catchups()

    def _hold_catchups(self) -> None:
        if not self.holds_catchups:
            self.holds_catchups = self._changed = True
            logger.info(
                "[MQTT Reliable Sync] catch-ups and digests wait for the next day: they have used their part of"
                " the data budget, or it is spent"
            )

    def pause_between(self, size: int) -> float:
        """Return the seconds between two statuses of a size with which they use a twentieth of the budget."""
        return 0.0 if self.limits.limit is None else 86_400 * size * 20 / self.limits.limit

    def take_changed(self) -> bool:
        """Return whether catch-ups were held back, or may go on, since the last call."""
        changed, self._changed = self._changed, False
        return changed

    @property
    def catchups_until(self) -> int | None:
        """Until when catch-ups wait, in milliseconds since the epoch; None if they do not."""
        return self._ends_at if self.holds_catchups else None

    # -- the journal ------------------------------------------------------------------------------

    @property
    def _holds(self) -> tuple[int | None, int | None]:
        return (self._ends_at if self.holds_changes else None, self.catchups_until)

    @property
    def due(self) -> bool:
        """Whether something is to be written even if nothing else is."""
        if self._is_limited and self._holds != self._journalled:
            return True
        return bool(self._uncounted) and time.monotonic() - self._saved_at >= LATEST

    def take_sent(self) -> int:
        """Return the bytes that were sent since the last call."""
        sent, self._unreported = self._unreported, 0
        return sent

    def write(self, fenced: FencedTransaction, about_to_leave: int = 0) -> None:
        """Write the counts, in the owner's transaction.

        :param about_to_leave: bytes that this transaction permits to be sent.
        """
        if self._is_limited:
            self._charge(about_to_leave + self._session.buffered)
            if self._holds != self._journalled:
                held_until, catchups_until = self._journalled = self._holds
                fenced.execute(
                    sql.usage.HOLD, {"held_until": held_until, "catchups_until": catchups_until}
                )
        elif not self._uncounted or time.monotonic() - self._saved_at < EARLIEST:
            return
        self._save(fenced)

    def save(self, fenced: FencedTransaction) -> None:
        """Write all counts, in a transaction that ends a connection."""
        self._collect()
        self._charge(0)
        self._save(fenced)

    def _save(self, fenced: FencedTransaction) -> None:
        add_usage(fenced.connection, self._unsaved, self._uncounted)
        self._unsaved.clear()
        self._uncounted.clear()
        self._saved_at = time.monotonic()

    def _charge(self, size: int) -> None:
        """Count bytes in advance in place of those that were counted so before: a killed owner must not send for free."""
        day, before = self._charged
        if before:
            self._unsaved[day, Kind.CHANGES] -= before
        if size:
            self._unsaved[self._day, Kind.CHANGES] += size
        self._charged = (self._day, size)
