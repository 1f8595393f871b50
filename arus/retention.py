"""Retention: delivered changes stay replayable for a while, then leave the log in small steps."""

from __future__ import annotations

from sqlalchemy import text

from .changelog import ChangeLog
from .message import now_ms
from .overflow import UNREPAIRED

#: Entries deleted in one transaction: a writer on board waits for it at most a few milliseconds.
STEP = 500
#: Milliseconds between two looks when the last one found nothing more to do.
INTERVAL = 60_000
_DAY = 86_400_000

# Quarantined entries wait for a person, dropped ones until their row's state was sent.
_EXPIRED = text(
    "SELECT id FROM arus_change WHERE topic = :topic AND seq <= :acked_seq AND committed_at < :before"
    " AND (outcome IS NULL OR outcome = 'superseded'"
    " OR (outcome = 'dropped' AND reason <> :unrepaired AND reason NOT LIKE 'repair %'))"
    " ORDER BY seq LIMIT :limit"
)
_DELETE = text("DELETE FROM arus_change WHERE id = :id")


class Retention:
    """Prunes the log of what was delivered long enough ago. Lives in the relay's thread.

    :param days: how long a delivered change stays (`MQTT_RETENTION_DAYS`).
    """

    def __init__(self, log: ChangeLog, days: float) -> None:
        self._log = log
        self._keep = int(days * _DAY)
        self._next = 0

    def step(self) -> None:
        """Delete one step's worth of expired entries, if it is time to look."""
        now = now_ms()
        # A clock that was set back must not stop the pruning until it has come round again.
        if self._next - INTERVAL <= now < self._next:
            return
        expired = self._expired(now - self._keep)
        if expired:
            with self._log.turn() as turn:
                turn.execute(_DELETE, [{"id": entry_id} for entry_id in expired])
        self._next = now if len(expired) >= STEP else now + INTERVAL

    def _expired(self, before: int) -> list[int]:
        expired: list[int] = []
        for lane in self._log.lanes.values():
            wanted = {
                "topic": lane.topic,
                "acked_seq": lane.acked.value,
                "before": before,
                "unrepaired": UNREPAIRED,
                "limit": STEP - len(expired),
            }
            if len(expired) < STEP:
                expired += self._log.ids(_EXPIRED, wanted)
        return expired
