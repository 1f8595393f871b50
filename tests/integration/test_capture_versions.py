"""The versions in the log: each change of a row carries one above the last, whoever raises it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from tests.support.small_app import Hull, small_app
from tests.support.small_app import db as small_db
from tests.support.small_app import log as small_log
from tests.support.small_app import sync as small_sync


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Lamp(Base):
    """Has a version that neither SQLAlchemy nor the database raises, and a key that may be used again."""

    __tablename__ = "v_lamp"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]


class LampSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    name = fields.String()


sync.register(Lamp, "lamps", schema=LampSchema)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    app = Flask("versions", instance_relative_config=True)
    app.config.update(SQLALCHEMY_DATABASE_URI=small_database_url, LOCAL_MODE="true")
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.create_all()
        with db.engine.begin() as connection:  # of tests with other models
            connection.execute(sa.text("DELETE FROM arus_change"))
        yield app
        db.session.remove()
        with db.engine.begin() as connection:
            connection.execute(delete(Lamp))
            connection.execute(sa.text("DELETE FROM arus_change"))
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


def log() -> list[tuple[str, int, str | None]]:
    """Operation, version and name of each entry; the version is that of the row."""
    with db.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT operation, version, data FROM arus_change ORDER BY id")
        ).all()
    found = [(operation, version, orjson.loads(bytes(data))) for operation, version, data in rows]
    assert all(
        data["version"] == version for operation, version, data in found if operation != "delete"
    )
    return [(operation, version, data["name"]) for operation, version, data in found]


def in_table() -> tuple[int | None, str | None]:
    with db.engine.connect() as connection:
        version, name = connection.execute(sa.select(Lamp.version, Lamp.name)).one()
        return version, name


def added(**values: Any) -> Lamp:
    lamp = Lamp(id=1, name="a", **values)
    db.session.add(lamp)
    db.session.commit()
    return lamp


def test_a_version_that_nothing_raises_is_raised_by_the_capture(app: Flask) -> None:
    lamp = added()
    lamp.name = "b"
    db.session.commit()
    lamp.name = sa.literal("c") + "!"
    db.session.commit()
    db.session.execute(update(Lamp).values(name="d"))
    db.session.commit()
    db.session.delete(lamp)
    db.session.commit()
    assert log() == [
        ("create", 1, "a"),
        ("update", 2, "b"),
        ("update", 3, "c!"),
        ("update", 4, "d"),
        ("delete", 5, "d"),
    ]


def test_a_version_that_the_application_raises_is_left_to_it(app: Flask) -> None:
    lamp = added(version=5)
    lamp.name, lamp.version = "b", 7
    db.session.commit()
    db.session.execute(update(Lamp).values(name="c", version=9))
    db.session.commit()
    assert lamp.version == 9
    lamp.name, lamp.version = "d", 2
    db.session.commit()
    assert [version for _, version, _ in log()] == [5, 7, 9, 10]
    assert in_table() == (10, "d")


def test_a_key_that_is_used_again_goes_on_from_the_version_of_the_row_before(app: Flask) -> None:
    lamp = added()
    for name in ("b", "c"):
        lamp.name = name
        db.session.commit()
    db.session.delete(lamp)
    db.session.commit()
    again = added()
    assert again.version == 5
    receipt = sync.publish_change("create", again)
    assert receipt
    assert receipt.data
    assert orjson.loads(receipt.data)["version"] == 5
    again.name = "d"
    db.session.add(Lamp(id=2, name="other"))
    db.session.commit()
    db.session.execute(delete(Lamp))
    db.session.commit()
    db.session.execute(insert(Lamp), [{"id": number, "name": "e"} for number in (1, 2, 3)])
    db.session.commit()
    assert log()[3:7] == [
        ("delete", 4, "c"),
        ("create", 5, "a"),
        ("create", 1, "other"),
        ("update", 6, "d"),
    ]
    assert sorted(log()[9:]) == [("create", 1, "e"), ("create", 3, "e"), ("create", 8, "e")]


def test_a_version_column_of_the_orm_goes_on_too(small_database_url: str) -> None:
    with small_app(small_database_url):
        for name in ("a", "b", "c"):
            hull = Hull(id="1", name=name)
            small_db.session.add(hull)
            small_db.session.commit()
            hull.name = name + "!"
            small_db.session.commit()
            small_db.session.delete(hull)
            small_db.session.commit()
        assert [(entry.operation, entry.version) for entry in small_log()] == [
            (operation, 3 * number + step)
            for number in range(3)
            for step, operation in enumerate(("create", "update", "delete"), 1)
        ]


def test_a_recorded_change_that_left_the_version_as_it_was_gets_the_next(
    small_database_url: str,
) -> None:
    with small_app(small_database_url):
        hull = Hull(id="1", name="a")
        small_db.session.add(hull)
        small_db.session.commit()
        small_db.session.execute(sa.text("UPDATE hull SET name = 'b'"))
        small_sync.record("update", hull)
        small_db.session.commit()
        hull.name = "c"
        small_db.session.commit()
        assert [(entry.version, entry.data["version"]) for entry in small_log()] == [
            (1, 1),
            (2, 2),
            (3, 3),
        ]
