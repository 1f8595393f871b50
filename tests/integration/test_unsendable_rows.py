"""Rows with values that JSON can't say: quarantined at the commit, and sent as something else by nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from arus.audit.contents import each_row
from arus.database import open_engine
from arus.errors import ProposalError, RefusedMessageError, UnsendableChangeError
from arus.follower.proposals import propose
from arus.follower.rows import Copy
from arus.outbox.changes import retry
from arus.outbox.counters import FAILURES, read_counters
from arus.outbox.snapshot import SnapshotReader
from arus.protocol.digests import UNKNOWN
from arus.protocol.entries import Operation
from arus.registry import Registration
from tests.support.small_app import small_app

INFINITY = float("inf")
NAN = float("nan")


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Tank(Base):
    """All but key and version may be null: a copy would take a row of which nothing else is told."""

    __tablename__ = "tank"
    number: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    level: Mapped[float | None]
    volume: Mapped[Decimal | None] = mapped_column(sa.Numeric(20, 6))
    notes: Mapped[Any | None] = mapped_column(sa.PickleType)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class TankSchema(Schema):
    number = fields.Integer(data_key="tankNumber")
    version = fields.Integer()
    level = fields.Float(allow_nan=True)
    volume = fields.Decimal(as_string=True)
    notes = fields.Raw()


sync.register(Tank, "tanks", schema=TankSchema)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url, models=(db, sync)) as app:
        yield app


def registration() -> Registration:
    found = sync._registry.of_entity("tanks")
    assert found is not None
    return found


def logged() -> list[Any]:
    with db.engine.connect() as connection:
        columns = "message_id, version, outcome, reason, data"
        return list(connection.execute(sa.text(f"SELECT {columns} FROM arus_change ORDER BY id")))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"level": INFINITY}, "ValueError: level is inf"),
        ({"level": -INFINITY}, "ValueError: level is -inf"),
        ({"level": NAN}, "ValueError: level is nan"),
        ({"notes": {"pump": {"rpm": [1, NAN]}}}, "ValueError: notes.pump.rpm[1] is nan"),
        ({"notes": [{"x": INFINITY}]}, "ValueError: notes[0].x is inf"),
        ({"notes": {NAN: 1}}, "TypeError: Dict key must be str"),
        ({"notes": 2**64}, "TypeError: Integer exceeds 64-bit range"),
        ({"notes": b"x"}, "TypeError: "),
        ({"notes": {1, 2}}, "TypeError: "),
        ({"notes": "\ud800"}, "TypeError: "),
        ({"notes": Decimal("NaN")}, "TypeError: "),
        ({"volume": Decimal("NaN")}, "ValueError: volume is NaN"),
    ],
)
def test_a_value_that_json_cannot_say_is_quarantined_and_counted(
    app: Flask, values: dict[str, Any], reason: str
) -> None:
    db.session.add_all([Tank(number=1, **values), Tank(number=2, level=1.5)])
    db.session.commit()
    bad, good = logged()
    assert (bad.outcome, good.outcome) == ("quarantined", None)
    assert bad.reason.startswith(reason)
    assert orjson.loads(bytes(bad.data)) == {"tankNumber": 1, "version": 1}
    with db.engine.connect() as connection:
        assert read_counters(connection) == {(FAILURES, "", "", ""): 1}


def test_such_a_row_is_sent_by_no_catch_up_and_no_retry_and_equals_nothing(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    db.session.add_all([Tank(number=1, level=INFINITY), Tank(number=2, level=None)])
    db.session.commit()
    with pytest.raises(UnsendableChangeError, match="level is inf"):
        retry(db.session(), sync._registry, logged()[0].message_id)
    db.session.rollback()

    engine = open_engine(db.engine.url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE arus_change SET seq = id, previous_seq = 0"))
        high = connection.execute(sa.text("SELECT MAX(seq) FROM arus_change")).scalar_one()
    reader = SnapshotReader(engine, nullcontext, registration(), high_seq=high)
    items, _ = reader.read(None, 10)
    assert [orjson.loads(item.data) for item in items] == [
        {"tankNumber": 1, "version": 1},
        {"tankNumber": 2, "version": 1, "level": None, "volume": None, "notes": None},
    ]
    assert (
        "tanks 1 can't be serialised: the catch-up sends it without its data (ValueError: level is inf"
        in (caplog.text)
    )
    with engine.connect() as connection:
        rows = list(each_row(connection, registration(), nullcontext, threading.Event()))
    engine.dispose()
    assert [(row.row_id, row.version) for row in rows] == [("1", 1), ("2", 1)]
    assert (rows[0].hash() == UNKNOWN, rows[1].hash() == UNKNOWN) == (True, False)


def test_a_copy_knows_a_row_that_its_vessel_cannot_send_from_one_whose_values_are_null(
    app: Flask,
) -> None:
    copy = Copy(registration())
    assert copy.is_mere({"tankNumber": 1, "version": 3})
    assert not copy.is_mere({"tankNumber": 1, "version": 3, "level": None})
    with pytest.raises(RefusedMessageError):
        copy.values({"tankNumber": "1"}, 3)


def test_once_the_value_is_finite_the_row_is_sent(app: Flask) -> None:
    tank = Tank(number=1, level=INFINITY)
    db.session.add(tank)
    db.session.commit()
    tank.level = 2.5
    db.session.commit()
    assert [entry.outcome for entry in logged()] == ["quarantined", None]
    retry(db.session(), sync._registry, logged()[0].message_id)
    db.session.commit()
    assert [entry.outcome for entry in logged()] == [None, None]
    assert orjson.loads(bytes(logged()[0].data))["level"] == 2.5


@pytest.mark.parametrize("number", [NAN, INFINITY])
def test_a_proposal_of_such_a_row_is_refused_and_writes_nothing(app: Flask, number: float) -> None:
    with db.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO arus_vessel (vessel_id, epoch, heard_at) VALUES ('v', 'e', 0)")
        )
    engine = open_engine(db.engine.url)
    with engine.connect() as connection, pytest.raises(ProposalError, match="level is"):
        propose(
            connection,
            Copy(registration()),
            Operation.CREATE,
            "1",
            {"tankNumber": 1, "level": number},
            origin="shore",
            vessel_id="v",
        )
    engine.dispose()
    assert db.session.scalars(sa.select(Tank)).all() == []
