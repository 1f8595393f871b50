"""Capture of what the database computes: attributes set to SQL expressions, server defaults, onupdate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Event
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import event, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from arus import ReliableSync
from arus.audit.contents import each_row
from arus.errors import CaptureError
from arus.outbox.snapshot import SnapshotReader
from tests.support.small_app import small_app


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Pump(Base):
    """Its version is the mapper's own."""

    __tablename__ = "pump"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str | None]
    hours: Mapped[int | None]
    started: Mapped[int | None] = mapped_column(server_default="7")
    changed_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())
    spare_id: Mapped[int | None] = mapped_column(sa.ForeignKey("pump.id"))
    spare: Mapped[Pump | None] = relationship(remote_side="Pump.id", post_update=True)
    valves: Mapped[list[Valve]] = relationship(back_populates="pump")
    plate: Mapped[Plate | None] = relationship(back_populates="pump")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Valve(Base):
    """Not registered."""

    __tablename__ = "pump_valve"
    id: Mapped[int] = mapped_column(primary_key=True)
    pump_id: Mapped[int | None] = mapped_column(sa.ForeignKey("pump.id"))
    pump: Mapped[Pump | None] = relationship(back_populates="valves")


class Plate(Base):
    """Not registered; a pump has one."""

    __tablename__ = "pump_plate"
    id: Mapped[int] = mapped_column(primary_key=True)
    pump_id: Mapped[int | None] = mapped_column(sa.ForeignKey("pump.id"))
    pump: Mapped[Pump | None] = relationship(back_populates="plate")


class Gauge(Base):
    """Its version is a column that the database raises."""

    __tablename__ = "gauge"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(default=1, onupdate=sa.text("version + 1"))
    name: Mapped[str | None]
    hours: Mapped[int | None]


class Eager(Base):
    """The mapper fetches what the database has computed."""

    __tablename__ = "eager"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str | None]
    hours: Mapped[int | None]
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012


class Machine(Base):
    """The base of one model by a table of its own, and of one by the same table."""

    __tablename__ = "machine"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    kind: Mapped[str] = mapped_column(sa.String(20))
    name: Mapped[str | None]
    __mapper_args__ = {"version_id_col": version, "polymorphic_on": kind}  # noqa: RUF012


class Crane(Machine):
    __tablename__ = "crane"
    id: Mapped[int] = mapped_column(sa.ForeignKey("machine.id"), primary_key=True)
    hours: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "crane"}  # noqa: RUF012


class Winch(Machine):
    hours: Mapped[int | None] = mapped_column("winch_hours")
    __mapper_args__ = {"polymorphic_identity": "winch"}  # noqa: RUF012


class RowSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    name = fields.String()
    hours = fields.Integer()


for model, entity in ((Pump, "pumps"), (Gauge, "gauges"), (Eager, "eagers"), (Machine, "machines")):
    sync.register(model, entity, schema=RowSchema)

MODELS = [Pump, Gauge, Eager, Crane, Winch]
EXPRESSIONS: dict[str, Callable[[Any], tuple[str, Any, Any]]] = {
    "column + 1": lambda model: ("hours", model.hours + 1, 2),
    "the column itself": lambda model: ("hours", model.hours, 1),
    "func": lambda model: ("name", func.upper(model.name), "A"),
    "subquery": lambda _: (
        "hours",
        sa.select(func.count()).select_from(Valve).scalar_subquery(),
        0,
    ),
    "case": lambda model: ("hours", sa.case((model.hours > 0, 5), else_=6), 5),
    "text": lambda _: ("hours", sa.text("3 + 4"), 7),
    "null": lambda _: ("name", sa.null(), None),
    "literal": lambda _: ("name", sa.literal("b"), "b"),
    "literal column": lambda _: ("hours", sa.literal_column("9"), 9),
}


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url, models=(db, sync)) as app:
        yield app


def log() -> list[tuple[str, int, dict[str, Any]]]:
    with db.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT operation, version, data, outcome FROM arus_change ORDER BY id")
        ).all()
    assert not any(row.outcome for row in rows)
    return [(row.operation, row.version, orjson.loads(bytes(row.data))) for row in rows]


def in_database(model: type[Any], row_id: int = 1) -> dict[str, Any]:
    with Session(db.engine) as session:
        dumped: dict[str, Any] = RowSchema().dump(session.get_one(model, row_id))
        return dumped


def added(model: type[Any]) -> Any:
    row = model(id=1, name="a", hours=1)
    db.session.add(row)
    db.session.commit()
    return row


@pytest.mark.slow
@pytest.mark.parametrize("what", EXPRESSIONS)
@pytest.mark.parametrize("model", MODELS)
def test_an_update_by_an_expression_alone_is_an_entry_of_the_row_as_it_became(
    app: Flask, model: type[Any], what: str
) -> None:
    row = added(model)
    first = sync.publish_change("create", row)
    attribute, expression, result = EXPRESSIONS[what](model)
    setattr(row, attribute, expression)
    db.session.commit()
    receipt = sync.publish_change("update", row)
    assert log()[1:] == [("update", 2, in_database(model))]
    assert log()[1][2][attribute] == result
    assert first
    assert receipt
    assert receipt.data
    assert receipt.message_id != first.message_id
    assert orjson.loads(receipt.data) == in_database(model)


