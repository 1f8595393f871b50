"""The owner's side of the change log: numbering, reading, and the journal of what was sent and acknowledged.

Every write happens in a `FencedTransaction`, one short transaction that first checks that this process still owns the
session. The packets that a transaction permits are sent after its commit, never before.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Row, RowMapping

from arus.database import shorten_wal, transaction, translated
from arus.errors import DiskFullError, LeadershipLostError, LogUnavailableError
from arus.logs import get_logger
from arus.protocol.entries import ChangeState, Entry, Operation
from arus.protocol.times import now_ms

from . import sql
from .counters import CounterKey, counter_rows
from .driver import Arguments, DriverStatements
from .eviction import SUPERSEDED_BY, Evicted, Eviction
from .reader import LogReader
from .reserve import DiskReserve
from .sql.build import Statement
from .superseding import Replaced, supersede
from .tallies import RowTally
from .time_marks import TimeMarks
from .topic_queue import TopicQueue
from .watermark import Watermark

logger = get_logger(__name__)

#: Commits between two checks of SQLite's write-ahead log, and the pages above which it is restarted.
TIDY_EVERY = 100
WAL_PAGES = 500


class ChangeLog(LogReader):
    """The change log for its owner. Not thread-safe.

    :param connection: from `arus.database.open_engine`; on PostgreSQL the one that holds the lock.
    :param reserve: what the owner uses on a full disk.
    :param with_actor: whether entries are sent with their actor.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        vessel_id: str | None,
        reserve: DiskReserve | None = None,
        with_actor: bool = False,
    ) -> None:
        super().__init__(connection, with_actor=with_actor)
        self._reserve = reserve or DiskReserve(None)
        try:
            session = self._take_over(vessel_id)
        except LogUnavailableError:
            # The disk may be full: a restarted write-ahead log needs no more space on it.
            with suppress(LogUnavailableError):
                shorten_wal(connection, most=0)
            raise
        self._reserve.prepare()
        self.epoch: str = session.epoch
        self.vessel_id: str = session.vessel_id
        self.generation: int = session.generation
        self._clean_start: bool = session.clean_start
        #: Highest number of any change.
        self.head_seq: int = session.head_seq
        self.topic_queues: dict[str, TopicQueue] = {}
        #: Transactions committed by this owner.
        self.transactions = 0
        #: Commits since the last check of SQLite's write-ahead log: ours, and those of the changes we have numbered.
        self.commits = 0
        self.time_marks = TimeMarks(connection, self._driver)
        self.row_tally = RowTally()
        #: When the last fenced transaction got the write lock, in monotonic seconds.
        self.locked_at = 0.0
        self.reload()

    def _take_over(self, vessel_id: str | None) -> Row[Any]:
        with self._transaction() as connection:
            first = {
                "epoch": str(uuid.uuid4()),
                "vessel_id": vessel_id or f"vessel-{uuid.uuid4().hex[:12]}",
            }
            connection.execute(sql.session.FIRST, first)
            if vessel_id is not None:
                connection.execute(sql.session.NAME_VESSEL, {"vessel_id": vessel_id})
            now = now_ms()
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "now": now}
            connection.execute(sql.session.TAKE_OVER, owner)
            return connection.execute(sql.session.OWNED).one()

    def reload(self) -> None:
        """Read the topic queues again; entries read ahead and all uncommitted state are discarded."""
        with translated():
            rows = self._connection.execute(sql.topic_queues.ALL).mappings().all()
            self.head_seq = self._connection.execute(sql.session.OWNED).one().head_seq
        self.topic_queues = {row["topic"]: self._topic_queue(row) for row in rows}
        self.time_marks.forget()
        self.row_tally.forget()

    def batch(self, entries: int) -> int:
        """Return how many entries one transaction may write: `entries`, or fewer on a full disk."""
        return self._reserve.most(entries)

    def unnumbered(self, limit: int) -> list[Entry]:
        """Return the oldest committed entries without a number, no more than a transaction can number now."""
        return super().unnumbered(self.batch(limit))

    def _topic_queue(self, row: RowMapping) -> TopicQueue:
        topic_queue = TopicQueue(
            row["topic"],
            head_seq=row["head_seq"],
            sent_seq=row["sent_seq"],
            received=Watermark(row["received_seq"], json.loads(row["received_above"])),
            acked=Watermark(row["acked_seq"], json.loads(row["acked_above"])),
            depth=row["depth"],
            acked_at=row["acked_at"],
        )
        topic_queue.resume(
            self.read(row["topic"], after=row["acked_seq"], upto=row["sent_seq"], limit=-1)
        )
        return topic_queue

    @contextmanager
    def fenced_transaction(self) -> Iterator[FencedTransaction]:
        """Run one fenced write transaction.

        :raises LeadershipLostError: another process has taken over; nothing was written.
        :raises LogUnavailableError: the database can't be used; nothing was written, and the state in memory must
            be reloaded.
        """
        sqlite = self._connection.dialect.name == "sqlite"
        fence = sql.session.FENCE if sqlite else sql.session.FENCE_AND_LOCK
        with self._transaction() as connection:
            self.locked_at = time.monotonic()
            if self._driver.scalar(fence) != self.generation:
                raise LeadershipLostError
            yield FencedTransaction(self, connection, self._driver)
        self.transactions += 1
        self.commits += 1

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Run a write transaction, on a full disk with the space of the reserve."""
        try:
            with transaction(self._connection) as connection:
                self._reserve.give_up()
                yield connection
        except DiskFullError:
            self._reserve.found_full(self._connection)
            raise
        finally:
            self._reserve.take_back(self._connection)

    def tidy(self) -> None:
        """Keep SQLite's write-ahead log short; to be called between transactions."""
        if self.commits < TIDY_EVERY:
            return
        self.commits = 0
        try:
            shorten_wal(self._connection, most=WAL_PAGES)
        except DiskFullError:
            self._reserve.found_full(self._connection)
        except LogUnavailableError as error:
            # Commits may still succeed, as long as there is room in the write-ahead log.
            logger.warning("[MQTT Reliable Sync] %s; the write-ahead log was not shortened", error)

    def begin_epoch(self, *, proved: str | None = None) -> None:
        """Begin a new epoch: this database was restored from a backup, and its next numbers were used before.

        Undelivered changes are sent in the new epoch; the broker's half of the session ends with a clean start.

        :param proved: what a person is told about the proof; None if a person has decided it.
        """
        epoch = str(uuid.uuid4())
        with self.fenced_transaction() as fenced:
            fenced.execute(sql.session.NEW_EPOCH, {"epoch": epoch})
            if proved is not None:
                fenced.execute(sql.session.EPOCH_PROVED, {"note": proved, "now": now_ms()})
            fenced.execute(sql.catchups.PLAN_AGAIN)
            for topic_queue in self.topic_queues.values():
                wanted = {"topic": topic_queue.topic, "after": topic_queue.sent_seq}
                first = (
                    topic_queue.again[0].id
                    if topic_queue.again
                    else fenced.connection.execute(sql.entries.FIRST_UNSENT, wanted).scalar()
                )
                if first is not None:
                    fenced.execute(sql.entries.BEGIN_CHAIN, {"id": first})
                topic_queue.begin_epoch(is_empty=first is None)
            fenced.save_topic_queues()
        self.epoch = epoch
        self._clean_start = True
        self.reload()

    @property
    def clean_start(self) -> bool:
        """Whether the broker must discard its half of the session, which does not match this log."""
        return self._clean_start

    def require_clean_start(self) -> None:
        """Note that the broker's half of the session does not match this log."""
        self._clean_start = True

    def session_began(self) -> None:
        """Note that the broker has accepted a session that matches this log."""
        self._clean_start = False

    def stand_down(self) -> None:
        """Record that no process owns the session any more."""
        with self.fenced_transaction() as fenced:
            fenced.execute(sql.session.STAND_DOWN)


