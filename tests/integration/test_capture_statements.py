"""Statements that bypass the ORM's unit of work are captured or refused; none is missed silently."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, ResourceClosedError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    mapped_column,
    relationship,
    sessionmaker,
)

import arus.outbox.capture.uncaptured
import arus.outbox.capture.writer
from arus import ReliableSync
from arus.errors import CaptureError
from arus.outbox.capture.tables import RegisteredTables
from arus.outbox.capture.textual import SqlTexts
from arus.outbox.counters import UNCAPTURED, read_counters
from tests.support.small_app import empty, new_id, small_app


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Fleet(Base):
    """Not registered; its deletion deletes its ships."""

    __tablename__ = "s_fleet"
    id: Mapped[int] = mapped_column(primary_key=True)


class Ship(Base):
    """Not registered; its deletion deletes its tanks and leaves its pumps."""

    __tablename__ = "s_ship"
    id: Mapped[int] = mapped_column(primary_key=True)
    fleet_id: Mapped[int | None] = mapped_column(sa.ForeignKey("s_fleet.id", ondelete="CASCADE"))
    name: Mapped[str]


class Tank(Base):
    __tablename__ = "s_tank"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    version: Mapped[int] = mapped_column()
    name: Mapped[str | None] = mapped_column(unique=True)
    code: Mapped[str | None] = mapped_column(unique=True)
    ship_id: Mapped[int | None] = mapped_column(sa.ForeignKey("s_ship.id", ondelete="CASCADE"))
    valves: Mapped[list[Valve]] = relationship(passive_deletes="all")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Pump(Base):
    """Its version is no `version_id_col`: the statements do not raise it."""

    __tablename__ = "s_pump"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default="1")
    name: Mapped[str | None]
    ship_id: Mapped[int | None] = mapped_column(sa.ForeignKey("s_ship.id", ondelete="SET NULL"))
    tanks: Mapped[list[Tank]] = relationship(secondary="s_link")


class Valve(Base):
    __tablename__ = "s_valve"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    tank_id: Mapped[str | None] = mapped_column(sa.ForeignKey("s_tank.id", ondelete="CASCADE"))
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Link(Base):
    """The table of a relationship, and a registered model of its own."""

    __tablename__ = "s_link"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default="1")
    pump_id: Mapped[int] = mapped_column(sa.ForeignKey("s_pump.id"))
    tank_id: Mapped[str] = mapped_column(sa.ForeignKey("s_tank.id"))


class Berth(Base):
    """Not registered; its key has two columns."""

    __tablename__ = "s_berth"
    port: Mapped[str] = mapped_column(sa.String(5), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    buoys: Mapped[list[Buoy]] = relationship(passive_deletes=True)


class Buoy(Base):
    __tablename__ = "s_buoy"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    port: Mapped[str | None] = mapped_column(sa.String(5))
    number: Mapped[int | None]
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["port", "number"], ["s_berth.port", "s_berth.number"], ondelete="CASCADE"
        ),
    )


class Hose(Base):
    """Refers to a key that may change, and is referred to by it; both along with the tank's code."""

    __tablename__ = "s_hose"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default="1")
    tank_code = mapped_column(
        sa.String, sa.ForeignKey("s_tank.code", onupdate="CASCADE"), unique=True
    )
    label: Mapped[str | None] = column_property(tank_code + "!")


class Nozzle(Base):
    __tablename__ = "s_nozzle"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default="1")
    tank_code: Mapped[str | None] = mapped_column(
        sa.ForeignKey("s_hose.tank_code", onupdate="SET NULL")
    )


class Plate(Base):
    """Its own key changes along with the tank's code."""

    __tablename__ = "s_plate"
    version: Mapped[int] = mapped_column(server_default="1")
    tank_code: Mapped[str] = mapped_column(
        sa.String(36), sa.ForeignKey("s_tank.code", onupdate="CASCADE"), primary_key=True
    )


class RowSchema(Schema):
    id = fields.Raw()
    version = fields.Integer()
    name = fields.String()
    ship_id = fields.Integer()
    tank_id = fields.String()
    tank_code = fields.String()
    code = fields.String()
    label = fields.String()


MODELS: dict[str, Any] = {
    "tanks": Tank,
    "pumps": Pump,
    "valves": Valve,
    "links": Link,
    "buoys": Buoy,
    "hoses": Hose,
    "nozzles": Nozzle,
}
for entity, model in MODELS.items():
    sync.register(model, entity, schema=RowSchema)
sync.register(Plate, "plates", schema=RowSchema(exclude=["id"]))

TANK: Any = Tank.__table__
PUMP: Any = Pump.__table__
SHIP: Any = Ship.__table__
FLEET: Any = Fleet.__table__
BERTH: Any = Berth.__table__


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url, models=(db, sync), pragma="foreign_keys = ON") as app:
        begin()
        yield app
        db.session.remove()
        empty(db)


def begin() -> None:
    """A fleet of two ships with two tanks, two pumps and two valves, all of them in the log."""
    db.session.remove()
    empty(db)
    session = db.session
    session.add(Fleet(id=1))
    session.flush()
    session.add_all([Ship(id=1, name="s1", fleet_id=1), Ship(id=2, name="s2")])
    session.flush()
    session.add_all(
        [
            Tank(id=name, name=name, code=name, ship_id=number)
            for number, name in ((1, "a"), (2, "b"))
        ]
    )
    session.add_all(
        [Pump(id=number, version=1, name="p", ship_id=number - 100) for number in (101, 102)]
    )
    session.flush()
    session.add_all([Valve(id=101, tank_id="a"), Valve(id=102, tank_id="b")])
    session.commit()
    session.remove()


