"""Evicts changes from a full queue: older changes are removed, but the latest state of each row is still sent.

At the bound, changes that a newer change of the same row replaces are evicted first. When there are none left, the
oldest change is dropped, an alert or a delete only if nothing else is left; the current state of its row is sent by a
catch-up after the next connection (`arus.catchup.sender`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import Connection, Row

from arus.protocol.entries import ChangeState, Entry, Operation

from . import sql
from .topic_queue import TopicQueue

#: Replaced changes to search for at a time.
_BATCH = 1_000
#: Replaced changes superseded in one transaction of a sweep: a writer on board waits for it at most some milliseconds.
_SWEEP = 100
#: Reason of a dropped change while its row's state still has to be sent.
UNREPAIRED = "queue full"
#: Reason of a superseded change.
SUPERSEDED_BY = "a newer change"


class Evicted(Struct, frozen=True):
    """An evicted change."""

    message_id: str
    entity: str
    operation: Operation
    #: SUPERSEDED or DROPPED.
    outcome: ChangeState


class Eviction:
    """Keeps the queue within its bound. Lives as long as its owner.

    :param bound: undelivered changes kept (`MQTT_MAX_QUEUE_SIZE`).
    :param urgent: topics whose changes are dropped last.
    :param always: supersede changes whether the queue is full or not (`MQTT_SUPERSEDE=always`): those that are
        replaced as changes are numbered are no matter of this class (`arus.outbox.superseding`), only those of before.
    """

    def __init__(self, bound: int, urgent: frozenset[str], *, always: bool = False) -> None:
        self._bound = bound
        self._urgent = urgent
        self.always = always
        #: There may be replaced changes of a time when they were not superseded at once.
        self.sweep_due = always
        #: Changes known to be replaced, oldest first.
        self._replaced: deque[Row[tuple[object, ...]]] = deque()
        #: All waiting changes were searched for replaced ones; new changes are checked as they are numbered.
        self._searched = False
        #: By topic: no ordinary change is left to drop up to this number.
        self._floors: dict[str, int] = {}

    def excess(self, topic_queues: dict[str, TopicQueue]) -> int:
        """Return by how many changes the queue exceeds its bound; zero or less if there is room."""
        excess = sum(topic_queue.depth for topic_queue in topic_queues.values()) - self._bound
        if excess <= 0:
            self._searched = False
            self._replaced.clear()
        return excess

    def is_full(self, depth: int) -> bool:
        """Whether a queue of `depth` has less than a tenth of its bound left."""
        return depth > self._bound * 0.9

    def relieve(
        self, connection: Connection, topic_queues: dict[str, TopicQueue], added: Sequence[Entry]
    ) -> list[Evicted]:
        """Evict as many waiting changes as exceed the bound, in the owner's transaction.

        :param added: the entries that this transaction has numbered.
        """
        excess = self.excess(topic_queues)
        if self.sweep_due:
            return []  # what is replaced goes first
        evicted = [] if self.always else self._supersede(connection, topic_queues, added, excess)
        if len(evicted) < excess:
            evicted += self._drop(connection, topic_queues, excess - len(evicted))
        return evicted

    # -- replaced changes ---------------------------------------------------------------------------

    def _supersede(
        self,
        connection: Connection,
        topic_queues: dict[str, TopicQueue],
        added: Sequence[Entry],
        excess: int,
    ) -> list[Evicted]:
        if self._searched:
            self._notice(connection, added)
        evicted: list[Evicted] = []
        while len(evicted) < excess:
            if not self._replaced:
                if self._searched:
                    break
                self._search(connection)
                continue
            row = self._replaced.popleft()
            if row.seq <= topic_queues[row.topic].sent_seq:
                continue  # it was sent meanwhile
            self._close_up(connection, row)
            evicted.append(
                self._give_up(connection, topic_queues, row, ChangeState.SUPERSEDED, SUPERSEDED_BY)
            )
        return evicted

    def sweep(self, connection: Connection, topic_queues: dict[str, TopicQueue]) -> list[Evicted]:
        """Supersede replaced changes, some at a time, until `sweep_due` is False; in the owner's transaction."""
        rows = connection.execute(sql.pruning.REPLACED, {"limit": _SWEEP}).all()
        evicted = []
        for row in rows:
            self._close_up(connection, row)
            evicted.append(
                self._give_up(connection, topic_queues, row, ChangeState.SUPERSEDED, SUPERSEDED_BY)
            )
        self.sweep_due = len(rows) == _SWEEP
        return evicted

    def _search(self, connection: Connection) -> None:
        """Search for replaced changes, once all known ones are evicted: one found twice would be counted twice."""
        rows = connection.execute(sql.pruning.REPLACED, {"limit": _BATCH}).all()
        self._replaced.extend(rows)
        self._searched = len(rows) < _BATCH

    def _notice(self, connection: Connection, added: Iterable[Entry]) -> None:
        """Check only the previous change of each new change's row: it replaces no other."""
        known = {row.id for row in self._replaced}
        for entry in added:
            wanted = {"entity": entry.entity, "row_id": entry.row_id, "id": entry.id}
            row = connection.execute(sql.pruning.REPLACED_BY, wanted).one_or_none()
            if row is not None and row.id not in known:
                known.add(row.id)
                self._replaced.append(row)

    def _close_up(self, connection: Connection, row: Row[tuple[object, ...]]) -> None:
        """Make the next change of the topic skip a superseded one, so that it is not a gap for receivers."""
        next_id = connection.execute(
            sql.pruning.NEXT, {"topic": row.topic, "seq": row.seq}
        ).scalar()
        previous = connection.execute(sql.pruning.PREVIOUS_SEQ, {"id": row.id}).scalar()
        connection.execute(sql.pruning.CLOSE_UP, {"id": next_id, "previous_seq": previous})

    # -- the oldest ---------------------------------------------------------------------------------

    def _drop(
        self, connection: Connection, topic_queues: dict[str, TopicQueue], count: int
    ) -> list[Evicted]:
        ordinary = {
            t: topic_queue for t, topic_queue in topic_queues.items() if t not in self._urgent
        }
        rows = self._oldest(connection, ordinary, count, keep_deletes=True)
        if len(rows) < count:
            chosen = {row.id for row in rows}
            rest = self._oldest(connection, topic_queues, count, keep_deletes=False)
            rows += [row for row in rest if row.id not in chosen][: count - len(rows)]
        return [
            self._give_up(connection, topic_queues, row, ChangeState.DROPPED, UNREPAIRED)
            for row in rows
        ]

    def _oldest(
        self,
        connection: Connection,
        topic_queues: dict[str, TopicQueue],
        count: int,
        *,
        keep_deletes: bool,
    ) -> list[Row[tuple[object, ...]]]:
        statement = sql.pruning.OLDEST_ORDINARY if keep_deletes else sql.pruning.OLDEST
        found: list[Row[tuple[object, ...]]] = []
        for topic, topic_queue in topic_queues.items():
            # The floor avoids scanning all changes dropped before, at each new change.
            floor = (
                max(topic_queue.sent_seq, self._floors.get(topic, 0))
                if keep_deletes
                else topic_queue.sent_seq
            )
            found += connection.execute(statement, {"topic": topic, "after": floor, "limit": count})
        found.sort(key=lambda row: row.seq)
        del found[count:]
        if keep_deletes:
            self._floors.update((row.topic, row.seq) for row in found)
        return found

    def _give_up(
        self,
        connection: Connection,
        topic_queues: dict[str, TopicQueue],
        row: Row[tuple[object, ...]],
        outcome: ChangeState,
        reason: str,
    ) -> Evicted:
        connection.execute(
            sql.entries.SETTLE, {"id": row.id, "outcome": outcome.value, "reason": reason}
        )
        topic_queues[row.topic].evicted()
        return Evicted(row.message_id, row.entity, Operation(row.operation), outcome)
