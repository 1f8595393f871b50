"""Tables with names that need quotes, in a schema of their own, and models of several tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import delete, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from arus import ReliableSync
from arus.errors import CaptureError
from arus.follower.rows import Copy
from arus.outbox.snapshot import long_tables, unlogged_rows
from tests.support.postgres import PostgresServer

SCHEMA = "Plant Room"


class Base(DeclarativeBase):
    metadata = sa.MetaData(schema=SCHEMA)


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Order(Base):
    __tablename__ = "order"
    key: Mapped[str] = mapped_column("select", sa.String(36), primary_key=True)
    version: Mapped[int] = mapped_column("Version No")
    group: Mapped[str | None] = mapped_column("group", sa.String(20))
    mixed: Mapped[str | None] = mapped_column("Mixed Case (%)", sa.String(20))
    lines: Mapped[list[Line]] = relationship(passive_deletes=True)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Line(Base):
    __tablename__ = "Line of Order"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column("user")
    order_key: Mapped[str] = mapped_column(
        "from", sa.ForeignKey(f"{SCHEMA}.order.select", ondelete="CASCADE")
    )


class Person(Base):
    """Not registered, but the other half of a registered model."""

    __tablename__ = "Person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    name: Mapped[str | None] = mapped_column(sa.String(20))
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "person"}  # noqa: RUF012


class Captain(Person):
    __tablename__ = "Captain"
    id: Mapped[int] = mapped_column(sa.ForeignKey(Person.id), primary_key=True)
    licence: Mapped[str | None] = mapped_column(sa.String(20))
    __mapper_args__ = {"polymorphic_identity": "captain"}  # noqa: RUF012


class OrderSchema(Schema):
    key = fields.String()
    version = fields.Integer()
    group = fields.String(allow_none=True)
    mixed = fields.String(data_key="mixedCase", allow_none=True)


class LineSchema(Schema):
    id = fields.Integer()
    text = fields.String(allow_none=True)
    order_key = fields.String(data_key="orderKey")


class CaptainSchema(Schema):
    id = fields.Integer()
    name = fields.String(allow_none=True)
    licence = fields.String(allow_none=True)


sync.register(Order, "orders", schema=OrderSchema)
sync.register(Line, "lines", schema=LineSchema)
sync.register(Captain, "captains", schema=CaptainSchema)


@pytest.fixture
def app(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Flask]:
    """The application; SQLite knows the schema as an attached database, so there it is mapped to none."""
    options: dict[str, Any] = {}
    if database_kind == "sqlite":
        url = f"sqlite:///{tmp_path}/names.sqlite"
        options = {"execution_options": {"schema_translate_map": {SCHEMA: None}}}
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url(server.create_database())
    app = Flask("names", instance_relative_config=True)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=options, LOCAL_MODE="true"
    )
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        if database_kind == "sqlite":
            sa.event.listen(
                db.engine, "connect", lambda one, _: one.execute("PRAGMA foreign_keys = ON")
            )
        else:
            with db.engine.begin() as connection:
                connection.execute(sa.schema.CreateSchema(SCHEMA))
        db.create_all()
        yield app
        db.session.remove()
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


def log(entity: str) -> list[tuple[str, str, int, dict[str, Any]]]:
    """Operation, row id, version and data of each entry of an entity."""
    statement = sa.text(
        "SELECT operation, row_id, version, data FROM arus_change WHERE entity = :entity ORDER BY id"
    )
    with db.engine.connect() as connection:
        return [
            (operation, row_id, version, orjson.loads(bytes(data)))
            for operation, row_id, version, data in connection.execute(
                statement, {"entity": entity}
            )
        ]


def test_names_that_need_quotes_are_captured_copied_and_reconciled(app: Flask) -> None:
    session = db.session
    session.add(Order(key="o1", group="g", mixed="m", lines=[Line(text="x")]))
    session.commit()
    session.execute(update(Order).values(mixed="m2"))
    session.commit()
    session.execute(update(Order.__table__).values({"Mixed Case (%)": "m3"}))  # type: ignore[arg-type]
    session.commit()
    session.execute(insert(Order), [{"key": "o2", "group": "h"}])
    session.commit()
    dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
    upsert = dialect.insert(Order).values(key="o2", mixed="up", version=1)
    changed = {Order.mixed: "up"}
    session.execute(upsert.on_conflict_do_update(index_elements=[Order.key], set_=changed))
    session.commit()
    prefix = f'"{SCHEMA}".' if db.engine.dialect.name == "postgresql" else ""
    session.execute(sa.text(f'UPDATE {prefix}"order" SET "group" = \'raw\''))
    with pytest.raises(CaptureError, match=r"sync\.record"):
        session.commit()
    session.rollback()
    table: Any = Order.__table__
    session.execute(delete(table).where(table.c["select"] == "o1"))
    session.commit()
    assert [entry[:3] for entry in log("orders")] == [
        ("create", "o1", 1), ("update", "o1", 2), ("update", "o1", 3), ("create", "o2", 1), ("update", "o2", 2),
        ("delete", "o1", 4),
    ]  # fmt: skip
    assert [entry[:3] for entry in log("lines")] == [("create", "1", 1), ("delete", "1", 2)]
    *_, data = log("orders")[4]
    assert data == {"key": "o2", "version": 2, "group": "h", "mixedCase": "up"}
    assert [found.logged for found in sync.reconcile()] == [0, 0, 0]
    registration = sync.runtime().registry.of_entity("orders")
    assert registration
    copy = Copy(registration)
    with db.engine.begin() as connection:
        rows = [copy.values({**data, "key": key, "group": "copied"}, 2) for key in ("o2", "o3")]
        copy.upsert(connection, rows)
        copy.delete(connection, ["o3"])
    found = session.execute(sa.select(Order.key, Order.group, Order.mixed)).all()
    assert [tuple(row) for row in found] == [("o2", "copied", "up")]


def test_bulk_statements_on_a_joined_table_work_registered_as_they_do_unregistered(
    app: Flask,
) -> None:
    session = db.session
    session.execute(insert(Captain), [{"name": "Ada", "licence": "A"}, {"name": "Bo"}])
    session.commit()
    steps: list[Any] = [
        update(Captain).where(Captain.licence == "A").values(licence="B"),
        update(Person).where(Person.name == "Bo").values(name="Cy"),
    ]
    for step in steps:
        session.execute(step)
        session.commit()
    session.execute(update(Captain), [{"id": 1, "licence": "Z", "name": "Zed"}])
    session.commit()
    session.query(Captain).filter(Captain.id == 2).update({"licence": "Q"})
    session.commit()
    session.execute(delete(Captain).where(Captain.id == 1))
    session.commit()
    entries = [(*entry[:3], entry[3]["name"], entry[3]["licence"]) for entry in log("captains")]
    assert entries == [
        ("create", "1", 1, "Ada", "A"),
        ("create", "2", 1, "Bo", None),
        ("update", "1", 2, "Ada", "B"),
        ("update", "2", 2, "Cy", None),
        ("update", "1", 3, "Zed", "Z"),
        ("update", "2", 3, "Cy", "Q"),
        ("delete", "1", 4, "Zed", "Z"),
    ]


def test_rows_of_other_classes_in_a_models_table_are_no_rows_without_an_entry(app: Flask) -> None:
    db.session.add_all([Person(id=1, name="Ada"), Captain(id=2, name="Bo")])
    db.session.commit()
    captains = [one for one in app.extensions["arus"].registry if one.model is Captain]
    with db.engine.begin() as connection:
        assert not unlogged_rows(connection, captains)
        assert long_tables(connection, captains, 1) == []
        connection.execute(sa.text("DELETE FROM arus_change"))
        assert unlogged_rows(connection, captains)


def test_the_tables_of_the_sync_are_in_the_default_schema(app: Flask) -> None:
    own = [table for table in db.metadata.tables.values() if table.name.startswith("arus_")]
    assert len(own) > 15
    assert {table.schema for table in own} == {None}