def replayed() -> dict[tuple[str, str], Any]:
    """The rows as a follower of the log knows them."""
    rows: dict[tuple[str, str], Any] = {}
    versions: dict[tuple[str, str], int] = {}
    with db.engine.connect() as connection:
        entries = connection.execute(
            sa.text(
                "SELECT entity, row_id, operation, version, data, outcome FROM arus_change ORDER BY id"
            )
        ).all()
    for entity, row_id, operation, version, data, outcome in entries:
        assert version > versions.get((entity, row_id), 0), (entity, row_id, operation, version)
        assert outcome is None
        versions[entity, row_id] = version
        rows[entity, row_id] = orjson.loads(bytes(data))
        assert operation == "delete" or rows[entity, row_id]["version"] == version
        if operation == "delete":
            del rows[entity, row_id]
    return rows


def in_tables() -> dict[tuple[str, str], Any]:
    with Session(db.engine) as session:
        return {
            (entity, str(row.id)): RowSchema().dump(row)
            for entity, model in MODELS.items()
            for row in session.scalars(sa.select(model))
        }


def uncaptured() -> int:
    with db.engine.connect() as connection:
        return read_counters(connection).get((UNCAPTURED, "", "", ""), 0)


def in_session(*statements: Any) -> None:
    for statement in statements:
        given = statement if isinstance(statement, tuple) else (statement,)
        result: Any = db.session.execute(*given)
        if given[0]._returning:
            assert result.all()
    db.session.commit()


def on_engine(*statements: Any) -> None:
    with db.engine.begin() as connection:
        for statement in statements:
            connection.execute(*statement if isinstance(statement, tuple) else (statement,))


def in_other_session(change: Callable[[Session], Any]) -> None:
    with sessionmaker(db.engine)() as session:
        change(session)
        session.commit()


def saved(method: str, *arguments: Any, **options: Any) -> None:
    getattr(db.session, method)(*arguments, **options)
    db.session.commit()


def upsert(into: Any, *, how: str = "update", by: str | None = None, **values: Any) -> Any:
    dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(into).values(**values)
    if how == "nothing":
        return statement.on_conflict_do_nothing()
    changed = {"name": values["name"] + "!"}
    by = by or ("id" if "id" in values else "name")
    return statement.on_conflict_do_update(index_elements=[by], set_=changed)


def linked() -> None:
    pump = db.session.get_one(Pump, 101)
    pump.tanks += [db.session.get_one(Tank, key) for key in "ab"]
    db.session.commit()
    pump.tanks.pop()
    db.session.commit()


_names = (f"n{number}" for number in count())


def two() -> list[dict[str, Any]]:
    return [{"name": next(_names), "version": 1} for _ in range(2)]


def steps(*each: Callable[[], Any]) -> None:
    for one in each:
        one()
    db.session.commit()


def deleted(model: type[Any], key: Any) -> None:
    db.session.delete(db.session.get_one(model, key))
    db.session.commit()


def renamed(model: type[Any], key: Any, how: str = "renamed") -> Any:
    row = db.session.get_one(model, key)
    row.name = f"{how} {key}"
    return row


def on_a_connection() -> None:
    with db.engine.begin() as connection, Session(connection) as session:
        session.add(Tank(name="c"))
        session.commit()
        connection.execute(TANK.update().values(ship_id=None))


