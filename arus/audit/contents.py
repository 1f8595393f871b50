"""The rows of a table as they are sent in messages, and the fields that they have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from marshmallow import Schema as MarshmallowSchema
from sqlalchemy import Connection, Select, select

from arus.database import Reader, translated
from arus.outbox.row_versions import versions_of
from arus.outbox.table_rows import load_rows
from arus.protocol.digests import UNKNOWN, row_hash
from arus.protocol.rows import decode_row
from arus.registry import Registration

#: Rows that are read at a time.
CHUNK = 200

#: Returns the context in which the models' schemas run (`app.app_context`).
Context = Callable[[], AbstractContextManager[Any]]
#: The fields over which rows are compared; None for all of them.
Fields = frozenset[str] | None


class TableRow(NamedTuple):
    """A row of a table."""

    row_id: str
    version: int
    #: As sent in messages; None if it can't be read or serialised.
    data: dict[str, Any] | None

    def hash(self, fields: Fields = None) -> str:
        """Return the hash of the row's content; `UNKNOWN` if it has none.

        :param fields: only these keys of `data`.
        """
        return UNKNOWN if self.data is None else content_hash(self.data, fields)


def content_hash(data: dict[str, Any], fields: Fields) -> str:
    """Return the hash of a row's content over some of its fields; `UNKNOWN` if it has no canonical form."""
    try:
        return row_hash(data, fields)
    except ValueError:
        return UNKNOWN


def dumped_fields(schema: object) -> Fields:
    """Return the keys that a schema writes; None if they can't be known without a row.

    A schema that changes rows after the dump (`post_dump`, its own `dump`) may write other keys than its fields'.
    """
    if not isinstance(schema, MarshmallowSchema):
        return None
    hooks: Any = getattr(schema, "_hooks", {})
    is_hooked = any("post_dump" in str(key) and hooks[key] for key in hooks)
    if is_hooked or type(schema).dump is not MarshmallowSchema.dump:
        return None
    return frozenset(field.data_key or name for name, field in schema.dump_fields.items())


def each_row(
    connection: Connection, registration: Registration, context: Context, stopping: threading.Event
) -> Iterator[TableRow]:
    """Yield each row of a table, a chunk at a time; ends when stopped.

    After each chunk it pauses for as long as reading it took.
    """
    key = getattr(registration.model, registration.key)
    statement = select(registration.model).order_by(key).limit(CHUNK)
    last: Any = None
    while not stopping.is_set():
        began = time.monotonic()
        page = statement if last is None else statement.where(key > last)
        rows = _read(connection, registration, context, page)
        yield from (row for row, _ in rows)
        if len(rows) < CHUNK:
            return
        last = rows[-1][1]
        stopping.wait(time.monotonic() - began)


def some_rows(
    connection: Connection, registration: Registration, context: Context, keys: Collection[Any]
) -> Sequence[TableRow]:
    """Return the rows of a table with these primary keys."""
    key = getattr(registration.model, registration.key)
    statement = select(registration.model).where(key.in_(keys))
    return [row for row, _ in _read(connection, registration, context, statement)]


def _read(
    connection: Connection, registration: Registration, context: Context, statement: Select[Any]
) -> list[tuple[TableRow, Any]]:
    """Return rows with their primary keys; one that can't be read has no data."""
    session = Reader(connection)
    with context(), translated():
        found = load_rows(session, registration, statement)
        readable = {str(key): row for key, row in found if row is not None}
        versions = versions_of(connection, registration, readable)
        rows = [
            (
                TableRow(
                    str(key),
                    versions.get(str(key), 0),
                    None if row is None else _data(registration, row),
                ),
                key,
            )
            for key, row in found
        ]
    session.expunge_all()
    return rows


def _data(registration: Registration, row: Any) -> dict[str, Any] | None:
    try:
        return decode_row(registration.serialise(row))
    except Exception:  # noqa: BLE001  # the schema is the application's; such a row is quarantined
        return None
