"""Models and writes that others may well have: each change is captured as it was committed, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from threading import Event
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.mutable import MutableDict, MutableList, MutableSet
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    with_loader_criteria,
)

from arus import ReliableSync
from arus.audit.contents import each_row
from arus.database import Reader
from arus.errors import CaptureError
from arus.outbox.capture.tables import RegisteredTables
from arus.registry import Registry
from tests.support.small_app import empty, small_app


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Craft(Base):
    """Not registered; two of its three subclasses, all in its table, are."""

    __tablename__ = "x_craft"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    kind: Mapped[str] = mapped_column("sort", sa.String(10))
    name: Mapped[str | None]
    notes: Mapped[str | None] = mapped_column(deferred=True)
    __mapper_args__ = {"polymorphic_on": kind}  # noqa: RUF012  # SQLAlchemy's own word


class Boat(Craft):
    __mapper_args__ = {"polymorphic_identity": "boat"}  # noqa: RUF012


class Raft(Craft):
    __mapper_args__ = {"polymorphic_identity": "raft"}  # noqa: RUF012


class Dinghy(Craft):
    __mapper_args__ = {"polymorphic_identity": "dinghy"}  # noqa: RUF012


class Part(Base):
    """Its key is not that of its table."""

    __tablename__ = "x_part"
    number = mapped_column(sa.Integer, primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), unique=True)
    version: Mapped[int | None]
    name: Mapped[str | None]
    __mapper_args__ = {"primary_key": [code]}  # noqa: RUF012


class Spare(Part):
    """Has its rows in a table of its own, with keys that parts may have too."""

    __tablename__ = "x_spare"
    code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    name: Mapped[str | None]
    __mapper_args__ = {"concrete": True}  # noqa: RUF012


class Order(Base):
    __tablename__ = "x_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(unique=True)


class Lower(sa.types.TypeDecorator[str]):
    """A text in lower case, whatever is given."""

    impl = sa.String(36)
    cache_ok = True
    python_type = str

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Tag(Base):
    __tablename__ = "x_tag"
    id: Mapped[str] = mapped_column(Lower, primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]


class Berth(Base):
    __tablename__ = "x_berth"
    id: Mapped[str] = mapped_column(sa.CHAR(6), primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]


class Seal(Base):
    __tablename__ = "x_seal"
    id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]


class Lamp(Base):
    """Its rows are marked as deleted."""

    __tablename__ = "x_lamp"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]
    is_gone: Mapped[bool] = mapped_column(default=False)


class State(str, Enum):  # noqa: UP042  # a StrEnum is a text of its own
    """As many write it; a member is no text of its own: `str` of it is "State.OPEN"."""

    OPEN = "open"


class UtcTime(sa.types.TypeDecorator[datetime]):
    """SQLAlchemy's own recipe for times with a zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Amount(sa.types.TypeDecorator[Decimal]):
    impl = sa.Numeric(10, 2)
    cache_ok = True

    def process_result_value(self, value: Decimal | None, _dialect: Any) -> Decimal | None:
        return value


