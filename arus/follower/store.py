"""What a follower keeps in its database: vessels, positions, versions of rows, what waits, what was refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, text

from arus.message import now_ms

from .inbound import Change, Followed
from .position import Need, Position, Ranges, Request, Run, VesselState

#: Refused messages kept for people to see: the newest of them, each up to so many bytes.
MAX_PARKED = 1000
MAX_PARKED_BYTES = 65_536
#: Ids in one query.
_CHUNK = 500

_VESSELS = text(
    "SELECT vessel_id, epoch, past_epochs, seq, above, head_seq, online, pending, heard_at, changed_at,"
    " audit FROM arus_vessel ORDER BY vessel_id"
)
_POSITIONS = text(
    "SELECT vessel_id, topic, seq, proven_seq, beyond, need, buckets, request, run, mark"
    " FROM arus_position"
)
_SAVE_VESSEL = text(
    "INSERT INTO arus_vessel (vessel_id, epoch, past_epochs, seq, above, head_seq, online, pending,"
    " heard_at, changed_at, audit) VALUES (:vessel_id, :epoch, :past_epochs, :seq, :above, :head_seq,"
    " :online, :pending, :heard_at, :changed_at, :audit) ON CONFLICT (vessel_id) DO UPDATE SET"
    " epoch = excluded.epoch, past_epochs = excluded.past_epochs, seq = excluded.seq,"
    " above = excluded.above, head_seq = excluded.head_seq, online = excluded.online,"
    " pending = excluded.pending, heard_at = excluded.heard_at, changed_at = excluded.changed_at,"
    " audit = excluded.audit"
)
_SAVE_POSITION = text(
    "INSERT INTO arus_position (vessel_id, topic, seq, proven_seq, beyond, need, buckets, request, run,"
    " mark) VALUES (:vessel_id, :topic, :seq, :proven_seq, :beyond, :need, :buckets, :request, :run,"
    " :mark) ON CONFLICT (vessel_id, topic) DO UPDATE SET seq = excluded.seq,"
    " proven_seq = excluded.proven_seq, beyond = excluded.beyond, need = excluded.need,"
    " buckets = excluded.buckets, request = excluded.request, run = excluded.run, mark = excluded.mark"
)
_ROWS = text(
    "SELECT row_id, version, seq, deleted, hash, bucket, mark FROM arus_row"
    " WHERE vessel_id = :vessel_id AND entity = :entity AND row_id IN :row_ids"
).bindparams(bindparam("row_ids", expanding=True))
_CLAIMED = text(
    "SELECT vessel_id, row_id, version, seq, deleted, hash, bucket, mark, owner FROM arus_row"
    " WHERE entity = :entity AND row_id IN :row_ids ORDER BY deleted, vessel_id"
).bindparams(bindparam("row_ids", expanding=True))
_SAVE_ROW = text(
    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, deleted, hash, bucket, mark, owner)"
    " VALUES (:vessel_id, :entity, :row_id, :version, :seq, :deleted, :hash, :bucket, :mark, :owner)"
    " ON CONFLICT (vessel_id, entity, row_id) DO UPDATE SET version = excluded.version,"
    " seq = excluded.seq, deleted = excluded.deleted, hash = excluded.hash, bucket = excluded.bucket,"
    " mark = excluded.mark, owner = excluded.owner"
)
_UNSEEN = (
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted"
    " AND seq <= :high_seq AND mark <> :mark AND row_id > :after"
)
_ORDER = " ORDER BY row_id LIMIT 1000"
_BURY = text(
    "UPDATE arus_row SET deleted = true, hash = ''"
    " WHERE vessel_id = :vessel_id AND entity = :entity AND row_id IN :row_ids"
).bindparams(bindparam("row_ids", expanding=True))
_LET_GO = text(
    "DELETE FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity AND seq <= :high_seq"
    " AND mark <> :mark"
)
# Tombstones stay, in no version: a row that was this vessel's is no other vessel's in its next epoch either.
_FORGET_VERSIONS = text(
    "UPDATE arus_row SET version = 0, seq = 0 WHERE vessel_id = :vessel_id AND version > 0"
)
_FORGET_NUMBERS = text(
    "UPDATE arus_row SET seq = :seq WHERE vessel_id = :vessel_id AND entity = :entity AND seq > :seq"
)
_FORGET_HELD = text("DELETE FROM arus_held WHERE vessel_id = :vessel_id")
_HOLD = text(
    "INSERT INTO arus_held (vessel_id, entity, row_id, version, seq, operation, data, mark, reason,"
    " held_at) VALUES (:vessel_id, :entity, :row_id, :version, :seq, :operation, :data, :mark,"
    " :reason, :held_at) ON CONFLICT (vessel_id, entity, row_id) DO UPDATE SET"
    " version = excluded.version, seq = excluded.seq, operation = excluded.operation,"
    " data = excluded.data, mark = excluded.mark, reason = excluded.reason"
)
_HELD = text(
    "SELECT vessel_id, entity, row_id, version, seq, operation, data, mark FROM arus_held"
    " ORDER BY seq, vessel_id, entity, row_id LIMIT :limit OFFSET :offset"
)
_RELEASE = text(
    "DELETE FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity AND row_id = :row_id"
    " AND version <= :version"
)
_COUNT_HELD = text("SELECT count(*) FROM arus_held")
_PARK = text(
    "INSERT INTO arus_parked (topic, payload, topic_filter, reason, attempts, parked_at)"
    " VALUES (:topic, :payload, :topic_filter, :reason, 1, :parked_at)"
)
_TRIM_PARKED = text(
    "DELETE FROM arus_parked WHERE topic_filter = :topic_filter AND id <= (SELECT max(id) FROM"
    " (SELECT id FROM arus_parked WHERE topic_filter = :topic_filter"
    " ORDER BY id DESC LIMIT 1 OFFSET :most) AS beyond)"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a row."""

    version: int
    seq: int
    deleted: bool
    hash: str
    bucket: int
    mark: int
    #: The vessel that the row ashore belongs to, where that is another.
    owner: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the row is, or was, the vessel's own: it has told of it, and was the first to."""
        return not self.owner and self.version >= 0


