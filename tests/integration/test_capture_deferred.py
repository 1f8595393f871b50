"""Columns that an application defers with `raiseload` are in the entries of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, load_only, mapped_column

from arus import ReliableSync


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Gate(Base):
    __tablename__ = "d_gate"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    is_open: Mapped[bool]
    name: Mapped[str]
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Lock(Base):
    """The application never loads its notes by accident."""

    __tablename__ = "d_lock"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    is_open: Mapped[bool]
    name: Mapped[str] = deferred(mapped_column(sa.Text), raiseload=True)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class RowSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    is_open = fields.Boolean()
    name = fields.String()


MODELS: tuple[Any, ...] = (Gate, Lock)
for model in MODELS:
    sync.register(model, model.__tablename__, schema=RowSchema)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    app = Flask("deferred", instance_relative_config=True)
    app.config.update(SQLALCHEMY_DATABASE_URI=small_database_url, LOCAL_MODE="true")
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.drop_all()  # the log of a test before, on the same server
        db.create_all()
        yield app
        db.session.remove()
        db.drop_all()
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


def log() -> list[tuple[Any, ...]]:
    statement = sa.text("SELECT operation, version, outcome, data FROM arus_change ORDER BY id")
    with db.engine.connect() as connection:
        return [
            (*entry[:3], orjson.loads(bytes(entry.data))) for entry in connection.execute(statement)
        ]


def read(model: Any) -> Any:
    db.session.remove()
    only = load_only(model.id, model.is_open, raiseload=True)
    row = db.session.scalars(sa.select(model).options(only)).one()
    with pytest.raises(InvalidRequestError):
        _ = row.name
    return row


@pytest.mark.parametrize("model", MODELS)
def test_a_row_with_columns_that_raise_on_access_is_captured_whole(app: Flask, model: Any) -> None:
    db.session.add(model(id=1, is_open=True, name="a"))
    db.session.commit()
    read(model).is_open = False
    db.session.commit()
    db.session.delete(read(model))
    db.session.commit()
    row = {"id": 1, "name": "a"}
    assert log() == [
        ("create", 1, None, {**row, "version": 1, "is_open": True}),
        ("update", 2, None, {**row, "version": 2, "is_open": False}),
        ("delete", 3, None, {**row, "version": 2, "is_open": False}),
    ]


@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_is_read_for_its_data_has_columns_that_raise_on_access(
    app: Flask, model: Any
) -> None:
    db.session.add(model(id=1, is_open=True, name="a"))
    db.session.commit()
    registration = sync.runtime().registry.of_model(model)
    assert registration
    data = orjson.loads(registration.serialise(read(model)))
    assert data == {"id": 1, "version": 1, "is_open": True, "name": "a"}
