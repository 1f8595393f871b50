"""Values that a database returns in another form than they were given, such as 1.5 in a column with two decimals.

The log, catch-ups and digests must have the same row, so an object's attribute with such a value is loaded again before
its change is logged.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Column, Connection, Dialect, inspect, select
from sqlalchemy.orm import ColumnProperty, InstanceState, Mapper
from sqlalchemy.types import TypeDecorator, TypeEngine

from arus.protocol.entries import Operation
from arus.protocol.rows import is_written_alike
from arus.registry import Registration

#: Whether the database surely returns a value (not None) as it is.
Check = Callable[[Any], bool]

#: The type whose values, and no others, the database surely returns as they are; or a check of the value.
Trusted = type[Any] | Check

#: Decimal digits that a double-precision number holds exactly: SQLite stores numerics as such.
_DOUBLE_DIGITS = 15
#: Decimals that SQLAlchemy reads from SQLite if the column has no scale.
_RETURN_SCALE = 10
#: How a type of the application's own may convert values, and what of a decorator says the same.
_CONVERSIONS = {
    "bind_processor": "process_bind_param",
    "result_processor": "process_result_value",
    "bind_expression": None,
    "column_expression": None,
}
#: A moment that a type must return as it is, before any other is believed: a storage format may have no microseconds.
_MOMENT = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
#: Some zone that a session may be in.
_ELSEWHERE = timezone(timedelta(hours=9, minutes=30))


class _Checks(Struct, frozen=True):
    """The checks of a mapper's attributes on one kind of database."""

    by_name: dict[str, Trusted]
    #: The attributes that an UPDATE may write by itself.
    on_update: tuple[str, ...]


_checks: weakref.WeakKeyDictionary[Mapper[Any], dict[str, _Checks]] = weakref.WeakKeyDictionary()


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
    trusted, values = checks.by_name, state.dict
    written: Iterable[str] = trusted
    if operation is not Operation.CREATE:
        written = {*state.committed_state, *checks.on_update}
    reloaded = []
    # This runs for each flushed row: most values are of the type that their column is trusted with.
    for name in written:
        value, trust = values.get(name), trusted.get(name)
        if value is None or trust is None or type(value) is trust:
            continue
        if isinstance(trust, type) or not trust(value):
            reloaded.append(name)
    return reloaded


def stored_key(connection: Connection, registration: Registration, key: Any) -> Any:
    """Return the primary key of a row that was inserted with another form of it, as the database returns it."""
    (column,) = inspect(registration.model).primary_key
    found = connection.execute(select(column).where(column == key)).scalar_one_or_none()
    return key if found is None else found


def _checks_of(mapper: Mapper[Any], dialect: Dialect) -> _Checks:
    columns = {
        prop.key: column
        for prop in mapper.column_attrs
        if isinstance(prop, ColumnProperty) and isinstance(column := prop.columns[0], Column)
    }
    return _Checks(
        {name: _check(column.type, dialect) for name, column in columns.items()},
        tuple(name for name, column in columns.items() if column.onupdate is not None),
    )


def _check(kind: TypeEngine[Any], dialect: Dialect) -> Trusted:
    """Return what is trusted of a column's values."""
    if isinstance(kind, sa.Interval):  # a decorator too
        return _interval(kind, dialect)
    if _converts(kind):
        return _never
    if isinstance(kind, TypeDecorator):
        return _decorated(kind, dialect)
    if isinstance(kind, sa.CHAR | sa.NCHAR):  # psycopg's own type for it is that of any text
        return _padded(kind)
    impl = kind.dialect_impl(dialect)  # a variant, perhaps
    return _never if _converts(impl) else _native(kind, impl, dialect)


def _native(declared: TypeEngine[Any], kind: Any, dialect: Dialect) -> Trusted:
    """Return what is trusted of the values of one of SQLAlchemy's own types.

    :param kind: the dialect's form of the declared type; it may have lost the precision.
    """
    if isinstance(kind, sa.Enum):
        return kind.enum_class or str
    if isinstance(kind, sa.String):
        is_padded = declared.compile(dialect=dialect).startswith(("CHAR", "NCHAR"))
        return _padded(kind) if is_padded else str
    if _is_postgresqls(kind, "INTERVAL"):
        return _interval(declared, dialect)
    if isinstance(kind, sa.DateTime | sa.Time):
        return _never if _is_shortened(declared, dialect) else _moment(kind, dialect)
    # Before the numbers: in older releases a Float is a Numeric.
    for known, make in _MAKERS:
        if isinstance(kind, known):
            return make(kind, dialect)
    return _never


def _converts(kind: TypeEngine[Any]) -> bool:
    """Whether a class of the application's own converts a type's values in a way that nothing is known of."""
    named = {
        name
        for each in type(kind).__mro__
        if not each.__module__.startswith("sqlalchemy.")
        for name in vars(each)
    }
    return any(name in named and same not in named for name, same in _CONVERSIONS.items())