CASES: dict[str, dict[str, Callable[[], Any]]] = {
    "legacy bulk methods": {
        "save objects": lambda: saved(
            "bulk_save_objects", [Tank(name="c"), Tank(id="d"), Pump(name="q")]
        ),
        "save numbered": lambda: saved("bulk_save_objects", [Pump(name="q"), Pump(name="r")]),
        "save loaded": lambda: saved("bulk_save_objects", [renamed(Tank, "a"), Tank(id="e")]),
        "insert": lambda: saved("bulk_insert_mappings", Tank, two()),
        "insert numbered": lambda: saved("bulk_insert_mappings", Pump, two(), return_defaults=True),
        "update": lambda: saved(
            "bulk_update_mappings", Tank, [{"id": "a", "version": 1, "name": "z"}]
        ),
        "update unversioned": lambda: saved(
            "bulk_update_mappings", Pump, [{"id": 101, "name": "z"}]
        ),
    },
    "Core in a session": {
        "insert": lambda: in_session(TANK.insert().values(name="c", version=1)),
        "insert several": lambda: in_session((TANK.insert(), two()), (PUMP.insert(), two())),
        "insert values": lambda: in_session(PUMP.insert().values(two())),
        "insert with an expression as key": lambda: in_session(
            TANK.insert().values(id=sa.func.lower("C"), name="c", version=1),
            TANK.insert().values([{"id": sa.func.lower("D"), "name": "d", "version": 1}]),
            PUMP.insert().values(
                id=sa.select(sa.func.max(PUMP.c.id) + 1).scalar_subquery(), name="q"
            ),
        ),
        "insert from select": lambda: in_session(
            PUMP.insert().from_select(["name", "version"], sa.select(TANK.c.name, TANK.c.version))
        ),
        "insert without version": lambda: in_session(PUMP.insert().values(name="q", version=0)),
        "update": lambda: in_session(TANK.update().where(TANK.c.name == "a").values(name="z")),
        "update all": lambda: in_session(PUMP.update().values(name="z")),
        "update with parameters": lambda: in_session(
            (
                TANK.update().where(TANK.c.id == sa.bindparam("x")),
                [{"x": "a", "name": "y"}, {"x": "b", "name": "z"}],
            )
        ),
        "update from": lambda: in_session(
            TANK.update().where(TANK.c.ship_id == SHIP.c.id).values(name=SHIP.c.name)
        ),
        "delete": lambda: in_session(TANK.delete().where(TANK.c.name == "a")),
        "delete all": lambda: in_session(PUMP.delete()),
        "after a change of the object": lambda: steps(
            lambda: renamed(Tank, "a"),
            lambda: db.session.execute(TANK.update().values(ship_id=None)),
        ),
        "before a change of the object": lambda: steps(
            lambda: renamed(Tank, "a"),
            db.session.commit,
            lambda: db.session.execute(TANK.update().values(ship_id=None)),
            lambda: renamed(Tank, "a", "again"),
        ),
        "on the session's connection": lambda: steps(
            lambda: db.session.connection().execute(TANK.update().values(ship_id=None))
        ),
        "the table of a relationship": linked,
        "a table of other metadata": lambda: in_session(
            sa.Table("s_tank", sa.MetaData(), autoload_with=db.engine).update().values(ship_id=None)
        ),
    },
    "ORM statements": {
        "update by key": lambda: in_session(
            (sa.update(Tank), [{"id": "a", "version": 1, "name": "z"}])
        ),
        "update returning": lambda: in_session(
            sa.update(Tank).values(name=Tank.name + "!").returning(Tank.name)
        ),
        "delete returning": lambda: in_session(sa.delete(Pump).returning(Pump.id)),
        "insert returning": lambda: in_session(
            (
                sa.insert(Tank).returning(Tank.name),
                [{"id": "x", "name": "c"}, {"id": "y", "name": "d"}],
            )
        ),
        "insert with an expression as key": lambda: in_session(
            sa.insert(Tank).values(id=sa.func.lower("C"), name="c", version=1)
        ),
        "insert of several": lambda: in_session((sa.insert(Tank), [{"name": "c"}, {"name": "d"}])),
        "update from": lambda: in_session(
            sa.update(Tank).where(Tank.ship_id == Ship.id).values(name=Ship.name)
        ),
    },
    "upserts": {
        "of a new row": lambda: in_session(upsert(Tank, id="c", name="c", version=1)),
        "of a known row": lambda: in_session(upsert(Tank, id="a", name="z", version=1)),
        "of a Core table": lambda: in_session(upsert(TANK, id="a", name="z", version=1)),
        "by another key": lambda: in_session(
            upsert(TANK, name="a", version=1), upsert(TANK, name="c", version=1)
        ),
        "with an expression as key": lambda: in_session(
            upsert(Tank, id=sa.func.lower("C"), name="c", version=1),
            upsert(Tank, id=sa.func.lower("A"), name="z", version=1),
            upsert(TANK, id=sa.func.lower("D"), name="d", version=1),
        ),
        "that does nothing": lambda: in_session(
            upsert(Tank, how="nothing", id="a", name="z", version=1)
        ),
        "on the engine": lambda: on_engine(upsert(TANK, id="a", name="z", version=1)),
        "returning": lambda: in_session(
            upsert(Tank, id="a", name="z", version=1).returning(Tank.name)
        ),
        "by another key, with a new one": lambda: in_session(
            upsert(TANK, by="name", id="x", name="a", version=1),
            upsert(Tank, by="name", id="y", name="b", version=1),
        ),
    },
    "upserts by another key, returning": {
        "the key": lambda: in_session(
            upsert(TANK, by="name", id="x", name="a", version=1).returning(TANK.c.name, TANK.c.id)
        ),
        "the attribute": lambda: in_session(
            upsert(Tank, by="name", id="x", name="a", version=1).returning(Tank.id)
        ),
        "the key of a new row": lambda: in_session(
            upsert(Tank, by="name", id="x", name="x", version=1).returning(Tank.id)
        ),
        "the object": lambda: in_session(
            upsert(Tank, by="name", id="x", name="a", version=1).returning(Tank)
        ),
        "the table, on the engine": lambda: on_engine(
            upsert(TANK, by="name", id="x", name="a", version=1).returning(TANK)
        ),
    },
    "Core on the engine": {
        "insert with an expression as key": lambda: on_engine(
            TANK.insert().values(id=sa.func.lower("C"), name="c", version=1)
        ),
        "insert": lambda: on_engine((TANK.insert(), two()), PUMP.insert().values(name="q")),
        "update": lambda: on_engine(
            TANK.update().values(ship_id=None), PUMP.update().values(name="z")
        ),
        "update twice": lambda: on_engine(
            PUMP.update().values(name="y"), PUMP.update().values(name="z")
        ),
        "delete": lambda: on_engine(TANK.delete().where(TANK.c.id == "a"), PUMP.delete()),
    },
    "another session": {
        "add": lambda: in_other_session(lambda session: session.add(Tank(name="c"))),
        "change": lambda: in_other_session(
            lambda session: setattr(session.get(Tank, "a"), "name", "z")
        ),
        "delete": lambda: in_other_session(lambda session: session.delete(session.get(Tank, "b"))),
        "bulk": lambda: in_other_session(
            lambda session: session.execute(sa.update(Tank).values(ship_id=None))
        ),
        "legacy bulk": lambda: in_other_session(
            lambda session: session.bulk_insert_mappings(Pump, two())
        ),
        "on a connection": on_a_connection,
    },
    "cascades of the database": {
        "unit of work": lambda: deleted(Ship, 1),
        "Core": lambda: in_session(SHIP.delete()),
        "ORM": lambda: in_session(sa.delete(Ship).where(Ship.id == 1)),
        "engine": lambda: on_engine(SHIP.delete()),
        "of several levels": lambda: in_session(FLEET.delete()),
        "of a registered row": lambda: deleted(Tank, "a"),
        "of registered rows": lambda: in_session(sa.delete(Tank)),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("group", CASES)
def test_each_way_to_write_is_captured(app: Flask, group: str) -> None:
    for name, write in CASES[group].items():
        begin()
        before = in_tables()
        write()
        db.session.remove()
        assert replayed() == in_tables(), name
        assert uncaptured() == 0, name
        assert in_tables() != before or name == "that does nothing", f"{name} has changed something"


@pytest.mark.parametrize(
    "remove",
    [
        lambda: deleted(Berth, ("GRPIR", 1)),
        lambda: in_session(sa.delete(Berth).where(Berth.number == 1, Berth.port == "GRPIR")),
        lambda: on_engine(sa.delete(BERTH).where(Berth.number == 1, Berth.port == "GRPIR")),
    ],
    ids=["unit of work", "ORM", "Core on the engine"],
)
def test_a_cascade_by_a_key_of_two_columns_is_captured(
    app: Flask, remove: Callable[[], None]
) -> None:
    places = [("GRPIR", 1), ("GRPIR", 2), ("NLRTM", 1)]
    db.session.add_all([Berth(port=port, number=number) for port, number in places])
    db.session.flush()
    db.session.add_all([Buoy(port=port, number=number) for port, number in places])
    db.session.add(Buoy(port="GRPIR"))
    db.session.commit()
    db.session.remove()
    before = in_tables()
    remove()
    db.session.remove()
    assert len(in_tables()) == len(before) - 1
    assert replayed() == in_tables()
    assert uncaptured() == 0


def test_an_upsert_by_another_key_raises_the_version_of_a_row_that_the_log_has_forgotten(
    app: Flask,
) -> None:
    with db.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM arus_change"))
    in_session(upsert(TANK, by="name", id="x", name="a", version=1))
    assert replayed() == {("tanks", "a"): in_tables()["tanks", "a"]}
    assert in_tables()["tanks", "a"]["version"] == 2


def test_the_deletion_of_a_row_that_the_log_has_forgotten_is_captured_after_an_upsert(
    app: Flask,
) -> None:
    with db.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM arus_change"))
    in_session(
        upsert(TANK, by="name", id="x", name="a", version=1),
        sa.update(TANK).values(ship_id=None),
        sa.delete(Valve),
        sa.delete(TANK).where(TANK.c.id == "a"),
    )
    with db.engine.connect() as connection:
        deleted = connection.execute(
            sa.text("SELECT row_id, version FROM arus_change WHERE operation = 'delete'")
        ).all()
    assert ("a", 4) in [tuple(row) for row in deleted]


# -- what can't be captured ---------------------------------------------------------------------


def text(statement: str) -> Any:
    return db.session.execute(sa.text(statement))


TEXTS = (
    "UPDATE s_tank SET name = 'z' WHERE id = 'a'",
    'update "s_tank" set ship_id = null',
    "/* a comment */ DELETE FROM s_pump -- of one row\n WHERE id = 101",
    "INSERT INTO s_pump (id, name) VALUES (103, 'q')",
    "UPDATE s_tank SET ship_id = null RETURNING id",
    "DELETE FROM s_pump WHERE id = 101 RETURNING id, name",
    "INSERT INTO s_pump (id, name) VALUES (103, 'q') RETURNING id",
)


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_sql_text_without_a_record_is_refused_at_the_commit(app: Flask, number: int) -> None:
    before = in_tables()
    text(TEXTS[number])
    for _ in range(2):
        with pytest.raises(CaptureError, match=r"test_capture_statements\.py:\d+ .*sync\.record"):
            db.session.commit()
    db.session.rollback()
    assert in_tables() == before == replayed()


def test_a_sql_text_is_accepted_when_each_of_its_rows_is_recorded(app: Flask) -> None:
    text("UPDATE s_tank SET name = id, version = version + 1")
    sync.record("update", Tank(id="a"))
    with pytest.raises(CaptureError, match="has changed 2 rows of tanks"):
        db.session.commit()
    db.session.rollback()
    text("UPDATE s_tank SET name = id || '!', version = version + 1")
    for key in "ab":
        sync.record("update", Tank(id=key))
    db.session.commit()
    assert replayed() == in_tables()


def test_a_sql_text_with_returning_needs_a_record_of_each_row_that_it_returns(app: Flask) -> None:
    statement = sa.text("UPDATE s_tank SET name = id, version = version + 1 RETURNING id, version")
    assert sorted(db.session.execute(statement).all()) == [("a", 2), ("b", 2)]
    sync.record("update", Tank(id="a"))
    with pytest.raises(CaptureError, match="has changed 2 rows of tanks"):
        db.session.commit()
    db.session.rollback()
    whole = sa.text("UPDATE s_tank SET name = id, version = version + 1 RETURNING *")
    tanks = db.session.scalars(sa.select(Tank).from_statement(whole)).all()
    assert {tank.name for tank in tanks} == {"a", "b"}
    with pytest.raises(CaptureError, match="has changed 2 rows of tanks"):
        db.session.commit()
    for tank in tanks:
        sync.record("update", tank)
    db.session.commit()
    assert replayed() == in_tables()


def test_a_record_in_a_savepoint_that_is_rolled_back_does_not_count(app: Flask) -> None:
    text("UPDATE s_tank SET name = 'z', version = 2 WHERE id = 'a'")
    savepoint = db.session.begin_nested()
    sync.record("update", Tank(id="a"))
    savepoint.rollback()
    with pytest.raises(CaptureError, match=r"sync\.record"):
        db.session.commit()
    db.session.rollback()
    savepoint = db.session.begin_nested()
    text("UPDATE s_tank SET name = 'z' WHERE id = 'a'")
    savepoint.rollback()
    with db.session.begin_nested():
        text("UPDATE s_tank SET name = 'y', version = 2 WHERE id = 'a'")
        sync.record("update", Tank(id="a"))
    db.session.commit()
    assert replayed() == in_tables()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE s_tank SET name = 'z' WHERE id = 'none'",
        "UPDATE s_tank SET name = 'z' WHERE id = 'none' RETURNING id",
        "SELECT 'UPDATE s_tank SET name' FROM s_tank",
        "SELECT id FROM s_tank -- DELETE FROM s_tank",
        "UPDATE s_ship SET name = 'z'",
        "CREATE INDEX ix_tank ON s_tank (ship_id)",
    ],
)
def test_a_sql_text_that_changes_no_registered_row_is_left_alone(
    app: Flask, statement: str
) -> None:
    text(statement)
    if statement.startswith("CREATE"):
        text("DROP INDEX ix_tank")
    db.session.commit()
    assert uncaptured() == 0


