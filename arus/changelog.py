"""The owner's side of the change log: numbering, reading, and the journal of what was sent and acknowledged.

Every write happens in a `Turn`, one short transaction that first checks that this process still owns the
session. What a turn commits licenses the packets that are sent after it, never before.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, text

from .counters import CounterKey, add_to_counters
from .database import shorten_wal, transaction, translated
from .errors import LogUnavailableError, OwnershipLostError
from .lane import Lane
from .message import Entry, Operation, now_ms
from .overflow import GivenUp, Overflow
from .watermark import Watermark

logger = logging.getLogger(__name__)

#: Commits between two looks at SQLite's write-ahead log, and the pages with which it is to begin anew.
TIDY_EVERY = 100
WAL_PAGES = 500

_UNNUMBERED = text(
    "SELECT id, 0, 0, message_id, topic, qos, entity, operation, row_id, version, committed_at, data"
    " FROM arus_change WHERE seq IS NULL AND outcome IS NULL ORDER BY id LIMIT :limit"
)
_NUMBER = text("UPDATE arus_change SET seq = :seq, previous_seq = :previous_seq WHERE id = :id")
_READ = text(
    "SELECT id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " committed_at, data FROM arus_change"
    " WHERE topic = :topic AND seq > :after AND seq <= :upto AND outcome IS NULL"
    " ORDER BY seq LIMIT :limit"
)
#: Looked up: to call the enumeration takes ten times as long.
_OPERATIONS = {each.value: each for each in Operation}
_FENCE = "SELECT generation FROM arus_session WHERE id = 1"
_SAVE_HEAD = text("UPDATE arus_session SET head_seq = :head_seq WHERE id = 1")
_LANES = text(
    "SELECT topic, head_seq, sent_seq, received_seq, acked_seq, received_above, acked_above, depth,"
    " acked_at FROM arus_lane"
)
_SAVE_LANE = text(
    "INSERT INTO arus_lane"
    " (topic, head_seq, sent_seq, received_seq, acked_seq, received_above, acked_above, depth,"
    " acked_at) VALUES (:topic, :head_seq, :sent_seq, :received_seq, :acked_seq, :received_above,"
    " :acked_above, :depth, :acked_at)"
    " ON CONFLICT (topic) DO UPDATE SET head_seq = excluded.head_seq, sent_seq = excluded.sent_seq,"
    " received_seq = excluded.received_seq, acked_seq = excluded.acked_seq,"
    " received_above = excluded.received_above, acked_above = excluded.acked_above,"
    " depth = excluded.depth, acked_at = excluded.acked_at"
)
_SETTLE = text("UPDATE arus_change SET outcome = :outcome, reason = :reason WHERE id = :id")
_FIRST_SESSION = text(
    "INSERT INTO arus_session (id, epoch, vessel_id) VALUES (1, :epoch, :vessel_id)"
    " ON CONFLICT (id) DO NOTHING"
)
_TAKE_OVER = text(
    "UPDATE arus_session SET generation = generation + 1, owner_pid = :pid, owner_host = :host,"
    " owner_since = :now, connected = false, connected_changed_at ="
    " CASE WHEN connected OR connected_changed_at IS NULL THEN :now ELSE connected_changed_at END"
    " WHERE id = 1"
)
_NAME_VESSEL = text("UPDATE arus_session SET vessel_id = :vessel_id WHERE id = 1")
_SESSION = text(
    "SELECT epoch, vessel_id, head_seq, generation, clean_start FROM arus_session WHERE id = 1"
)
_CONNECTED = text(
    "UPDATE arus_session SET connected = :connected, connected_changed_at = :now, protocol = :protocol,"
    " reconnect_attempts = :attempts, reason = :reason, clean_start = false WHERE id = 1"
)
_ATTEMPTS = text(
    "UPDATE arus_session SET reconnect_attempts = :attempts, reason = :reason WHERE id = 1"
)
# What was planned in the old epoch is planned anew: its receiver has to fetch all anew anyway.
_PLAN_AGAIN = text(
    "UPDATE arus_catchup SET status = 'queued', mode = NULL, position = '', published = 0, total = NULL"
    " WHERE status = 'running' AND mode <> 'repair'"
)
_NEW_EPOCH = text("UPDATE arus_session SET epoch = :epoch, clean_start = true WHERE id = 1")
_FIRST_UNSENT = text(
    "SELECT id FROM arus_change WHERE topic = :topic AND seq > :after AND outcome IS NULL"
    " ORDER BY seq LIMIT 1"
)
_BEGIN_CHAIN = text("UPDATE arus_change SET previous_seq = 0 WHERE id = :id")
_STAND_DOWN = text(
    "UPDATE arus_session SET owner_pid = NULL, owner_host = NULL, owner_since = NULL WHERE id = 1"
)


class ChangeLog:
    """The change log as its owner sees it. Not for use by several threads.

    :param connection: from `arus.database.open_engine`; on PostgreSQL the one that holds the lock.
    """

    def __init__(self, connection: Connection, *, vessel_id: str | None) -> None:
        self._connection = connection
        try:
            session = self._take_over(vessel_id)
        except LogUnavailableError:
            # Where the disk is full: a write-ahead log that begins anew needs no more of it.
            with suppress(LogUnavailableError):
                shorten_wal(connection, most=0)
            raise
        self.epoch: str = session.epoch
        self.vessel_id: str = session.vessel_id
        self.generation: int = session.generation
        self.clean_start: bool = session.clean_start
        #: Highest number given to any change.
        self.head_seq: int = session.head_seq
        self.lanes: dict[str, Lane] = {}
        #: Turns committed by this owner.
        self.turns = 0
        #: Commits since SQLite's write-ahead log was looked after, ours and those of what was numbered.
        self.commits = 0
        #: When the last turn had the write lock, in monotonic seconds.
        self.locked_at = 0.0
        self.reload()

    def _take_over(self, vessel_id: str | None) -> Row[Any]:
        with transaction(self._connection) as connection:
            first = {
                "epoch": str(uuid.uuid4()),
                "vessel_id": vessel_id or f"vessel-{uuid.uuid4().hex[:12]}",
            }
            connection.execute(_FIRST_SESSION, first)
            if vessel_id is not None:
                connection.execute(_NAME_VESSEL, {"vessel_id": vessel_id})
            now = now_ms()
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "now": now}
            connection.execute(_TAKE_OVER, owner)
            return connection.execute(_SESSION).one()

    def reload(self) -> None:
        """Read the lanes anew; what was read ahead and all that was not committed is forgotten."""
        with translated():
            rows = self._connection.execute(_LANES).mappings().all()
            self.head_seq = self._connection.execute(_SESSION).one().head_seq
        self.lanes = {row["topic"]: self._lane(row) for row in rows}

    def _lane(self, row: RowMapping) -> Lane:
        lane = Lane(
            topic=row["topic"],
            head_seq=row["head_seq"],
            sent_seq=row["sent_seq"],
            received=Watermark(row["received_seq"], json.loads(row["received_above"])),
            acked=Watermark(row["acked_seq"], json.loads(row["acked_above"])),
            depth=row["depth"],
            acked_at=row["acked_at"],
        )
        for entry in self.read(lane.topic, after=lane.acked.value, upto=lane.sent_seq, limit=-1):
            lane.acked.open(entry.seq)
            if entry.seq > lane.received.value:
                lane.received.open(entry.seq)
            if entry.seq not in lane.acked:
                lane.again.append(entry)
        return lane

    def unnumbered(self, limit: int) -> list[Entry]:
        """Return the oldest committed entries that wait for a number; in place of it they have 0."""
        with translated():
            rows = self._connection.execute(_UNNUMBERED, {"limit": limit}).all()
        return [_entry(*row) for row in rows]

    def read(self, topic: str, *, after: int, upto: int, limit: int) -> list[Entry]:
        """Return entries of a topic that are to be sent, by number; a negative limit is none."""
        arguments = {
            "topic": topic,
            "after": after,
            "upto": upto,
            "limit": limit if limit >= 0 else 2**31,
        }
        with translated():
            # As plain tuples, in the order of an entry's fields: a drain reads nothing else.
            rows = self._connection.execute(_READ, arguments).all()
        return [_entry(*row) for row in rows]

    def rows(self, statement: Any, arguments: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Return the rows that a statement selects."""
        with translated():
            return self._connection.execute(statement, arguments).all()

    def ids(self, statement: Any, arguments: Mapping[str, Any]) -> list[int]:
        """Return the ids that a statement selects."""
        with translated():
            return list(self._connection.execute(statement, arguments).scalars())

    def mappings(self, statement: Any, arguments: Mapping[str, Any]) -> Sequence[RowMapping]:
        """Return the rows that a statement selects, by column name."""
        with translated():
            return self._connection.execute(statement, arguments).mappings().all()

    @property
    def connection(self) -> Connection:
        """The owner's connection, for reading."""
        return self._connection

    @staticmethod
    def entries(rows: Iterable[RowMapping]) -> list[Entry]:
        """Return the entries in rows of the change log."""
        return [_entry(*(row[name] for name in Entry._fields)) for row in rows]

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Run one fenced write transaction.

        :raises OwnershipLostError: another process has taken over; nothing was written.
        :raises LogUnavailableError: the database refused; nothing was written, memory must be reloaded.
        """
        # The row lock keeps a takeover waiting until this turn has ended; SQLite has but one writer.
        fence = _FENCE + (" FOR UPDATE" if self._connection.dialect.name != "sqlite" else "")
        with transaction(self._connection) as connection:
            self.locked_at = time.monotonic()
            if connection.exec_driver_sql(fence).scalar() != self.generation:
                raise OwnershipLostError
            yield Turn(self, connection)
        self.turns += 1
        self.commits += 1

    def tidy(self) -> None:
        """Keep SQLite's write-ahead log short; to be called between turns."""
        if self.commits < TIDY_EVERY:
            return
        self.commits = 0
        try:
            shorten_wal(self._connection, most=WAL_PAGES)
        except LogUnavailableError as error:
            # Commits may still succeed, as long as there is room in the write-ahead log.
            logger.warning("[MQTT Reliable Sync] %s; the write-ahead log stays", error)

    def begin_epoch(self) -> None:
        """Begin a new epoch: this database was restored from a backup and its numbers were given before.

        What is not delivered goes out under the new epoch; the broker's half of the session is told to go.
        """
        epoch = str(uuid.uuid4())
        with self.turn() as turn:
            turn.execute(_NEW_EPOCH, {"epoch": epoch})
            turn.execute(_PLAN_AGAIN)
            for lane in self.lanes.values():
                wanted = {"topic": lane.topic, "after": lane.sent_seq}
                first = (
                    lane.again[0].id
                    if lane.again
                    else turn.connection.execute(_FIRST_UNSENT, wanted).scalar()
                )
                if first is None:
                    lane.head_seq = 0
                else:
                    turn.execute(_BEGIN_CHAIN, {"id": first})
                lane.dirty = True
            turn.save_lanes()
        self.epoch = epoch
        self.clean_start = True
        self.reload()

    def stand_down(self) -> None:
        """Note that nobody owns the session any more."""
        with self.turn() as turn:
            turn.execute(_STAND_DOWN)


