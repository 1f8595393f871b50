"""Cursors with keys that somebody has made up, and rows that can't be read: the catch-up fails, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus.catchup import requests
from arus.catchup.requests import CatchupStatus
from arus.database import open_engine, transaction
from arus.errors import CatchupError
from arus.outbox.snapshot import SnapshotReader
from arus.protocol.messages import CatchupRequest
from arus.registry import Registry
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import Vessel
from tests.support.waiting import eventually

BOTH, POSTGRESQL, NEITHER = ("sqlite", "postgresql"), ("postgresql",), ()


class RefusedError(Exception):
    """An error of the application's own."""


class Padded(sa.types.TypeDecorator[str]):
    """A type of the application's own, which does not take every text."""

    impl = sa.String(12)
    cache_ok = True
    python_type = str

    def process_bind_param(self, value: str | None, _dialect: Any) -> str:
        if value is None or not value.isdigit():
            raise RefusedError("no digits\0")
        return value.zfill(12)


class Base(DeclarativeBase):
    """Of models with keys of all types that there are for keys."""


class Small(Base):
    __tablename__ = "small"
    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)


class Bolt(Base):
    __tablename__ = "bolt"
    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)


class Big(Base):
    __tablename__ = "big"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)


class Unique(Base):
    __tablename__ = "unique_one"
    id: Mapped[uuid.UUID] = mapped_column(sa.Uuid, primary_key=True)


class UniqueText(Base):
    __tablename__ = "unique_text"
    id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True)


class Chosen(Base):
    __tablename__ = "chosen"
    id: Mapped[str] = mapped_column(sa.Enum("bow", "stern", name="place"), primary_key=True)


class Short(Base):
    __tablename__ = "short"
    id: Mapped[str] = mapped_column(sa.String(8), primary_key=True)


class Own(Base):
    __tablename__ = "own"
    id: Mapped[str] = mapped_column(Padded, primary_key=True)


class Graded(Base):
    __tablename__ = "graded"
    id: Mapped[int] = mapped_column(primary_key=True)
    grade: Mapped[str] = mapped_column(sa.Enum("fair", "poor", native_enum=False))


class KeySchema(Schema):
    id = fields.String()


MODELS = {model.__tablename__: model for model in Base.__subclasses__()}
#: A model's table, a key, and the databases on which it is no key of the model.
MADE_UP = [
    ("small", "70000", POSTGRESQL),
    ("bolt", "1099511627776", POSTGRESQL),
    ("bolt", "-1099511627776", POSTGRESQL),
    ("bolt", "foo", BOTH),
    ("bolt", "1.5", BOTH),
    ("bolt", "", BOTH),
    ("bolt", "9" * 30, BOTH),
    ("bolt", "9" * 900, BOTH),
    ("big", str(2**63), BOTH),
    ("big", str(2**63 - 1), NEITHER),
    ("unique_one", "foo", BOTH),
    ("unique_text", "foo", POSTGRESQL),
    ("chosen", "mast", POSTGRESQL),
    ("short", "a long text", NEITHER),
    ("own", "foo", BOTH),
]


@pytest.fixture
def vessel(migrated_database_url: str, mosquitto: Mosquitto) -> Iterator[Vessel]:
    """A vessel with the models, which is connected."""
    vessel = Vessel(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    Base.metadata.create_all(vessel.engine)
    for name, model in MODELS.items():
        vessel.registry.add(model, name, topic=name, qos=1, schema=KeySchema, version=None)
    with vessel:
        vessel.wait_connected()
        yield vessel


def ask(vessel: Vessel, entity: str, **wanted: Any) -> str:
    """Request a catch-up; return its id."""
    request = CatchupRequest(**{"entity": entity, "limit": None, **wanted})
    with vessel.engine.connect() as connection, transaction(connection):
        catchup_id = requests.queue(connection, request, vessel.registry, "http")
    vessel.notifier.notify()
    return catchup_id


def ended(vessel: Vessel, catchup_id: str) -> CatchupStatus:
    """The catch-up once it has ended."""

    def found() -> CatchupStatus | None:
        with vessel.engine.connect() as connection:
            status = requests.find(connection, catchup_id)
        return status if status.finished else None

    status = eventually(found, 20, message="the catch-up has ended")
    assert status is not None
    return status


def generation(vessel: Vessel) -> int:
    """How often the relay has begun."""
    return int(vessel.query("SELECT generation FROM arus_session")[0][0])


def test_a_made_up_key_fails_its_catch_up_and_the_relay_goes_on(
    vessel: Vessel, database_kind: str
) -> None:
    before = generation(vessel)
    epoch = vessel.status().epoch
    for entity, key, refused_by in MADE_UP:
        status = ended(vessel, ask(vessel, entity, cursor=f'snapshot.{epoch}.k"{key}"'))
        reason = f'{entity}: "{key}"'[: len(entity) + 82] + f" is not a key of {entity} ("
        if database_kind in refused_by:
            assert status.status == "failed", (entity, key)
            assert (status.reason or "").startswith(reason), status.reason
        else:
            assert (status.status, status.total) == ("complete", 0), (entity, key, status.reason)
    assert ended(vessel, ask(vessel, "bolt", mode="snapshot")).status == "complete"
    assert generation(vessel) == before


def test_a_row_that_its_model_cannot_read_hides_no_other_and_is_named(
    vessel: Vessel, caplog: pytest.LogCaptureFixture
) -> None:
    before = generation(vessel)
    vessel.query_write("INSERT INTO graded (id, grade) VALUES (1, 'good'), (2, 'fair')")
    status = ended(vessel, ask(vessel, "graded", mode="snapshot"))
    assert (status.status, status.total) == ("complete", 2)
    assert "the row 1 of graded can't be read: LookupError: 'good' is not among" in caplog.text
    assert ended(vessel, ask(vessel, "bolt", mode="snapshot")).status == "complete"
    assert generation(vessel) == before


@pytest.mark.parametrize("key", ["foo", "1.5", "", "9" * 5000])
def test_a_key_that_was_made_up_is_refused(database_url: str, key: str) -> None:
    engine = open_engine(database_url)
    bolts = Registry().add(Bolt, "bolts", topic="bolts", qos=1, schema=KeySchema, version=None)
    reader = SnapshotReader(engine, nullcontext, bolts, high_seq=0)
    with pytest.raises(CatchupError, match="is not a key of bolts"):
        reader.count(f'"{key}"')
    engine.dispose()