def test_a_sql_text_in_another_session_is_recorded_there(app: Flask) -> None:
    with sessionmaker(db.engine)() as session:
        session.execute(sa.text("UPDATE s_tank SET name = 'z', version = 2 WHERE id = 'a'"))
        sync.record("update", Tank(id="a"), session=session)
        session.commit()
    assert replayed() == in_tables()


def test_a_sql_text_on_the_engine_is_counted_and_logged_once_for_each_place(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arus.outbox.capture.uncaptured, "_reported", set())
    caplog.set_level(logging.WARNING, "arus")
    for number in range(3):
        with db.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE s_tank SET name = name || '{number}'"))
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM s_pump")
    with db.engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM s_tank"))
        connection.rollback()
    assert uncaptured() == 4, "one that is rolled back has written nothing"
    said = [one.getMessage() for one in caplog.records if "can't be captured" in one.getMessage()]
    assert len(said) == 3, said
    assert all("test_capture_statements.py:" in line for line in said)
    assert all("flask sync reconcile" in line for line in said)
    metrics = {family.name: family for family in sync.runtime().collector().collect()}
    assert metrics["arus_mqtt_uncaptured_statements"].samples[0].value == 4


def test_a_sql_text_with_returning_on_the_engine_is_counted(app: Flask) -> None:
    with db.engine.begin() as connection:
        statement = sa.text("UPDATE s_tank SET name = 'z' WHERE id = 'a' RETURNING id, name")
        assert connection.execute(statement).one() == ("a", "z")
        assert connection.exec_driver_sql("DELETE FROM s_pump RETURNING id").first()
    assert uncaptured() == 2


