"""An application of the tests' own whose models have no version column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from arus import ReliableSync


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
sync = ReliableSync()


class Locker(Base):
    """Its keys are given by the application, and used again."""

    __tablename__ = "p_locker"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    name: Mapped[str | None]
    inside_id: Mapped[str | None] = mapped_column(sa.ForeignKey("p_locker.id", ondelete="CASCADE"))
    tools: Mapped[list[Tool]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, back_populates="locker"
    )


class Tool(Base):
    """Its keys are given by the database."""

    __tablename__ = "p_tool"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    locker_id: Mapped[str] = mapped_column(sa.ForeignKey("p_locker.id", ondelete="CASCADE"))
    locker: Mapped[Locker] = relationship(back_populates="tools")


class LockerSchema(Schema):
    id = fields.String()
    name = fields.String(allow_none=True)
    inside_id = fields.String(data_key="insideId", allow_none=True)


class ToolSchema(Schema):
    id = fields.Integer()
    name = fields.String(allow_none=True)
    locker_id = fields.String(data_key="lockerId")


sync.register(Locker, "lockers", schema=LockerSchema)
sync.register(Tool, "tools", schema=ToolSchema)


class Logged(NamedTuple):
    """What a test wants to know of an entry."""

    entity: str
    operation: str
    row_id: str
    version: int
    data: dict[str, Any]


def log() -> list[Logged]:
    """All entries of the change log, in order."""
    statement = sa.text(
        "SELECT entity, operation, row_id, version, data FROM arus_change ORDER BY id"
    )
    with db.engine.connect() as connection:
        return [
            Logged(e, o, r, v, orjson.loads(bytes(d)))
            for e, o, r, v, d in connection.execute(statement)
        ]


def empty() -> None:
    """Delete everything in the database."""
    with db.engine.begin() as connection:
        for table in sorted(db.metadata.sorted_tables, key=lambda t: t.name.startswith("arus_")):
            if not table.name.startswith("arus_"):
                connection.execute(sa.text(f"DELETE FROM {table.name}"))
            else:
                connection.execute(table.delete())


@contextmanager
def plain_app(database_url: str, **settings: Any) -> Iterator[Flask]:
    """The application on a database, emptied; within its context."""
    app = Flask("plain", instance_relative_config=True)
    app.config.update({"SQLALCHEMY_DATABASE_URI": database_url, "LOCAL_MODE": "true", **settings})
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        _enforce_foreign_keys()
        db.create_all()
        empty()
        try:
            yield app
        finally:
            db.session.remove()
            app.extensions["arus"].notifier.close()
            db.engine.dispose()


def _enforce_foreign_keys() -> None:
    if db.engine.dialect.name == "sqlite":
        sa.event.listen(
            db.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"),
        )
