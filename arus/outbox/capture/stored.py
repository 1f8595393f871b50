"""Values that a database returns in another form than they were given, such as 1.5 in a column with two decimals.

The log, catch-ups and digests must have the same row, so an object's attribute with such a value is loaded again before
its change is logged.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Column, Connection, Dialect, inspect, select
from sqlalchemy.orm import ColumnProperty, InstanceState, Mapper
from sqlalchemy.types import TypeDecorator, TypeEngine

from arus.protocol.entries import Operation
from arus.registry import Registration

#: Whether the database surely returns a value (not None) as it is.
Check = Callable[[Any], bool]

#: Decimal digits that a double-precision number holds exactly: SQLite stores numerics as such.
_DOUBLE_DIGITS = 15
#: Decimals that SQLAlchemy reads from SQLite if the column has no scale.
_RETURN_SCALE = 10
#: Types whose values are returned as they were given.
_TRUSTED = (sa.Integer, sa.Boolean)

_checks: weakref.WeakKeyDictionary[Mapper[Any], dict[str, dict[str, Check]]] = (
    weakref.WeakKeyDictionary()
)


def reloaded_attributes(
    operation: Operation, state: InstanceState[Any], dialect: Dialect
) -> list[str]:
    """Return the attributes of a flushed object whose values the database may return in another form."""
    mapper: Mapper[Any] = state.mapper
    by_dialect = _checks.get(mapper)
    if by_dialect is None:
        by_dialect = _checks[mapper] = {}
    checks = by_dialect.get(dialect.name)
    if checks is None:
        checks = by_dialect[dialect.name] = _checks_of(mapper, dialect)
    written = checks if operation is Operation.CREATE else _written(mapper, state, checks)
    values = state.dict
    return [
        name
        for name in written
        if (value := values.get(name)) is not None and not checks[name](value)
    ]


def stored_key(connection: Connection, registration: Registration, key: Any) -> Any:
    """Return the primary key of a row that was inserted with another form of it, as the database returns it."""
    (column,) = inspect(registration.model).primary_key
    found = connection.execute(select(column).where(column == key)).scalar_one_or_none()
    return key if found is None else found


def _written(
    mapper: Mapper[Any], state: InstanceState[Any], checks: Mapping[str, Check]
) -> Iterable[str]:
    """Return the checked attributes that an UPDATE has written, by itself or by the column's `onupdate`."""
    return [
        name
        for name in checks
        if name in state.committed_state or mapper.columns[name].onupdate is not None
    ]


def _checks_of(mapper: Mapper[Any], dialect: Dialect) -> dict[str, Check]:
    found = {}
    for prop in mapper.column_attrs:
        if isinstance(prop, ColumnProperty) and isinstance(column := prop.columns[0], Column):
            check = _check(column.type, dialect)
            if check is not None:
                found[prop.key] = check
    return found


def _check(kind: TypeEngine[Any], dialect: Dialect) -> Check | None:
    """Return the check of a column's values; None if all of them are returned as they were given."""
    if isinstance(kind, sa.Interval):  # a decorator too
        return _interval(kind, dialect)
    if isinstance(kind, TypeDecorator):
        return _decorated(kind, dialect)
    if isinstance(kind, sa.CHAR | sa.NCHAR):  # psycopg's own type for it is that of any text
        return _padded(kind)
    kind = kind.dialect_impl(dialect)  # a variant, perhaps
    if isinstance(kind, sa.Enum):
        return _enum(kind)
    if isinstance(kind, sa.String):
        return _padded(kind) if isinstance(kind, sa.CHAR | sa.NCHAR) else None
    if isinstance(kind, _TRUSTED):
        return None
    if _is_postgresqls(kind, "INTERVAL"):
        return _interval(kind, dialect)
    # Before the numbers: in older releases a Float is a Numeric.
    for known, make in _MAKERS:
        if isinstance(kind, known):
            return make(kind, dialect)
    return _never


def _is_postgresqls(kind: TypeEngine[Any], name: str) -> bool:
    """Whether a type is PostgreSQL's own of this name: by its name, because on SQLite its module is not loaded."""
    return kind.__visit_name__ == name


