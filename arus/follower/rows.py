"""How `data` becomes a row: a registered model's columns, found through its marshmallow schema.

A value is stored as it came where the column's type says what it must be (texts, numbers, truth, JSON);
the schema's field reads the others (times and the like). So a row that is dumped again is what came.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError
from sqlalchemy import Column, ColumnDefault, Connection, Table, bindparam, delete, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import ColumnProperty, Mapper

from arus.errors import FollowError, RefusedMessageError
from arus.registry import Registration

from .inbound import Followed

_MAX_INTEGER = 2**63 - 1

#: Turns a value of `data` into what the column takes; raises ValueError.
Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """One column, and where its value is in `data`."""

    data_key: str
    column: str
    nullable: bool
    convert: Convert
    #: What stands for a missing value of a column that can't be null.
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
        fields = getattr(registration.schema, "fields", None)
        if not fields:
            raise FollowError(f"{registration.entity}: its schema tells no fields")
        self._fields = [
            _field(name, field, mapper)
            for name, field in fields.items()
            if _column(mapper, field.attribute or name) is not None
        ]
        self._key = self._of_attribute(mapper, registration.key)
        version = _column(mapper, registration.version)
        self._version = version.key if version is not None else None
        self.followed = Followed(registration.entity, registration.topic, self._key.data_key)
        columns = [field.column for field in self._fields]
        if self._version and self._version not in columns:
            columns.append(self._version)
        self._columns = columns
        self._statements: dict[str, Any] = {}

    def _of_attribute(self, mapper: Mapper[Any], attribute: str) -> _Field:
        column = _column(mapper, attribute)
        for field in self._fields:
            if column is not None and field.column == column.key:
                return field
        raise FollowError(
            f"{self.registration.entity}: its schema does not tell the row's {attribute}"
        )

    def values(self, data: Mapping[str, Any], version: int) -> dict[str, Any]:
        """Return the columns' values from a row's `data`.

        :raises RefusedMessageError: the data does not fit.
        """
        values: dict[str, Any] = {self._version: version} if self._version else {}
        for field in self._fields:
            value = data.get(field.data_key)
            if value is None:
                value = field.default
                if value is None and not field.nullable:
                    raise RefusedMessageError(f"{field.data_key} is missing")
                values[field.column] = value
                continue
            try:
                values[field.column] = field.convert(value)
            except ValidationError as error:
                raise RefusedMessageError(f"{field.data_key}: {error.messages}") from error
            except Exception as error:  # a schema's field is the application's code
                raise RefusedMessageError(f"{field.data_key}: {error}") from error
        if self._version and values[self._version] != version:
            raise RefusedMessageError("the row's version is not the message's")
        return values

    def given(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns' values of those keys alone that are in `data`.

        :raises RefusedMessageError: the data does not fit.
        """
        values: dict[str, Any] = {}
        for field in self._fields:
            if field.data_key in data:
                told = data[field.data_key]
                try:
                    values[field.column] = None if told is None else field.convert(told)
                except Exception as error:  # a schema's field is the application's code
                    raise RefusedMessageError(f"{field.data_key}: {error}") from error
        return values

    @property
    def keys(self) -> frozenset[str]:
        """The keys of `data` that are columns."""
        return frozenset(field.data_key for field in self._fields)

    def is_mere(self, data: Mapping[str, Any]) -> bool:
        """Whether `data` says of a row only that there is one: its vessel can't send it."""
        known = {self.followed.id_key, self.version_key}
        return known >= set(data) and not known >= self.keys

    @property
    def version_key(self) -> str:
        """The key of the version in `data`."""
        found = (field.data_key for field in self._fields if field.column == self._version)
        return next(found, self.registration.version)

    @property
    def version_column(self) -> str:
        """The name of the version's column."""
        return self._version or self.registration.version

    @property
    def key_column(self) -> Column[Any]:
        """The primary key's column."""
        column: Column[Any] = self.table.c[self._key.column]
        return column

    def key(self, row_id: Any) -> Any:
        """Return a row's id as its column takes it.

        :raises RefusedMessageError: it does not fit.
        """
        try:
            return self._key.convert(row_id)
        except Exception as error:  # as above
            raise RefusedMessageError(f"the row's id: {error}") from error

    def check_id(self, row_id: Any) -> None:
        """Check that a row's id in a message fits its column, and is written as the column writes it.

        Else one row would have several ids, each with another owner.

        :raises RefusedMessageError: it does not.
        """
        key = self.key(row_id)
        if isinstance(key, uuid.UUID) and str(key) != row_id:
            raise RefusedMessageError("the row's id: a UUID is written in lower case, with hyphens")

    def key_of(self, row_id: str) -> Any:
        """Return a row's id, as it stands in messages, as its column takes it."""
        try:
            return self.key(row_id)
        except RefusedMessageError:
            return self.key(int(row_id))

    def upsert(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Insert rows, or overwrite those that are there."""
        if not rows:
            return
        dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
        statement = self._statements.get("upsert")
        if statement is None:
            insert = dialect.insert(self.table)
            others = {
                name: insert.excluded[name] for name in self._columns if name != self._key.column
            }
            statement = insert.on_conflict_do_update(
                index_elements=[self.table.c[self._key.column]], set_=others
            )
            self._statements["upsert"] = statement
        connection.execute(statement, rows)

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


def _column(mapper: Mapper[Any], attribute: str) -> Column[Any] | None:
    prop = mapper.attrs.get(attribute)
    if not isinstance(prop, ColumnProperty) or not isinstance(prop.columns[0], Column):
        return None
    return prop.columns[0]


def _field(name: str, field: Any, mapper: Mapper[Any]) -> _Field:
    column = _column(mapper, field.attribute or name)
    assert column is not None
    default = None
    if not column.nullable and isinstance(column.default, ColumnDefault):
        default = column.default.arg if column.default.is_scalar else None
    return _Field(
        field.data_key or name,
        column.key,
        bool(column.nullable),
        _converter(column, field.deserialize),
        default,
    )


def _converter(column: Column[Any], deserialize: Convert) -> Convert:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return deserialize
    if kind is str:
        return _text(getattr(column.type, "length", None))
    return (
        {int: _integer, float: _real, bool: _truth, dict: _json, list: _json}.get(kind, deserialize)
        if kind is not uuid.UUID
        else uuid.UUID
    )


def _text(length: int | None) -> Convert:
    def text(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("not a text")
        if length is not None and len(value) > length:
            raise ValueError(f"longer than {length} characters")
        if "\0" in value:
            raise ValueError("it holds a NUL character")
        return value

    return text


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > _MAX_INTEGER:
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
