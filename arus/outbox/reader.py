"""Named reads of the log on its owner's connection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, RowMapping

from arus.database import translated
from arus.errors import RefusedMessageError
from arus.logs import get_logger
from arus.protocol.entries import ChangeState, Entry, Operation
from arus.protocol.frames import Dictionary
from arus.registry import Registration

from . import sql
from .brokers import KnownBroker, read_broker
from .compressed import Use, Uses
from .driver import DriverStatements
from .eviction import UNREPAIRED
from .snapshot import long_tables, unlogged_rows
from .sql.build import Statement
from .superseding import Replaced
from .tallies import LogTally
from .usage import read_used

logger = get_logger(__name__)

#: A lookup table: calling the enumeration takes ten times as long.
_OPERATIONS = {each.value: each for each in Operation}
#: Stands for no limit.
_NO_LIMIT = 2**31


class Reach(Struct, frozen=True):
    """How far the log reaches back."""

    #: The log holds all changes above this number.
    pruned_seq: int
    #: The log holds all changes since this time, in milliseconds since the epoch; 0 if it holds all changes,
    #: -1 until that was checked.
    complete_since: int


class LogRange(Struct, frozen=True):
    """The entries of an entity between two numbers."""

    topic: str
    entity: str
    #: The range begins after this number.
    after: int
    #: The last number of the range.
    high: int

    def arguments(self) -> dict[str, Any]:
        """Return it as parameters of a statement."""
        return {"topic": self.topic, "entity": self.entity, "after": self.after, "high": self.high}


class LogReader:
    """Reads the log for its owner. Not thread-safe.

    :param connection: the owner's; each read sees what was committed before it.
    :param with_actor: whether entries have their actor.
    """

    def __init__(self, connection: Connection, *, with_actor: bool = False) -> None:
        self._connection = connection
        self._driver = DriverStatements(connection)
        self._with_actor = with_actor
        self.tally = LogTally()

    # -- entries ----------------------------------------------------------------------------------

    def unnumbered(self, limit: int) -> list[Entry]:
        """Return the oldest committed entries without a number; they have 0 in its place."""
        return self._entries(sql.entries.UNNUMBERED, {"limit": limit})

    def read(self, topic: str, *, after: int, upto: int, limit: int) -> list[Entry]:
        """Return entries of a topic that are to be sent, ordered by number; a negative limit means no limit."""
        limit = limit if limit >= 0 else _NO_LIMIT
        arguments = {"topic": topic, "after": after, "upto": upto, "limit": limit}
        return self._entries(sql.entries.READ, arguments)

    def newest(self, limit: int, topic: str | None = None) -> list[Entry]:
        """Return the newest entries that were or are to be sent, newest first; those without a number have 0.

        :param topic: only of this topic.
        """
        if topic is None:
            return self._entries(sql.entries.NEWEST, {"limit": limit})
        return self._entries(sql.entries.NEWEST_OF_TOPIC, {"topic": topic, "limit": limit})

    def replaced(self, limit: int) -> list[Replaced]:
        """Return the waiting changes that the oldest entries without a number replace."""
        rows = self._rows(sql.pruning.REPLACED_BY_UNNUMBERED, {"limit": limit})
        return [Replaced._make(row) for row in rows]

    def items(self, span: LogRange, limit: int, *, deletes_only: bool = False) -> list[Entry]:
        """Return the entries of a range that a catch-up sends, ordered by number."""
        statement = sql.entries.DELETED_ITEMS if deletes_only else sql.entries.LOG_ITEMS
        return self._entries(statement, {**span.arguments(), "limit": limit})

    def count_items(self, span: LogRange, limit: int, *, deletes_only: bool = False) -> int:
        """Return how many entries of a range a catch-up sends, up to `limit`."""
        statement = sql.entries.DELETED_COUNT if deletes_only else sql.entries.LOG_COUNT
        begin, end, found = self.tally.count(
            span.topic, span.entity, span.after, span.high, deletes_only=deletes_only
        )
        # Before and behind what was counted.
        for after, high in ((span.after, begin), (end, span.high)):
            if after < high and found < limit:
                part = {**span.arguments(), "after": after, "high": high, "limit": limit - found}
                found += int(self._first(statement, part))
        return min(found, limit)

    def deleted_ids(self, span: LogRange) -> list[str]:
        """Return the ids of the rows whose deletion is in a range."""
        return self._scalars(sql.entries.DELETED_IDS, span.arguments())

    def repair_items(self, claimed: str, *, after: int, limit: int) -> list[Entry]:
        """Return the dropped entries that a repair has claimed, ordered by id."""
        wanted = {"claimed": claimed, "after": after, "limit": limit}
        return self._entries(sql.entries.REPAIR_ITEMS, wanted)

    def first_seq_since(self, topic: str, since: int) -> int | None:
        """Return the lowest number of the changes of a topic that were committed since a time.

        :param since: milliseconds since the epoch.
        """
        wanted = {"since": f"{max(since, 0):013d}", "topic": topic}
        found: int | None = self._first(sql.entries.SEQ_SINCE, wanted)
        return found

    def reach(self) -> Reach:
        """Return how far the log reaches back."""
        (row,) = self._rows(sql.session.REACH, {})
        return Reach(row.pruned_seq, row.complete_since)

    def has_unlogged_rows(self, registrations: Iterable[Registration]) -> bool:
        """Whether a table holds a row without an entry in the log: the row is older than the log."""
        with translated():
            return unlogged_rows(self._connection, registrations)

    def long_tables(
        self, registrations: Iterable[Registration], most: int
    ) -> Sequence[Registration]:
        """Return those whose table has more than so many rows."""
        with translated():
            return long_tables(self._connection, registrations, most)

    # -- for retention ----------------------------------------------------------------------------

    def expired(self, topic: str, *, acked_seq: int, before: int, limit: int) -> list[int]:
        """Return the ids of delivered entries of a topic that were committed before a time."""
        wanted = {"topic": topic, "acked_seq": acked_seq, "before": before, "limit": limit}
        return self._scalars(sql.pruning.EXPIRED, wanted)

    def evicted(self, outcome: ChangeState, *, after: int, limit: int) -> Sequence[Row[Any]]:
        """Return superseded or dropped entries, ordered by id, and whether a later entry of its row covers each."""
        wanted = {"outcome": outcome.value, "after": after, "limit": limit}
        return self._rows(sql.pruning.EVICTED, wanted)

    def quarantined_beyond(self, bound: int, limit: int) -> list[int]:
        """Return the ids of quarantined entries that are older than the newest `bound`."""
        return self._scalars(sql.pruning.QUARANTINED_BEYOND, {"bound": bound, "limit": limit})

    def expired_catchups(self, *, before: int, limit: int) -> list[int]:
        """Return the ids of complete catch-ups that were requested before a time."""
        return self._scalars(sql.catchups.EXPIRED, {"before": before, "limit": limit})

    # -- other tables -----------------------------------------------------------------------------

    def unfinished_runs(self, *, digest: str) -> Sequence[Row[Any]]:
        """Return the runs that are not finished, oldest first: id, requester, consumer, entity, origin.

        :param digest: the placeholder that a request for a digest has in place of an entity.
        """
        return self._rows(sql.catchups.UNFINISHED, {"digest": digest})

    def earlier_runs(self) -> Sequence[Row[Any]]:
        """Return what the recorded runs have sent, oldest first: requester, entity, total, published, finished_at."""
        return self._rows(sql.catchups.EARLIER, {})

    def catchup_run(self, run_id: int) -> RowMapping | None:
        """Return what is saved of a run; None if it is finished."""
        with translated():
            found = self._connection.execute(sql.catchups.RUN, {"id": run_id})
            return found.mappings().one_or_none()

    def repairs(self) -> dict[str, int]:
        """Return the topics with dropped changes whose rows are still to be sent, and the number before the first."""
        found: dict[str, int] = {}
        first = [
            (row.topic, start)
            for row in self._rows(sql.catchups.REPAIRS, {})
            for start, _ in json.loads(row.covers or "[]")[:1]
        ]
        dropped = self._rows(sql.entries.DROPPED_FROM, {"unrepaired": UNREPAIRED})
        for topic, since in (*first, *((row.topic, row.since or 0) for row in dropped)):
            found[topic] = min(since, found.get(topic, since))
        return found

    def digest_requests(self, entity: str, *, after: int) -> list[int]:
        """Return the ids of queued requests for a digest.

        :param entity: the placeholder that they have in place of an entity.
        """
        return self._scalars(sql.catchups.DIGEST_REQUESTS, {"all": entity, "after": after})

    def subscriptions(self) -> dict[str, int]:
        """Return the filters that the broker's half of the session holds, with their QoS."""
        return {row.topic_filter: row.qos for row in self._rows(sql.inbound.SUBSCRIPTIONS, {})}

    def dictionaries(self) -> list[tuple[Row[Any], Dictionary | None]]:
        """Return what is saved of the vessel's dictionaries, oldest first, each with the dictionary unless it is damaged."""
        return [(row, _dictionary(row)) for row in self._rows(sql.dictionaries.ALL, {})]

    def uses(self) -> Uses:
        """Return how the changes of each topic were sent."""
        rows = self._rows(sql.dictionaries.USES, {})
        return Uses(Use(row.topic, row.from_seq, row.dictionary) for row in rows)

    def broker(self, address: str) -> KnownBroker:
        """Return what is known about a broker."""
        with translated():
            return read_broker(self._connection, address)

    def used(self, day: str) -> Counter[str]:
        """Return the bytes sent on a day, by kind."""
        with translated():
            return read_used(self._connection, day)

    def _rows(self, statement: Any, arguments: dict[str, Any]) -> Sequence[Row[Any]]:
        with translated():
            return self._connection.execute(statement, arguments).all()

    def _scalars(self, statement: Any, arguments: dict[str, Any]) -> list[Any]:
        with translated():
            return list(self._connection.execute(statement, arguments).scalars())

    def _first(self, statement: Any, arguments: dict[str, Any]) -> Any:
        with translated():
            return self._connection.execute(statement, arguments).scalar()

    def _entries(self, statement: Statement, arguments: dict[str, Any]) -> list[Entry]:
        with translated(self._connection):
            # Plain tuples in the order of an entry's fields, for speed: these reads dominate when a queue is flushed.
            rows = self._driver.rows(statement, arguments)
        if self._with_actor:
            return [_entry(*row) for row in rows]
        return [_entry(*row[:-1]) for row in rows]


def _dictionary(row: Row[Any]) -> Dictionary | None:
    try:
        return Dictionary(bytes(row.content))
    except RefusedMessageError as error:
        logger.warning("[MQTT Reliable Sync] dictionary %d is damaged: %s", row.id, error)
        return None


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
    actor: str | None = None,
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
        actor,
    )
