"""Conversion of `data` to a row: a registered model's columns, found through its marshmallow schema.

Texts, numbers, booleans and JSON are checked against the column's type and stored as received; other values, such
as times, are parsed by the schema's field. So a row that is dumped again equals the received one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from marshmallow import ValidationError, fields
from msgspec import Struct
from sqlalchemy import (
    JSON,
    Column,
    ColumnDefault,
    Connection,
    Dialect,
    Enum,
    String,
    Table,
    bindparam,
    delete,
    inspect,
    null,
    select,
    update,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.elements import False_, True_

from arus.audit.contents import dumped_fields
from arus.database import insert_of
from arus.errors import FollowError, RefusedMessageError
from arus.protocol.rows import is_row_id, typed_value
from arus.registry import MERE_VERSION, Registration, column_of

from . import sql
from .messages import Followed
from .upsert import Upsert

_MAX_INTEGER = 2**63 - 1

#: Reads the default of a column of a type from the text in its definition.
_DEFAULTS: dict[type[Any], Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
}

#: Converts a value of `data` to the column's type; raises ValueError.
Convert = Callable[[Any], Any]


class _Field(Struct, frozen=True):
    """One column, and the key of its value in `data`."""

    data_key: str
    column: str
    nullable: bool
    convert: Convert
    #: Written for a null.
    null: Any = None
    #: Replaces a missing value if the column can't be null.
    default: Any = None


class Copy:
    """The copy of one registered model's table.

    :raises FollowError: the model can't be copied.
    """

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        mapper: Mapper[Any] = inspect(registration.model)
        if len(mapper.tables) != 1 or not isinstance(mapper.local_table, Table):
            raise FollowError(f"{registration.entity}: only a model of one table can be followed")
        self.table = mapper.local_table
        dumped = getattr(registration.schema, "fields", None)
        if not dumped:
            raise FollowError(f"{registration.entity}: its schema has no fields")
        self._fields = [
            _field(name, field, mapper)
            for name, field in dumped.items()
            if _is_written(column_of(mapper, field.attribute or name))
        ]
        self._key = self._of_attribute(mapper, registration.key)
        identity = self.table.c[self._key.column].identity
        #: The database makes the key itself (`Identity(always=True)`): SQLAlchemy's INSERT can't say that it shall not.
        self._is_key_generated = identity is not None and bool(identity.always)
        version = column_of(mapper, registration.version) if registration.version else None
        self._version = version.key if version is not None else None
        self.followed = Followed(registration.entity, registration.topic, self._key.data_key)
        columns = [field.column for field in self._fields]
        if self._version and self._version not in columns:
            columns.append(self._version)
        self._columns = columns
        #: The keys of `data` that the model's schema writes: rows are compared by these.
        self.fields = dumped_fields(registration.schema)
        #: The keys of `data` without which no row can be written.
        self.needed = frozenset(
            field.data_key
            for field in self._fields
            if not field.nullable and field.default is None and field.column != self._version
        )
        self._statements: dict[str, Any] = {}

    def _of_attribute(self, mapper: Mapper[Any], attribute: str) -> _Field:
        column = column_of(mapper, attribute)
        for field in self._fields:
            if column is not None and field.column == column.key:
                return field
        raise FollowError(
            f"{self.registration.entity}: its schema does not contain the row's {attribute}"
        )

    def values(self, data: Mapping[str, Any], version: int) -> dict[str, Any]:
        """Return the columns' values from a row's `data`.

        :raises RefusedMessageError: the data is not valid.
        """
        values: dict[str, Any] = {self._version: version} if self._version else {}
        for field in self._fields:
            value = data.get(field.data_key)
            if field.column == self._version and field.data_key not in data:
                continue  # the vessel's table has no version: that of its log counts
            if value is None:
                # A null that was sent is no missing value: with the default the row would differ from the vessel's.
                value = None if field.data_key in data else field.default
                if value is None and not (field.nullable or _is_null(field, data)):
                    raise RefusedMessageError(f"{field.data_key} is missing")
                values[field.column] = field.null if value is None else value
                continue
            try:
                values[field.column] = field.convert(value)
            except ValidationError as error:
                raise RefusedMessageError(f"{field.data_key}: {error.messages}") from error
            except Exception as error:  # a schema's field is the application's code
                raise RefusedMessageError(f"{field.data_key}: {error}") from error
        if self._version and values[self._version] != version:
            raise RefusedMessageError("the row's version differs from the message's")
        return values

    def given(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns' values, but only for the keys in `data`.

        :raises RefusedMessageError: the data is not valid.
        """
        values: dict[str, Any] = {}
        for field in self._fields:
            if field.data_key in data:
                told = data[field.data_key]
                try:
                    values[field.column] = field.null if told is None else field.convert(told)
                except Exception as error:  # a schema's field is the application's code
                    raise RefusedMessageError(f"{field.data_key}: {error}") from error
        return values

    @property
    def keys(self) -> frozenset[str]:
        """The keys of `data` that are columns."""
        return frozenset(field.data_key for field in self._fields)

    def is_mere(self, data: Mapping[str, Any]) -> bool:
        """Whether `data` is only a placeholder: the row exists, but its vessel can't send it."""
        if len(data) > 2:  # the usual case
            return False
        known = {self.followed.id_key, self.version_key}
        return known >= set(data) and not known >= self.keys

    @property
    def version_key(self) -> str:
        """The key of the version in `data`."""
        found = (field.data_key for field in self._fields if field.column == self._version)
        return next(found, self.registration.version or MERE_VERSION)

    @property
    def version_column(self) -> str | None:
        """The name of the version's column; None for a model without one."""
        return self._version

    @property
    def columns(self) -> Sequence[str]:
        """The keys of the columns that are written."""
        return self._columns

    @property
    def key_column(self) -> Column[Any]:
        """The primary key's column."""
        column: Column[Any] = self.table.c[self._key.column]
        return column

    def key(self, row_id: Any) -> Any:
        """Convert a row's id to its column's type.

        :raises RefusedMessageError: it is not valid.
        """
        try:
            return self._key.convert(row_id)
        except Exception as error:  # as above
            raise RefusedMessageError(f"the row's id: {error}") from error

    def check_id(self, row_id: Any) -> None:
        """Check that a row's id in a message is valid for its column, and is in the column's canonical form.

        Otherwise one row could have several ids, each with a different owner.

        :raises RefusedMessageError: it is not.
        """
        key = self.key(row_id)
        if isinstance(key, uuid.UUID) and str(key) != row_id:
            raise RefusedMessageError("the row's id: a UUID is written in lower case, with hyphens")

    def alias_of(self, connection: Connection, row_id: str) -> str | None:
        """Return the id of the row that the table takes for a row with another id; None if there is none.

        Only a column of texts that are compared by a collation (NOCASE), or of the type citext, does so.
        """
        if not isinstance(self.key_column.type, String):
            return None
        if "loose" not in self._statements:
            self._statements["loose"] = self._is_loose(connection)
        if not self._statements["loose"]:
            return None
        found = connection.execute(select(self.key_column).where(self.key_column == row_id))
        stored: str | None = found.scalar()
        return None if stored == row_id else stored

    def _is_loose(self, connection: Connection) -> bool:
        dialect = connection.dialect
        name = str(self.table.name)
        where: tuple[str, ...] = (name,)
        if dialect.name != "sqlite":
            table = dialect.identifier_preparer.format_table(self.table)
            where = (table, str(self.key_column.name))
        found = connection.exec_driver_sql(sql.store.takes_ids_for_others(dialect.name), where)
        return found.first() is not None

    def takes_id(self, row_id: str) -> bool:
        """Whether a row of this table can be recorded under an id, which is that of its key."""
        try:
            return is_row_id(row_id) and str(self.key_of(row_id)) == row_id
        except (RefusedMessageError, ValueError):
            return False

    def key_of(self, row_id: str) -> Any:
        """Convert a row's id from the text in messages to its column's type.

        A text is not checked: somebody else may have added a row with an id that no message can have.
        """
        if isinstance(self.key_column.type, String):
            return row_id
        try:
            return self.key(row_id)
        except RefusedMessageError:
            return self.key(int(row_id))

    def upsert_all(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Insert rows, or overwrite existing ones, as fast as the database allows; no two may have the same key."""
        if len(rows) < 2:
            self.upsert(connection, rows)
            return
        bulk = self._bulk(connection.dialect)
        if bulk is None:
            self.upsert(connection, rows)
        else:
            bulk.execute(connection, rows)

    def upsert(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Insert rows, or overwrite existing ones."""
        if not rows:
            return
        bulk = self._bulk(connection.dialect) if self._is_key_generated else None
        if bulk is not None:
            for row in rows:
                bulk.execute(connection, [row])
            return
        statement = self._statements.get("upsert")
        if statement is None:
            insert = insert_of(connection.dialect)(self.table)
            others = {
                name: insert.excluded[name] for name in self._columns if name != self._key.column
            }
            key = [self.table.c[self._key.column]]
            statement = (
                insert.on_conflict_do_update(index_elements=key, set_=others)
                if others
                else insert.on_conflict_do_nothing(index_elements=key)
            )
            self._statements["upsert"] = statement
        connection.execute(statement, rows)

    def makes_keys(self, dialect: Dialect) -> bool:
        """Whether the database makes the keys, and takes none: `Identity(always=True)`, which only PostgreSQL has."""
        return self._is_key_generated and dialect.name == "postgresql"

    def change(self, connection: Connection, key: Any, values: Mapping[str, Any]) -> None:
        """Set some columns of a row."""
        if values:
            connection.execute(
                update(self.table).where(self.key_column == key).values(dict(values))
            )

    def _bulk(self, dialect: Dialect) -> Upsert | None:
        """Return the statement for many rows; None if the database or the types have none."""
        if "bulk" not in self._statements:
            columns, key = self._columns, self._key.column
            self._statements["bulk"] = Upsert.of(dialect, self.table, columns, key)
        found: Upsert | None = self._statements["bulk"]
        return found

    def delete(self, connection: Connection, keys: Iterable[Any]) -> None:
        """Delete rows."""
        rows = [{"row_key": key} for key in keys]
        if not rows:
            return
        statement = self._statements.get("delete")
        if statement is None:
            statement = delete(self.table).where(
                self.table.c[self._key.column] == bindparam("row_key")
            )
            self._statements["delete"] = statement
        connection.execute(statement, rows)


def siblings(copies: Mapping[str, Copy]) -> dict[str, list[str]]:
    """Return the entities that share their table with others, with these: classes that inherit from one."""
    of_table: dict[Table, list[str]] = {}
    for entity, copy in copies.items():
        of_table.setdefault(copy.table, []).append(entity)
    return {
        entity: [other for other in entities if other != entity]
        for entities in of_table.values()
        if len(entities) > 1
        for entity in entities
    }


def _is_written(column: Column[Any] | None) -> bool:
    """Whether a field is a column, and not one that the database computes."""
    return column is not None and column.computed is None


def _field(name: str, field: Any, mapper: Mapper[Any]) -> _Field:
    column = column_of(mapper, field.attribute or name)
    assert column is not None
    return _Field(
        field.data_key or name,
        column.key,
        bool(column.nullable),
        _converter(column, field),
        _null(column),
        None if column.nullable else _default(column),
    )


def _null(column: Column[Any]) -> Any:
    """Return what is written for a null: in a JSON column None would be written as JSON's null, not SQL's."""
    if not isinstance(column.type, JSON):
        return None
    return null() if column.nullable else JSON.NULL


def _is_null(field: _Field, data: Mapping[str, Any]) -> bool:
    """Whether a column that can't be null has JSON's null."""
    return field.null is JSON.NULL and field.data_key in data


def _default(column: Column[Any]) -> Any:
    """Return the value that a column has by default; None if it has none, or one that only the database can make."""
    if isinstance(column.default, ColumnDefault):
        return column.default.arg if column.default.is_scalar else None
    told = getattr(column.server_default, "arg", None)
    if isinstance(told, True_ | False_):
        return isinstance(told, True_)
    text = told if isinstance(told, str) else getattr(told, "text", None)
    if not isinstance(text, str):
        return None
    try:
        return _DEFAULTS[column.type.python_type](text.strip("'"))
    except (NotImplementedError, KeyError, ValueError):
        return None


def _converter(column: Column[Any], field: Any) -> Convert:
    try:
        kind: Any = column.type.python_type
    except NotImplementedError:
        kind = object
    if isinstance(column.type, Enum) and kind is str:
        return _one_of(column.type.enums)
    if kind is str:
        return _text(getattr(column.type, "length", None))
    if kind in _CHECKED:
        return _CHECKED[kind]
    return _typed(kind, field)


def _typed(kind: Any, field: Any) -> Convert:
    """Return the conversion by a schema's field and, if that leaves the value as it was received, by its type."""

    def typed(value: Any) -> Any:
        loaded = field.deserialize(value)
        if kind is bytes and isinstance(field, fields.String):
            return loaded.encode()
        return typed_value(kind, loaded)

    return typed


def _one_of(texts: Sequence[str]) -> Convert:
    def one_of(value: Any) -> str:
        if value not in texts:
            raise ValueError("not one of the values of the column")
        return str(value)

    return one_of


def _text(length: int | None) -> Convert:
    def text(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("not a text")
        if length is not None and len(value) > length:
            raise ValueError(f"longer than {length} characters")
        if "\0" in value:
            raise ValueError("it contains a NUL character")
        return value

    return text


def _integer(value: Any) -> int:
    if type(value) is not int or not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        raise TypeError("not a whole number of 64 bits")
    return value


def _real(value: Any) -> float:
    if type(value) is not int and type(value) is not float:
        raise TypeError("not a number")
    return float(value)


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("not true or false")
    return value


def _json(value: Any) -> Any:
    return value


#: Types whose values are stored as received.
_CHECKED: dict[Any, Convert] = {
    int: _integer,
    float: _real,
    bool: _truth,
    dict: _json,
    list: _json,
    uuid.UUID: uuid.UUID,
}