def _never(_value: Any) -> bool:
    return False


def _decorated(kind: TypeDecorator[Any], dialect: Dialect) -> Check:
    """Check by the decorator's own conversions, and its column's type if it converts in one direction only."""
    converts_back = type(kind).process_result_value is not TypeDecorator.process_result_value
    binds = type(kind).process_bind_param is not TypeDecorator.process_bind_param
    impl = None if converts_back else _check(kind.impl_instance, dialect)

    def check(value: Any) -> bool:
        stored = kind.process_bind_param(value, dialect) if binds else value
        if converts_back:
            return bool(kind.process_result_value(stored, dialect) == value)
        return bool(stored == value) and (impl is None or impl(stored))

    return check


def _enum(kind: sa.Enum) -> Check | None:
    if kind.enum_class is None:
        return None
    members = kind.enum_class
    return lambda value: isinstance(value, members)


def _padded(kind: sa.String) -> Check:
    return lambda value: len(value) == kind.length  # PostgreSQL fills the rest with spaces


def _float(kind: Any, _dialect: Dialect) -> Check | None:
    single = isinstance(kind, sa.REAL) or (kind.precision or 53) <= 24
    return _never if single or kind.asdecimal else None


def _numeric(kind: Any, dialect: Dialect) -> Check | None:
    if not kind.asdecimal:
        return _never if kind.scale is not None else None
    is_sqlite = dialect.name == "sqlite"
    scale = kind.scale
    if is_sqlite:
        scale = next(
            (n for n in (kind.decimal_return_scale, scale) if n is not None), _RETURN_SCALE
        )

    def check(value: Any) -> bool:
        if not isinstance(value, Decimal):
            return False
        if not value.is_finite():
            return True  # SQLite stores NULL for it, and a null must not be sent as if it had been meant
        _, digits, exponent = value.as_tuple()
        fits = not is_sqlite or len(digits) <= _DOUBLE_DIGITS
        if scale is None:
            return fits and isinstance(exponent, int) and exponent <= 0
        return fits and exponent == -scale

    return check


def _moment(kind: Any, dialect: Dialect) -> Check:
    # PostgreSQL returns times in the time zone of the session.
    if kind.timezone and dialect.name != "sqlite":
        return _never
    precise = getattr(kind, "precision", None) is None
    return lambda value: precise and isinstance(value, datetime | time) and value.tzinfo is None


def _day(_kind: Any, _dialect: Dialect) -> Check:
    return lambda value: type(value) is date


def _interval(kind: Any, _dialect: Dialect) -> Check:
    whole = getattr(kind, "second_precision", None) is None
    precise = whole and getattr(kind, "precision", None) is None
    return lambda value: precise and type(value) is timedelta


def _uuid(kind: Any, _dialect: Dialect) -> Check | None:
    return None if kind.as_uuid else _is_canonical


def _is_canonical(value: Any) -> bool:
    """Whether a text is a UUID as the databases return it: in lower case, with hyphens."""
    try:
        return bool(str(UUID(value)) == value)
    except (AttributeError, TypeError, ValueError):
        return False


def _binary(_kind: Any, _dialect: Dialect) -> Check:
    return lambda value: type(value) is bytes


def _json(kind: Any, dialect: Dialect) -> Check:
    # JSONB has an order of keys of its own.
    if _is_postgresqls(kind, "JSONB"):
        return _never
    # SQLite takes a document that is a number alone for a number: 1.0 is stored as 1.
    return (
        _is_plain if dialect.name != "sqlite" else lambda v: type(v) is not float and _is_plain(v)
    )


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or kind is str or kind is int or kind is float or kind is bool


_MAKERS: tuple[tuple[Any, Callable[[Any, Dialect], Check | None]], ...] = (
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    (sa.DateTime, _moment),
    (sa.Time, _moment),
    (sa.Date, _day),
    (sa.Uuid, _uuid),
    (sa.LargeBinary, _binary),
    (sa.JSON, _json),
)
