"""An error of the database that a row is the cause of refuses that row; all others are written."""

from __future__ import annotations

import random
import string
from typing import Any

import orjson
import pytest
from marshmallow import Schema, fields
from sqlalchemy import Computed, Connection, MetaData, String, create_engine, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus.errors import LogUnavailableError
from arus.follower import tables
from arus.follower.refusals import read_refusals
from arus.outbox.tables import define
from arus.registry import Registry
from tests.support.applier import change_message, new_applier
from tests.support.postgres import as_plain_role


class Base(DeclarativeBase):
    metadata = MetaData()


class Crew(Base):
    __tablename__ = "crew"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    notes: Mapped[str | None]
    loud: Mapped[str | None] = mapped_column(Computed("upper(notes)", persisted=True))
    tags: Mapped[Any] = mapped_column(ARRAY(String).with_variant(String, "sqlite"), nullable=True)


class CrewSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    notes = fields.String()
    loud = fields.String()
    tags = fields.Raw()


define(Base.metadata)
tables.define(Base.metadata)
REGISTRY = Registry()
REGISTRY.add(Crew, "crew", topic="crew", qos=1, schema=CrewSchema(), version="version")


class Shore:
    """A follower without a broker."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.applier = new_applier(connection, REGISTRY)

    def apply(self, **rows: dict[str, Any]) -> None:
        """Apply the creation of rows in one batch."""
        batch = []
        for seq, (row_id, row) in enumerate(rows.items(), 1):
            data = {"id": row_id, "version": 1, "notes": None, "tags": None, **row}
            batch.append(change_message("crew", "create", data, seq=seq))
        self.applier.apply(batch)

    @property
    def rows(self) -> dict[str, Any]:
        found = self.connection.exec_driver_sql("SELECT id, loud FROM crew")
        return {row.id: row.loud for row in found}

    @property
    def refused(self) -> dict[str, str]:
        return {one.row_id: one.reason for one in read_refusals(self.connection)}


@pytest.fixture
def shore(database_url: str) -> Any:
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        yield Shore(connection)
    engine.dispose()


@pytest.fixture
def plain_shore(database_url: str) -> Any:
    """The database's owner, and a follower with a role that owns nothing."""
    owner = create_engine(database_url, isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(owner)
    engine = create_engine(as_plain_role(database_url), isolation_level="AUTOCOMMIT")
    with owner.connect() as own, engine.connect() as connection:
        yield own, Shore(connection)
    engine.dispose()
    owner.dispose()


TRIGGER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.notes = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON crew FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE crew ENABLE ALWAYS TRIGGER refuse
"""


def test_a_column_that_the_database_computes_is_not_written(shore: Shore) -> None:
    shore.apply(a={"notes": "x", "loud": "X"}, b={"notes": "y", "loud": "Y"})
    assert shore.rows == {"a": "X", "b": "Y"}
    assert not shore.refused


@pytest.mark.parametrize("case", ["index", "trigger", "value"])
def test_a_row_that_is_the_cause_of_an_error_is_refused_alone(shore: Shore, case: str) -> None:
    if shore.connection.dialect.name == "sqlite":
        if case != "value":
            pytest.skip("an error of PostgreSQL")
        shore.apply(good={}, bad={"notes": "x" * 10, "tags": [{"a": 1}]})
    elif case == "index":
        shore.connection.execute(text("CREATE INDEX notes_index ON crew (notes)"))
        letters = random.Random(1).choices(string.printable[:94], k=8192)
        shore.apply(good={}, bad={"notes": "".join(letters)})
    elif case == "trigger":
        shore.connection.exec_driver_sql(TRIGGER)
        shore.apply(good={}, bad={"notes": "bad"})
    else:
        shore.apply(good={}, bad={"tags": [{"a": 1}]})
    assert set(shore.rows) == {"good"}
    assert set(shore.refused) == {"bad"}


def test_a_message_is_refused_alone_whatever_its_texts_are(shore: Shore) -> None:
    row = {"id": "good", "version": 1, "notes": None, "tags": None}
    good = change_message("crew", "create", row, seq=1)
    bad = [
        good._replace(payload=orjson.dumps(orjson.loads(good.payload) | {key: told}))
        for key in ("type", "operation", "entity", "vesselId", "epoch", "messageId")
        for told in ("\0", "a\0b", "\x1b[2J", "\u2028")
    ]
    shore.applier.apply([*bad, good])
    assert set(shore.rows) == {"good"}


def test_a_missing_table_is_waited_for_and_refuses_no_row(shore: Shore) -> None:
    shore.connection.exec_driver_sql("ALTER TABLE crew RENAME TO hidden")
    with pytest.raises(LogUnavailableError):
        shore.apply(good={})
    shore.connection.exec_driver_sql("ALTER TABLE hidden RENAME TO crew")
    assert not shore.refused


NO_RIGHT = {
    "policy": """
ALTER TABLE crew ENABLE ROW LEVEL SECURITY;
CREATE POLICY quiet ON crew USING (true) WITH CHECK (notes IS DISTINCT FROM 'bad')
""",
    "trigger": """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.notes = 'bad' THEN RAISE insufficient_privilege; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON crew FOR EACH ROW EXECUTE FUNCTION refuse()
""",
}


@pytest.mark.parametrize("database_kind", ["postgresql"])
@pytest.mark.parametrize("case", NO_RIGHT)
def test_a_row_that_the_role_has_no_right_to_write_is_refused_alone(
    plain_shore: tuple[Connection, Shore], case: str
) -> None:
    owner, shore = plain_shore
    owner.exec_driver_sql(NO_RIGHT[case])
    shore.apply(good={}, bad={"notes": "bad"})
    assert set(shore.rows) == {"good"}
    assert set(shore.refused) == {"bad"}


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_table_that_the_role_has_no_right_to_write_is_waited_for_and_named_with_the_fix(
    plain_shore: tuple[Connection, Shore],
) -> None:
    owner, shore = plain_shore
    owner.exec_driver_sql("REVOKE UPDATE ON crew FROM plain")
    says = "lacks UPDATE on the table crew: no row is applied; fix: GRANT .* ON crew TO plain"
    with pytest.raises(LogUnavailableError, match=says):
        shore.apply(good={})
    assert not shore.rows
    owner.exec_driver_sql("GRANT UPDATE ON crew TO plain")
    shore.applier = new_applier(shore.connection, REGISTRY)
    shore.apply(good={})
    assert set(shore.rows) == {"good"}
    assert not shore.refused
