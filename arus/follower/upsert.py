"""The upsert of a batch's rows of one table on PostgreSQL, in one statement with one parameter.

The parameter is a JSON array of rows: binding each value of each row takes several times as long. It is used for
tables whose columns all have types that PostgreSQL reads exactly from JSON; for others, and if the statement fails, the
rows are bound value by value (`arus.follower.rows.Copy.upsert`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Dialect,
    Enum,
    Float,
    Integer,
    Numeric,
    String,
    Table,
    Uuid,
)
from sqlalchemy.sql.elements import Null
from sqlalchemy.types import TypeDecorator, TypeEngine

from .sql.build import upsert_json

#: Types whose values are bound as texts, numbers, booleans, dates, times or UUIDs, and which PostgreSQL reads from JSON.
_PLAIN = (Boolean, Date, DateTime, Enum, Float, Integer, Numeric, String, Uuid)
#: Bytes of one statement's parameter, unless a single row has more.
MAX_BYTES = 8_388_608

_Processor = Callable[[Any], Any]


class Upsert:
    """The statement for one table.

    :param columns: keys of the columns to write.
    :param key: key of the primary key's column.
    """

    def __init__(self, dialect: Dialect, table: Table, columns: Sequence[str], key: str) -> None:
        preparer = dialect.identifier_preparer
        names = [preparer.quote(table.c[column].name) for column in columns]
        quoted_key = preparer.quote(table.c[key].name)
        self._sql = upsert_json(preparer.format_table(table), names, [quoted_key])
        # Names that are quoted have a type of SQLAlchemy's, which orjson does not accept.
        self._names = [(column, str(table.c[column].name)) for column in columns]
        self._renamed = any(
            type(column) is not str or column != name for column, name in self._names
        )
        self._processors: list[tuple[str, _Processor]] = [
            (column, processor)
            for column in columns
            if (processor := _processor(table.c[column].type, dialect)) is not None
        ]

    @classmethod
    def of(cls, dialect: Dialect, table: Table, columns: Sequence[str], key: str) -> Upsert | None:
        """Return the statement; None if the database is not PostgreSQL, or a column's type is not suitable."""
        suitable = dialect.name == "postgresql" and all(
            _is_suitable(table.c[column], dialect) for column in columns
        )
        return cls(dialect, table, columns, key) if suitable else None

    def execute(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows, or overwrite existing ones; no two rows may have the same key.

        :param rows: by column; all with the same columns.
        """
        for chunk in self._chunks(rows):
            connection.exec_driver_sql(self._sql, (chunk,))

    def _chunks(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        encoded: list[bytes] = []
        size = 0
        for row in rows:
            one = orjson.dumps(self._bound(row), default=_text)
            if encoded and size + len(one) > MAX_BYTES:
                yield _array(encoded)
                encoded, size = [], 0
            encoded.append(one)
            size += len(one) + 1
        if encoded:
            yield _array(encoded)

    def _bound(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._processors:
            row = dict(row)
            for column, processor in self._processors:
                row[column] = processor(row[column])
        if self._renamed:
            return {name: row[column] for column, name in self._names}
        return row


def _array(encoded: Sequence[bytes]) -> str:
    return f"[{b','.join(encoded).decode()}]"


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def _implementation(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    kind = kind.dialect_impl(dialect)
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance.dialect_impl(dialect)
    return kind


def _is_suitable(column: Column[Any], dialect: Dialect) -> bool:
    kind = column.type
    own = kind.dialect_impl(dialect)
    if own._has_bind_expression:
        return False
    inner = _implementation(kind, dialect)
    if isinstance(inner, JSON):
        # A null is read as SQL's: JSON's own, which a column that is not nullable may hold, can't be said.
        return inner is own and bool(column.nullable)
    return isinstance(inner, _PLAIN)


def _processor(kind: TypeEngine[Any], dialect: Dialect) -> _Processor | None:
    own = kind.dialect_impl(dialect)
    # A value of JSON is part of the parameter as it is; its processor would encode it.
    return _json if isinstance(own, JSON) else own.bind_processor(dialect)


def _json(value: Any) -> Any:
    return None if isinstance(value, Null) else value