class Folded(sa.types.UserDefinedType[str]):
    """The database itself converts its values."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "VARCHAR(20)"

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.lower(bindvalue, type_=self)


class Shouted(sa.String):
    def column_expression(self, colexpr: Any) -> Any:
        return sa.func.upper(colexpr, type_=self)


class Gauge(Base):
    __tablename__ = "x_gauge"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    state: Mapped[str | None]
    word = mapped_column(sa.Enum("open", "shut", name="x_word"))
    count: Mapped[int | None]
    seen_at = mapped_column(UtcTime)
    amount = mapped_column(Amount)
    folded = mapped_column(Folded)
    shouted = mapped_column(Shouted(20))
    whole_seconds = mapped_column(
        sa.DateTime()
        .with_variant(sqlite.DATETIME(truncate_microseconds=True), "sqlite")
        .with_variant(postgresql.TIMESTAMP(precision=0), "postgresql")
    )
    key = mapped_column(sa.Uuid)


class Bolt(Base):
    """SQLAlchemy does not fetch its keys by itself."""

    __tablename__ = "x_bolt"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]
    __table_args__ = {"implicit_returning": False}  # noqa: RUF012


class GaugeSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    state = fields.String()
    word = fields.String()
    count = fields.Integer()
    seen_at = fields.DateTime()
    amount = fields.Decimal(as_string=True)
    folded = fields.String()
    shouted = fields.String()
    whole_seconds = fields.DateTime()
    key = fields.UUID()


class Rack(Base):
    """Its values tell it of their changes."""

    __tablename__ = "x_rack"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    items = mapped_column(MutableList.as_mutable(sa.JSON))
    places = mapped_column(
        MutableDict.as_mutable(sa.JSON().with_variant(postgresql.JSONB(), "postgresql"))
    )
    pickled = mapped_column(MutableSet.as_mutable(sa.PickleType))


class RackSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    items = fields.Raw()
    places = fields.Raw()
    pickled = fields.Function(lambda rack: sorted(rack.pickled))


class LampSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    name = fields.String()
    is_gone = fields.Boolean()


class NamedSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    name = fields.String()


class PartSchema(Schema):
    code = fields.String()
    version = fields.Integer()
    name = fields.String()


class CraftSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    kind = fields.String()
    name = fields.String()
    notes = fields.String()


class OrderSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    name = fields.String()


MODELS: dict[str, tuple[Any, type[Schema]]] = {
    "boats": (Boat, CraftSchema),
    "rafts": (Raft, CraftSchema),
    "parts": (Part, PartSchema),
    "orders": (Order, OrderSchema),
    "tags": (Tag, NamedSchema),
    "berths": (Berth, NamedSchema),
    "seals": (Seal, NamedSchema),
    "lamps": (Lamp, LampSchema),
    "gauges": (Gauge, GaugeSchema),
    "racks": (Rack, RackSchema),
    "bolts": (Bolt, OrderSchema),
}
for entity, (model, schema) in MODELS.items():
    sync.register(model, entity, schema=schema)

CRAFT: Any = Craft.__table__
PART: Any = Part.__table__
ORDER: Any = Order.__table__
LAMP: Any = Lamp.__table__
BOLT: Any = Bolt.__table__
SPARE: Any = Spare.__table__


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    # Making the tables would take a second of waiting for the disk.
    with small_app(small_database_url, models=(db, sync), pragma="synchronous = OFF") as app:
        yield app
        db.session.remove()
        empty(db)


def added(*rows: Any) -> None:
    """Begin with these rows."""
    db.session.remove()
    empty(db)
    db.session.add_all(rows)
    db.session.commit()
    db.session.remove()


def log() -> list[tuple[str, str, str]]:
    """Entity, operation and row id of each entry; the log says of each row what its table has."""
    with db.engine.connect() as connection:
        entries = connection.execute(
            sa.text(
                "SELECT entity, operation, row_id, version, data, outcome FROM arus_change ORDER BY id"
            )
        ).all()
    rows: dict[tuple[str, str], Any] = {}
    versions: dict[tuple[str, str], int] = {}
    for entity, operation, row_id, version, data, outcome in entries:
        key = (entity, row_id)
        assert outcome is None
        assert version > versions.get(key, 0), (key, operation, version)
        assert (operation == "create") == (key not in rows), (key, operation)
        before, versions[key] = rows.pop(key, None), version
        content = orjson.loads(bytes(data))
        if operation == "delete":
            assert without_version(content) == without_version(before), (
                "a deletion has the row as it last was"
            )
        else:
            rows[key] = content
    assert rows == in_tables()
    return [(entity, operation, row_id) for entity, operation, row_id, *_ in entries]


def without_version(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "version"}


def in_tables() -> dict[tuple[str, str], Any]:
    with Reader(db.engine) as session:
        return {
            (entity, registration.row_id(row)): orjson.loads(registration.serialise(row))
            for entity, (model, _) in MODELS.items()
            if (registration := registration_of(entity))
            for row in session.scalars(sa.select(model))
        }


def registration_of(entity: str) -> Any:
    return sync._registry.of_entity(entity)


def in_session(statement: Any, *arguments: Any) -> None:
    db.session.execute(statement, *arguments)
    db.session.commit()


def on_engine(statement: Any) -> None:
    with db.engine.begin() as connection:
        connection.execute(statement)


def steps(*each: Callable[[], Any]) -> None:
    for one in each:
        one()


def refused(write: Callable[[], Any], why: str) -> None:
    with pytest.raises(CaptureError, match=why):
        steps(write, db.session.commit)
    db.session.rollback()


def insert_of(table: Any) -> Any:
    dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def upserted(kind: str) -> Any:
    statement = insert_of(CRAFT).values(id=1, sort=kind)
    return statement.on_conflict_do_update(index_elements=["id"], set_={"sort": kind})


def test_a_row_that_becomes_one_of_another_entity_is_deleted_there_and_created_here(
    app: Flask,
) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: in_session(sa.update(CRAFT).values(sort="raft")),
        lambda: in_session(sa.update(Boat).values(kind="raft")),
        lambda: in_session(sa.update(Craft), [{"id": 1, "kind": "raft"}]),
        lambda: in_session(upserted("raft")),
        lambda: on_engine(sa.update(Craft).values({Craft.kind: "raft"})),
    ]
    for change in changes:
        added(Boat(id=1, name="b", notes="n"))
        boat = db.session.get(Boat, 1)
        change()
        assert log() == [
            ("boats", "create", "1"),
            ("boats", "delete", "1"),
            ("rafts", "create", "1"),
        ]
        if boat in db.session:
            db.session.expunge(boat)  # a statement on the engine knows no session
        db.session.get_one(Raft, 1).name = "r"
        db.session.commit()
        for kind in ("dinghy", "boat"):
            in_session(sa.update(Craft).values(kind=kind))
            db.session.remove()
        assert log()[3:] == [
            ("rafts", "update", "1"), ("rafts", "delete", "1"), ("boats", "create", "1"),
        ]  # fmt: skip


def test_a_session_does_not_make_its_object_a_row_of_another_entity(app: Flask) -> None:
    added(Boat(id=1, name="b"), Dinghy(id=2))

    def changed(model: type[Any], key: int, kind: str) -> None:
        db.session.get_one(model, key).kind = kind

    def replaced() -> None:
        db.session.delete(db.session.get_one(Boat, 1))
        db.session.add(Raft(id=1))

    refused(lambda: changed(Boat, 1, "raft"), "a Boat a row of another entity by its kind")
    refused(lambda: changed(Boat, 1, "dinghy"), "a Boat a row of another entity")
    refused(lambda: changed(Dinghy, 2, "boat"), "a Dinghy a row of another entity")
    refused(lambda: db.session.add(Boat(id=3, kind="raft")), "a Boat a row of another entity")
    refused(replaced, "flush the deletion before")
    db.session.delete(db.session.get_one(Boat, 1))
    db.session.flush()
    db.session.add(Raft(id=1))
    db.session.commit()
    assert log() == [("boats", "create", "1"), ("boats", "delete", "1"), ("rafts", "create", "1")]


def test_a_key_that_is_not_its_tables_own_is_the_key_of_each_statement(app: Flask) -> None:
    added(Part(code="a", number=7), Part(code="b", number=8))
    upsert = insert_of(PART).values(code="b", name="b")
    for write, entry in (
        (PART.update().where(PART.c.number == 7).values(name="n"), ("update", "a")),
        (sa.update(Part).where(Part.number == 7).values(name="o"), ("update", "a")),
        (PART.insert().values(code="c"), ("create", "c")),
        (
            upsert.on_conflict_do_update(index_elements=["code"], set_={"name": "u"}),
            ("update", "b"),
        ),
        (PART.delete().where(PART.c.number == 8), ("delete", "b")),
    ):
        in_session(write)
        assert log()[-1] == ("parts", *entry)
    on_engine(PART.update().values(name="e"))
    assert log()[-2:] == [("parts", "update", "a"), ("parts", "update", "c")]
    refused(lambda: in_session(PART.update().values(code="z")), "primary key of a Part")


def test_an_upsert_that_gives_a_row_another_key_is_refused(app: Flask) -> None:
    added(Order(id=1, name="a"))
    statement = insert_of(Order).values(id=2, name="a")
    for table, key in ((["name"], statement.excluded.id), (["name"], 2), (["id"], 3)):
        changed = statement.on_conflict_do_update(index_elements=table, set_={"id": key})
        refused(partial(in_session, changed), "primary key of a Order")
    assert log() == [("orders", "create", "1")]
    statement = insert_of(Order).values(id=1, name="b", version=1)
    every = statement.on_conflict_do_update(index_elements=["id"], set_=dict(statement.excluded))
    in_session(every)
    own = insert_of(Order).values(id=5, name="b")
    in_session(own.on_conflict_do_update(index_elements=["name"], set_={"id": Order.id}))
    assert log() == [("orders", "create", "1")] + [("orders", "update", "1")] * 2


def test_a_class_with_a_table_of_its_own_is_not_captured_with_its_base(app: Flask) -> None:
    added(Part(code="a"), Spare(code="a", name="s"))
    spare = db.session.get_one(Spare, "a")
    spare.name = "t"
    db.session.commit()
    db.session.delete(spare)
    db.session.commit()
    in_session(sa.insert(Spare).values(code="b"))
    assert log() == [("parts", "create", "a")]


def test_a_statement_made_by_a_function_or_without_its_key_is_captured(app: Flask) -> None:
    added(Order(name="a"))
    in_session(sa.lambda_stmt(lambda: sa.update(Order).values(name="b")))
    on_engine(sa.lambda_stmt(lambda: ORDER.update().values(name="c")))
    in_session(ORDER.insert().values(name="d").inline())
    assert [operation for _, operation, _ in log()] == ["create", "update", "update", "create"]


def test_a_statement_on_a_table_whose_condition_names_a_model_is_captured(app: Flask) -> None:
    added(Order(id=1, name="a"), Lamp(id=1), Spare(code="s"))
    in_session(ORDER.update().where(Order.name == "a").values(name="b"))
    in_session(ORDER.update().where(ORDER.c.id == Lamp.id).values(name="c"))
    in_session(SPARE.update().where(sa.exists().where(Order.name == "c")).values(name="d"))
    in_session(ORDER.delete().where(Order.name == "c"))
    orders = [operation for entity, operation, _ in log() if entity == "orders"]
    assert orders == ["create", "update", "update", "delete"]
    assert db.session.scalars(sa.select(Spare.name)).all() == ["d"]


def test_an_insert_that_returns_the_keys_that_the_database_makes_is_captured(app: Flask) -> None:
    added()
    made = db.session.scalars(sa.insert(Order).returning(Order), [{"name": "a"}, {"name": "b"}])
    assert {order.name for order in made} == {"a", "b"}
    db.session.commit()
    with db.engine.begin() as connection:
        connection.scalar(ORDER.insert().values(name="c").returning(ORDER.c.name, ORDER.c.id))
    assert [operation for _, operation, _ in log()] == ["create"] * 3
    nameless = ORDER.insert().values(name="d").returning(ORDER.c.name)
    refused(partial(in_session, nameless), "let it return its key too")


def test_what_a_session_writes_where_each_statement_is_committed_survives_its_rollback(
    app: Flask,
) -> None:
    added(Order(id=1, name="a"))
    engine = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        session.get_one(Order, 1).name = "b"
        session.flush()
        session.rollback()
        session.execute(sa.update(Order).values(name="c"))
        session.rollback()
        session.add(Order(id=2))
        session.commit()
    assert log() == [
        ("orders", "create", "1"), ("orders", "update", "1"), ("orders", "update", "1"),
        ("orders", "create", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "given"),
    [(Tag, "ABC"), (Berth, "gr"), (Seal, "6a1f1d1e00004000800000000000000a")],
)
def test_a_row_has_one_id_in_the_log_whatever_form_its_key_was_given_in(
    app: Flask, model: Any, given: str
) -> None:
    row = model(id=given, name="a")
    added(row)
    row = db.session.scalars(sa.select(model)).one()
    row.name = "b"
    db.session.commit()
    in_session(sa.update(model).values(name="c"))
    db.session.delete(row)
    db.session.commit()
    assert [operation for _, operation, _ in log()] == ["create", "update", "update", "delete"]


def test_rows_whose_keys_sqlalchemy_does_not_fetch_are_captured(app: Flask) -> None:
    added()
    two = [{"name": "a"}, {"name": "b"}]
    in_session(sa.insert(BOLT), two)
    in_session(sa.insert(Bolt), two)
    db.session.bulk_insert_mappings(sa.inspect(Bolt), two)
    db.session.commit()
    with db.engine.begin() as connection:
        connection.execute(sa.insert(BOLT), two)
        connection.execute(sa.insert(BOLT).values(name="c"))
    assert len(log()) == 9


def test_a_session_on_the_connection_of_another_is_captured_as_its_transaction_ends(
    app: Flask,
) -> None:
    added()

    def note_order(_mapper: Any, connection: sa.Connection, order: Order) -> None:
        with Session(connection) as session:  # what it flushes is committed along with the order
            session.add(Lamp(id=order.id, name=order.name))
            session.flush()

    sa.event.listen(Order, "after_insert", note_order)
    try:
        db.session.add_all([Order(id=1, name="a"), Order(id=2, name="b")])
        db.session.flush()
    finally:
        sa.event.remove(Order, "after_insert", note_order)
    db.session.execute(sa.update(ORDER).values(name=ORDER.c.name + "!"))
    db.session.commit()
    assert sorted(log()) == [
        ("lamps", "create", "1"), ("lamps", "create", "2"),
        ("orders", "create", "1"), ("orders", "create", "2"),
    ]  # fmt: skip


def test_a_value_is_told_as_its_column_has_it_whatever_its_object_was_given(app: Flask) -> None:
    noon = datetime(2026, 6, 1, 12, 0, 0, 7, tzinfo=timezone(timedelta(hours=3)))
    given: list[dict[str, Any]] = [
        {"state": State.OPEN},
        {"state": True},
        {"word": State.OPEN},
        {"seen_at": noon},
        {"amount": Decimal("1.005")},
        {"folded": "ABC"},
        {"shouted": "abc"},
        {"whole_seconds": noon.replace(tzinfo=None)},
    ]
    if db.engine.dialect.name == "postgresql":  # SQLite's driver refuses the last one
        given += [{"count": 5.7}, {"key": "ABCDEF00-0000-4000-8000-00000000000A"}]
    rows = [Gauge(id=number) for number in range(len(given))]
    added(*rows, *(Gauge(id=number + 100, **values) for number, values in enumerate(given)))
    for number, values in enumerate(given):
        row = db.session.get_one(Gauge, number)
        for name, value in values.items():
            setattr(row, name, value)
    db.session.commit()
    assert len(log()) == 3 * len(given)


def test_a_value_that_tells_its_row_of_changes_does_so_after_a_flush_and_a_commit_too(
    app: Flask,
) -> None:
    added()
    with Session(db.engine, expire_on_commit=False) as session:
        rack = Rack(id=1, items=[1, (2,)], places={"long": 1, "b": 1.5}, pickled={1})
        session.add(rack)
        items, places, pickled = rack.items, rack.places, rack.pickled
        for number, end in enumerate(
            (session.flush, session.commit, session.flush, session.commit)
        ):
            items.append(number)
            places[f"key {number}"] = number
            pickled.add(number)
            end()
    rack = db.session.get_one(Rack, 1)
    assert (rack.items, rack.pickled) == ([1, [2], 0, 1, 2, 3], {0, 1, 2, 3})
    assert (len(rack.places), items, places) == (6, rack.items, rack.places)
    assert log() == [("racks", "create", "1"), ("racks", "update", "1")]


def test_a_deletion_has_the_row_as_it_last_was_and_not_as_its_object_was(app: Flask) -> None:
    added(Order(id=1, name="a"), Lamp(id=1, name="a"))
    for model in (Order, Lamp):
        row: Any = db.session.get_one(model, 1)
        row.name = "never"
        db.session.delete(row)
    db.session.commit()
    assert sorted(log()[2:]) == [("lamps", "delete", "1"), ("orders", "delete", "1")]


def hide(state: ORMExecuteState) -> None:
    if state.is_select and not state.is_column_load:
        shown = with_loader_criteria(Lamp, Lamp.is_gone.is_(False), include_aliases=True)
        state.statement = state.statement.options(shown)


def test_rows_that_a_listener_hides_from_the_application_are_captured_and_compared(
    app: Flask,
) -> None:
    added(Lamp(id=1, name="a"), Lamp(id=2, name="b"))
    sa.event.listen(Session, "do_orm_execute", hide)
    try:
        with Session(db.engine, expire_on_commit=False) as other:
            stale = other.get_one(Lamp, 2)
            other.commit()
            in_session(LAMP.update().values(is_gone=True))
            on_engine(LAMP.update().where(LAMP.c.id == 1).values(name="c"))
            stale.name = "d"
            other.commit()
        assert db.session.scalars(sa.select(Lamp)).all() == []
        with db.engine.connect() as connection:
            found = each_row(connection, registration_of("lamps"), app.app_context, Event())
            assert [row.data for row in found] == [
                {"id": 1, "version": 3, "name": "c", "is_gone": True},
                {"id": 2, "version": 3, "name": "d", "is_gone": True},
            ]
        assert [operation for _, operation, _ in log()] == ["create"] * 2 + ["update"] * 4
    finally:
        sa.event.remove(Session, "do_orm_execute", hide)


def test_a_table_whose_default_schema_is_named_is_the_same_table(app: Flask) -> None:
    added(Order(id=1, name="a"))
    schema = "main" if db.engine.dialect.name == "sqlite" else "public"
    table = sa.Table("x_order", sa.MetaData(), schema=schema, autoload_with=db.engine)
    in_session(table.update().values(name="b"))
    assert log() == [("orders", "create", "1"), ("orders", "update", "1")]


def test_a_foreign_key_that_sets_some_of_its_columns_null_changes_rows_along() -> None:
    class Other(DeclarativeBase):
        pass

    class Child(Other):
        __tablename__ = "child"
        code: Mapped[str] = mapped_column(sa.String(9), primary_key=True)
        parent = mapped_column(sa.ForeignKey("parent.id", ondelete="set null (parent)"))

    parent = sa.Table("parent", Other.metadata, sa.Column("id", sa.Integer, primary_key=True))
    registry = Registry()
    registry.add(Child, "children", topic="t", qos=1, schema=PartSchema, version=None)
    assert [each.child.name for each in RegisteredTables(registry).cascades(parent)] == ["child"]


def test_a_row_that_a_trigger_deletes_along_with_its_update_is_a_deletion(app: Flask) -> None:
    added(Order(id=1, name="a"))
    body = "BEGIN DELETE FROM x_order WHERE id = NEW.id;"
    made = ["CREATE TRIGGER x_done AFTER UPDATE ON x_order FOR EACH ROW " + body + " END"]
    undone = "DROP TRIGGER x_done"
    if db.engine.dialect.name == "postgresql":
        function = (
            f"CREATE OR REPLACE FUNCTION x_done() RETURNS trigger AS $$ {body} RETURN NULL; END $$"
        )
        trigger = made[0].replace(body + " END", "EXECUTE FUNCTION x_done()")
        made, undone = [f"{function} LANGUAGE plpgsql", trigger], "DROP TRIGGER x_done ON x_order"
    with db.engine.begin() as connection:
        for statement in made:
            connection.exec_driver_sql(statement)
    try:
        in_session(sa.update(ORDER).values(name="b"))
    finally:
        with db.engine.begin() as connection:
            connection.exec_driver_sql(undone)
    with db.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT operation FROM arus_change ORDER BY id"))
        assert found.scalars().all() == ["create", "delete"]
