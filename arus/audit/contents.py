"""The rows of a table as they are sent in messages, and the fields that they have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from marshmallow import Schema as MarshmallowSchema
from sqlalchemy import Connection, Select, select
from sqlalchemy.exc import DBAPIError

from arus.database import Reader, translated
from arus.errors import ArusError
from arus.logs import get_logger
from arus.outbox.row_versions import versions_of
from arus.protocol.digests import UNKNOWN, row_hash
from arus.protocol.rows import decode_row
from arus.registry import Registration

logger = get_logger(__name__)

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
    #: As sent in messages; None if it can't be serialised.
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
    """Return the rows of a table with these primary keys, without those that the model can't read (logged)."""
    key = getattr(registration.model, registration.key)
    statement = select(registration.model).where(key.in_(keys))
    try:
        return [row for row, _ in _read(connection, registration, context, statement)]
    except _UnreadableError as error:
        if len(keys) == 1:
            logger.warning(
                "[MQTT Reliable Sync] the row %s of %s can't be read: %s",
                *keys, registration.entity, error,
            )  # fmt: skip
            return []
    ordered, half = list(keys), len(keys) // 2
    return [
        row
        for part in (ordered[:half], ordered[half:])
        for row in some_rows(connection, registration, context, part)
    ]


def _read(
    connection: Connection, registration: Registration, context: Context, statement: Select[Any]
) -> list[tuple[TableRow, Any]]:
    """Return rows with their primary keys."""
    session = Reader(connection)
    with context(), translated():
        found = {registration.row_id(row): row for row in _load(session, statement)}
        versions = versions_of(connection, registration, found)
        rows = [
            (
                TableRow(row_id, versions[row_id], _data(registration, row)),
                getattr(row, registration.key),
            )
            for row_id, row in found.items()
        ]
    session.expunge_all()
    return rows


class _UnreadableError(ArusError):
    """A value of a row is none of its column's type."""


def _load(session: Reader, statement: Select[Any]) -> Sequence[Any]:
    try:
        found: Sequence[Any] = session.scalars(statement).all()
        return found
    except DBAPIError:
        raise
    except Exception as error:  # a column's type may be the application's
        raise _UnreadableError(f"{type(error).__name__}: {error}"[:200]) from error


def _data(registration: Registration, row: Any) -> dict[str, Any] | None:
    try:
        return decode_row(registration.serialise(row))
    except Exception:  # noqa: BLE001  # the schema is the application's; such a row is quarantined
        return None
