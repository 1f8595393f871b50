"""Retention: delivered and dropped changes stay for a while, then are deleted from the log in small steps.

So the log is bounded, however long the vessel is away: delivered changes are deleted when they have expired, and so
are superseded and dropped ones, unless one is the last known change of its row. Undelivered changes are bounded by
the queue (`arus.outbox.eviction`), and quarantined ones have the same bound.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Row

from arus.protocol.entries import ChangeState
from arus.protocol.times import now_ms

from . import sql
from .eviction import UNREPAIRED
from .history import forget_old
from .log import ChangeLog, FencedTransaction

#: Entries deleted in one transaction: a writer on board waits for it at most a few milliseconds.
STEP = 500
#: Milliseconds between two checks if the last one left nothing to do.
INTERVAL = 60_000
_DAY = 86_400_000


class Retention:
    """Prunes the log. Runs in the relay's thread.

    :param days: how long a delivered change stays (`MQTT_RETENTION_DAYS`).
    :param bound: quarantined changes kept (`MQTT_MAX_QUEUE_SIZE`).
    """

    def __init__(self, log: ChangeLog, *, days: float, bound: int) -> None:
        self._log = log
        self._keep = int(days * _DAY)
        self._bound = bound
        self._next = 0
        #: Entries that this step may delete.
        self._most = STEP
        #: By outcome: the last entry checked.
        self._after = {ChangeState.SUPERSEDED: 0, ChangeState.DROPPED: 0}

    def step(self) -> None:
        """Delete one step's worth of expired entries, if a check is due."""
        now = now_ms()
        # If the clock is set back, pruning must not stop until the old time is reached again.
        if self._next - INTERVAL <= now < self._next:
            return
        before = now - self._keep
        self._most = self._log.batch(STEP)
        delivered = list(self._delivered(before))
        evicted, more = self._given_up(before)
        excess = self._log.quarantined_beyond(self._bound, self._most)
        catchups = self._log.expired_catchups(before=before, limit=self._most)
        reach = 0
        if delivered or evicted or excess or catchups:
            with self._log.fenced_transaction() as fenced:
                if catchups:
                    fenced.execute(sql.catchups.DELETE, [{"id": run_id} for run_id in catchups])
                if delivered or evicted:
                    reach = self._forget(fenced, delivered + evicted, before)
                for entry_id in excess:
                    fenced.settle(entry_id, ChangeState.DROPPED, UNREPAIRED)
        if reach:
            self._log.tally.pruned(reach)
        if excess:
            self._log.tally.forget()
        busy = more or len(delivered) >= self._most or len(excess) >= self._most
        self._next = now if busy else now + INTERVAL

    def _forget(self, fenced: FencedTransaction, expired: list[int], before: int) -> int:
        """Delete entries, and record how far the log still reaches back, which decides how catch-ups are planned.

        :returns: the highest number that was deleted.
        """
        reach: int = (
            fenced.connection.execute(sql.pruning.HIGHEST_SEQ, {"ids": expired}).scalar() or 0
        )
        fenced.execute(sql.session.PRUNED, {"seq": reach, "before": before})
        fenced.execute(sql.time_marks.FORGET, {"seq": reach})
        fenced.execute(sql.pruning.DELETE, [{"id": entry_id} for entry_id in expired])
        forget_old(fenced)
        return reach

    def _delivered(self, before: int) -> Iterator[int]:
        left = self._most
        for topic_queue in self._log.topic_queues.values():
            found = self._log.expired(
                topic_queue.topic, acked_seq=topic_queue.acked_seq, before=before, limit=left
            )
            left -= len(found)
            yield from found
            if not left:
                return

    def _given_up(self, before: int) -> tuple[list[int], bool]:
        """Return the ids of evicted entries to delete, and whether there are more to check."""
        expired: list[int] = []
        more = False
        for outcome, after in self._after.items():
            found = self._log.evicted(outcome, after=after, limit=self._most)
            rows = [row for row in found if row.committed_at < before]
            expired += [row.id for row in rows if _may_go(row)]
            # Ids ascend with time: the first entry that has not expired ends the scan, which then starts over.
            self._after[outcome] = rows[-1].id if len(rows) == self._most else 0
            more = more or len(rows) == self._most
        return expired, more


def _may_go(row: Row[tuple[object, ...]]) -> bool:
    if row.outcome == ChangeState.SUPERSEDED:
        return True
    if row.reason == UNREPAIRED:
        return bool(row.covered)
    return not row.reason.startswith("repair ")  # a catch-up is about to send it
