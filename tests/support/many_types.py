"""An application of the tests' own with a column of each type, twice: with fields for the types, and with `Raw` alone."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields, post_load
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeDecorator

from arus import ReliableSync


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
sync = ReliableSync()


class Grade(enum.Enum):
    FAIR = "fair wear"
    POOR = 2


@dataclass
class Position:
    north: float
    east: float
    name: str | None = None


class PositionType(TypeDecorator[Position]):
    """A dataclass in a JSON column."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Position | None, _dialect: Any) -> Any:
        return None if value is None else asdict(value)

    def process_result_value(self, value: Any, _dialect: Any) -> Position | None:
        return None if value is None else Position(**value)


class Columns:
    """The columns of both models."""

    id = mapped_column(sa.Uuid, primary_key=True, default=uuid.uuid4)
    price = mapped_column(sa.Numeric(12, 3))
    plain = mapped_column(sa.Numeric)
    seal = mapped_column(sa.LargeBinary)
    maker = mapped_column(sa.Uuid)
    grade = mapped_column(sa.Enum(Grade))
    word = mapped_column(sa.Enum("open", "shut", name="word"))
    day = mapped_column(sa.Date)
    hour = mapped_column(sa.Time)
    at = mapped_column(sa.DateTime)
    every = mapped_column(sa.Interval)
    real = mapped_column(sa.Float)
    document = mapped_column(sa.JSON().with_variant(JSONB(), "postgresql"))
    settings = mapped_column(sa.JSON, nullable=False, default=dict)
    position = mapped_column(PositionType)


class Sample(Columns, Base):
    __tablename__ = "t_sample"


class Bare(Columns, Base):
    __tablename__ = "t_bare"


class PositionSchema(Schema):
    north = fields.Float()
    east = fields.Float()
    name = fields.String(allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Position:
        return Position(**data)


class SampleSchema(Schema):
    id = fields.UUID()
    price = fields.Decimal(allow_none=True)
    plain = fields.Decimal(as_string=True, allow_none=True)
    seal = fields.Raw(allow_none=True)
    maker = fields.UUID(allow_none=True)
    grade = fields.Enum(Grade, allow_none=True)
    word = fields.String(allow_none=True)
    day = fields.Date(allow_none=True)
    hour = fields.Time(allow_none=True)
    at = fields.DateTime(allow_none=True)
    every = fields.TimeDelta(allow_none=True)
    real = fields.Float(allow_none=True)
    document = fields.Raw(allow_none=True)
    settings = fields.Raw()
    position = fields.Nested(PositionSchema, allow_none=True)


NAMES = [name for name in vars(Columns) if not name.startswith("_")]
BareSchema = Schema.from_dict(
    {name: fields.Raw() if name != "position" else fields.Nested(PositionSchema) for name in NAMES}
)

sync.register(Sample, "samples", schema=SampleSchema)
sync.register(Bare, "bares", schema=BareSchema)
sync.accept("samples")

#: Rows whose values the databases return as they were given, and rows whose values they don't.
EXACT: list[dict[str, Any]] = [
    {},
    {
        "price": Decimal("12.500"),
        "seal": b"\x00\xff\xfe",
        "maker": uuid.UUID("6a1f1d1e-0000-4000-8000-000000000001"),
        "grade": Grade.FAIR,
        "word": "open",
        "day": date(2026, 2, 28),
        "hour": time(23, 59, 59, 123456),
        "at": datetime(2026, 2, 28, 1, 2, 3, 4),  # noqa: DTZ001  # a column without time zones
        "every": timedelta(days=3, seconds=7, microseconds=9),
        "real": 0.1,
        "document": {"a": [1, None, {"b": 0.5}]},
        "settings": {"x": 1},
        "position": Position(1.5, -2.25, "buoy"),
    },
    {"price": Decimal("-0.001"), "seal": b"", "grade": Grade.POOR, "every": timedelta(0)},
    {"every": -timedelta(microseconds=1), "real": -1e300, "document": "", "settings": []},
]
CHANGED: list[dict[str, Any]] = [
    {"price": Decimal("1.5"), "plain": Decimal("0.25")},
    {"price": Decimal("0.00049"), "plain": Decimal("3E+2"), "day": datetime(2026, 1, 2, 3, 4)},  # noqa: DTZ001
    {"price": 2, "plain": 7, "seal": bytearray(b"ab"), "grade": "FAIR"},
    {"document": {1: "a number as a key"}, "settings": ("a", "tuple")},
    {"document": None, "settings": sa.JSON.NULL},
    {"document": sa.JSON.NULL, "settings": 0},
    {"document": {"longer": 1, "b": [1.0, 1e16]}, "settings": {"z": 1, "a": 2}},
]


@contextmanager
def many_types_app(database_url: str, **settings: Any) -> Iterator[Flask]:
    """The application on a database, with empty tables; not in its context, as there may be several at a time."""
    app = Flask("many types", instance_relative_config=True)
    app.config.update({"SQLALCHEMY_DATABASE_URI": database_url, "LOCAL_MODE": "true", **settings})
    if database_url.startswith("sqlite"):
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 60}}
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.drop_all()
        db.create_all()
    try:
        yield app
    finally:
        sync.stop(app)
        with app.app_context():
            db.session.remove()
            app.extensions["arus"].notifier.close()
            db.drop_all()
            db.engine.dispose()


def rows(app: Flask, model: type[Any]) -> dict[uuid.UUID, dict[str, Any]]:
    """The values of all rows of an application, by key."""
    with app.app_context():
        found = {
            row.id: {name: getattr(row, name) for name in NAMES}
            for row in db.session.scalars(sa.select(model))
        }
        db.session.rollback()
        return found
