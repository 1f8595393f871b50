"""The database: base classes of the models, and the configuration of each engine."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import JSON, DateTime, Dialect, Engine, Index, Integer, MetaData, String, event
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from sqlalchemy.types import TypeDecorator

from arus.database import begin_immediate, bound_wal

#: The first words of the statements for which Python's driver begins a transaction.
_WRITES = {"INSERT", "UPDATE", "DELETE", "REPLAC"}


def utcnow() -> datetime:
    """Return the time in UTC to the millisecond, the precision used in HTTP and MQTT."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_id() -> str:
    """Return a new row id."""
    return str(uuid4())


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored in UTC; SQLite has no time zones, so there the offset is implied."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """The Python type of its values."""
        return datetime

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return `value` in UTC; SQLite's type stores it without its offset."""
        return None if value is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that reads a value; SQLite's texts are read at once as times in UTC, in half the time."""
        usual: Any = super().result_processor(dialect, coltype)
        if dialect.name != "sqlite":
            return usual

        def read(text: str | None) -> datetime | None:
            if text is None:
                return None
            try:
                return datetime.fromisoformat(f"{text}+00:00")
            except (
                ValueError
            ):  # another program's: SQLAlchemy knows more forms, or says what is wrong
                found: datetime = usual(text)
                return found

        return read

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return the database's `value` as an aware time in UTC."""
        if value is None:
            return None
        # A time without an offset is SQLite's. `replace` takes 10,000 instructions: only where it is needed.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class ExactJSON(JSON):
    """JSON whose values are compared as they are stored: Python takes true, 1 and 1.0 for equal."""

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two values are the same JSON."""
        return x is y or (x == y and _stored(x) == _stored(y))


def _stored(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


class Base(DeclarativeBase):
    """Base class of all tables; constraints have names, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Row(Base):
    """Base class of the five resources' rows, with their common columns: id, version and times."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id, sort_order=-2)
    version: Mapped[int] = mapped_column(Integer, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, onupdate=utcnow)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805  # SQLAlchemy calls it with the class
        return {"version_id_col": cls.version}


def list_indexes(table: str, *columns: str) -> tuple[Index, ...]:
    """Return the indexes for the list's order, without a filter and with a filter on each of `columns`."""
    order = ("created_at", "id")
    filtered = (Index(f"ix_{table}_{column}_list", column, *order) for column in columns)
    return (Index(f"ix_{table}_list", *order), *filtered)


db = SQLAlchemy(
    model_class=Base,
    # The response contains the row as committed; reading it again would cost one more query for each write.
    session_options={"expire_on_commit": False},
)


def init_database(app: Flask) -> None:
    """Bind `db` to `app` and prepare each new connection."""
    url: str = app.config["DATABASE_URL"]
    wait: float = app.config["DATABASE_BUSY_TIMEOUT"]
    sqlite = url.startswith("sqlite")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config.setdefault(
        "SQLALCHEMY_ENGINE_OPTIONS",
        # The server may have closed a connection while it was idle.
        {"connect_args": {"factory": _Connection}}
        if sqlite
        else {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}},
    )
    db.init_app(app)
    if sqlite:
        with app.app_context():
            _prepare_sqlite(db.engine, wait)


class _Cursor(sqlite3.Cursor):
    """Begins the transaction of a write itself, as the driver's own would wait for the lock by SQLite's polling."""

    def execute(self, statement: str, parameters: Any = ()) -> _Cursor:
        self._begin(statement)
        super().execute(statement, parameters)
        return self

    def executemany(self, statement: str, parameters: Any) -> _Cursor:
        self._begin(statement)
        super().executemany(statement, parameters)
        return self

    def _begin(self, statement: str) -> None:
        connection = cast("_Connection", self.connection)
        if not connection.in_transaction and statement.lstrip()[:6].upper() in _WRITES:
            begin_immediate(connection, connection.lock_timeout)


class _Connection(sqlite3.Connection):
    #: Seconds that a write waits for SQLite's lock.
    lock_timeout = 0.0

    def cursor(self, *_factory: Any) -> _Cursor:  # type: ignore[override]  # there is one kind
        return super().cursor(_Cursor)


def _prepare_sqlite(engine: Engine, wait: float) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: _Connection, _record: object) -> None:
        connection.lock_timeout = wait
        # The order matters: switching to WAL needs a lock, for which it waits only this long.
        connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
        # Ships lose power: a commit must be on the disk before it returns.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        bound_wal(connection)
