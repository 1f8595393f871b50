"""The checks of the log: its age, the queue, and what waits for a person."""

from __future__ import annotations

from collections.abc import Iterator

from arus.outbox import sql
from arus.outbox.status import SyncStatus
from arus.protocol.times import now_ms

from .finding import Finding, Verdict
from .vessel import Vessel

#: Percentage of the maximum queue size from which a warning is given.
NEARLY_FULL = 80
#: Milliseconds beyond the retention by which an owner should have pruned.
_PRUNING_SLACK = 24 * 3600 * 1000
_DAY = 24 * 3600 * 1000


def check_log(vessel: Vessel, status: SyncStatus) -> Iterator[Finding]:
    """Check that the log is pruned, the queue has room, and nothing waits for a person."""
    with vessel.engine.connect() as connection:
        entries = int(connection.execute(sql.changes.ENTRIES).scalar_one())
        oldest = connection.execute(sql.changes.OLDEST_DELIVERED).scalar()
        dead_letters = int(connection.execute(sql.inbound.COUNT_DEAD_LETTERS).scalar_one())
    kept = vessel.settings.retention_days * _DAY
    age = 0 if oldest is None else now_ms() - int(oldest)
    says = f"{entries} changes"
    if oldest is not None:
        says += f", the oldest delivered one {age / _DAY:.1f} days old"
    if oldest is not None and age > kept + _PRUNING_SLACK and vessel.settings.local_mode:
        yield Finding(
            "log",
            Verdict.WARN,
            f"{says}: older than MQTT_RETENTION_DAYS={vessel.settings.retention_days:g}",
            "the process that owns the session removes them; start a server, or check its log",
        )
    else:
        yield Finding("log", Verdict.OK, says)
    yield _queue(status)
    if status.quarantined:
        yield Finding(
            "quarantine",
            Verdict.WARN,
            f"{status.quarantined} changes can't be sent and wait for a person",
            "flask sync queue list --state quarantined, then queue retry or discard",
        )
    if dead_letters:
        yield Finding(
            "inbox",
            Verdict.WARN,
            f"{dead_letters} received messages could not be handled and wait for a person",
            "flask sync inbox list, then inbox replay or discard",
        )


def _queue(status: SyncStatus) -> Finding:
    says = f"{status.depth} of {status.max_queue_size} undelivered"
    if status.utilization >= 100:
        return Finding(
            "queue",
            Verdict.FAIL,
            f"{says}: the queue is full; the oldest changes are dropped, and sent later in a catch-up",
            "bring the link up, or raise MQTT_MAX_QUEUE_SIZE",
        )
    if status.utilization >= NEARLY_FULL:
        return Finding(
            "queue", Verdict.WARN, says, "bring the link up, or raise MQTT_MAX_QUEUE_SIZE"
        )
    return Finding("queue", Verdict.OK, says)
