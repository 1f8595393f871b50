"""What gives way when the queue is full: history, never state.

At the bound, changes that a newer one of the same row replaces go first. When there are none left the oldest
is given up, an alert or a delete only when nothing else is left; the present state of its row is sent by
catch-up after the next connection (`arus.catchup`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from .lane import Lane
from .message import ChangeState, Entry, Operation

#: Replaced changes looked for at a time.
_BATCH = 1_000
#: Why a dropped change was dropped, while its row's state still has to be sent.
UNREPAIRED = "queue full"

_REPLACED = text(
    "SELECT c.id, c.topic, c.seq, c.previous_seq, c.message_id, c.entity, c.operation"
    # CROSS keeps SQLite from walking over all that was delivered, for the sake of ORDER BY.
    " FROM arus_lane l CROSS JOIN arus_change c"
    " WHERE c.topic = l.topic AND c.seq > l.sent_seq AND c.outcome IS NULL"
    " AND EXISTS (SELECT 1 FROM arus_change n WHERE n.entity = c.entity AND n.row_id = c.row_id"
    " AND n.id > c.id AND n.seq IS NOT NULL AND n.outcome IS NULL)"
    " ORDER BY c.id LIMIT :limit"
)
_REPLACED_BY = text(
    "SELECT c.id, c.topic, c.seq, c.previous_seq, c.message_id, c.entity, c.operation"
    " FROM arus_change c JOIN arus_lane l ON l.topic = c.topic AND c.seq > l.sent_seq"
    " WHERE c.outcome IS NULL AND c.entity = :entity AND c.row_id = :row_id AND c.id < :id"
    " ORDER BY c.id DESC LIMIT 1"
)
_OLDEST = (
    "SELECT c.id, c.topic, c.seq, c.previous_seq, c.message_id, c.entity, c.operation"
    " FROM arus_change c WHERE c.topic = :topic AND c.seq > :after AND c.outcome IS NULL{only}"
    " ORDER BY c.seq LIMIT :limit"
)
_OLDEST_ORDINARY = text(_OLDEST.format(only=" AND c.operation <> 'delete'"))
_OLDEST_OF_ALL = text(_OLDEST.format(only=""))
_GIVE_UP = text("UPDATE arus_change SET outcome = :outcome, reason = :reason WHERE id = :id")
_NEXT = text(
    "SELECT id FROM arus_change WHERE topic = :topic AND seq > :seq"
    " AND (outcome IS NULL OR outcome <> 'superseded') ORDER BY seq LIMIT 1"
)
_CLOSE_UP = text("UPDATE arus_change SET previous_seq = :previous_seq WHERE id = :id")
_PREVIOUS = text("SELECT previous_seq FROM arus_change WHERE id = :id")


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A change that gave way."""

    message_id: str
    entity: str
    operation: Operation
    #: SUPERSEDED or DROPPED.
    outcome: ChangeState


