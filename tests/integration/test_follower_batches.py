"""A batch whose rows are written by one statement, when the database refuses one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto

only_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"])

MakeApp = Callable[..., Flask]


@pytest.fixture
def shore(make_app: MakeApp, migrated_database_url: str, mosquitto: Mosquitto) -> Flask:
    return make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
    )


@only_postgresql
def test_one_row_that_the_database_refuses_does_not_hold_up_its_batch(
    shore: Flask, mosquitto: Mosquitto
) -> None:
    with ScriptedVessel(mosquitto.port) as ship, FollowerThread(shore) as follower:
        follower.write("DROP TRIGGER crew_stale_keys ON crew")  # it depends on the column
        follower.write("ALTER TABLE crew ALTER COLUMN name TYPE varchar(9)")
        ship.change("crew", {"name": "first"})
        ship.status()
        follower.wait_seq(1)
        follower.stop()
        # They wait at the broker and are one batch.
        for name in ("one", "a name of more than nine characters", "three", "four"):
            ship.change("crew", {"name": name})
        ship.status()
        with FollowerThread(shore) as again:
            again.wait_seq(5)
            rows = again.query("SELECT name FROM crew")
            refused = again.query("SELECT reason FROM arus_parked")
    assert {row.name for row in rows} == {"first", "one", "three", "four"}
    assert ["too long" in row.reason for row in refused] == [True]


@only_postgresql
def test_two_rows_with_one_key_in_the_tables_collation_do_not_stop_the_follower(
    shore: Flask, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedVessel(mosquitto.port) as ship, FollowerThread(shore) as follower:
        follower.write(
            "CREATE COLLATION either (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        follower.write("ALTER TABLE crew ALTER COLUMN id TYPE varchar(36) COLLATE either")
        ship.change("crew", {"name": "first"})
        ship.status()
        follower.wait_seq(1)
        follower.stop()
        for row_id in ("a", "A", "b"):
            ship.change("crew", {"name": row_id}, row_id=row_id)
        ship.status()
        with FollowerThread(shore) as again:
            again.wait_seq(4)
            assert len(again.query("SELECT name FROM crew WHERE id IN ('a', 'b')")) == 2
    assert not [record for record in caplog.records if "can't be used" in record.getMessage()]
