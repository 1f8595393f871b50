"""`flask sync follow`, and what an application may not follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from arus.errors import FollowError
from arus.follower import Follower
from tests.support.follower import FollowerProcess, ScriptedVessel
from tests.support.gunicorn_app import GunicornApp, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually, free_port

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]


def test_once_ends_when_all_is_applied(shore: dict[str, str], mosquitto: Mosquitto) -> None:
    with ScriptedVessel(mosquitto.port) as ship:
        for _ in range(5):
            ship.change("crew")
        ship.status()
        done = run_flask("sync", "follow", "--once", "--timeout", "60", settings=shore, timeout=90)
        assert done.returncode == 0, done.stderr
        assert "ship-1: up to date at 5; online" in done.stdout
        assert "5 crew" in done.stdout
    status = run_flask("sync", "follow", "--status", "--json", settings=shore)
    document: dict[str, Any] = json.loads(status.stdout)
    assert (document["name"], document["following"], document["upToDate"]) == ("shore", False, True)
    (vessel,) = document["vessels"]
    assert (vessel["vesselId"], vessel["seq"], vessel["lag"], vessel["rows"]) == (
        "ship-1",
        5,
        0,
        {"crew": 5},
    )
    assert document["counters"]["applied"] == 5


def test_once_without_a_vessel_says_so(shore: dict[str, str]) -> None:
    done = run_flask("sync", "follow", "--once", "--timeout", "1", settings=shore)
    assert done.returncode == 1
    assert "no vessel is known yet" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "Error: not caught up with all vessels"


def test_a_vessel_follows_nobody(shore: dict[str, str]) -> None:
    done = run_flask("sync", "follow", settings={**shore, "LOCAL_MODE": "true"})
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "Error: LOCAL_MODE is true: a vessel can't be a follower"
    )


def test_a_database_without_tables_is_told_in_one_line(
    shore: dict[str, str], tmp_path: Path
) -> None:
    empty = {**shore, "DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite"}
    done = run_flask("sync", "follow", "--status", settings=empty)
    assert done.returncode == 1
    assert "flask --app wsgi db upgrade" in done.stderr.strip().splitlines()[-1]


def test_it_ends_in_good_order_and_waits_for_a_broker(
    shore: dict[str, str], tmp_path: Path
) -> None:
    nowhere = {**shore, "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}"}
    log = tmp_path / "follower.log"
    with FollowerProcess(log, nowhere) as follower:
        eventually(lambda: "can't be reached" in log.read_text(), 40)
        assert follower.stop() == 0


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "x" * 65, "a\0b"])
def test_names_that_no_topic_takes_are_refused(
    make_app: Callable[..., Flask], migrated_database_url: str, name: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false")
    with pytest.raises(FollowError):
        Follower(app, name)


def test_in_the_database_of_a_vessel_it_refuses_at_once(
    start_app: Callable[..., GunicornApp], shore: dict[str, str]
) -> None:
    """Run beside a ship with the ship's own settings, it would take the ship's lock when the ship stops."""
    app = start_app({"VESSEL_ID": "ship-1"}, workers=1)
    app.wait_connected()
    done = run_flask("sync", "follow", "--name", "shore", settings=shore)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: this is the database of vessel ship-1: give the follower a database of its own\n",
    )
