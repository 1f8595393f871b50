"""Which vessels a follower follows, and on which topics it meets them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

from arus.follower.report import Scope
from arus.ops.doctor.finding import Finding, Verdict
from arus.ops.doctor.topics import check_scope
from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.gunicorn_app import run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

FLEET = "fleet/{vessel_id}/sync"
StartFollower = Callable[..., FollowerThread]
StartShip = Callable[..., ScriptedVessel]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]


@pytest.fixture
def start_follower(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[StartFollower]:
    """Starts a follower on the test's database and broker; stopped after the test."""
    caplog.set_level(logging.INFO, "arus")
    with ExitStack() as stack:

        def start(prefix: str = FLEET, **settings: str) -> FollowerThread:
            app = make_app(
                migrated_database_url,
                LOCAL_MODE="false",
                MQTT_BROKER_URL=mosquitto.url,
                MQTT_RECONNECT_PERIOD="0.2",
                MQTT_TOPIC_PREFIX=prefix,
                **settings,
            )
            return stack.enter_context(FollowerThread(app))

        yield start


@pytest.fixture
def start_ship(mosquitto: Mosquitto) -> Iterator[StartShip]:
    """Starts a scripted vessel with one member of the crew and its status; stopped after the test."""
    with ExitStack() as stack:

        def start(vessel_id: str, prefix: str = FLEET) -> ScriptedVessel:
            ship = stack.enter_context(ScriptedVessel(mosquitto.port, vessel_id, prefix))
            ship.change("crew", {"name": vessel_id})
            ship.status()
            return ship

        yield start


def followed(shore: FollowerThread) -> dict[str, int]:
    return {vessel.vessel_id: vessel.seq for vessel in shore.status().vessels}


def scope_found(shore: FollowerThread) -> Finding:
    class Examined:
        settings = shore.app.extensions["arus"].settings
        engine = shore.app.extensions["arus"].engine

    (finding,) = check_scope(Examined())  # type: ignore[arg-type]  # the parts that the check uses
    return finding


def test_each_vessel_gets_its_watermark_and_no_other_message(
    start_follower: StartFollower, start_ship: StartShip, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port, "#", args=("-R",)) as everything:
        ships = [start_ship(f"ship-{number}") for number in range(4)]
        shore = start_follower()
        shore.wait_equal(*ships)
        for ship in ships:
            ship.wait_watermark(lambda mark: mark["seq"] == 1)
        watermarks = [one for one in everything.messages if "/watermarks/" in one.topic]
    for one in watermarks:
        assert one.topic == f"fleet/{one.json['vesselId']}/sync/watermarks/shore"
    assert {one.topic.split("/")[1] for one in watermarks} == {ship.vessel_id for ship in ships}
    assert scope_found(shore).verdict is Verdict.OK
    assert "fleet/+/sync" in scope_found(shore).says


@pytest.mark.parametrize("topic", ["crew", "system/status", "catchup/crew", "system/digest"])
def test_a_message_on_another_vessels_topic_is_refused_and_changes_nothing(
    start_follower: StartFollower, start_ship: StartShip, mosquitto: Mosquitto, topic: str
) -> None:
    ship, hostile = start_ship("ship-1"), start_ship("ship-2")
    shore = start_follower()
    shore.wait_equal(ship, hostile)
    before = shore.rows(), followed(shore)
    (honest,) = ship.log
    forged: dict[str, Any] = {
        "crew": {
            **honest,
            "operation": "delete",
            "seq": 2,
            "previousSeq": 1,
            "version": 9,
        },
        "system/status": {
            "status": "online",
            "vesselId": "ship-1",
            "epoch": "invented",
            "seq": 10**9,
        },
        "catchup/crew": {
            "type": "catchup_begin",
            "catchupId": "c",
            "vesselId": "ship-1",
            "entity": "crew",
            "epoch": ship.epoch,
            "mode": "snapshot",
            "highSeq": 1,
            "total": 0,
            "complete": True,
        },
        "system/digest": {
            "type": "digest",
            "vesselId": "ship-1",
            "epoch": ship.epoch,
            "seq": 10**9,
            "entities": {},
        },
    }
    mosquitto.publish(f"fleet/ship-2/sync/{topic}", json.dumps(forged[topic]), "-q", "1")
    eventually(lambda: shore.status().counters["refused"] == 1)
    (letter,) = shore.query("SELECT topic, reason FROM arus_parked")
    assert letter.topic == f"fleet/ship-2/sync/{topic}"
    assert "ship-1" in letter.reason
    ship.change("crew", {"name": "later"})
    ship.status()
    shore.wait_equal(ship, hostile)
    assert before[0].items() <= shore.rows().items()
    assert {vessel.epoch for vessel in shore.status().vessels} == {ship.epoch, hostile.epoch}
    assert max(vessel.head_seq for vessel in shore.status().vessels) == 2


