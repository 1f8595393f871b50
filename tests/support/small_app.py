"""A small application of the tests' own: two registered models, one that is not, and the sync."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from arus import ReliableSync


def new_id() -> str:
    return str(uuid4())


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
sync = ReliableSync()


class Hull(Base):
    __tablename__ = "hull"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    version: Mapped[int] = mapped_column(sa.Integer)
    name: Mapped[str | None]
    tag: Mapped[str] = mapped_column(sa.String(20), server_default="untagged")
    changed_at: Mapped[datetime | None] = mapped_column(onupdate=now)
    parts: Mapped[list[Part]] = relationship(cascade="all, delete-orphan", back_populates="hull")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Part(Base):
    __tablename__ = "part"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    version: Mapped[int] = mapped_column(sa.Integer)
    name: Mapped[str | None]
    hull_id: Mapped[str] = mapped_column(sa.ForeignKey("hull.id"))
    hull: Mapped[Hull] = relationship(back_populates="parts")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Memo(Base):
    """Not registered."""

    __tablename__ = "memo"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)


class HullSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    name = fields.Method("get_name")
    tag = fields.String()
    changed_at = fields.DateTime(data_key="changedAt")

    def get_name(self, hull: Hull) -> Any:
        if hull.name == "unserialisable":
            raise ValueError("no words for it: \ud800 \0")
        return object() if hull.name == "not JSON" else hull.name


class PartSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    name = fields.String()
    hull_id = fields.String(data_key="hullId")


sync.register(Hull, "hulls", schema=HullSchema)
sync.register(Part, "parts", "deck/parts", 2, PartSchema())


class Logged(NamedTuple):
    """What a test wants to know of an entry."""

    entity: str
    operation: str
    row_id: str
    version: int
    data: dict[str, Any]
    outcome: str | None


def log() -> list[Logged]:
    """All entries of the change log, in order."""
    with db.engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT entity, operation, row_id, version, data, outcome FROM arus_change ORDER BY id"
            )
        )
        return [Logged(e, o, r, v, orjson.loads(bytes(d)), out) for e, o, r, v, d, out in rows]


def replayed(entries: list[Logged]) -> dict[tuple[str, str], dict[str, Any]]:
    """The tables as who follows the log knows them: of each row only what is newer counts."""
    rows: dict[tuple[str, str], dict[str, Any] | None] = {}
    versions: dict[tuple[str, str], int] = {}
    for entry in entries:
        key = (entry.entity, entry.row_id)
        assert (key in versions) == (entry.operation != "create"), entry
        assert entry.version > versions.get(key, 0), f"{entry} is no news"
        versions[key] = entry.version
        rows[key] = None if entry.operation == "delete" else entry.data
    return {key: data for key, data in rows.items() if data is not None}


def tables() -> dict[tuple[str, str], dict[str, Any]]:
    """The registered models' tables, as their schemas dump them."""
    with sa.orm.Session(db.engine) as session:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for hull in session.scalars(sa.select(Hull)):
            found["hulls", hull.id] = orjson.loads(orjson.dumps(HullSchema().dump(hull)))
        for part in session.scalars(sa.select(Part)):
            found["parts", part.id] = orjson.loads(orjson.dumps(PartSchema().dump(part)))
        return found


def empty(database: SQLAlchemy = db) -> None:
    """Take everything out of the database."""
    tables = reversed(database.metadata.sorted_tables)
    with database.engine.begin() as connection:
        # The log comes last: it notes what is deleted from the others.
        for table in sorted(tables, key=lambda table: table.name.startswith("arus_")):
            connection.execute(table.delete())


@contextmanager
def small_app(
    database_url: str,
    *,
    models: tuple[SQLAlchemy, ReliableSync] = (db, sync),
    zone: str | None = None,
    pragma: str | None = None,
    **settings: Any,
) -> Iterator[Flask]:
    """The application on a database, emptied; within its context.

    :param models: models of a test, and the sync that they are registered with, in place of those of this module.
    :param zone: the ship's time zone.
    :param pragma: what each of its connections sets on SQLite.
    """
    database, its_sync = models
    app = Flask("small", instance_relative_config=True)
    app.config.update({"SQLALCHEMY_DATABASE_URI": database_url, "LOCAL_MODE": "true", **settings})
    database.init_app(app)
    its_sync.init_app(app, database, zone=zone)
    with app.app_context():
        if pragma is not None and database.engine.dialect.name == "sqlite":
            sa.event.listen(
                database.engine, "connect", lambda driver, _: driver.execute(f"PRAGMA {pragma}")
            )
        database.create_all()
        empty(database)
        try:
            yield app
        finally:
            database.session.remove()
            app.extensions["arus"].notifier.close()
            database.engine.dispose()