class FencedTransaction:
    """One write transaction of the owner; made by `ChangeLog.fenced_transaction`."""

    def __init__(self, log: ChangeLog, connection: Connection, driver: DriverStatements) -> None:
        self._log = log
        self._driver = driver
        #: For statements that are run rarely; `execute` costs less.
        self.connection = connection

    def execute(
        self, statement: Statement, arguments: Arguments | Sequence[Arguments] = ()
    ) -> None:
        """Run a statement of `arus.outbox.sql` that takes no lists: once, or for each of a sequence of arguments."""
        if isinstance(arguments, Mapping):
            self._driver.run(statement, arguments)
        elif arguments:
            self._driver.run_each(statement, arguments)
        else:
            self._driver.run(statement, {})

    def number(self, unnumbered: Sequence[Entry]) -> list[Entry]:
        """Assign the next numbers to committed entries, and return the numbered entries."""
        entries: list[Entry] = []
        self._log.time_marks.begin()  # before there are new numbers
        for waiting in unnumbered:
            topic_queue = self._log.topic_queues.get(waiting.topic)
            if topic_queue is None:
                topic_queue = TopicQueue(waiting.topic)
                self._log.topic_queues[topic_queue.topic] = topic_queue
            self._log.head_seq += 1
            seq = self._log.head_seq
            entries.append(waiting._replace(seq=seq, previous_seq=topic_queue.number(seq)))
        if entries:
            self.execute(
                sql.entries.NUMBER,
                [{"id": e.id, "seq": e.seq, "previous_seq": e.previous_seq} for e in entries],
            )
            self.execute(sql.session.SAVE_HEAD, {"head_seq": self._log.head_seq})
            self._log.time_marks.note(entries, self)
            self._log.row_tally.note(entries)
            self._log.commits += len(entries)
        return entries

    def supersede(
        self, replaced: Sequence[Replaced], numbered: Sequence[Entry]
    ) -> tuple[Sequence[Entry], list[Evicted]]:
        """Supersede the waiting changes that newly numbered ones replace.

        :returns: those of `numbered` that are still to be sent, and the superseded changes.
        """
        queues = self._log.topic_queues
        found = supersede(replaced, numbered, {topic: queues[topic].sent_seq for topic in queues})
        if not found.gone:
            return numbered, []
        outcome = {"outcome": ChangeState.SUPERSEDED.value, "reason": SUPERSEDED_BY}
        self.execute(sql.entries.SETTLE, [{"id": one.id, **outcome} for one in found.gone])
        if found.previous:
            self.execute(
                sql.pruning.CLOSE_UP,
                [{"id": each, "previous_seq": seq} for each, seq in found.previous.items()],
            )
        for topic in {one.topic for one in found.gone}:
            queues[topic].superseded(
                {one.id for one in found.gone if one.topic == topic}, found.previous
            )
        return found.kept, [
            Evicted(one.message_id, one.entity, Operation(one.operation), ChangeState.SUPERSEDED)
            for one in found.gone
        ]

    def sweep(self, eviction: Eviction) -> list[Evicted]:
        """Supersede some of the changes that were replaced before `MQTT_SUPERSEDE` was set to `always`."""
        self.save_topic_queues()  # the queries of the eviction join them
        return eviction.sweep(self.connection, self._log.topic_queues)

    def relieve(self, eviction: Eviction, added: Sequence[Entry]) -> list[Evicted]:
        """Bring the queue back within its bound after `added` were numbered."""
        if eviction.excess(self._log.topic_queues) <= 0:
            return []
        self.save_topic_queues()  # the queries of the eviction join them
        return eviction.relieve(self.connection, self._log.topic_queues, added)

    def settle(self, entry_id: int, outcome: str, reason: str) -> None:
        """Set the outcome of an entry that is not delivered."""
        self.execute(sql.entries.SETTLE, {"id": entry_id, "outcome": outcome, "reason": reason})

    def save_topic_queues(self) -> None:
        """Journal the topic queues that have changed."""
        rows = [
            topic_queue.save()
            for topic_queue in self._log.topic_queues.values()
            if topic_queue.is_changed
        ]
        for row in rows:
            for name in ("received_above", "acked_above"):
                row[name] = json.dumps(row[name]) if row[name] else "[]"
        if rows:
            self.execute(sql.topic_queues.SAVE, rows)

    def count(self, amounts: Mapping[CounterKey, int]) -> None:
        """Add to counters."""
        if amounts:
            self.execute(sql.counters.ADD, counter_rows(amounts))

    def connection_changed(
        self, connected: bool, *, protocol: str | None, attempts: int, reason: str | None
    ) -> None:
        """Record that the session with the broker began or ended.

        :param reason: why it ended.
        """
        arguments = {
            "connected": connected,
            "now": now_ms(),
            "protocol": protocol,
            "attempts": attempts,
            "reason": reason,
        }
        self.execute(sql.session.CONNECTED, arguments)

    def stalled(self, since: int | None, obstacle: str | None) -> None:
        """Record that messages wait and nothing is acknowledged, or that this is over.

        :param since: milliseconds since the epoch; None if it is over.
        :param obstacle: why the broker refuses messages for the moment.
        """
        self.execute(sql.session.STALLED, {"since": since, "obstacle": obstacle})

    def attempts(self, attempts: int, reason: str | None) -> None:
        """Record how many connection attempts have failed in a row, and why the last one did."""
        self.execute(sql.session.ATTEMPTS, {"attempts": attempts, "reason": reason})