@pytest.mark.parametrize(
    "statement",
    [
        "WITH gone AS (DELETE FROM s_pump RETURNING id) SELECT id FROM gone WHERE id < 0",
        "WITH gone AS (DELETE FROM s_pump RETURNING id) UPDATE s_ship SET name = 'z' WHERE id IN (SELECT -id FROM gone)",
    ],
)
def test_a_sql_text_with_a_dml_in_a_cte_is_refused_though_it_counts_no_row(
    app: Flask, statement: str
) -> None:
    if db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no DML in a CTE")
    text(statement)
    with pytest.raises(CaptureError, match="pumps"):
        db.session.commit()
    db.session.rollback()
    with db.engine.begin() as connection:
        connection.execute(sa.text(statement))
    assert uncaptured() == 1


def test_a_dml_in_a_cte_of_another_dml_is_refused_in_a_session(app: Flask) -> None:
    if db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no DML in a CTE")
    before = in_tables()
    gone = PUMP.delete().where(PUMP.c.id == 101).returning(PUMP.c.id, PUMP.c.name).cte()
    archive: Any = SHIP.insert().from_select(["id", "name"], sa.select(gone.c.id, gone.c.name))
    moved = sa.update(Ship).where(Ship.id == sa.select(gone.c.id - 100).scalar_subquery())
    beside = SHIP.insert().values(id=7, name="s7").add_cte(gone)
    captured = TANK.update().values(name=TANK.c.name + "!").add_cte(gone)
    for statement in (archive, moved.values(name="z"), beside, captured):
        db.session.execute(statement)
        with pytest.raises(CaptureError, match=r"test_capture_statements\.py:\d+ .*pumps"):
            db.session.commit()
        db.session.rollback()
    assert in_tables() == before == replayed()
    on_engine(archive)
    assert ("pumps", "101") not in in_tables()
    assert uncaptured() == 1