class Overflow:
    """Keeps the queue within its bound. Lives as long as its owner.

    :param bound: undelivered changes kept (`MQTT_MAX_QUEUE_SIZE`).
    :param urgent: topics whose changes are dropped last.
    """

    def __init__(self, bound: int, urgent: frozenset[str]) -> None:
        self._bound = bound
        self._urgent = urgent
        #: Changes known to be replaced, oldest first.
        self._replaced: deque[Row[tuple[object, ...]]] = deque()
        #: Everything waiting has been searched for replaced changes; new ones are looked at as they come.
        self._searched = False
        #: By topic: up to here nothing ordinary is left to drop.
        self._floors: dict[str, int] = {}

    def excess(self, lanes: dict[str, Lane]) -> int:
        """Return how many changes are too many; zero or less when there is room."""
        excess = sum(lane.depth for lane in lanes.values()) - self._bound
        if excess <= 0:
            self._searched = False
            self._replaced.clear()
        return excess

    def is_full(self, depth: int) -> bool:
        """Whether a queue of `depth` has less than a tenth of its bound left."""
        return depth > self._bound * 0.9

    def relieve(
        self, connection: Connection, lanes: dict[str, Lane], added: Sequence[Entry]
    ) -> list[GivenUp]:
        """Give up as many waiting changes as are too many, in the owner's transaction.

        :param added: what this transaction has numbered.
        """
        excess = self.excess(lanes)
        given_up = self._supersede(connection, lanes, added, excess)
        if len(given_up) < excess:
            given_up += self._drop(connection, lanes, excess - len(given_up))
        return given_up

    # -- replaced changes ---------------------------------------------------------------------------

    def _supersede(
        self, connection: Connection, lanes: dict[str, Lane], added: Sequence[Entry], excess: int
    ) -> list[GivenUp]:
        if self._searched:
            self._notice(connection, added)
        given_up: list[GivenUp] = []
        while len(given_up) < excess:
            if not self._replaced:
                if self._searched:
                    break
                self._search(connection)
                continue
            row = self._replaced.popleft()
            if row.seq <= lanes[row.topic].sent_seq:
                continue  # it was sent meanwhile
            self._close_up(connection, row)
            given_up.append(
                self._give_up(connection, lanes, row, ChangeState.SUPERSEDED, "a newer change")
            )
        return given_up

    def _search(self, connection: Connection) -> None:
        """Find replaced changes anew, once all that were known are given up: found twice, one would count twice."""
        rows = connection.execute(_REPLACED, {"limit": _BATCH}).all()
        self._replaced.extend(rows)
        self._searched = len(rows) < _BATCH

    def _notice(self, connection: Connection, added: Iterable[Entry]) -> None:
        """Each new change replaces at most the one before it of its row: look at that alone."""
        known = {row.id for row in self._replaced}
        for entry in added:
            wanted = {"entity": entry.entity, "row_id": entry.row_id, "id": entry.id}
            row = connection.execute(_REPLACED_BY, wanted).one_or_none()
            if row is not None and row.id not in known:
                known.add(row.id)
                self._replaced.append(row)

    def _close_up(self, connection: Connection, row: Row[tuple[object, ...]]) -> None:
        """Let the next change of the topic point past a superseded one: it is no gap for a receiver."""
        next_id = connection.execute(_NEXT, {"topic": row.topic, "seq": row.seq}).scalar()
        previous = connection.execute(_PREVIOUS, {"id": row.id}).scalar()
        connection.execute(_CLOSE_UP, {"id": next_id, "previous_seq": previous})

    # -- the oldest ---------------------------------------------------------------------------------

    def _drop(self, connection: Connection, lanes: dict[str, Lane], count: int) -> list[GivenUp]:
        ordinary = {t: lane for t, lane in lanes.items() if t not in self._urgent}
        rows = self._oldest(connection, ordinary, count, keep_deletes=True)
        if len(rows) < count:
            chosen = {row.id for row in rows}
            rest = self._oldest(connection, lanes, count, keep_deletes=False)
            rows += [row for row in rest if row.id not in chosen][: count - len(rows)]
        return [
            self._give_up(connection, lanes, row, ChangeState.DROPPED, UNREPAIRED) for row in rows
        ]

    def _oldest(
        self, connection: Connection, lanes: dict[str, Lane], count: int, *, keep_deletes: bool
    ) -> list[Row[tuple[object, ...]]]:
        statement = _OLDEST_ORDINARY if keep_deletes else _OLDEST_OF_ALL
        found: list[Row[tuple[object, ...]]] = []
        for topic, lane in lanes.items():
            # The floor spares a walk over all that was dropped before, at each new change.
            floor = (
                max(lane.sent_seq, self._floors.get(topic, 0)) if keep_deletes else lane.sent_seq
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
        lanes: dict[str, Lane],
        row: Row[tuple[object, ...]],
        outcome: ChangeState,
        reason: str,
    ) -> GivenUp:
        connection.execute(_GIVE_UP, {"id": row.id, "outcome": outcome.value, "reason": reason})
        lane = lanes[row.topic]
        lane.depth -= 1
        lane.dirty = True
        # What was read ahead may hold it, or a previous_seq that is no longer so.
        lane.ahead.clear()
        lane.scanned = 0
        return GivenUp(row.message_id, row.entity, Operation(row.operation), outcome)