@pytest.mark.parametrize("model", MODELS)
def test_expressions_beside_ordinary_values_and_on_several_rows_of_a_flush(
    app: Flask, model: type[Any]
) -> None:
    db.session.add_all([model(id=number, name="a", hours=number) for number in (1, 2, 3)])
    db.session.commit()
    first, second, third = (db.session.get_one(model, number) for number in (1, 2, 3))
    first.hours, first.name = model.hours + 10, "b"
    second.hours = model.hours + 10
    third.name = third.name
    db.session.commit()
    assert [(operation, data) for operation, _, data in log()[3:]] == [
        ("update", in_database(model, 1)),
        ("update", in_database(model, 2)),
    ]
    assert (in_database(model, 1)["name"], in_database(model, 2)["hours"]) == ("b", 12)


@pytest.mark.parametrize("model", MODELS)
def test_an_expression_flushed_in_a_savepoint_counts_when_that_is_released(
    app: Flask, model: type[Any]
) -> None:
    row = added(model)
    savepoint = db.session.begin_nested()
    row.hours = model.hours + 100
    db.session.flush()
    savepoint.rollback()
    with db.session.begin_nested():
        row.hours = model.hours + 1
    row.hours = model.hours + 1
    db.session.commit()
    assert log()[1:] == [("update", in_database(model)["version"], in_database(model))]
    assert in_database(model)["hours"] == 3


@pytest.mark.parametrize("model", MODELS)
def test_a_row_inserted_with_expressions_is_an_entry_as_it_became(
    app: Flask, model: type[Any]
) -> None:
    row = model(id=1, name=func.upper("abc"), hours=sa.select(sa.literal(4)).scalar_subquery())
    db.session.add(row)
    db.session.flush()
    row.hours = model.hours + 1
    db.session.commit()
    assert log() == [("create", 2, in_database(model))]
    assert (log()[0][2]["name"], log()[0][2]["hours"]) == ("ABC", 5)


@pytest.mark.parametrize("model", MODELS)
def test_a_row_deleted_with_an_expression_not_flushed_is_a_delete_of_what_it_was(
    app: Flask, model: type[Any]
) -> None:
    row = added(model)
    row.hours = model.hours + 1
    with db.session.no_autoflush:
        db.session.delete(row)
    db.session.commit()
    assert log()[1:] == [("delete", 2, log()[0][2])]


@pytest.mark.parametrize("model", MODELS)
def test_an_expression_of_an_expired_row_loads_nothing_before_the_update(
    app: Flask, model: type[Any]
) -> None:
    row = added(model)
    db.session.expire(row)
    row.hours = model.hours + 1
    db.session.commit()
    assert log()[1:] == [("update", 2, in_database(model))]


@pytest.mark.parametrize("before", [True, False])
def test_an_expression_set_by_a_listener_is_an_entry_whether_it_listens_before_or_after(
    app: Flask, before: bool
) -> None:
    def touch(_mapper: Any, _connection: Any, row: Pump) -> None:
        row.hours = Pump.hours + 1

    row = added(Pump)
    event.listen(Pump, "before_update", touch, insert=before)
    try:
        row.valves.append(Valve(id=1))
        db.session.commit()
    finally:
        event.remove(Pump, "before_update", touch)
    assert log()[1:] == [("update", 2, in_database(Pump))]


def test_a_flush_that_emits_no_update_is_no_entry(app: Flask) -> None:
    row = added(Pump)
    row.valves.append(Valve(id=1))
    db.session.commit()
    row.plate = Plate(id=1)
    db.session.commit()
    row.valves = []
    row.name = row.name
    db.session.commit()
    assert log() == [("create", 1, in_database(Pump))]


def test_an_update_that_the_mapper_emits_after_the_others_is_an_entry(app: Flask) -> None:
    row = added(Pump)
    row.spare = row
    db.session.commit()
    assert log()[1:] == [("update", 2, in_database(Pump))]


def test_a_version_set_by_hand_alone_is_an_entry(app: Flask) -> None:
    row = added(Pump)
    row.version = 5
    db.session.commit()
    assert log()[1:] == [("update", 5, in_database(Pump))]


def test_a_primary_key_set_to_an_expression_is_refused_unless_it_is_the_key_itself(
    app: Flask,
) -> None:
    row = added(Pump)
    row.id = Pump.id
    db.session.commit()
    assert log()[1:] == [("update", 2, in_database(Pump))]
    row.id = Pump.id + 1
    with pytest.raises(CaptureError, match="the primary key of a Pump can't be changed"):
        db.session.commit()
    db.session.rollback()
    assert len(log()) == 2


def test_an_ordinary_update_takes_no_statement_more_than_its_own_and_its_entrys(
    app: Flask,
) -> None:
    row = added(Eager)
    assert row.version == 1  # loaded
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        row.name = "b"
        db.session.commit()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    assert statements == ["UPDATE", "INSERT"]


def test_log_snapshot_and_digest_have_each_row_of_the_subclasses_once(app: Flask) -> None:
    db.session.add_all([Crane(id=1, name="a", hours=1), Winch(id=2, name="b", hours=2)])
    db.session.commit()
    db.session.execute(sa.update(Machine).values(name="c"))
    db.session.commit()
    logged = [data for _, version, data in log() if version == 2]
    registration = next(one for one in app.extensions["arus"].registry if one.model is Machine)
    with db.engine.begin() as connection:
        rows = each_row(connection, registration, app.app_context, Event())
        assert [row.data for row in rows] == logged
        connection.execute(sa.text("DELETE FROM arus_change"))
    reader = SnapshotReader(db.engine, app.app_context, registration, high_seq=0)
    items, _ = reader.read(None, 10)
    assert [orjson.loads(item.data) for item in items] == logged
    assert reader.count() == 2
