"""The copy's tables against what is noted of them: what is found, and what is not this vessel's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from sqlalchemy import String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from arus.errors import RegistrationError
from arus.follower.audits.whole import verify_all
from arus.follower.rows import Copy
from arus.protocol.digests import bucket_of, row_hash
from blueprints.crew.models import CrewMember
from blueprints.crew.schemas import CrewSchema
from extensions import db, sync

_NOTE = (
    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, deleted, hash, bucket, mark)"
    " VALUES (:vessel_id, 'crew', :row_id, :version, 1, :deleted, :hash, :bucket, 0)"
)
_VESSEL = "INSERT INTO arus_vessel (vessel_id, epoch, heard_at) VALUES (:vessel_id, 'e', 0)"
_PROPOSED = (
    "INSERT INTO arus_proposal (proposal_id, vessel_id, entity, row_id, operation, base_version,"
    " version, origin, at, state) VALUES (:row_id, 'ship-1', 'crew', :row_id, 'update', 1, 2,"
    " 'shore', 0, :state)"
)


class Base(DeclarativeBase):
    pass


class Thing(Base):
    """A model of the tests' own."""

    __tablename__ = "thing"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]


class Shore:
    """A copy of two vessels' crews, made by hand."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        registration = sync.runtime(app).registry.of_entity("crew")
        assert registration is not None
        self.registration = registration
        for vessel_id in ("ship-1", "ship-2"):
            self.execute(_VESSEL, vessel_id=vessel_id)

    def execute(self, statement: str, **values: Any) -> None:
        with db.engine.begin() as connection:
            connection.execute(text(statement), values)

    def add(self, vessel_id: str | None, *, deleted: bool = False) -> str:
        """Add a row, and what is noted of it."""
        row = CrewMember(name="Bosun")
        db.session.add(row)
        db.session.commit()
        row_id = row.id
        if vessel_id is not None:
            content = row_hash(orjson.loads(self.registration.serialise(row)))
            self.execute(
                _NOTE,
                vessel_id=vessel_id,
                row_id=row_id,
                version=1,
                deleted=deleted,
                hash="" if deleted else content,
                bucket=bucket_of(row_id),
            )
        return row_id

    def found(self, vessel_id: str) -> set[str]:
        copies = {"crew": Copy(self.registration)}
        found = verify_all(self.app.config["DATABASE_URL"], copies, self.app.app_context)
        assert set(found) == {"ship-1", "ship-2"}
        return set(found[vessel_id]["crew"])


def test_what_is_found_in_a_copy_of_two_vessels(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false")
    with app.app_context():
        shore = Shore(app)
        mine, changed, gone, proposed = (shore.add("ship-1") for _ in range(4))
        theirs = shore.add("ship-2")
        assert shore.found("ship-1") == shore.found("ship-2") == set()

        shore.execute(
            "UPDATE crew SET name = 'x' WHERE id IN (:a, :b, :c)", a=changed, b=proposed, c=theirs
        )
        shore.execute("DELETE FROM crew WHERE id = :id", id=gone)
        shore.execute(_PROPOSED, row_id=proposed, state="pending")
        came_back = shore.add("ship-1", deleted=True)
        assert shore.found("ship-1") == {changed, gone, came_back}
        assert shore.found("ship-2") == {theirs, came_back}, "what nobody has noted is everybody's"

        shore.execute("UPDATE arus_proposal SET state = 'withdrawn'")
        assert shore.found("ship-1") == {changed, gone, came_back, proposed}
        assert mine not in shore.found("ship-1")


def test_what_cant_be_accepted_is_said_at_once() -> None:
    sync = ReliableSync()
    with pytest.raises(RegistrationError, match="not registered"):
        sync.accept("crew")

    class Dumps:
        """No marshmallow schema: it could not load rows."""

        def dump(self, row: Any) -> Any:
            return {"id": row.id}

    with pytest.raises(RegistrationError, match="not a marshmallow schema"):
        sync.register(Thing, "crew", schema=Dumps())
    sync.register(Thing, "crew", schema=CrewSchema)
    sync.accept("crew")
