"""Catch-ups: what a receiver has missed, sent beside the live changes.

A catch-up is a row of `arus_catchup` for each entity. When the relay comes to it, it is planned: from the log
where that reaches back to where the receiver stands, else from the table (`arus.snapshot`). It is expanded a
chunk at a time as the link has room, and goes on after any crash behind the last chunk that was acknowledged.
Its messages are QoS 1 and not retained; a receiver applies an item only where its version is newer, so a
repeated one does no harm.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Engine, text

from .digest import bucket_of
from .errors import CatchupError
from .message import Entry, encode_catchup, iso, now_ms
from .overflow import UNREPAIRED
from .registry import Registry, mere_row
from .requests import DIGEST_OF_ALL
from .snapshot import NO_LIMIT, Item, SnapshotReader, unlogged_rows
from .topics import CATCHUP

if TYPE_CHECKING:
    from .changelog import ChangeLog

logger = logging.getLogger(__name__)

#: Items of a run's first chunk, so that it begins at once, and of the later ones.
FIRST_CHUNK = 50
CHUNK = 400
#: Chunks on their way at a time: a far link is kept busy.
CHUNKS = 4

_UNREPAIRED_ENTITIES = text(
    "SELECT DISTINCT entity, topic FROM arus_change"
    " WHERE outcome = 'dropped' AND reason = :unrepaired"
)
# The last change of a row holds its present state. Where that one was not dropped it will be, or was,
# delivered itself. One that a person discarded tells receivers nothing.
_CLAIM = text(
    "UPDATE arus_change SET reason = :claimed WHERE outcome = 'dropped' AND reason = :unrepaired"
    " AND entity = :entity AND NOT EXISTS (SELECT 1 FROM arus_change n"
    " WHERE n.entity = arus_change.entity AND n.row_id = arus_change.row_id"
    " AND n.id > arus_change.id AND (n.outcome IS NULL"
    " OR (n.outcome = 'dropped' AND n.reason NOT LIKE 'discarded%')))"
)
_COVERED = text(
    "UPDATE arus_change SET reason = 'queue full; a newer change tells the state'"
    " WHERE outcome = 'dropped' AND reason = :unrepaired AND entity = :entity"
)
_QUEUE_REPAIR = text(
    "INSERT INTO arus_catchup"
    " (catchup_id, origin, entity, topic, status, mode, high_seq, total, created_at)"
    " VALUES (:catchup_id, 'repair', :entity, :topic, 'queued', 'repair', :high_seq, :total, :now)"
)
_NEXT = text(
    "SELECT id, catchup_id, request_id, entity, topic, mode, since_at, since_seq, since_epoch, cursor,"
    " item_limit, buckets, wants_snapshot, position, high_seq, total, published, digest"
    " FROM arus_catchup WHERE status IN ('queued', 'running') AND id > :after ORDER BY id LIMIT 1"
)
_COLUMNS = (
    "id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " committed_at, data"
)
_REPAIR_ITEMS = text(
    f"SELECT {_COLUMNS} FROM arus_change"  # noqa: S608  # a constant of this module
    " WHERE outcome = 'dropped' AND id > :after AND reason = :claimed ORDER BY id LIMIT :limit"
)
# What was discarded, or waits for a person, tells receivers nothing; what a newer change replaced, nothing more.
_LOG_RANGE = (
    " FROM arus_change WHERE topic = :topic AND seq > :after AND seq <= :high AND entity = :entity"
    " AND (outcome IS NULL OR (outcome = 'dropped' AND reason NOT LIKE 'discarded%'))"
)
_LOG_ITEMS = text(f"SELECT {_COLUMNS}{_LOG_RANGE} ORDER BY seq LIMIT :limit")
# Counted only as far as anybody asked: to count a long log takes longer than to begin.
_LOG_COUNT = text(
    f"SELECT COUNT(*) FROM (SELECT 1{_LOG_RANGE} LIMIT :limit) AS found"  # noqa: S608  # as above
)
_DELETED_RANGE = f"{_LOG_RANGE} AND operation = 'delete'"
_DELETED_ITEMS = text(f"SELECT {_COLUMNS}{_DELETED_RANGE} ORDER BY seq LIMIT :limit")
_DELETED_IDS = text(f"SELECT row_id{_DELETED_RANGE}")
# A message id begins with the milliseconds of its commit, in as many digits until the year 2286. The lowest
# number of all that are so young: where the clock was set back, a younger one has an older time.
_SEQ_SINCE = text(
    "SELECT MIN(seq) FROM arus_change WHERE message_id >= :since AND topic = :topic AND seq IS NOT NULL"
)
_REACH = text("SELECT pruned_seq, complete_since FROM arus_session WHERE id = 1")
_PLAN = text(
    "UPDATE arus_catchup SET status = 'running', mode = :mode, since_seq = :since_seq,"
    " position = :position, high_seq = :high_seq, total = :total, published = 0, digest = ''"
    " WHERE id = :id"
)
_PROGRESS = text(
    "UPDATE arus_catchup SET status = :status, position = :position, published = :published,"
    " digest = :digest, next_cursor = :next_cursor, finished_at = :finished_at WHERE id = :id"
)
_FAIL = text(
    "UPDATE arus_catchup SET status = 'failed', reason = :reason, finished_at = :now WHERE id = :id"
)
_DIGESTS = text(
    "SELECT id FROM arus_catchup WHERE status = 'queued' AND entity = :all AND id > :after ORDER BY id"
)
_ASKED = text(
    "UPDATE arus_catchup SET status = 'complete', mode = 'digest', total = 0, finished_at = :now"
    " WHERE id = :id"
)
_REPAIRED = text(
    "UPDATE arus_change SET reason = 'queue full; repaired by catch-up'"
    " WHERE outcome = 'dropped' AND reason = :claimed"
)
_BEGAN = text("UPDATE arus_session SET complete_since = :since WHERE id = 1")


@dataclass(slots=True)
class Run:
    """One catch-up of one entity on its way, as far as it has been read or acknowledged."""

    id: int
    catchup_id: str
    request_id: str | None
    entity: str
    topic: str
    #: log, snapshot, repair or must_refetch; None until it is planned.
    mode: str | None
    since_at: int | None
    #: The receiver has everything up to here; once planned, what a log run begins behind.
    since_seq: int | None
    since_epoch: str | None
    cursor: str | None
    item_limit: int | None
    #: JSON list; None for all.
    buckets: str | None
    wants_snapshot: bool
    #: Behind the last item: `i<id>` of a repair, `s<seq>` of the log or of a snapshot's deletes, `k<key>` of
    #: a snapshot's rows; empty at the beginning.
    position: str
    high_seq: int
    total: int | None
    #: Items so far.
    published: int
    digest: str
    #: It was announced in this connection.
    begun: bool = False
    #: Nothing is behind the position.
    done: bool = False
    #: Where it would go on behind its limit.
    next_cursor: str | None = None

    @property
    def claimed(self) -> str:
        """What marks the items of a repair in the log."""
        return f"repair {self.catchup_id}"

    @property
    def wanted_buckets(self) -> list[int]:
        """The buckets asked for; empty for all."""
        return list(json.loads(self.buckets)) if self.buckets else []

    @property
    def is_open_ended(self) -> bool:
        """Whether it ends with its table, not at the number of items that was announced.

        Rows that came past the capture are in no log: they must push none out that receivers would then
        take for deleted.
        """
        return self.mode == "snapshot" and self.item_limit is None

    @property
    def is_complete(self) -> bool:
        """Whether all rows there are (in its buckets) come: what a receiver has beyond them may go."""
        return self.mode == "snapshot" and self.cursor is None


@dataclass(slots=True)
class Chunk:
    """A piece of a run on its way."""

    #: Messages that wait for room in the window: topic and payload.
    waiting: deque[tuple[str, bytes]]
    #: How far the run has come once all of it is acknowledged.
    after: Run
    #: Packet ids without an acknowledgement.
    outstanding: set[int] = field(default_factory=set)

    @property
    def is_settled(self) -> bool:
        """Whether all of it is acknowledged."""
        return not self.waiting and not self.outstanding


def plan_repairs(connection: Connection, *, head_seq: int) -> int:
    """Queue a catch-up for each entity of which changes were dropped; return how many.

    To be called in the owner's transaction.
    """
    entities = connection.execute(_UNREPAIRED_ENTITIES, {"unrepaired": UNREPAIRED}).all()
    for entity, topic in entities:
        catchup_id = str(uuid.uuid4())
        wanted = {"entity": entity, "unrepaired": UNREPAIRED, "claimed": f"repair {catchup_id}"}
        claimed = connection.execute(_CLAIM, wanted).rowcount
        connection.execute(_COVERED, {"entity": entity, "unrepaired": UNREPAIRED})
        if claimed:
            job = {"catchup_id": catchup_id, "entity": entity, "topic": topic, "total": claimed}
            connection.execute(_QUEUE_REPAIR, {**job, "high_seq": head_seq, "now": now_ms()})
    return len(entities)


class Catchups:
    """Expands queued catch-ups, one after the other. Lives in the relay's thread.

    :param engine: where tables are read, from `arus.database.open_engine`.
    :param context: what the models' schemas may need around them (an application context).
    """

    def __init__(
        self,
        log: ChangeLog,
        registry: Registry,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._log = log
        self._registry = registry
        self._engine = engine
        self._context = context
        #: The run that is being read, as far as it was read.
        self._run: Run | None = None
        self._reader: SnapshotReader | None = None
        #: All runs up to this one have been read.
        self._read_id = 0
        #: All requests for a digest up to this one have been taken.
        self._heard_id = 0
        #: Oldest first.
        self._chunks: deque[Chunk] = deque()
        #: What the next turn writes: plans and failures.
        self._notes: list[tuple[Any, dict[str, Any]]] = []
        #: The broker takes no catch-up in this connection.
        self._refused = False
        #: A catch-up may be waiting.
        self.look = True
        #: Bytes of payload that the broker takes; None where it does not say.
        self.maximum_payload: int | None = None
        #: Somebody asks for a digest of the tables.
        self.digest_wanted = False
        if log.rows(_REACH, {})[0].complete_since < 0:
            since = now_ms() if unlogged_rows(log.connection, registry) else 0
            with log.turn() as turn:
                turn.execute(_BEGAN, {"since": since})

    def forget(self) -> None:
        """Forget what is not journalled: the connection has ended."""
        self._run = None
        self._reader = None
        self._read_id = 0
        self._heard_id = 0
        self._chunks.clear()
        self._notes.clear()
        self._refused = False
        self.look = True

    @property
    def waiting(self) -> bool:
        """Whether messages wait for room in the window."""
        return bool(self._chunks) and bool(self._chunks[-1].waiting)

    @property
    def ready(self) -> bool:
        """Whether another chunk can be read."""
        if self._refused or self.waiting or len(self._chunks) >= CHUNKS:
            return False
        return self.look or self._run is not None

    @property
    def due(self) -> bool:
        """Whether something waits to be journalled."""
        return bool(self._notes) or (bool(self._chunks) and self._chunks[0].is_settled)

    # -- reading ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the next chunk; to be journalled, then sent as the window has room.

        Outside of any transaction of the owner's: the writers on board do not wait for it.
        """
        if self.look:
            self._hear_digests()
        run = self._run or self._begin_next()
        if run is None:
            return
        begins = not run.begun and run.published == 0
        total = run.total or 0
        limit = FIRST_CHUNK if begins else CHUNK
        if not run.is_open_ended:
            limit = min(limit, total - run.published)
        entries, position = self._read(run, limit)
        if not run.is_open_ended:
            # A row that was deleted meanwhile comes beyond the limit of a reading.
            entries = entries[: total - run.published]
        after = replace(run, begun=True, position=position or run.position)
        payloads = [self._begin_message(run)] if begins else []
        for sequence, entry in enumerate(entries, run.published):
            payloads.append(self._item(run, entry, sequence, total))
            after.digest = chain(after.digest, entry)
        after.published += len(entries)
        after.done = position is None or (after.published >= total and not run.is_open_ended)
        self._run = None if after.done else after
        if after.done:
            after.next_cursor = self._next_cursor(after, position)
            payloads.append(self._end_message(after))
            self._reader = None
            self.look = True
        topic = f"{CATCHUP}/{run.topic}"
        self._chunks.append(Chunk(deque((topic, payload) for payload in payloads), after))

    def _hear_digests(self) -> None:
        """Take the requests for a digest: they do not wait behind catch-ups that go on for hours."""
        wanted = {"after": self._heard_id, "all": DIGEST_OF_ALL}
        for row in self._log.rows(_DIGESTS, wanted):
            self.digest_wanted = True
            self._heard_id = row.id
            self._notes.append((_ASKED, {"id": row.id, "now": now_ms()}))

    def _begin_next(self) -> Run | None:
        rows = self._log.mappings(_NEXT, {"after": self._read_id})
        self.look = bool(rows)
        if not rows:
            return None
        run = Run(**rows[0])
        self._read_id = run.id
        if run.entity == DIGEST_OF_ALL:
            self._hear_digests()
            return None
        try:
            self._plan(run)
        except CatchupError as error:
            self._notes.append((_FAIL, {"id": run.id, "reason": str(error), "now": now_ms()}))
            logger.warning("[MQTT Reliable Sync] catch-up %s failed: %s", run.catchup_id, error)
            return None
        return run

    def _plan(self, run: Run) -> None:
        """Decide how a run is expanded, unless it was decided before it was interrupted."""
        registration = self._registry.of_entity(run.entity)
        if registration is None and run.mode != "repair":
            raise CatchupError(f"{run.entity} is not synchronised (any more)")
        if run.mode == "log" and not self._reaches_back(_number(run.position, run.since_seq or 0)):
            run.mode = None  # pruned while the link was away: what is left of it would have a hole
        if run.mode is None:
            self._decide(run)
        if run.mode == "snapshot" and registration is not None:
            self._reader = SnapshotReader(
                self._engine,
                self._context,
                registration,
                high_seq=run.high_seq,
                buckets=run.wanted_buckets,
            )
        if run.total is None:
            run.total = self._count(run)
            plan = {
                name: getattr(run, name)
                for name in ("id", "mode", "since_seq", "position", "high_seq", "total")
            }
            self._notes.append((_PLAN, plan))

    def _decide(self, run: Run) -> None:
        run.high_seq = self._log.head_seq
        run.total = None
        run.published = 0
        run.digest = ""
        run.position = ""
        epoch, since = run.since_epoch, run.since_seq
        if run.cursor is not None:
            mode, epoch, run.position = parse_cursor(run.cursor)
            since = _number(run.position, 0)
            if mode == "snapshot" and epoch == self._log.epoch:
                run.mode = "snapshot"
                return
        if epoch is not None and epoch != self._log.epoch:
            run.mode = "must_refetch"
            run.position = ""
            return
        if run.since_at is not None:
            since = self._seq_before(run)
        run.since_seq = since or 0
        in_log = since is not None or run.since_at is None
        in_log = in_log and not run.wants_snapshot and self._reaches_back(run.since_seq)
        run.mode = "log" if in_log else "snapshot"
        run.position = f"s{run.since_seq}" if in_log and run.cursor is not None else ""

    def _reaches_back(self, seq: int) -> bool:
        """Whether the log holds all that came after `seq`."""
        reach = self._log.rows(_REACH, {})[0]
        return seq >= reach.pruned_seq and (seq > 0 or reach.complete_since == 0)

    def _seq_before(self, run: Run) -> int | None:
        """Return the number before the first change since the time asked for; None where it is forgotten."""
        since = run.since_at or 0
        if since < self._log.rows(_REACH, {})[0].complete_since:
            return None
        wanted = {"since": f"{max(since, 0):013d}", "topic": run.topic}
        first = self._log.rows(_SEQ_SINCE, wanted)[0][0]
        return run.high_seq if first is None else min(first - 1, run.high_seq)

    def _count(self, run: Run) -> int:
        if run.mode == "must_refetch":
            return 0
        limit = NO_LIMIT if run.item_limit is None else run.item_limit
        if run.mode == "log":
            wanted = {**self._range(run), "limit": limit}
            return int(self._log.rows(_LOG_COUNT, wanted)[0][0])
        found = 0
        if self._reader is not None and not run.position.startswith("s"):
            found = self._reader.count(run.position[1:] or None, limit)
        if found < limit:
            rows = self._log.rows(_DELETED_IDS, self._range(run))
            found += sum(_in(run.wanted_buckets, row.row_id) for row in rows)
        return min(found, limit)

    def _range(self, run: Run) -> dict[str, Any]:
        after = _number(run.position, (run.since_seq or 0) if run.mode == "log" else 0)
        return {"topic": run.topic, "entity": run.entity, "after": after, "high": run.high_seq}

    def _read(self, run: Run, limit: int) -> tuple[list[Entry], str | None]:
        """Return the next items, and the position behind them; None where there are no more."""
        if run.mode == "must_refetch" or limit <= 0:
            return [], None
        if run.mode == "repair":
            wanted = {"after": _number(run.position, 0), "claimed": run.claimed, "limit": limit}
            entries = self._log.entries(self._log.mappings(_REPAIR_ITEMS, wanted))
            return entries, f"i{entries[-1].id}" if len(entries) == limit else None
        if run.mode == "log":
            return self._read_log(run, _LOG_ITEMS, limit)
        if run.position.startswith("s"):
            return self._read_log(run, _DELETED_ITEMS, limit)
        if self._reader is None:
            raise CatchupError(f"{run.entity} is not synchronised (any more)")
        items, position = self._reader.read(run.position[1:] or None, limit)
        entries = [self._entry(run, item) for item in items]
        # The rows are through: the deletes that the log still knows come next.
        return entries, "s0" if position is None else f"k{position}"

    def _read_log(self, run: Run, statement: Any, limit: int) -> tuple[list[Entry], str | None]:
        rows = self._log.mappings(statement, {**self._range(run), "limit": limit})
        position = f"s{rows[-1]['seq']}" if len(rows) == limit else None
        buckets = run.wanted_buckets
        wanted = [row for row in rows if _in(buckets, row["row_id"])]
        return self._log.entries(wanted), position

    def _entry(self, run: Run, item: Item) -> Entry:
        return Entry(
            id=0,
            seq=run.high_seq,
            previous_seq=0,
            message_id=f"{run.catchup_id[:8]}_{item.row_id}",
            topic=run.topic,
            qos=1,
            entity=run.entity,
            operation=item.operation,
            row_id=item.row_id,
            version=item.version,
            committed_at=item.committed_at,
            data=item.data,
        )

    # -- messages ---------------------------------------------------------------------------------

    def _item(self, run: Run, entry: Entry, sequence: int, total: int) -> bytes:
        """Return an item's message; of a row that the broker would hang up on, only that there is one."""

        def encoded(entry: Entry) -> bytes:
            return encode_catchup(
                entry,
                epoch=self._log.epoch,
                vessel_id=self._log.vessel_id,
                catchup_id=run.catchup_id,
                sequence=sequence,
                total=total,
            )

        payload = encoded(entry)
        if self.maximum_payload is None or len(payload) <= self.maximum_payload:
            return payload
        logger.error(
            "[MQTT Reliable Sync] %s %s is larger than the broker takes (%d bytes): the catch-up lacks it",
            entry.entity,
            entry.row_id,
            len(payload),
        )
        registration = self._registry.of_entity(entry.entity)
        return encoded(entry._replace(data=mere_row(registration, entry.row_id, entry.version)))

    def _begin_message(self, run: Run) -> bytes:
        return orjson.dumps(
            {
                "type": "catchup_begin",
                **self._head(run),
                "total": run.total,
                "sinceSeq": run.since_seq if run.mode == "log" else None,
                "complete": run.is_complete,
                "buckets": run.wanted_buckets or None,
            }
        )

    def _end_message(self, run: Run) -> bytes:
        return orjson.dumps(
            {
                "type": "catchup_end",
                **self._head(run),
                "total": run.published,
                "digest": run.digest,
                "next": run.next_cursor,
            }
        )

    def _head(self, run: Run) -> dict[str, Any]:
        return {
            "catchupId": run.catchup_id,
            "requestId": run.request_id,
            "vesselId": self._log.vessel_id,
            "entity": run.entity,
            "epoch": self._log.epoch,
            # A repair tells the state of some rows: nothing that a receiver need treat otherwise.
            "mode": "log" if run.mode == "repair" else run.mode,
            "highSeq": run.high_seq,
            "timestamp": iso(now_ms()),
        }

    def _next_cursor(self, run: Run, position: str | None) -> str | None:
        """Return where a run goes on that its limit has stopped, if there is more."""
        stopped = run.item_limit is not None and run.published >= run.item_limit
        if not stopped or position is None or not self._read(run, 1)[0]:
            return None
        return f"{run.mode}.{self._log.epoch}.{position}"

    # -- sending ----------------------------------------------------------------------------------

    def take(self) -> tuple[str, bytes] | None:
        """Return the next message to send; None where none waits. Its packet id goes to `sent`."""
        return self._chunks[-1].waiting.popleft() if self.waiting else None

    def sent(self, packet_id: int) -> None:
        """Note the packet id of the message that was taken last."""
        self._chunks[-1].outstanding.add(packet_id)

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """Take an acknowledgement of whatever message.

        A refusal ends the run for this connection: the rows' state is owed until the broker takes it.
        """
        chunk = next((chunk for chunk in self._chunks if packet_id in chunk.outstanding), None)
        if chunk is None:
            return
        if reason >= 0x80:
            logger.error(
                "[MQTT Reliable Sync] the broker refuses the catch-up topic (reason code 0x%02x);"
                " trying again with the next connection",
                reason,
            )
            self.forget()
            self._refused = True
            return
        chunk.outstanding.discard(packet_id)

    # -- journal ----------------------------------------------------------------------------------

    def journal(self, connection: Connection) -> list[Run]:
        """Write what was planned and how far the runs have come; return those that are complete."""
        for statement, arguments in self._notes:
            connection.execute(statement, arguments)
        self._notes.clear()
        finished = []
        while self._chunks and self._chunks[0].is_settled:
            run = self._chunks.popleft().after
            connection.execute(
                _PROGRESS,
                {
                    "id": run.id,
                    "status": "complete" if run.done else "running",
                    "position": run.position,
                    "published": run.published,
                    "digest": run.digest,
                    "next_cursor": run.next_cursor,
                    "finished_at": now_ms() if run.done else None,
                },
            )
            if run.done:
                connection.execute(_REPAIRED, {"claimed": run.claimed})
                finished.append(run)
        return finished


def parse_cursor(cursor: str) -> tuple[str, str, str]:
    """Return the mode, epoch and position in a cursor.

    :raises CatchupError: it is none of ours.
    """
    mode, _, rest = cursor.partition(".")
    epoch, _, position = rest.partition(".")
    if mode not in {"log", "snapshot"} or not epoch or position[:1] not in {"s", "k"}:
        raise CatchupError(f"{cursor!r} is no cursor of a catch-up")
    if position.startswith("s") and not position[1:].isdecimal():
        raise CatchupError(f"{cursor!r} is no cursor of a catch-up")
    return mode, epoch, position


def chain(digest: str, entry: Entry) -> str:
    """Return the digest of a sequence of items that ends with `entry`: SHA-256, hexadecimal, chained."""
    item = f"{digest}{entry.entity}/{entry.row_id}/{entry.version}/{entry.operation}"
    return hashlib.sha256(item.encode()).hexdigest()


def _number(position: str, otherwise: int) -> int:
    return int(position[1:]) if position[:1] in {"s", "i"} else otherwise


def _in(buckets: list[int], row_id: str) -> bool:
    return not buckets or bucket_of(row_id) in buckets
