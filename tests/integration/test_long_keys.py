"""A text key of no declared length: a row whose id is too long for a message is quarantined, and the commit succeeds."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from tests.support.waiting import free_port


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Pump(Base):
    __tablename__ = "pump_of_any_key"
    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class PumpSchema(Schema):
    id = fields.String()
    version = fields.Integer()


sync.register(Pump, "pumps_of_any_key", schema=PumpSchema)


def test_a_row_with_an_id_that_is_too_long_is_quarantined(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="x",
        LOCAL_MODE="true",
        SQLALCHEMY_DATABASE_URI=database_url,
        MQTT_BROKER_URL=f"mqtt://127.0.0.1:{free_port()}",
    )
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.create_all()
        db.session.add_all([Pump(id="a" * 64), Pump(id="b" * 65)])
        db.session.commit()
        found = db.session.execute(sa.text("SELECT row_id, reason FROM arus_change"))
        logged = {row.row_id: row.reason for row in found}
        db.session.remove()
        db.engine.dispose()
    assert logged == {
        "a" * 64: None,
        "b" * 64: "its id has 65 characters; ids in messages have up to 64",
    }
    assert "change quarantined: pumps_of_any_key b" in caplog.text
