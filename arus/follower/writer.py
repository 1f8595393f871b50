"""Writes a batch's rows into the application's tables: all at once, or one by one if one of them fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    StatementError,
)

from arus.logs import get_logger
from arus.protocol.digests import row_hash
from arus.protocol.entries import Operation
from arus.protocol.times import now_ms

from .blockers import (
    is_never_accepted,
    is_outage,
    is_parent_missing,
    parents_of,
    raise_if_outage,
)
from .held import row_name
from .messages import Change
from .outcome import APPLIED, HELD, NOT_HELD, Outcome
from .records import RowKey, RowRecords
from .rows import Copy
from .store import Store
from .together import Obstacle, Step, in_the_way, reason_of, write_together
from .vessels import VesselState

logger = get_logger(__name__)

#: Errors that the database raises for a row that it will never accept.
_IMPOSSIBLE = (DataError, InterfaceError, OverflowError, UnicodeError, StatementError)


class RowWriter:
    """Collects rows, and writes them."""

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        records: RowRecords,
        outcome: Outcome,
    ) -> None:
        self._store = store
        self._copies = copies
        self._records = records
        self._outcome = outcome
        self._held = store.held
        #: Changes that are held newly, with their reasons, by vessel and entity.
        self._newly: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        #: Rows that the database was found to miss while rows are written one by one (`row_name`).
        self._missing: set[str] = set()
        #: Where refused rows are kept.
        self.refusals = store.refusals
        #: Rows that are not written yet; None for a deletion.
        self._waiting: dict[RowKey, tuple[Change, dict[str, Any] | None]] = {}

    def add(self, key: RowKey, change: Change, values: dict[str, Any] | None) -> None:
        """Add a row to be written by the next flush; the last of several changes of one row is used."""
        self._waiting[key] = (change, values)

    def alias_of(self, copy: Copy, row_id: str) -> str | None:
        """Return the id of the row that a table takes for a row with another id; None if there is none."""
        return copy.alias_of(self._store.connection, row_id)

    def flush(self) -> None:
        """Write the collected rows."""
        if self._waiting:
            try:
                with self._store.savepoint():
                    self._write(self._waiting)
                self._count(self._waiting)
                self._waiting.clear()
            except (IntegrityError, *_IMPOSSIBLE) as error:
                # A statement for many rows is refused if two of them have the same key in the table's collation.
                if is_outage(error):
                    raise
                self._missing.clear()
                # One of them is the cause. Deletions first: they may free a unique value.
                for key in sorted(self._waiting, key=lambda key: self._waiting[key][1] is not None):
                    self.write_one(key)
        self.save_records()

    def flush_together(self) -> list[Obstacle]:
        """Write the collected rows, which wait for each other, in one savepoint.

        :returns: what is in the way of which changes, and then none is written; nothing if all are.
        """
        steps = [
            Step(change, self._copies[change.entity], values)
            for change, values in self._waiting.values()
        ]
        obstacles = write_together(self._store, steps)
        if not obstacles:
            self._count(self._waiting)
        else:
            for key in self._waiting:
                self._records.undo(key)
        self._waiting.clear()
        self.save_records()
        return obstacles

    def save_records(self) -> None:
        """Save changed records, and release held changes that are not newer."""
        versions = self._records.save()
        self.refusals.accepted(versions)
        self._held.release(versions)

    def write_one(self, key: RowKey) -> bool:
        """Write one row; if the database does not accept it, hold it or make it a dead letter."""
        change, values = self._waiting.pop(key)
        if missing := self._known_missing(change, values):
            reason = f"the row {missing[0]} is not here"
            self._keep(change, self._records.undo(key), reason, missing)
            return False
        try:
            with self._store.savepoint():
                self._write({key: (change, values)})
        except IntegrityError as error:
            mark = self._records.undo(key)
            if is_never_accepted(error):
                self._refuse(change, mark, error)
            else:
                self._hold(change, values, mark, error)
            return False
        except _IMPOSSIBLE as error:
            raise_if_outage(self._store.connection, self._copies[change.entity], error)
            self._refuse(change, self._records.undo(key), error)
            return False
        self._count({key: (change, values)})
        return True

    def delete(self, vessel: VesselState, copy: Copy, row_ids: list[str], mark: int) -> list[str]:
        """Delete rows, and return those that are deleted; the deletions of the others are held."""
        keys = [copy.key_of(row_id) for row_id in row_ids]
        try:
            with self._store.savepoint():
                copy.delete(self._store.connection, keys)
        except (IntegrityError, *_IMPOSSIBLE) as error:
            if is_outage(error):
                raise
            return self._delete_each(vessel, copy, row_ids, mark)
        self._held.written(row_name(copy.table.name, key) for key in keys)
        return row_ids

    def _delete_each(
        self, vessel: VesselState, copy: Copy, row_ids: list[str], mark: int
    ) -> list[str]:
        gone = []
        entity = copy.registration.entity
        known = dict(self._store.rows(vessel.vessel_id, entity, row_ids))
        for row_id in row_ids:
            key = copy.key_of(row_id)
            try:
                with self._store.savepoint():
                    copy.delete(self._store.connection, [key])
                gone.append(row_id)
                self._held.written([row_name(copy.table.name, key)])
            except (IntegrityError, *_IMPOSSIBLE) as error:
                raise_if_outage(self._store.connection, copy, error)
                change = Change(
                    vessel.vessel_id, vessel.epoch, copy.followed.topic, entity, Operation.DELETE,
                    row_id, known[row_id].version + 1, known[row_id].seq, 0, now_ms(),
                    {copy.followed.id_key: key},
                )  # fmt: skip
                if isinstance(error, IntegrityError):
                    self._hold(change, None, mark, error)
                else:
                    self._refuse(change, mark, error)
        return gone

    def log_held(self) -> None:
        """Log the changes that are held newly, in one line for those of one entity."""
        for (vessel_id, entity), newly in self._newly.items():
            # Some were written in the same transaction, with the rows that they waited for.
            still = [row_id for row_id in newly if (vessel_id, entity, row_id) in self._held]
            if still:
                logger.warning(
                    "[MQTT Reliable Sync] %d changes of %s of %s are held until other rows arrive: %s: %s",
                    len(still),
                    entity,
                    vessel_id,
                    still[0],
                    newly[still[0]],
                )
        self._newly.clear()

    def _hold(
        self,
        change: Change,
        values: dict[str, Any] | None,
        mark: int,
        error: IntegrityError,
    ) -> None:
        """Hold a change until the row arrives that it waits for.

        :param values: of its row; None for a deletion.
        """
        step = Step(change, self._copies[change.entity], values)
        waits_for = in_the_way(self._store.connection, step, error)
        # Of several the database may require one alone.
        if values is not None and len(waits_for) == 1 and is_parent_missing(error):
            self._missing.update(waits_for)
        self._keep(change, mark, reason_of(error), waits_for)

    def _known_missing(self, change: Change, values: dict[str, Any] | None) -> list[str]:
        """Return rows that a row refers to and that the database was just found to miss: it need not be tried."""
        if values is None or not self._missing:
            return []
        copy = self._copies[change.entity]
        return [
            row for row in parents_of(copy.table, copy.key_column, values) if row in self._missing
        ]

    def _keep(self, change: Change, mark: int, reason: str, waits_for: list[str]) -> None:
        is_new = (change.vessel_id, change.entity, change.row_id) not in self._held
        if not self._held.hold(change, mark, reason, waits_for):
            self._outcome.count(NOT_HELD, change.entity)
        elif is_new:
            self._outcome.count(HELD, change.entity)
            self._newly[change.vessel_id, change.entity][change.row_id] = reason

    def _refuse(self, change: Change, mark: int, error: BaseException) -> None:
        self._outcome.refuse_change(change, reason_of(error))
        fields = self._copies[change.entity].fields
        content = "" if change.operation == Operation.DELETE else row_hash(change.data, fields)
        self.refusals.add(change, content, reason_of(error), mark)

    def _write(self, rows: Mapping[RowKey, tuple[Change, dict[str, Any] | None]]) -> None:
        connection = self._store.connection
        upserts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        deletes: dict[str, list[Any]] = defaultdict(list)
        for change, values in rows.values():
            if values is None:
                copy = self._copies[change.entity]
                deletes[change.entity].append(copy.key(change.data[copy.followed.id_key]))
            else:
                upserts[change.entity].append(values)
        for entity, copy in self._copies.items():
            copy.delete(connection, deletes[entity])
        for entity, copy in self._copies.items():
            copy.upsert_all(connection, upserts[entity])

    def _count(self, rows: Mapping[RowKey, tuple[Change, Any]]) -> None:
        for change, _ in rows.values():
            self._outcome.count(APPLIED, change.entity, change.operation)
        if self._held or self._missing:
            names = [self._name_of(change) for change, _ in rows.values()]
            self._held.written(names)
            self._missing.difference_update(names)
        self._outcome.rows += len(rows)

    def _name_of(self, change: Change) -> str:
        copy = self._copies[change.entity]
        return row_name(copy.table.name, copy.key(change.data[copy.followed.id_key]))
