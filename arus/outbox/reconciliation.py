"""Reconciliation: logs what the tables hold and the log does not know.

Rows that were changed past the capture (another program, the `sqlite3` shell, a SQL text on the engine) differ from
what the log last said of them. Each table is compared with the log by ranges of keys: first without a lock, then the
rows that differ are compared again in a short write transaction, and logged there. So a live server may go on writing.

Retention deletes old entries. What the log said of a row that has none left is unknown, unless nothing was ever
deleted from the log: then the row was never logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, Row, inspect, select
from sqlalchemy.orm import Session

from arus.protocol.entries import Operation
from arus.registry import Registration, Registry

from . import sql
from .capture.affected import load, lock, stand_in
from .capture.engines import open_reader
from .capture.pending import Change, Content
from .capture.versions import raise_versions, version_of
from .capture.writer import content_of, write_changes
from .row_versions import keep_first

#: Rows that are compared at a time: writers wait for at most so many.
CHUNK = 200


class Reconciled(Struct):
    """What the reconciliation of one entity has found and logged."""

    entity: str
    #: Rows in the table.
    rows: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    #: Rows of which the log says nothing any more; they are not logged unless that is wanted.
    forgotten: int = 0

    @property
    def logged(self) -> int:
        """How many changes were logged."""
        return self.created + self.updated + self.deleted


class Reconciliation:
    """Compares the tables of registered models with the log.

    :param engine: the application's.
    :param forgotten: log rows of which the log says nothing any more, too.
    """

    def __init__(self, engine: Engine, registry: Registry, *, forgotten: bool = False) -> None:
        self._engine = engine
        self._registry = registry
        self._forgotten = forgotten

    def run(self, registration: Registration) -> Reconciled:
        """Reconcile one entity."""
        found = Reconciled(registration.entity)
        for keys in self._table_chunks(registration):
            found.rows += len(keys)
            self._reconcile(registration, keys, found)
        for keys in self._log_chunks(registration):
            self._reconcile(registration, keys, found)
        return found

    def _table_chunks(self, registration: Registration) -> Iterator[list[Any]]:
        """Yield the keys of the table's rows, in their order."""
        key = getattr(registration.model, registration.key)
        last: Any = None
        while True:
            statement = select(key).order_by(key).limit(CHUNK)
            if last is not None:
                statement = statement.where(key > last)
            with self._engine.connect() as connection:
                keys = list(connection.execute(statement).scalars())
            if keys:
                yield keys
                last = keys[-1]
            if len(keys) < CHUNK:
                return

    def _log_chunks(self, registration: Registration) -> Iterator[list[Any]]:
        """Yield the keys that the log knows and the table does not have."""
        after = ""
        while True:
            wanted = {"entity": registration.entity, "after": after, "limit": CHUNK}
            with self._engine.connect() as connection:
                ids = list(connection.execute(sql.entries.LOGGED_ROWS, wanted).scalars())
                keys = [key for row_id in ids if (key := _typed(registration, row_id)) is not None]
                with open_reader(connection) as reader:
                    there = load(reader, registration, keys)
            gone = [key for key in keys if key not in there]
            if gone:
                yield gone
            if len(ids) < CHUNK:
                return
            after = ids[-1]

    def _reconcile(
        self, registration: Registration, keys: Sequence[Any], found: Reconciled
    ) -> None:
        with self._engine.connect() as connection, open_reader(connection) as reader:
            differing, forgotten = self._differing(connection, reader, registration, keys)
        found.forgotten += forgotten
        if not differing:
            return
        with self._engine.begin() as connection, open_reader(connection) as reader:
            _hold(connection, registration, differing)
            changes, _ = self._differing(connection, reader, registration, list(differing))
            self._raise(connection, reader, registration, changes)
            write_changes(reader, list(changes.values()))
        for change in changes.values():
            _count(found, change.operation)

    def _differing(
        self,
        connection: Connection,
        reader: Session,
        registration: Registration,
        keys: Sequence[Any],
    ) -> tuple[dict[Any, Change], int]:
        """Return the changes that the log lacks, by key, and how many rows the log says nothing of."""
        rows = load(reader, registration, keys)
        logged = _last_entries(connection, registration, keys)
        with_unknown = self._forgotten or _is_whole(connection)
        changes: dict[Any, Change] = {}
        forgotten = 0
        for key in keys:
            row, entry = rows.get(key), logged.get(str(key))
            if row is not None and self._registry.of_model(type(row)) is not registration:
                continue
            change = _change(registration, key, row, entry)
            if change is None:
                continue
            if entry is None and not with_unknown:
                forgotten += 1
            else:
                changes[key] = change
        return changes, forgotten

    def _raise(
        self,
        connection: Connection,
        reader: Session,
        registration: Registration,
        changes: Mapping[Any, Change],
    ) -> None:
        """Raise the versions of changed rows above what the log has said."""
        logged = _last_entries(connection, registration, list(changes))
        if registration.version is None:
            unknown = [change.row_id for change in changes.values() if change.row_id not in logged]
            keep_first(connection, registration, unknown)
            return
        whole = _is_whole(connection)
        for key, change in changes.items():
            if change.operation is Operation.DELETE:
                continue
            entry, version = logged.get(change.row_id), version_of(registration, change.row)
            # A row that was never logged keeps its version; what is unknown may have been said in this version.
            said = entry.version if entry is not None else 0 if whole else version
            if version <= said:
                raise_versions(connection, registration, [key], above=said)
                change.row = load(reader, registration, [key])[key]


