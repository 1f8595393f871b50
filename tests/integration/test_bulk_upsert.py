"""A batch's rows that are written by one statement are the same as those that are bound value by value."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

import arus.follower.tables
import arus.outbox.tables
from arus.database import open_engine
from arus.errors import ProposalError
from arus.follower.proposals import propose
from arus.follower.rows import Copy
from arus.follower.upsert import MAX_BYTES, Upsert
from arus.protocol.entries import Operation
from arus.registry import Registry
from tests.support.postgres import PostgresServer


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Shouted(TypeDecorator[str]):
    """Stored in capitals."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        return None if value is None else value.upper()


class Base(DeclarativeBase):
    pass


METADATA = sa.MetaData()
TABLE = sa.Table(
    'Odd "name" 100%',
    METADATA,
    sa.Column("id", sa.String(60), primary_key=True),
    sa.Column('a "quoted" %s', sa.Text, key="text"),
    sa.Column("number", sa.BigInteger),
    sa.Column("real", sa.Float),
    sa.Column("exact", sa.Numeric(30, 10)),
    sa.Column("flag", sa.Boolean),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("key", sa.Uuid),
    sa.Column("json", sa.JSON(none_as_null=True)),
    sa.Column("jsonb", postgresql.JSONB(none_as_null=True)),
    sa.Column("colour", sa.Enum(Colour)),
    sa.Column("shouted", Shouted),
    sa.Column("generated", sa.Integer, server_default="7"),
)
COLUMNS = [column.key for column in TABLE.columns if column.key != "generated"]

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
REALS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | REALS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))]
)
FIRST, LAST = datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2200-01-01")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "text": st.none() | TEXTS,
            "number": st.none() | INTEGERS,
            "real": st.none() | REALS,
            "exact": st.none() | st.decimals(-(10**15), 10**15, places=10),
            "flag": st.none() | st.booleans(),
            "at": st.none() | st.datetimes(FIRST, LAST, timezones=ZONES),
            "local": st.none() | st.datetimes(FIRST, LAST),
            "day": st.none() | st.dates(date(1900, 1, 1), date(2200, 1, 1)),
            "key": st.none() | st.uuids(),
            "json": JSON,
            "jsonb": JSON,
            "colour": st.none() | st.sampled_from(Colour),
            "shouted": st.none() | st.text("abcäß", max_size=20),
        }
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: str(row["id"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def connection(postgres_server: PostgresServer) -> Iterator[sa.Connection]:
    engine = open_engine(postgres_server.url(postgres_server.create_database()))
    with engine.connect() as connection:
        METADATA.create_all(connection)
        yield connection
    engine.dispose()


def _bound(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Write rows as `Copy.upsert` does."""
    insert = postgresql.insert(TABLE)
    others = {name: insert.excluded[name] for name in COLUMNS if name != "id"}
    statement = insert.on_conflict_do_update(index_elements=[TABLE.c.id], set_=others)
    connection.execute(statement, rows)


def _upsert(connection: sa.Connection) -> Upsert:
    made = Upsert.of(connection.dialect, TABLE, COLUMNS, "id")
    assert made is not None
    return made


def _content(connection: sa.Connection) -> list[Any]:
    return [tuple(row) for row in connection.execute(sa.select(TABLE).order_by(TABLE.c.id))]


@settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=ROWS, second=ROWS)
def test_a_batch_in_one_statement_equals_rows_bound_one_by_one(
    connection: sa.Connection, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    found = []
    for write in (_bound, _upsert(connection).execute):
        connection.exec_driver_sql("BEGIN")
        write(connection, first)
        write(connection, second)
        found.append(_content(connection))
        connection.exec_driver_sql("ROLLBACK")
    assert found[0] == found[1]
    assert len(found[1]) == len({row["id"] for row in (*first, *second)})


def test_a_batch_above_the_size_of_a_statement_is_divided(connection: sa.Connection) -> None:
    rows: list[dict[str, Any]] = [
        {**dict.fromkeys(COLUMNS), "id": str(number), "text": "x" * (MAX_BYTES // 3)}
        for number in range(7)
    ]
    connection.exec_driver_sql("BEGIN")
    _upsert(connection).execute(connection, rows)
    assert [len(row[1]) for row in _content(connection)] == [MAX_BYTES // 3] * 7
    connection.exec_driver_sql("ROLLBACK")


@pytest.mark.parametrize(
    "kind",
    [
        sa.LargeBinary(),
        sa.Interval(),
        sa.Time(),
        postgresql.ARRAY(sa.Text),
        postgresql.INET(),
        type("Wrapped", (TypeDecorator,), {"impl": sa.JSON, "cache_ok": True})(),
    ],
    ids=str,
)
def test_a_type_that_json_can_not_say_is_bound_value_by_value(
    connection: sa.Connection, kind: Any
) -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("x", kind)
    )
    assert Upsert.of(connection.dialect, table, ["id", "x"], "id") is None


def test_values_of_a_decimal_and_a_uuid_are_exact(connection: sa.Connection) -> None:
    key = uuid.uuid4()
    row = {**dict.fromkeys(COLUMNS), "id": "1", "exact": Decimal("0.1234567891"), "key": key}
    connection.exec_driver_sql("BEGIN")
    _upsert(connection).execute(connection, [row, {**row, "id": "2"}])
    found = connection.execute(sa.select(TABLE.c.exact, TABLE.c.key, TABLE.c.generated)).all()
    connection.exec_driver_sql("ROLLBACK")
    assert [tuple(each) for each in found] == [(Decimal("0.1234567891"), key, 7)] * 2


class Reading(Base):
    __tablename__ = "reading"
    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True)
    value: Mapped[int]


class ReadingSchema(Schema):
    id = fields.Integer()
    value = fields.Integer()


def test_a_key_that_only_the_database_makes_is_copied_too(connection: sa.Connection) -> None:
    Base.metadata.create_all(connection)
    registration = Registry().add(
        Reading, "readings", topic="readings", qos=1, schema=ReadingSchema, version=None
    )
    copy = Copy(registration)
    copy.upsert(connection, [{"id": 7, "value": 1}])
    copy.upsert_all(connection, [{"id": 7, "value": 2}, {"id": 9, "value": 3}])
    copy.upsert(connection, [{"id": 9, "value": 4}])
    rows = connection.execute(sa.select(Reading.id, Reading.value).order_by(Reading.id))
    assert [tuple(row) for row in rows] == [(7, 2), (9, 4)]


def test_a_row_whose_key_only_the_database_makes_is_not_created_ashore(
    connection: sa.Connection,
) -> None:
    registration = Registry().add(
        Reading, "readings", topic="readings", qos=1, schema=ReadingSchema, version=None
    )
    for define in (arus.follower.tables.define, arus.outbox.tables.define):
        define(METADATA)
    METADATA.create_all(connection)
    Base.metadata.create_all(connection)
    connection.exec_driver_sql(
        "INSERT INTO arus_vessel (vessel_id, epoch, heard_at) VALUES ('ship-1', '1', 0)"
    )
    with pytest.raises(ProposalError, match="only the vessel can create a row"):
        propose(connection, Copy(registration), Operation.CREATE, "7", {"value": 1}, origin="shore")