def test_a_dml_with_a_cte_that_only_reads_is_captured(app: Flask) -> None:
    read = sa.select(TANK.c.name, TANK.c.version).where(TANK.c.id == "a").cte()
    in_session(
        PUMP.insert().from_select(["name", "version"], sa.select(read.c.name, read.c.version)),
        PUMP.update().where(PUMP.c.name.in_(sa.select(read.c.name))).values(name="z"),
    )
    assert replayed() == in_tables()
    assert uncaptured() == 0


def test_a_dml_in_a_cte_of_the_condition_of_a_captured_one_is_executed_once(app: Flask) -> None:
    if db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no DML in a CTE")
    gone = PUMP.delete().where(PUMP.c.id == 101).returning(PUMP.c.ship_id).cte()
    statement = TANK.update().where(TANK.c.ship_id.in_(sa.select(gone.c.ship_id))).values(name="z")
    with pytest.raises(CaptureError, match="CTE"):
        db.session.execute(statement)
    db.session.rollback()
    on_engine(statement)
    assert in_tables()["tanks", "a"]["name"] == "z"
    assert uncaptured() == 2, "both tables"


def test_a_cascade_of_a_sql_text_is_counted(app: Flask) -> None:
    text("DELETE FROM s_ship")
    db.session.commit()
    assert uncaptured() == 1


def test_a_sql_text_writes_each_table_that_it_names_and_those_that_it_reaches() -> None:
    texts = SqlTexts(RegisteredTables(sync._registry))
    named = {
        "TRUNCATE s_fleet, s_pump": {"pumps"},
        'TRUNCATE TABLE ONLY s_fleet * , ONLY public."s_pump", s_tank RESTART IDENTITY': {"pumps", "tanks"},
        "EXPLAIN (ANALYZE, BUFFERS) UPDATE s_pump SET name = 'x'": {"pumps"},
        "EXPLAIN UPDATE s_pump SET name = 'x'": set(),
        "ALTER TABLE s_ship ADD note TEXT; UPDATE s_pump SET name = 'x'": {"pumps"},
        "CREATE TABLE copied AS SELECT ';' AS sign; DROP TABLE s_old": set(),
        "CREATE OR REPLACE FUNCTION f() AS $$ UPDATE s_pump SET name = 'x'; $$": set(),
        "CREATE TRIGGER t AFTER DELETE ON s_ship BEGIN DELETE FROM s_pump; END": set(),
        r"UPDATE s_ship SET name = E'it\'s'; UPDATE s_pump SET name = 'x'": {"pumps"},
        r"UPDATE s_ship SET name = 'a\'; UPDATE s_pump SET name = 'x'": {"pumps"},
    }  # fmt: skip
    assert {text: set(texts.written(text).entities) for text in named} == named
    reached = {
        "TRUNCATE s_ship": set(),
        "TRUNCATE s_berth, s_fleet CASCADE": {"tanks", "pumps", "valves", "links", "buoys"},
        "DELETE FROM s_fleet": {"tanks", "pumps", "valves"},
    }
    found = {text: set(texts.written(text).reached) for text in reached}
    assert {text: entities & found[text] for text, entities in reached.items()} == reached
    assert "links" not in found["DELETE FROM s_fleet"], "no action of a deletion"


def test_statements_whose_rows_are_not_known_are_refused_in_a_session(app: Flask) -> None:
    before = in_tables()
    refused = {
        "RETURNING of its own": TANK.insert().values(name="c", version=1).returning(TANK.c.name),
        "return its key too": upsert(TANK, by="name", id="x", name="a", version=1).returning(
            TANK.c.name
        ),
        "no known keys": sa.insert(Tank)
        .values(id=sa.func.lower("C"), version=1)
        .returning(Tank.name),
        "OR REPLACE": PUMP.insert().prefix_with("OR REPLACE").values(id=101, version=1),
        "primary key of a Tank": TANK.update().values(id="x"),
        "does not know the table's primary key": sa.update(
            sa.table("s_tank", sa.column("name"))
        ).values(name="z"),
    }
    for words, statement in refused.items():
        with pytest.raises(CaptureError, match=words):
            db.session.execute(statement)
        db.session.rollback()
    assert in_tables() == before == replayed()
    with db.engine.begin() as connection:
        connection.execute(refused["does not know the table's primary key"].values(name=None))
    assert uncaptured() == 1, "on the engine it goes on"


def test_the_result_of_a_captured_insert_tells_the_keys_as_sqlalchemys_does(app: Flask) -> None:
    one: Any = db.session.execute(sa.insert(Pump).values(name="q"))
    (number,) = one.inserted_primary_key
    assert (number, one.lastrowid) == (one.inserted_primary_key.id, number)
    assert (one.is_insert, one.returns_rows, one.rowcount) == (True, False, 1)
    two: Any = db.session.execute(
        sa.insert(Tank), [{"id": "x", "version": 1}, {"id": "y", "version": 1}]
    )
    assert [key.id for key in two.inserted_primary_key_rows] == ["x", "y"]
    with pytest.raises(sa.exc.InvalidRequestError, match="inserted_primary_key_rows"):
        _ = two.inserted_primary_key
    changed: Any = db.session.execute(sa.update(Tank).values(name=None))
    assert (changed.is_insert, changed.returns_rows, changed.rowcount) == (False, False, 4)
    with pytest.raises(sa.exc.InvalidRequestError, match="not an insert"):
        _ = changed.inserted_primary_key
    db.session.commit()
    assert db.session.get_one(Pump, number).name == "q"
    assert replayed() == in_tables()