def _is_postgresqls(kind: TypeEngine[Any], name: str) -> bool:
    """Whether a type is PostgreSQL's own of this name: by its name, because on SQLite its module is not loaded."""
    return kind.__visit_name__ == name


def _never(_value: Any) -> bool:
    return False


def _is_trusted(value: Any, trust: Trusted) -> bool:
    return type(value) is trust or (not isinstance(trust, type) and trust(value))


def _decorated(kind: TypeDecorator[Any], dialect: Dialect) -> Check:
    """Check by the decorator's own conversions, and by its column's type."""
    converts_back = type(kind).process_result_value is not TypeDecorator.process_result_value
    binds = type(kind).process_bind_param is not TypeDecorator.process_bind_param
    impl = kind.load_dialect_impl(dialect)
    trust = _check(impl, dialect)
    if isinstance(impl, sa.DateTime) and impl.timezone and _keeps_utc(kind, trust, dialect):
        trust = _is_utc

    def check(value: Any) -> bool:
        stored = kind.process_bind_param(value, dialect) if binds else value
        if stored is None or not _is_trusted(stored, trust):
            return False
        returned = kind.process_result_value(stored, dialect) if converts_back else stored
        return bool(returned == value) and is_written_alike(returned, value)

    return check


def _keeps_utc(kind: TypeDecorator[Any], trust: Trusted, dialect: Dialect) -> bool:
    """Whether a decorator returns moments in UTC as such, in whichever zone the database does."""
    returned = _MOMENT.astimezone(_ELSEWHERE)
    if dialect.name == "sqlite":
        returned = _MOMENT.replace(tzinfo=None)
        if not _is_trusted(returned, trust):
            return False
    elif _is_shortened(kind.load_dialect_impl(dialect), dialect):
        return False
    try:
        found = kind.process_result_value(returned, dialect)
    except Exception:  # noqa: BLE001  # the decorator is the application's
        return False
    return bool(found == _MOMENT) and is_written_alike(found, _MOMENT)


def _is_utc(value: Any) -> bool:
    return type(value) is datetime and value.tzinfo is UTC


def _padded(kind: sa.String) -> Check:
    # PostgreSQL fills the rest with spaces.
    return lambda value: type(value) is str and len(value) == kind.length


def _integer(_kind: Any, _dialect: Dialect) -> Trusted:
    return int


def _boolean(_kind: Any, _dialect: Dialect) -> Trusted:
    return bool


def _float(kind: Any, _dialect: Dialect) -> Trusted:
    single = isinstance(kind, sa.REAL) or (kind.precision or 53) <= 24
    return _never if single or kind.asdecimal else float


def _numeric(kind: Any, dialect: Dialect) -> Trusted:
    if not kind.asdecimal:
        return _never if kind.scale is not None else float
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
    moment = _MOMENT.replace(tzinfo=None)
    probe = moment if isinstance(kind, sa.DateTime) else moment.time()
    if not _returns(kind, dialect, probe):
        return _never
    expected = type(probe)
    return lambda value: type(value) is expected and value.tzinfo is None


def _returns(kind: TypeEngine[Any], dialect: Dialect, value: Any) -> bool:
    """Whether a type reads a value back from what it has written."""
    write, read = kind.bind_processor(dialect), kind.result_processor(dialect, None)
    written = write(value) if write is not None else value
    return bool((read(written) if read is not None else written) == value)


def _day(_kind: Any, _dialect: Dialect) -> Trusted:
    return date


def _interval(kind: Any, dialect: Dialect) -> Trusted:
    return _never if _is_shortened(kind, dialect) else timedelta


def _is_shortened(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether a column is declared for less than a time has in Python: `TIMESTAMP(0)`, `INTERVAL HOUR`."""
    declared = kind.compile(dialect=dialect)
    return "(" in declared or declared.startswith("INTERVAL ")


def _uuid(kind: Any, _dialect: Dialect) -> Trusted:
    return UUID if kind.as_uuid else _is_canonical


def _is_canonical(value: Any) -> bool:
    """Whether a text is a UUID as the databases return it: in lower case, with hyphens."""
    try:
        return bool(str(UUID(value)) == value)
    except (AttributeError, TypeError, ValueError):
        return False


def _binary(_kind: Any, _dialect: Dialect) -> Trusted:
    return bytes


def _json(kind: Any, dialect: Dialect) -> Check:
    # JSONB has an order of keys of its own.
    if _is_postgresqls(kind, "JSONB"):
        return _never
    if dialect.name != "sqlite":
        return _is_plain
    # SQLite takes a document that is a number alone for a number: 1.0 is stored as 1, and 2**70 inexactly.
    return lambda value: not isinstance(value, int | float) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or kind is str or kind is int or kind is float or kind is bool


_MAKERS: tuple[tuple[Any, Callable[[Any, Dialect], Trusted]], ...] = (
    (sa.Integer, _integer),
    (sa.Boolean, _boolean),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    (sa.Date, _day),
    (sa.Uuid, _uuid),
    (sa.LargeBinary, _binary),
    (sa.JSON, _json),
)
