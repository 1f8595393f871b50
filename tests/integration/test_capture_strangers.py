"""Models and writes that others may well have: each change is captured as it was committed, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from arus.errors import CaptureError


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


class CraftSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    kind = fields.String()
    name = fields.String()
    notes = fields.String()


MODELS: dict[str, tuple[Any, type[Schema]]] = {
    "boats": (Boat, CraftSchema),
    "rafts": (Raft, CraftSchema),
}
for entity, (model, schema) in MODELS.items():
    sync.register(model, entity, schema=schema)

CRAFT: Any = Craft.__table__


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    app = Flask("strangers", instance_relative_config=True)
    app.config.update(SQLALCHEMY_DATABASE_URI=small_database_url, LOCAL_MODE="true")
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.create_all()
        empty()
        yield app
        db.session.remove()
        empty()
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


def empty() -> None:
    db.session.remove()
    tables = reversed(db.metadata.sorted_tables)
    with db.engine.begin() as connection:
        for table in sorted(tables, key=lambda table: table.name.startswith("arus_")):
            connection.execute(table.delete())


def added(*rows: Any) -> None:
    """Begin with these rows."""
    empty()
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
    with sa.orm.Session(db.engine) as session:
        return {
            (entity, registration.row_id(row)): orjson.loads(registration.serialise(row))
            for entity, (model, _) in MODELS.items()
            if (registration := sync._registry.of_entity(entity))
            for row in session.scalars(sa.select(model))
        }


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