@dataclass(frozen=True, slots=True)
class Held:
    """A change that the database did not take yet."""

    vessel_id: str
    entity: str
    row_id: str
    version: int
    seq: int
    operation: str
    data: dict[str, Any]
    mark: int


class Store:
    """The follower's tables.

    :param connection: of `arus.database.open_engine`.
    :param followed: the entities that are followed.
    """

    def __init__(self, connection: Connection, followed: Iterable[Followed]) -> None:
        #: The connection that all of this is done on.
        self.connection = connection
        self._followed = list(followed)

    def load(self) -> dict[str, VesselState]:
        """Return all vessels with their positions."""
        vessels = {
            row.vessel_id: VesselState(
                vessel_id=row.vessel_id,
                epoch=row.epoch,
                past=orjson.loads(row.past_epochs),
                seq=row.seq,
                above=Ranges(orjson.loads(row.above)),
                head=row.head_seq,
                online=_flag(row.online),
                pending=row.pending,
                heard_at=row.heard_at,
                changed_at=row.changed_at,
                audit=orjson.loads(row.audit) if row.audit else None,
            )
            for row in self.connection.execute(_VESSELS)
        }
        saved = {(row.vessel_id, row.topic): row for row in self.connection.execute(_POSITIONS)}
        for vessel in vessels.values():
            for followed in self._followed:
                row = saved.get((vessel.vessel_id, followed.topic))
                vessel.positions[followed.topic] = (
                    _new_position(followed) if row is None else _position(followed, row)
                )
        return vessels

    def new_vessel(self, vessel_id: str, epoch: str) -> VesselState:
        """Return a vessel that was never heard of before."""
        vessel = VesselState(vessel_id, epoch, heard_at=now_ms(), changed=True)
        for followed in self._followed:
            vessel.positions[followed.topic] = _new_position(followed)
        return vessel

    def save(self, vessel: VesselState) -> None:
        """Save a vessel and its positions."""
        self.connection.execute(
            _SAVE_VESSEL,
            {
                "vessel_id": vessel.vessel_id,
                "epoch": vessel.epoch,
                "past_epochs": _json(vessel.past),
                "seq": vessel.seq,
                "above": _json(list(vessel.above)),
                "head_seq": vessel.head,
                "online": vessel.online,
                "pending": vessel.pending,
                "heard_at": vessel.heard_at,
                "changed_at": vessel.changed_at,
                "audit": None if vessel.audit is None else _json(vessel.audit),
            },
        )
        self.connection.execute(
            _SAVE_POSITION,
            [
                {
                    "vessel_id": vessel.vessel_id,
                    "topic": position.topic,
                    "seq": position.seq,
                    "proven_seq": position.proven,
                    "beyond": _json(position.beyond),
                    "need": position.need.value,
                    "buckets": _json(position.buckets),
                    "request": _json(asdict(position.request)) if position.request else None,
                    "run": _json(asdict(position.run)) if position.run else None,
                    "mark": position.mark,
                }
                for position in vessel.positions.values()
            ],
        )

    def rows(
        self, vessel_id: str, entity: str, row_ids: Collection[str]
    ) -> Iterator[tuple[str, Known]]:
        """Yield what is known of some rows."""
        ids = list(row_ids)
        for start in range(0, len(ids), _CHUNK):
            wanted = {
                "vessel_id": vessel_id,
                "entity": entity,
                "row_ids": ids[start : start + _CHUNK],
            }
            for row in self.connection.execute(_ROWS, wanted):
                yield (
                    row.row_id,
                    Known(row.version, row.seq, bool(row.deleted), row.hash, row.bucket, row.mark),
                )

    def claims(self, entity: str, row_ids: Collection[str]) -> Iterator[tuple[str, str, Known]]:
        """Yield what all vessels say of some rows: vessel, row id, and what is known."""
        ids = list(row_ids)
        for start in range(0, len(ids), _CHUNK):
            wanted = {"entity": entity, "row_ids": ids[start : start + _CHUNK]}
            for row in self.connection.execute(_CLAIMED, wanted):
                known = Known(
                    row.version,
                    row.seq,
                    bool(row.deleted),
                    row.hash,
                    row.bucket,
                    row.mark,
                    row.owner,
                )
                yield row.vessel_id, row.row_id, known

    def save_rows(self, rows: Mapping[tuple[str, str, str], Known]) -> None:
        """Save what is known of some rows, by vessel, entity and row id."""
        if rows:
            self.connection.execute(
                _SAVE_ROW,
                [
                    {
                        "vessel_id": vessel_id,
                        "entity": entity,
                        "row_id": row_id,
                        "version": known.version,
                        "seq": known.seq,
                        "deleted": known.deleted,
                        "hash": known.hash,
                        "bucket": known.bucket,
                        "mark": known.mark,
                        "owner": known.owner,
                    }
                    for (vessel_id, entity, row_id), known in sorted(rows.items())
                ],
            )

    def unseen(
        self,
        vessel_id: str,
        entity: str,
        high_seq: int,
        mark: int,
        buckets: tuple[int, ...] | None,
    ) -> Iterator[list[str]]:
        """Yield the ids of rows that a snapshot did not bring, a thousand at a time."""
        wanted: dict[str, Any] = {
            "vessel_id": vessel_id,
            "entity": entity,
            "high_seq": high_seq,
            "mark": mark,
        }
        statement = text(_UNSEEN + _ORDER)
        if buckets is not None:
            statement = text(_UNSEEN + " AND bucket IN :buckets" + _ORDER).bindparams(
                bindparam("buckets", expanding=True)
            )
            wanted["buckets"] = list(buckets)
        after = ""
        while True:
            page = self.connection.execute(statement, {**wanted, "after": after}).scalars().all()
            if not page:
                return
            yield list(page)
            after = page[-1]

    def bury(self, vessel_id: str, entity: str, row_ids: Sequence[str]) -> None:
        """Note that rows are gone, without having heard of their deletion.

        Their version stays: should a vessel tell them again, they are news to a tombstone.
        """
        if row_ids:
            wanted = {"vessel_id": vessel_id, "entity": entity, "row_ids": list(row_ids)}
            self.connection.execute(_BURY, wanted)

    def let_go(self, vessel_id: str, entity: str, high_seq: int, mark: int) -> None:
        """Forget held changes of rows that a whole snapshot did not bring."""
        wanted = {"vessel_id": vessel_id, "entity": entity, "high_seq": high_seq, "mark": mark}
        self.connection.execute(_LET_GO, wanted)

    def forget_epoch(self, vessel_id: str) -> None:
        """Forget versions and held changes of an epoch that has ended; the rows stay, and whose they are."""
        for statement in (_FORGET_VERSIONS, _FORGET_HELD):
            self.connection.execute(statement, {"vessel_id": vessel_id})

    def forget_numbers(self, vessel_id: str, entity: str, seq: int) -> None:
        """Put rows that bear a number which the vessel has not given out down to the last one it has."""
        wanted = {"vessel_id": vessel_id, "entity": entity, "seq": seq}
        self.connection.execute(_FORGET_NUMBERS, wanted)

    def hold(self, change: Change, mark: int, reason: str) -> None:
        """Keep a change that the database does not take yet."""
        self.connection.execute(
            _HOLD,
            {
                "vessel_id": change.vessel_id,
                "entity": change.entity,
                "row_id": change.row_id,
                "version": change.version,
                "seq": change.seq,
                "operation": change.operation,
                "data": orjson.dumps(change.data),
                "mark": mark,
                "reason": reason,
                "held_at": now_ms(),
            },
        )

    def held(self, limit: int, offset: int = 0) -> list[Held]:
        """Return held changes, oldest first."""
        rows = self.connection.execute(_HELD, {"limit": limit, "offset": offset})
        return [
            Held(
                row.vessel_id,
                row.entity,
                row.row_id,
                row.version,
                row.seq,
                row.operation,
                orjson.loads(bytes(row.data)),
                row.mark,
            )
            for row in rows
        ]

    def release(self, versions: Mapping[tuple[str, str, str], int]) -> None:
        """Forget held changes of rows that have come to a version."""
        if versions:
            self.connection.execute(
                _RELEASE,
                [
                    {
                        "vessel_id": vessel_id,
                        "entity": entity,
                        "row_id": row_id,
                        "version": version,
                    }
                    for (vessel_id, entity, row_id), version in sorted(versions.items())
                ],
            )

    def count_held(self) -> int:
        """Return how many changes are held."""
        return int(self.connection.execute(_COUNT_HELD).scalar_one())

    def park(self, topic_filter: str, refused: Sequence[tuple[str, bytes, str]]) -> None:
        """Keep refused messages (topic, payload, reason) for a person; the newest of them only."""
        if not refused:
            return
        now = now_ms()
        self.connection.execute(
            _PARK,
            [
                {
                    "topic": topic,
                    "payload": payload[:MAX_PARKED_BYTES],
                    "topic_filter": topic_filter,
                    "reason": reason[:1000],
                    "parked_at": now,
                }
                for topic, payload, reason in refused[-MAX_PARKED:]
            ],
        )
        self.connection.execute(_TRIM_PARKED, {"topic_filter": topic_filter, "most": MAX_PARKED})

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is done within when it raises; the transaction goes on."""
        self.connection.exec_driver_sql("SAVEPOINT arus_follower")
        try:
            yield
        except BaseException:
            self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT arus_follower")
            self.connection.exec_driver_sql("RELEASE SAVEPOINT arus_follower")
            raise
        self.connection.exec_driver_sql("RELEASE SAVEPOINT arus_follower")


def _flag(value: Any) -> bool | None:
    # SQLite has numbers for it.
    return None if value is None else bool(value)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _new_position(followed: Followed) -> Position:
    return Position(followed.topic, followed.entity, need=Need.EVERYTHING)


def _position(followed: Followed, row: Any) -> Position:
    run = orjson.loads(row.run) if row.run else None
    if run is not None and run["buckets"] is not None:
        run["buckets"] = tuple(run["buckets"])
    return Position(
        topic=followed.topic,
        entity=followed.entity,
        seq=row.seq,
        proven=row.proven_seq,
        beyond=[(start, end) for start, end in orjson.loads(row.beyond)],
        need=Need(row.need),
        buckets=tuple(orjson.loads(row.buckets)),
        request=Request(**orjson.loads(row.request)) if row.request else None,
        run=Run(**run) if run else None,
        mark=row.mark,
    )
