"""A follower's state in its database: vessels, positions, records of rows, held changes, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, Row

from arus.database import chunks
from arus.outbox import sql as outbox_sql
from arus.protocol.encoding import encode
from arus.protocol.times import now_ms

from . import sql
from .claims import pass_on
from .held import HeldChanges
from .messages import Followed
from .outcome import DeadLetter
from .position import UNKNOWN_SWEPT, Need, Position, Request
from .ranges import Ranges
from .refusals import Refusals
from .runs import Run, Sweep
from .saved_values import flag, saved_verdict
from .sql.build import Some, execute_for
from .vessel_history import VesselHistory
from .vessels import VesselState

#: Maximum number of dead letters, and of those of one vessel (the newest are kept), and of bytes kept of each.
MAX_PARKED = 1000
MAX_PARKED_OF_VESSEL = 100
MAX_PARKED_BYTES = 65_536
#: Maximum number of events of a vessel that are kept: the latest.
MAX_EVENTS = 100


class Known(Struct, frozen=True):
    """The record of a row."""

    version: int
    seq: int
    deleted: bool
    hash: str
    bucket: int
    mark: int
    #: The vessel that owns the row ashore, if it is another one.
    owner: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the vessel owns or owned the row: it was the first to send it."""
        return not self.owner and self.version >= 0


class Unseen(NamedTuple):
    """Which rows a snapshot did not contain: those without its mark and without a change above its number."""

    high_seq: int
    mark: int
    #: Only rows of these buckets.
    buckets: list[int]