def test_what_a_connection_rolls_back_is_not_in_the_log(app: Flask) -> None:
    with db.engine.connect() as connection:
        connection.execute(TANK.delete())
        connection.rollback()
        connection.execute(TANK.update().where(TANK.c.id == "a").values(name="y"))
        savepoint = connection.begin_nested()
        connection.execute(TANK.update().values(name=None))
        savepoint.rollback()
        connection.commit()
    assert replayed() == in_tables()


def test_an_object_in_the_session_shows_what_a_core_statement_has_done(app: Flask) -> None:
    tank = db.session.get_one(Tank, "a")
    db.session.execute(TANK.update().values(name=TANK.c.name + "!"))
    assert (tank.name, tank.version) == ("a!", 2)
    db.session.commit()
    receipt = sync.publish_change("update", tank)
    assert receipt
    assert receipt.data
    assert orjson.loads(receipt.data)["name"] == "a!"


def test_a_legacy_bulk_method_after_a_flush_that_failed_is_captured(app: Flask) -> None:
    with pytest.raises(sa.exc.IntegrityError), db.session.begin_nested():
        db.session.add(Tank(id="a", name="twice"))
    db.session.bulk_insert_mappings(Tank, two())
    db.session.commit()
    assert replayed() == in_tables()


def test_a_migration_goes_on_and_is_counted(app: Flask) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            op.execute(TANK.update().values(name=None))
            op.execute("UPDATE s_pump SET name = 'z'")
            op.bulk_insert(PUMP, [{"id": 103, "name": "q", "version": 1}])
        connection.commit()
    assert uncaptured() == 3


def test_an_engine_with_options_of_its_own_is_captured(app: Flask) -> None:
    engine = db.engine.execution_options(mine=True).execution_options(yours=True)
    with engine.begin() as connection, connection.begin_nested():
        connection.execute(TANK.update().values(name=TANK.c.name + "!"))
    assert replayed() == in_tables()


def test_capture_adds_no_listeners_to_the_engine(app: Flask) -> None:
    """With a listener, SQLAlchemy executes each statement, also those of no concern to the sync, a tenth slower."""
    assert not db.engine._has_events


def test_an_entry_whose_id_is_taken_is_not_left_out(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.session.add_all([Tank(id="c"), Tank(id="d")])
    with monkeypatch.context() as patched:
        patched.setattr(arus.outbox.capture.writer, "new_message_id", lambda _: "1_taken")
        with pytest.raises((CaptureError, sa.exc.IntegrityError)):
            db.session.commit()
    db.session.rollback()
    assert replayed() == in_tables()


def renamed_by_a_flush() -> None:
    db.session.scalars(sa.select(Tank).where(Tank.id == "a")).one().code = "z"
    db.session.commit()


ALIAS: Any = TANK.alias()
OTHER: Any = aliased(Tank)
ODD: dict[str, Callable[[], Any]] = {
    "an alias": lambda: sa.update(OTHER).where(OTHER.id == "a").values(name="z"),
    "an alias, deleted": lambda: sa.delete(OTHER).where(OTHER.id == "b"),
    "an alias of the table": lambda: sa.update(ALIAS).where(ALIAS.c.id == "a").values(name="z"),
    "an alias of the table, deleted": lambda: sa.delete(ALIAS).where(ALIAS.c.id == "b"),
    "ordered values": lambda: sa.update(Tank).ordered_values((Tank.name, None), (Tank.code, None)),
    "ordered values of the table": lambda: sa.update(TANK).ordered_values((TANK.c.name, None)),
    "a row with an expression": lambda: sa.delete(Hose).where(Hose.tank_code == "b"),
}


@pytest.mark.parametrize("what", ODD)
def test_a_statement_with_an_alias_ordered_values_or_on_a_row_with_an_expression_is_captured(
    app: Flask, what: str
) -> None:
    if what == "a row with an expression":
        db.session.add(Hose(id=1, tank_code="b"))
    in_session(sa.delete(Valve).where(Valve.tank_id == "b"))
    before = in_tables()
    in_session(ODD[what]())
    assert in_tables() != before
    assert replayed() == in_tables()
    assert uncaptured() == 0


RENAMED: dict[str, Callable[[], Any]] = {
    "by a flush": renamed_by_a_flush,
    "by a bulk statement": lambda: in_session(
        sa.update(Tank).where(Tank.id == "a").values(code="z")
    ),
    "by key": lambda: in_session((sa.update(Tank), [{"id": "a", "version": 1, "code": "z"}])),
    "by Core": lambda: in_session(TANK.update().where(TANK.c.id == "a").values(code="z")),
    "on the engine": lambda: on_engine(TANK.update().where(TANK.c.id == "a").values(code="z")),
}


@pytest.mark.parametrize("how", RENAMED)
def test_what_the_database_changes_along_with_a_referenced_key_is_captured(
    app: Flask, how: str
) -> None:
    db.session.add_all([Hose(id=1, tank_code="a"), Hose(id=2, tank_code="b")])
    db.session.flush()
    db.session.add_all([Nozzle(id=1, tank_code="a"), Nozzle(id=2, tank_code="b")])
    db.session.commit()
    RENAMED[how]()
    found = replayed()
    assert found == in_tables()
    assert found["hoses", "1"]["tank_code"] == "z"
    assert [found["nozzles", key]["tank_code"] for key in ("1", "2")] == [None, "b"]
    assert [found[entity, "2"]["version"] for entity in ("hoses", "nozzles")] == [1, 1]
    assert uncaptured() == 0


def test_an_upsert_that_sets_a_referenced_key_is_refused(app: Flask) -> None:
    in_session(upsert(Tank, by="id", id="a", version=1, name="n", code="z"))
    dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Tank).values(id="a", version=1)
    with pytest.raises(CaptureError, match="sets a key which rows of other tables refer to"):
        in_session(statement.on_conflict_do_update(index_elements=["id"], set_={"code": "z"}))
    db.session.rollback()


