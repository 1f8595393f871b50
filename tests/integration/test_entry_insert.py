"""The entry of a commit is inserted by the driver itself, unless somebody listens to the engine's statements."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError

from blueprints.crew.models import CrewMember
from extensions import db


def write(name: str) -> None:
    db.session.add(CrewMember(name=name))
    db.session.commit()


def entries() -> int:
    return int(db.session.execute(text("SELECT COUNT(*) FROM arus_change")).scalar_one())


def test_a_listener_of_the_engine_is_told_of_the_entry(app: Flask) -> None:
    told: list[str] = []

    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        told.append(sql)

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        write("Anna")
        event.remove(db.engine, "before_cursor_execute", note)
        assert [sql for sql in told if "INTO arus_change" in sql]
        assert entries() == 1


def test_an_entry_that_the_database_refuses_is_an_error_of_sqlalchemy_and_undoes_the_row(
    app: Flask,
) -> None:
    with app.app_context():
        write("Anna")
        with db.engine.begin() as connection:
            connection.execute(text("ALTER TABLE arus_change RENAME TO away"))
        with pytest.raises(DBAPIError, match="arus_change"):
            write("Berit")
        db.session.rollback()
        with db.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO arus_change"))
        assert db.session.scalars(select(CrewMember.name)).all() == ["Anna"]
        write("Chidi")
        assert entries() == 2
