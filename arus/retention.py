"""Retention: what was delivered or given up stays for a while, then leaves the log in small steps.

So the log never grows without bound, however long the vessel is away: what is delivered goes when its time
has come, what was superseded or dropped too, unless it is the last that is known of its row; undelivered
changes are bounded by the queue (`arus.overflow`), and so are quarantined ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Row, bindparam, text

from .changelog import ChangeLog, Turn
from .history import forget_old
from .message import ChangeState, now_ms
from .overflow import UNREPAIRED

#: Entries deleted in one transaction: a writer on board waits for it at most a few milliseconds.
STEP = 500
#: Milliseconds between two looks when the last one found nothing more to do.
INTERVAL = 60_000
_DAY = 86_400_000

# The oldest first, then their age: the other way round the whole log would be read each time to find none.
_DELIVERED = text(
    "SELECT id FROM (SELECT id, seq, committed_at FROM arus_change WHERE topic = :topic"
    " AND seq <= :acked_seq AND outcome IS NULL ORDER BY seq LIMIT :limit) AS oldest"
    " WHERE committed_at < :before ORDER BY seq"
)
_GIVEN_UP = text(
    "SELECT c.id, c.committed_at, c.outcome, c.reason,"
    " EXISTS (SELECT 1 FROM arus_change n WHERE n.entity = c.entity AND n.row_id = c.row_id"
    " AND n.id > c.id AND (n.outcome IS NULL OR n.outcome = 'dropped')) AS covered"
    " FROM arus_change c WHERE c.outcome = :outcome AND c.id > :after ORDER BY c.id LIMIT :limit"
)
_CATCHUPS = text(
    "SELECT id FROM arus_catchup WHERE status = 'complete' AND created_at < :before"
    " ORDER BY id LIMIT :limit"
)
_DELETE_CATCHUP = text("DELETE FROM arus_catchup WHERE id = :id")
_DELETE = text("DELETE FROM arus_change WHERE id = :id")
_HIGHEST = text("SELECT MAX(seq) FROM arus_change WHERE id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)
_REACH = text(
    "UPDATE arus_session SET"
    " pruned_seq = CASE WHEN pruned_seq < :seq THEN :seq ELSE pruned_seq END,"
    " complete_since = CASE WHEN complete_since < :before THEN :before ELSE complete_since END"
    " WHERE id = 1"
)
_QUARANTINED = text(
    "SELECT id FROM arus_change WHERE outcome = 'quarantined' ORDER BY id DESC"
    " LIMIT :limit OFFSET :bound"
)


class Retention:
    """Prunes the log. Lives in the relay's thread.

    :param days: how long a delivered change stays (`MQTT_RETENTION_DAYS`).
    :param bound: quarantined changes kept (`MQTT_MAX_QUEUE_SIZE`).
    """

    def __init__(self, log: ChangeLog, *, days: float, bound: int) -> None:
        self._log = log
        self._keep = int(days * _DAY)
        self._bound = bound
        self._next = 0
        #: By outcome: the last entry looked at.
        self._after = {ChangeState.SUPERSEDED: 0, ChangeState.DROPPED: 0}

    def step(self) -> None:
        """Delete one step's worth of expired entries, if it is time to look."""
        now = now_ms()
        # A clock that was set back must not stop the pruning until it has come round again.
        if self._next - INTERVAL <= now < self._next:
            return
        before = now - self._keep
        delivered = list(self._delivered(before))
        given_up, more = self._given_up(before)
        excess = self._log.ids(_QUARANTINED, {"limit": STEP, "bound": self._bound})
        catchups = self._log.ids(_CATCHUPS, {"before": before, "limit": STEP})
        if delivered or given_up or excess or catchups:
            with self._log.turn() as turn:
                if catchups:
                    turn.execute(_DELETE_CATCHUP, [{"id": run_id} for run_id in catchups])
                if delivered or given_up:
                    self._forget(turn, delivered + given_up, before)
                for entry_id in excess:
                    turn.settle(entry_id, ChangeState.DROPPED, UNREPAIRED)
        busy = more or len(delivered) >= STEP or len(excess) >= STEP
        self._next = now if busy else now + INTERVAL

    def _forget(self, turn: Turn, expired: list[int], before: int) -> None:
        """Delete entries, and note that the log reaches back less far: a catch-up goes by it."""
        reach = turn.connection.execute(_HIGHEST, {"ids": expired}).scalar() or 0
        turn.execute(_REACH, {"seq": reach, "before": before})
        turn.execute(_DELETE, [{"id": entry_id} for entry_id in expired])
        forget_old(turn)

    def _delivered(self, before: int) -> Iterator[int]:
        left = STEP
        for lane in self._log.lanes.values():
            wanted = {"topic": lane.topic, "acked_seq": lane.acked.value, "before": before}
            found = self._log.ids(_DELIVERED, {**wanted, "limit": left})
            left -= len(found)
            yield from found
            if not left:
                return

    def _given_up(self, before: int) -> tuple[list[int], bool]:
        """Return what may go, and whether there is more to look at."""
        expired: list[int] = []
        more = False
        for outcome, after in self._after.items():
            wanted = {"outcome": outcome.value, "after": after, "limit": STEP}
            rows = [row for row in self._log.rows(_GIVEN_UP, wanted) if row.committed_at < before]
            expired += [row.id for row in rows if _may_go(row)]
            # Ids ascend with time: the first that is too young ends the walk, until it begins anew.
            self._after[outcome] = rows[-1].id if len(rows) == STEP else 0
            more = more or len(rows) == STEP
        return expired, more


def _may_go(row: Row[tuple[object, ...]]) -> bool:
    if row.outcome == ChangeState.SUPERSEDED:
        return True
    if row.reason == UNREPAIRED:
        return bool(row.covered)
    return not row.reason.startswith("repair ")  # a catch-up is about to send it