def test_nobody_is_the_vessel_of_all(
    start_follower: StartFollower, start_ship: StartShip, mosquitto: Mosquitto
) -> None:
    ship = start_ship("ship-1")
    shore = start_follower()
    shore.wait_equal(ship)
    status = {"status": "online", "vesselId": "_all", "epoch": "e", "seq": 0}
    mosquitto.publish("fleet/_all/sync/system/status", json.dumps(status), "-q", "1")
    eventually(lambda: shore.status().counters["refused"] == 1)
    assert followed(shore) == {"ship-1": 1}


def test_a_new_connection_asks_all_vessels_for_their_status(
    start_follower: StartFollower, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port, "fleet/_all/sync/catchup_requests") as calls:
        start_follower()
        (call,) = calls.wait(1)
    assert call.json["rollCall"] is True
    assert call.json["requestId"]
    assert not call.retain


@pytest.mark.parametrize("prefix", [FLEET, "vessel/sync"])
def test_only_named_vessels_are_followed_and_of_others_nothing_is_stored(
    start_follower: StartFollower, start_ship: StartShip, prefix: str
) -> None:
    ships = [start_ship(f"ship-{number}", prefix) for number in range(3)]
    shore = start_follower(prefix, FOLLOW_VESSELS="ship-0,ship-2")
    eventually(lambda: shore.status().connected)
    for ship in ships:  # on a shared prefix the broker has kept the last status alone
        ship.status()
    shore.wait_equal(ships[0], ships[2])
    ships[1].change("crew")
    ships[0].change("crew")
    ships[0].status()
    shore.wait_equal(ships[0], ships[2])
    for table in ("arus_vessel", "arus_row", "arus_parked", "arus_position"):
        column = "topic" if table == "arus_parked" else "vessel_id"
        assert not shore.query(f"SELECT 1 FROM {table} WHERE {column} LIKE '%ship-1%'")
    assert not ships[1].watermarks
    filters = json.loads(shore.query("SELECT filters FROM arus_follow_link")[0].filters)
    if prefix == FLEET:
        assert {name.split("/")[1] for name in filters} == {"ship-0", "ship-2"}
    document = shore.status().document()
    assert document["followVessels"] == ["ship-0", "ship-2"]


def test_a_hundred_and_fifty_named_vessels_are_subscribed_to_at_once(
    start_follower: StartFollower, start_ship: StartShip
) -> None:
    names = [f"ship-{number}" for number in range(150)]
    ships = [start_ship(names[0]), start_ship(names[-1])]
    shore = start_follower(FOLLOW_VESSELS=",".join(names))
    shore.wait_equal(*ships)
    filters = json.loads(shore.query("SELECT filters FROM arus_follow_link")[0].filters)
    assert len(filters) == 150 * 14


def test_a_vessel_that_is_named_no_more_keeps_its_rows_and_is_asked_nothing(
    start_follower: StartFollower, start_ship: StartShip
) -> None:
    ships = [start_ship(f"ship-{number}") for number in range(2)]
    shore = start_follower()
    shore.wait_equal(*ships)
    shore.stop()
    ships[1].requests.clear()
    ships[1].change("crew", lost=True)
    ships[1].change("crew")
    shore = start_follower(FOLLOW_VESSELS="ship-0")
    ships[0].change("crew")
    ships[0].status()
    eventually(lambda: followed(shore) == {"ship-0": 2, "ship-1": 1})
    assert shore.status().up_to_date
    assert [vessel.followed for vessel in shore.status().vessels] == [True, False]
    assert not ships[1].requests
    shore.stop()
    # Named again, it is fetched from where it was.
    shore = start_follower()
    shore.wait_equal(*ships)


