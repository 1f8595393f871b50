"""Values of each column type come back ashore exactly, in whichever way a row gets there.

The models have no version column, so this also shows that followers, audits and proposals do without one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from arus.errors import RefusedMessageError
from arus.follower.rows import Copy
from arus.protocol.rows import decode_row
from tests.support.follower import FollowerThread
from tests.support.many_types import (
    CHANGED,
    EXACT,
    Bare,
    Grade,
    Sample,
    db,
    many_types_app,
    rows,
    sync,
)
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

MODELS: list[type[Any]] = [Sample, Bare]


@pytest.fixture
def make_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Returns the URL of a database of its own."""

    def make(name: str) -> str:
        if database_kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.sqlite"
        server = request.getfixturevalue("postgres_server")
        return str(server.url(server.create_database()))

    return make


@pytest.fixture
def app(make_url: Callable[[str], str]) -> Iterator[Flask]:
    with many_types_app(make_url("vessel")) as app, app.app_context():
        yield app


def registration(model: type[Any]) -> Any:
    found = sync._registry.of_model(model)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("values", EXACT + CHANGED)
def test_a_logged_row_is_the_stored_row_and_a_copy_of_it_has_the_same_values(
    app: Flask, values: dict[str, Any]
) -> None:
    for model in MODELS:
        row = model(**values)
        db.session.add(row)
        db.session.commit()
        receipt = sync.publish_change("create", row)
        assert receipt
        assert receipt.data, f"{model.__name__} is sent"
        db.session.expunge_all()
        stored = db.session.get_one(model, row.id)
        assert decode_row(registration(model).serialise(stored)) == decode_row(receipt.data)
        before = rows(app, model)
        copy = Copy(registration(model))
        with db.engine.connect() as connection:
            copied = copy.values(decode_row(receipt.data), receipt.version)
            copy.delete(connection, [row.id])
            copy.upsert(connection, [copied])
            connection.execute(sa.text("DELETE FROM arus_change"))
            connection.commit()
        assert rows(app, model) == before
    assert [found.logged for found in sync.reconcile()] == [1, 1], "the log was emptied"
    assert [found.logged for found in sync.reconcile()] == [0, 0]


def test_a_null_of_a_json_column_is_sql_s_null_where_it_may_be(app: Flask) -> None:
    copy = Copy(registration(Sample))
    data = {"id": str(uuid.uuid4()), "document": None, "settings": None}
    with db.engine.connect() as connection:
        copy.upsert(connection, [copy.values(data, 1)])
        found = connection.execute(
            sa.text("SELECT document IS NULL, settings IS NULL FROM t_sample")
        ).one()
        connection.rollback()
    assert tuple(map(bool, found)) == (True, False)
    del data["settings"]
    with pytest.raises(RefusedMessageError, match="settings is missing"):
        copy.values(data, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("word", "ajar"),
        ("grade", "SPLENDID"),
        ("seal", "no base64!"),
        ("price", "much"),
        ("day", "1"),
    ],
)
def test_a_value_that_the_column_cannot_have_is_refused(key: str, value: str) -> None:
    data = {"id": str(uuid.uuid4()), "settings": {}, key: value}
    for model in MODELS:
        with pytest.raises(RefusedMessageError, match=key):
            Copy(registration(model)).values(data, 1)


def write_all(app: Flask, values: list[dict[str, Any]]) -> list[uuid.UUID]:
    """Add a row of each model for each of some values, and change it once."""
    made = []
    with app.app_context():
        for model in MODELS:
            for one in values:
                row = model(**one)
                db.session.add(row)
                db.session.commit()
                row.price = Decimal("3.25")
                db.session.commit()
                made.append(row.id)
    return made


def assert_equal(vessel: Flask) -> None:
    """The copy equals the vessel's tables at the first look, and the log knows all of them."""
    result = vessel.test_cli_runner().invoke(args=["sync", "audit", "--timeout", "30"])
    sync.start(vessel)  # the command has stopped the relay of its process
    assert result.exit_code == 0, result.output
    assert "equal at seq" in result.output
    assert "repaired" not in result.output
    with vessel.app_context():
        assert [found.logged for found in sync.reconcile()] == [0, 0]


@pytest.mark.slow
def test_a_vessel_and_its_follower_have_the_same_rows_and_audits_say_so(
    make_url: Callable[[str], str], mosquitto: Mosquitto
) -> None:
    settings = {"MQTT_BROKER_URL": mosquitto.url, "VESSEL_ID": "ship-1"}
    with (
        many_types_app(make_url("vessel"), **settings) as vessel,
        many_types_app(make_url("shore"), **{**settings, "LOCAL_MODE": "false"}) as shore,
    ):

        def are_alike() -> bool:
            for model in MODELS:
                assert rows(shore, model) == rows(vessel, model)
            return True

        first = write_all(vessel, EXACT + CHANGED)
        sync.start(vessel)
        with FollowerThread(shore) as follower:
            eventually(are_alike, 30, message="what was there is ashore")
            write_all(vessel, EXACT + CHANGED)
            with vessel.app_context():
                # A deleted key that is used again goes on in its versions.
                for number in range(3):
                    again = db.session.get_one(Sample, first[0])
                    db.session.delete(again)
                    db.session.commit()
                    db.session.add(Sample(id=first[0], price=Decimal(number)))
                    db.session.commit()
                db.session.execute(sa.update(Bare).values(word="shut"))
                db.session.commit()
            eventually(are_alike, 30, message="what was written since is ashore")
            assert_equal(vessel)
            # Proposals are based on the versions that the log keeps.
            propose = follower.follower.propose
            new = str(uuid.uuid4())
            propose("update", "samples", str(first[0]), {"price": "7.125", "grade": "FAIR"})
            propose("create", "samples", new, {"seal": "AP8=", "settings": {"a": 1}})
            propose("delete", "samples", str(first[1]))

            def are_answered() -> bool:
                states = [one.state for one in follower.follower.proposals()]
                assert states == ["answered"] * 3
                return are_alike()

            eventually(are_answered, 30, message="the proposals are applied")
            found = rows(vessel, Sample)
            changed = found[first[0]]
            assert (changed["price"], changed["grade"]) == (Decimal("7.125"), Grade.FAIR)
            assert found[uuid.UUID(new)]["seal"] == b"\x00\xff"
            assert first[1] not in found
            assert_equal(vessel)
            assert follower.status().counters["refused"] == 0
