"""Reports on steps of the publisher: counters in the transaction of a step, signals and log lines after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from blinker import NamedSignal
from msgspec import Struct

from arus import signals
from arus.catchup.runs import Run
from arus.logs import get_logger
from arus.outbox.counters import (
    DROPPED,
    FAILURES,
    FLUSHES,
    PUBLISHED,
    QUEUED,
    SUPERSEDED,
    CounterKey,
)
from arus.outbox.eviction import Evicted
from arus.outbox.history import History
from arus.outbox.log import FencedTransaction
from arus.outbox.usage import DataBudget
from arus.protocol.entries import ChangeState, Entry

logger = get_logger(__name__)


class Report(Struct, frozen=True):
    """The changes and catch-ups that one transaction has journalled."""

    #: Newly numbered changes that had to wait for a connection.
    queued: Sequence[Entry]
    acknowledged: Sequence[Entry]
    #: With the reason of each.
    quarantined: Sequence[tuple[Entry, str]]
    evicted: Sequence[Evicted]
    #: Changes that had waited, once the last of them is acknowledged; 0 in any other transaction.
    flushed: int
    #: Catch-ups that are complete.
    catchups: Sequence[Run]
    #: Changes that wait for an acknowledgement.
    depth: int
    #: The queue has less than a tenth of its bound left.
    is_full: bool
    #: Bytes that were sent since the last report.
    sent: int = 0

    @property
    def dropped(self) -> list[Evicted]:
        """Evicted changes that no newer change of their row replaces."""
        return [one for one in self.evicted if one.outcome is ChangeState.DROPPED]

    def counts(self) -> dict[CounterKey, int]:
        """Return the amounts to add to counters."""
        counts: dict[CounterKey, int] = {}
        if self.acknowledged:
            published = Counter([(e.entity, e.operation, e.qos) for e in self.acknowledged])
            for (entity, operation, qos), count in published.items():
                counts[PUBLISHED, entity, operation, str(qos)] = count
        dropped = len(self.dropped)
        for name, count in (
            (QUEUED, len(self.queued)),
            (FAILURES, len(self.quarantined)),
            (DROPPED, dropped),
            (SUPERSEDED, len(self.evicted) - dropped),
            (FLUSHES, int(bool(self.flushed))),
        ):
            if count:
                counts[name, "", "", ""] = count
        return counts


class Reporter:
    """Counts and announces what was done. Lives as long as its owner.

    :param sender: the sender of signals.
    :param days: in which zone a day begins.
    """

    def __init__(self, sender: Any, days: DataBudget) -> None:
        self._sender = sender
        self._history = History(days)
        #: Changes were dropped, and the queue has been full since; logged once for this whole time.
        self._dropping = False

    @property
    def due(self) -> bool:
        """Whether activity is to be written to the history."""
        return self._history.due

    def write(self, report: Report, fenced: FencedTransaction) -> None:
        """Count, in the owner's transaction."""
        self._history.begin(fenced)
        fenced.count(report.counts())
        self._history.note(published=len(report.acknowledged), depth=report.depth, sent=report.sent)
        if self._history.due:
            self._history.write(fenced)

    def announce(self, report: Report) -> None:
        """Send signals and log lines, after the commit."""
        for entry in report.queued:
            self._send(signals.message_queued, **_described(entry))
        for entry in report.acknowledged if signals.message_published.receivers else ():
            self._send(signals.message_published, seq=entry.seq, **_described(entry))
        for entry, reason in report.quarantined:
            logger.error(
                "[MQTT Reliable Sync] change quarantined: %s",
                reason,
                extra={"message_id": entry.message_id, "seq": entry.seq, "topic": entry.topic},
            )
            self._send(signals.error, error=reason)
        if report.flushed:
            logger.info("[MQTT Reliable Sync] queue flushed: %d changes", report.flushed)
            self._send(signals.queue_flushed, count=report.flushed)
        self._announce_dropped(report)
        self._announce_catchups(report)

    def _announce_dropped(self, report: Report) -> None:
        dropped = report.dropped
        if dropped and not self._dropping:
            logger.warning(
                "[MQTT Reliable Sync] the queue is full (MQTT_MAX_QUEUE_SIZE): the oldest changes are"
                " dropped; the latest state of their rows is sent after the next connection",
                extra={"depth": report.depth},
            )
        self._dropping = bool(dropped) or (self._dropping and report.is_full)
        for one in dropped:
            self._send(signals.message_dropped, **_described(one))

    def _announce_catchups(self, report: Report) -> None:
        for run in report.catchups:
            logger.info(
                "[MQTT Reliable Sync] catch-up of %s published (%s): %d rows",
                run.entity,
                run.mode,
                run.published,
                extra={"catchup_id": run.catchup_id},
            )
            self._send(
                signals.catchup_published,
                catchup_id=run.catchup_id,
                entity=run.entity,
                published=run.published,
            )

    def _send(self, signal: NamedSignal, **values: Any) -> None:
        signals.send(signal, self._sender, **values)


def _described(entry: Entry | Evicted) -> dict[str, Any]:
    return {
        "message_id": entry.message_id,
        "entity": entry.entity,
        "operation": entry.operation,
    }