class Store:
    """The follower's tables.

    :param connection: of `arus.database.open_engine`.
    :param followed: the entities that are followed.
    :param vessels: ids of the vessels whose state is read; None for all.
    """

    def __init__(
        self, connection: Connection, followed: Iterable[Followed], vessels: Some = None
    ) -> None:
        #: The connection that all methods use.
        self.connection = connection
        #: Held changes and refused rows.
        self.held = HeldChanges(connection, vessels)
        self.refusals = Refusals(connection, vessels)
        self._vessels = vessels
        self._followed = list(followed)
        #: Vessels that have handed all their rows over, and to which vessel.
        self.retired: dict[str, str] = {}
        #: Positions as they were last saved, by vessel and topic: of most vessels only some change.
        self._saved: dict[tuple[str, str], dict[str, Any]] = {}

    def load(self) -> dict[str, VesselState]:
        """Return all vessels with their positions."""
        self.retired = {
            row.vessel_id: row.receiver for row in self.connection.execute(sql.hand_over.RETIRED)
        }
        vessels = {
            row.vessel_id: VesselState(
                vessel_id=row.vessel_id,
                epoch=row.epoch,
                past=orjson.loads(row.past_epochs),
                seq=row.seq,
                above=Ranges(orjson.loads(row.above)),
                head=row.head_seq,
                online=flag(row.online),
                pending=row.pending,
                heard_at=row.heard_at,
                changed_at=row.changed_at,
                audit=saved_verdict(row.audit),
                ahead_of=row.ahead_of,
                is_proven=bool(row.proven),
                history=VesselHistory(
                    row.online_since, row.spoke_at, row.behind_since, row.equal_at
                ),
            )
            for row in execute_for(
                self.connection, sql.store.VESSELS, sql.store.VESSELS_OF, self._vessels
            )
        }
        saved = {
            (row.vessel_id, row.topic): row
            for row in execute_for(
                self.connection, sql.store.POSITIONS, sql.store.POSITIONS_OF, self._vessels
            )
        }
        for vessel in vessels.values():
            for followed in self._followed:
                row = saved.get((vessel.vessel_id, followed.topic))
                vessel.positions[followed.topic] = (
                    _new_position(followed) if row is None else _position(followed, row)
                )
            for position in vessel.positions.values():
                if position.run is not None:
                    vessel.received(position, position.run)
        return vessels

    def new_vessel(self, vessel_id: str, epoch: str) -> VesselState:
        """Return the initial state of a new vessel."""
        vessel = VesselState(vessel_id, epoch, heard_at=now_ms(), changed=True)
        for followed in self._followed:
            vessel.positions[followed.topic] = _new_position(followed)
        return vessel

    def save(self, vessels: Iterable[VesselState]) -> None:
        """Save vessels and their positions."""
        saved, positions = [], []
        for vessel in vessels:
            saved.append(
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
                    "audit": None if vessel.audit is None else encode(vessel.audit).decode(),
                    "ahead_of": vessel.ahead_of,
                    "proven": vessel.is_proven,
                    "online_since": vessel.history.online_since,
                    "spoke_at": vessel.history.spoke_at,
                    "behind_since": vessel.history.behind_since,
                    "audited_at": None if vessel.audit is None else vessel.audit.at,
                    "equal_at": vessel.history.equal_at,
                }
            )
            if vessel.history.events:
                self._save_events(vessel)
            for position in vessel.positions.values():
                record = {
                    "vessel_id": vessel.vessel_id,
                    "topic": position.topic,
                    "seq": position.seq,
                    "proven_seq": position.proven,
                    "beyond": _json(position.beyond),
                    "need": position.need.value,
                    "buckets": _json(position.buckets),
                    "request": _json(position.request) if position.request else None,
                    "run": _json(position.run) if position.run else None,
                    "mark": position.mark,
                    "sweep": _json(position.sweep) if position.sweep else None,
                }
                key = (vessel.vessel_id, position.topic)
                if self._saved.get(key) != record:
                    self._saved[key] = record
                    positions.append(record)
        self._save_all(sql.store.save_vessels, saved)
        self._save_all(sql.store.save_positions, positions)

    def _save_events(self, vessel: VesselState) -> None:
        """Save a vessel's new events; only its latest ones are kept."""
        of = {"vessel_id": vessel.vessel_id}
        events = vessel.history.events[-MAX_EVENTS:]
        self.connection.execute(sql.store.ADD_EVENT, [{**of, **one._asdict()} for one in events])
        self.connection.execute(sql.store.TRIM_EVENTS, {**of, "most": MAX_EVENTS})
        vessel.history.events.clear()

    def _save_all(self, statement: Callable[[str], str], records: list[dict[str, Any]]) -> None:
        """Save records whose members are all columns of their table, in its order."""
        if not records:
            return
        dialect = self.connection.dialect.name
        if dialect == "sqlite":
            rows = [tuple(record.values()) for record in records]
            self.connection.exec_driver_sql(statement(dialect), rows)
        else:
            self.connection.exec_driver_sql(statement(dialect), (_json(records),))

    def rows(
        self, vessel_id: str, entity: str, row_ids: Collection[str]
    ) -> Iterator[tuple[str, Known]]:
        """Yield a vessel's records of some rows."""
        for ids in chunks(row_ids):
            wanted = {"vessel_id": vessel_id, "entity": entity, "row_ids": ids}
            for row in self.connection.execute(sql.store.ROWS, wanted):
                yield (
                    row.row_id,
                    Known(row.version, row.seq, bool(row.deleted), row.hash, row.bucket, row.mark),
                )

    def claims(self, entity: str, row_ids: Collection[str]) -> Iterator[tuple[str, str, Known]]:
        """Yield all vessels' records of some rows: vessel, row id, and record."""
        statement = sql.store.claimed(self.connection.dialect.name)
        for ids in chunks(row_ids):
            wanted = (entity, _json(ids))
            found = self.connection.exec_driver_sql(statement, wanted)
            for vessel_id, row_id, version, seq, deleted, content, bucket, mark, owner in found:
                known = Known(version, seq, bool(deleted), content, bucket, mark, owner)
                yield vessel_id, row_id, known

    def save_rows(self, rows: Mapping[tuple[str, str, str], Known]) -> None:
        """Save records of rows, by vessel, entity and row id."""
        records = [
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
        ]
        self._save_all(sql.store.save_rows, records)

    def unseen(self, vessel_id: str, entity: str, unseen: Unseen) -> Iterator[Sequence[Row[Any]]]:
        """Yield the records of rows that a snapshot did not contain, a thousand at a time."""
        wanted = _unseen(vessel_id, entity, unseen)
        after = ""
        while True:
            page = self.connection.execute(sql.store.UNSEEN, {**wanted, "after": after}).all()
            if not page:
                return
            yield page
            after = page[-1].row_id

    def count_unseen(self, vessel_id: str, entity: str, unseen: Unseen) -> int:
        """Return how many rows a snapshot did not contain."""
        wanted = _unseen(vessel_id, entity, unseen)
        return int(self.connection.execute(sql.store.COUNT_UNSEEN, wanted).scalar_one())

    def count_rows(self, vessel_id: str, entity: str) -> int:
        """Return how many rows of an entity a vessel has here."""
        wanted = {"vessel_id": vessel_id, "entity": entity}
        return int(self.connection.execute(sql.store.COUNT_ROWS, wanted).scalar_one())

    def bury(self, vessel_id: str, entity: str, row_ids: Sequence[str]) -> None:
        """Note that rows are deleted, without having received their deletion.

        Their version is kept: if a vessel sends them again, they are newer than the tombstone.
        """
        if row_ids:
            wanted = {"vessel_id": vessel_id, "entity": entity, "row_ids": list(row_ids)}
            self.connection.execute(sql.store.BURY, wanted)

    def has_rows(self, vessel_id: str) -> bool:
        """Whether rows of a vessel are recorded."""
        wanted = {"vessel_id": vessel_id}
        return self.connection.execute(sql.store.ANY_ROW, wanted).first() is not None

    def own_rows(self, vessel_id: str, entity: str) -> list[str]:
        """Return the ids of the rows that a vessel owns here."""
        wanted = {"vessel_id": vessel_id, "entity": entity}
        return list(self.connection.execute(sql.store.OWN_ROWS, wanted).scalars())

    def forget_vessel(self, vessel_id: str) -> None:
        """Delete the vessel, its positions, its records of rows, and what is known of its fields."""
        pass_on(self.connection, vessel_id)
        for statement in (
            sql.store.FORGET_ROWS,
            sql.store.FORGET_POSITIONS,
            sql.store.FORGET_EVENTS,
            sql.comparison.FORGET_COMPARED,
            sql.store.FORGET_VESSEL,
            sql.dictionaries.FORGET_VESSEL,
        ):
            self.connection.execute(statement, {"vessel_id": vessel_id})
        for followed in self._followed:
            self._saved.pop((vessel_id, followed.topic), None)

    def forget_epoch(self, vessel_id: str) -> None:
        """Reset versions and delete held and refused rows of an epoch that has ended; rows and owners are kept."""
        self.connection.execute(sql.store.FORGET_VERSIONS, {"vessel_id": vessel_id})
        self.held.forget(vessel_id)
        self.refusals.forget(vessel_id)

    def forget_numbers(self, vessel_id: str, entity: str, seq: int) -> None:
        """Lower the numbers of rows above `seq`, the last number that the vessel has assigned, to it."""
        wanted = {"vessel_id": vessel_id, "entity": entity, "seq": seq}
        self.connection.execute(sql.store.FORGET_NUMBERS, wanted)

    def add_dead_letters(self, topic_filter: str, refused: Sequence[DeadLetter]) -> None:
        """Save refused messages as dead letters; only the newest of each vessel, and of all, are kept."""
        if not refused:
            return
        now = now_ms()
        self.connection.execute(
            sql.store.ADD_DEAD_LETTER,
            [
                {
                    "topic": letter.topic,
                    "payload": letter.payload[:MAX_PARKED_BYTES],
                    "topic_filter": topic_filter,
                    "reason": letter.reason[:1000],
                    "parked_at": now,
                    "vessel_id": letter.vessel_id,
                }
                for letter in refused[-MAX_PARKED:]
            ],
        )
        wanted = {"topic_filter": topic_filter}
        for vessel_id in sorted({letter.vessel_id for letter in refused}):
            of = {**wanted, "vessel_id": vessel_id, "most": MAX_PARKED_OF_VESSEL}
            self.connection.execute(sql.store.TRIM_DEAD_LETTERS, of)
        self.connection.execute(
            outbox_sql.inbound.TRIM_DEAD_LETTERS, {**wanted, "most": MAX_PARKED}
        )

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back the statements of the context if it raises; the transaction continues."""
        self.connection.exec_driver_sql("SAVEPOINT arus_follower")
        try:
            yield
        except BaseException:
            self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT arus_follower")
            self.connection.exec_driver_sql("RELEASE SAVEPOINT arus_follower")
            raise
        self.connection.exec_driver_sql("RELEASE SAVEPOINT arus_follower")


def _unseen(vessel_id: str, entity: str, unseen: Unseen) -> dict[str, Any]:
    return {"vessel_id": vessel_id, "entity": entity, **unseen._asdict()}


def _json(value: Any) -> str:
    return orjson.dumps(value, default=asdict).decode()


def _new_position(followed: Followed) -> Position:
    return Position(followed.topic, followed.entity, need=Need.EVERYTHING)


def _position(followed: Followed, row: Any) -> Position:
    return Position(
        topic=followed.topic,
        entity=followed.entity,
        seq=row.seq,
        proven=row.proven_seq,
        beyond=[(start, end) for start, end in orjson.loads(row.beyond)],
        need=Need(row.need),
        buckets=tuple(orjson.loads(row.buckets)),
        request=Request(**orjson.loads(row.request)) if row.request else None,
        run=Run(**_with_buckets(row.run)) if row.run else None,
        mark=row.mark,
        sweep=Sweep(**_with_buckets(row.sweep)) if row.sweep else None,
        swept=UNKNOWN_SWEPT,
    )


def _with_buckets(text: str) -> dict[str, Any]:
    saved: dict[str, Any] = orjson.loads(text)
    if saved["buckets"] is not None:
        saved["buckets"] = tuple(saved["buckets"])
    return saved