def _change(
    registration: Registration, key: Any, row: Any, entry: Row[Any] | None
) -> Change | None:
    """Return the change from what the log last said of a row to what it is; None if it is the same."""
    is_known = entry is not None and entry.operation != Operation.DELETE
    if row is None:
        if entry is None or not is_known:
            return None
        problem = entry.reason if entry.outcome == "quarantined" else None
        last = Content(entry.version, None if problem else bytes(entry.data), problem)
        return Change(Operation.DELETE, registration, str(key), stand_in(registration, key), last)
    if entry is not None and is_known:
        content = content_of(registration, row)
        if registration.version is None:
            content = replace(content, version=entry.version)
        if _is_same(content, entry):
            return None
    # Without an entry the row is either new to everybody, or all that is known is that it exists.
    operation = Operation.UPDATE if is_known else Operation.CREATE
    return Change(operation, registration, registration.row_id(row), row)


def _is_same(content: Content, entry: Row[Any]) -> bool:
    if content.data is None:
        return bool(entry.outcome == "quarantined" and content.version == entry.version)
    return content.version == entry.version and content.data == bytes(entry.data)


def _hold(connection: Connection, registration: Registration, keys: Mapping[Any, Any]) -> None:
    """Lock rows until the transaction ends."""
    (column,) = inspect(registration.model).primary_key
    lock(connection)
    if connection.dialect.name != "sqlite":
        connection.execute(select(column).where(column.in_(list(keys))).with_for_update())


def _last_entries(
    connection: Connection, registration: Registration, keys: Sequence[Any]
) -> dict[str, Row[Any]]:
    if not keys:
        return {}
    wanted = {"entity": registration.entity, "row_ids": [str(key) for key in keys]}
    return {row.row_id: row for row in connection.execute(sql.entries.LAST_CONTENTS, wanted)}


def _is_whole(connection: Connection) -> bool:
    """Whether nothing was ever deleted from the log."""
    reach = connection.execute(sql.session.REACH).one_or_none()
    return reach is None or reach.pruned_seq == 0


def _typed(registration: Registration, row_id: str) -> Any | None:
    try:
        return registration.typed_key(row_id)
    except (ValueError, TypeError):
        return None  # no row of this model: the key's type was another one


def _count(found: Reconciled, operation: Operation) -> None:
    if operation is Operation.CREATE:
        found.created += 1
    elif operation is Operation.UPDATE:
        found.updated += 1
    else:
        found.deleted += 1