def test_a_primary_key_that_the_database_would_change_along_with_another_row_is_refused(
    app: Flask,
) -> None:
    db.session.add(Plate(tank_code="a"))
    db.session.commit()
    with pytest.raises(CaptureError, match="primary key of a Plate"):
        in_session(sa.update(Tank).where(Tank.id == "a").values(code="z"))
    db.session.rollback()
    in_session(sa.update(Tank).where(Tank.id == "b").values(code="z"))
    assert replayed()["tanks", "b"]["code"] == "z"


@contextmanager
def just_before(beginning: str, other: Callable[[Session], Any]) -> Iterator[None]:
    """Have another session commit a change just before a statement is executed, unless the database makes it wait."""
    waiting = [beginning]

    def interfere(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        if not waiting or not text.startswith(beginning):
            return
        waiting.clear()
        is_sqlite = db.engine.dialect.name == "sqlite"
        with Session(db.engine) as session, suppress(OperationalError):
            driver = session.connection().exec_driver_sql
            driver("PRAGMA busy_timeout = 0" if is_sqlite else "SET LOCAL lock_timeout = 1")
            try:
                other(session)
                session.commit()
            finally:
                if is_sqlite:
                    session.rollback()
                    session.connection().exec_driver_sql("PRAGMA busy_timeout = 5000")

    sa.event.listen(db.engine, "before_cursor_execute", interfere)
    try:
        yield
    finally:
        sa.event.remove(db.engine, "before_cursor_execute", interfere)
    assert not waiting, f"{beginning} was executed"


def new_pump(session: Session) -> None:
    session.add(Pump(id=109, version=1, name="new"))


@pytest.mark.parametrize(
    ("beginning", "change", "other"),
    [
        ("DELETE FROM s_ship", lambda: deleted(Ship, 1), lambda s: s.add(Tank(ship_id=1))),
        ("DELETE FROM s_ship", lambda: on_engine(SHIP.delete()), lambda s: s.add(Valve(tank_id="a"))),
        ("UPDATE s_pump", lambda: in_session(PUMP.update().values(name="all")), new_pump),
        ("DELETE FROM s_pump", lambda: in_session(PUMP.delete()), new_pump),
        ("DELETE FROM s_pump", lambda: on_engine(PUMP.delete()), new_pump),
        (
            "UPDATE s_pump",
            lambda: in_session(sa.update(Pump).values(name="all").returning(Pump.id)),
            new_pump,
        ),
    ],
)  # fmt: skip
def test_what_others_commit_while_a_statement_begins_is_captured_when_it_changes_that_too(
    app: Flask,
    beginning: str,
    change: Callable[[], Any],
    other: Callable[[Session], Any],
) -> None:
    with just_before(beginning, other):
        change()
    assert replayed() == in_tables()
    assert uncaptured() == 0


def test_a_statement_is_refused_if_its_rows_can_neither_be_returned_nor_were_read(
    app: Flask,
) -> None:
    named = sa.update(Pump).values(name="all").returning(Pump.name)
    if db.engine.dialect.name == "sqlite":
        return  # no other can come in between
    with just_before("UPDATE s_pump", new_pump), pytest.raises(CaptureError, match="repeat the"):
        in_session(named)
    db.session.rollback()
    in_session(named)
    assert replayed() == in_tables()


def test_a_statement_whose_condition_is_another_each_time_is_captured(app: Flask) -> None:
    saved("add_all", [Pump(id=number, version=1, name="n") for number in range(20)])
    some = PUMP.c.id.in_(sa.select(PUMP.c.id).order_by(sa.func.random()).limit(10))
    for statement in (PUMP.update().values(name="some"), PUMP.delete()):
        result: Any = db.session.execute(statement.where(some))
        assert result.rowcount == 10
        with pytest.raises(ResourceClosedError):
            result.all()
        db.session.commit()
        assert replayed() == in_tables()
        changed = [row for row in replayed().values() if row["version"] > 1]
    assert uncaptured() == 0
    assert len(changed) <= 10, "what did not change has no entry"
    saved("add_all", [Pump(id=number, version=1, name="n") for number in range(200, 220)])
    on_engine(sa.text("DELETE FROM arus_change"))  # as retention does
    with pytest.raises(CaptureError, match="the condition is not the same each time"):
        in_session(PUMP.delete().where(some))
    db.session.rollback()