def test_moving_to_a_prefix_for_each_vessel_ends_the_old_subscriptions(
    start_follower: StartFollower, start_ship: StartShip, mosquitto: Mosquitto
) -> None:
    old = start_ship("ship-1", "vessel/sync")
    shore = start_follower("vessel/sync")
    shore.wait_equal(old)
    shore.stop()
    old.stop()
    shore = start_follower(FLEET)
    eventually(lambda: shore.status().connected)
    new = start_ship("ship-1")
    new.epoch, new.seq = old.epoch, old.seq
    new.rows, new.log, new.heads = old.rows, old.log, old.heads
    new.change("crew", {"name": "after"})
    new.status()
    shore.wait_equal(new)
    # The session was kept: a message on an old topic would be refused.
    mosquitto.publish("vessel/sync/crew", json.dumps(old.log[0]), "-q", "1")
    new.change("crew")
    new.status()
    shore.wait_equal(new)
    assert shore.status().counters["refused"] == 0


# -- a prefix that vessels share --------------------------------------------------------------------


def test_on_a_shared_prefix_the_known_vessel_is_followed_and_another_refused(
    start_follower: StartFollower, start_ship: StartShip, caplog: pytest.LogCaptureFixture
) -> None:
    ship = start_ship("ship-1", "vessel/sync")
    shore = start_follower("vessel/sync")
    shore.wait_equal(ship)
    other = start_ship("ship-2", "vessel/sync")
    other.change("crew")
    ship.change("crew")
    ship.status()
    shore.wait_equal(ship)
    eventually(lambda: list(shore.status().refused) == ["ship-2"])
    assert followed(shore) == {"ship-1": 2}
    assert not other.watermarks
    assert not other.requests
    lines = [one.getMessage() for one in caplog.records if "not following" in one.getMessage()]
    (line,) = lines
    assert "ship-2" in line
    assert "FOLLOW_VESSELS" in line
    finding = scope_found(shore)
    assert (finding.verdict, "ship-2" in finding.says) == (Verdict.WARN, True)
    assert "{vessel_id}" in (finding.fix or "")
    assert shore.status().document()["notFollowed"][0]["vesselId"] == "ship-2"
    # The fix that is named: both are named.
    shore.stop()
    shore = start_follower("vessel/sync", FOLLOW_VESSELS="ship-1,ship-2")
    eventually(lambda: shore.status().connected)
    for each in (ship, other):
        each.status()
    shore.wait_equal(ship, other)


def test_vessels_that_are_known_on_a_shared_prefix_stay_followed(
    start_follower: StartFollower, start_ship: StartShip
) -> None:
    ships = [start_ship(f"ship-{number}", "vessel/sync") for number in range(2)]
    shore = start_follower("vessel/sync", FOLLOW_VESSELS="ship-0,ship-1")
    eventually(lambda: shore.status().connected)
    for ship in ships:
        ship.status()
    shore.wait_equal(*ships)
    shore.stop()
    shore = start_follower("vessel/sync")
    third = start_ship("ship-2", "vessel/sync")
    for ship in (*ships, third):
        ship.change("crew")
        ship.status()
    shore.wait_equal(*ships)
    eventually(lambda: list(shore.status().refused) == ["ship-2"])


def test_the_command_tells_the_topics_and_who_is_not_followed(
    start_ship: StartShip, shore: dict[str, str]
) -> None:
    start_ship("ship-1", "vessel/sync")
    once = ("sync", "follow", "--once", "--timeout", "60")
    done = run_flask(*once, settings=shore, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "shore follows vessel/sync/#: one vessel" in done.stderr
    other = start_ship("ship-2", "vessel/sync")
    other.change("crew")
    done = run_flask(*once, settings=shore, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "topics: vessel/sync/#" in done.stdout
    assert "not following ship-2" in done.stdout
    found = run_flask("sync", "doctor", "--json", settings=shore)
    topics = [one for one in json.loads(found.stdout)["checks"] if one["name"] == "topics"]
    assert [one["verdict"] for one in topics] == ["warn"]


def test_the_scope_of_an_application_is_that_of_its_settings(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false", FOLLOW_VESSELS="a,b")
    settings = app.extensions["arus"].settings
    assert Scope(settings.topics, settings.follow_vessels).named == {"a", "b"}