class Turn:
    """One write transaction of the owner; made by `ChangeLog.turn`."""

    def __init__(self, log: ChangeLog, connection: Connection) -> None:
        self._log = log
        self.connection = connection

    def execute(self, statement: Any, arguments: Any = None) -> None:
        """Run a statement of this module."""
        self.connection.execute(statement, arguments)

    def number(self, unnumbered: Sequence[Entry]) -> list[Entry]:
        """Give the next numbers to committed entries and return these."""
        entries = []
        for waiting in unnumbered:
            lane = self._log.lanes.get(waiting.topic)
            if lane is None:
                lane = Lane(waiting.topic, 0, 0, Watermark(0), Watermark(0), 0)
                self._log.lanes[lane.topic] = lane
            self._log.head_seq += 1
            entries.append(waiting._replace(seq=self._log.head_seq, previous_seq=lane.head_seq))
            lane.head_seq = self._log.head_seq
            lane.depth += 1
            lane.dirty = True
        if entries:
            self.execute(
                _NUMBER,
                [{"id": e.id, "seq": e.seq, "previous_seq": e.previous_seq} for e in entries],
            )
            self.execute(_SAVE_HEAD, {"head_seq": self._log.head_seq})
            self._log.commits += len(entries)
        return entries

    def relieve(self, overflow: Overflow, added: Sequence[Entry]) -> list[GivenUp]:
        """Bring the queue back within its bound after `added` were numbered."""
        if overflow.excess(self._log.lanes) <= 0:
            return []
        self.save_lanes()  # the search joins them
        return overflow.relieve(self.connection, self._log.lanes, added)

    def settle(self, entry_id: int, outcome: str, reason: str) -> None:
        """Give an entry another outcome than delivery."""
        self.execute(_SETTLE, {"id": entry_id, "outcome": outcome, "reason": reason})

    def save_lanes(self) -> None:
        """Journal the lanes that have changed."""
        dirty = [lane for lane in self._log.lanes.values() if lane.dirty]
        if not dirty:
            return
        self.execute(
            _SAVE_LANE,
            [
                {
                    "topic": lane.topic,
                    "head_seq": lane.head_seq,
                    "sent_seq": lane.sent_seq,
                    "received_seq": lane.received.value,
                    "acked_seq": lane.acked.value,
                    "received_above": json.dumps(lane.received.above),
                    "acked_above": json.dumps(lane.acked.above),
                    "depth": lane.depth,
                    "acked_at": lane.acked_at,
                }
                for lane in dirty
            ],
        )
        for lane in dirty:
            lane.dirty = False

    def count(self, amounts: Mapping[CounterKey, int]) -> None:
        """Add to counters."""
        add_to_counters(self.connection, amounts)

    def connection_changed(
        self, connected: bool, *, protocol: str | None, attempts: int, reason: str | None
    ) -> None:
        """Note that the session with the broker began or ended.

        :param reason: why it ended.
        """
        arguments = {
            "connected": connected,
            "now": now_ms(),
            "protocol": protocol,
            "attempts": attempts,
            "reason": reason,
        }
        self.execute(_CONNECTED, arguments)

    def attempts(self, attempts: int, reason: str | None) -> None:
        """Note how many connection attempts have failed in a row, and why the last one did."""
        self.execute(_ATTEMPTS, {"attempts": attempts, "reason": reason})


def _entry(
    entry_id: int,
    seq: int,
    previous_seq: int,
    message_id: str,
    topic: str,
    qos: int,
    entity: str,
    operation: str,
    row_id: str,
    version: int,
    committed_at: int,
    data: bytes,
) -> Entry:
    return Entry(
        entry_id,
        seq,
        previous_seq,
        message_id,
        topic,
        qos,
        entity,
        _OPERATIONS[operation],
        row_id,
        version,
        committed_at,
        bytes(data),
    )
