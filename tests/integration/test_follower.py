"""The follower against a vessel that says, and loses, what a test makes it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from arus.mqtt.packets import FILTERS
from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import as_plain_role
from tests.support.scripted_broker import PUBACK, Publish, ScriptedBroker, packet
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

StartFollower = Callable[..., FollowerThread]

FLEET = "fleet/{vessel_id}/sync"
only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


@pytest.fixture
def start_follower(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Iterator[StartFollower]:
    """Starts a follower on the test's database and broker; stopped after the test."""
    with ExitStack() as stack:

        def start(database_url: str = migrated_database_url, **settings: str) -> FollowerThread:
            app = make_app(
                database_url,
                LOCAL_MODE="false",
                MQTT_RECONNECT_PERIOD="0.2",
                **{"MQTT_BROKER_URL": mosquitto.url, **settings},
            )
            return stack.enter_context(FollowerThread(app))

        yield start


@pytest.fixture
def ship(mosquitto: Mosquitto) -> Iterator[ScriptedVessel]:
    with ScriptedVessel(mosquitto.port) as ship:
        yield ship


def crew(ship: ScriptedVessel, *names: str) -> list[str]:
    """Take people on; their ids."""
    return [ship.change("crew", {"name": name})["data"]["id"] for name in names]


@pytest.mark.slow
def test_live_changes_are_applied(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    shore = start_follower()
    pump = ship.change("equipment", {"name": "Pump"})["data"]
    ship.change("equipment", {"id": pump["id"], "name": "Bilge pump", "specifications": {"kW": 3}})
    ship.change("work_orders", {"equipmentId": pump["id"], "estimatedHours": 2.5})
    ship.change("crew", row_id=crew(ship, "Ann")[0], operation="delete")
    ship.status()
    shore.wait_equal(ship)
    assert ship.wait_watermark(lambda mark: mark["seq"] == 5)["epoch"] == ship.epoch
    assert shore.query("SELECT * FROM arus_change") == []


@pytest.mark.slow
def test_a_json_column_may_hold_a_list(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    shore = start_follower()
    pump = ship.change("equipment", {"name": "Pump"})["data"]
    steps = [{"text": "Lock out", "done": True}, {"text": "Measure", "done": False}]
    order = ship.change("work_orders", {"equipmentId": pump["id"], "steps": steps})["data"]
    ship.change("work_orders", {"equipmentId": pump["id"], "steps": []})
    ship.status()
    shore.wait_equal(ship)
    ship.change("work_orders", {"id": order["id"], "equipmentId": pump["id"], "steps": steps[:1]})
    shore.wait_equal(ship)
    ship.change("work_orders", {"equipmentId": pump["id"], "steps": "none"}, row_id="wrong")
    eventually(lambda: shore.query("SELECT row_id FROM arus_refused") == [("wrong",)])


@pytest.mark.slow
@only_sqlite
def test_a_broker_out_of_reach_is_tried_again_and_said_once(
    make_app: Callable[..., Flask], migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=f"mqtt://127.0.0.1:{free_port()}",
        MQTT_RECONNECT_PERIOD="0.05",
    )

    def attempts() -> list[int]:
        said = "reconnecting (attempt"
        return [r.attempt for r in caplog.records if said in r.getMessage()]  # type: ignore[attr-defined]

    with FollowerThread(app):
        eventually(lambda: len(attempts()) >= 11, message="it retries")
    assert attempts()[:11] == [*range(1, 11), 20]
    reasons = [r for r in caplog.records if "can't be reached" in r.getMessage()]
    # Each attempt that is logged says why the last one failed; what to do about it is said once.
    reasons = [r for r in reasons if "fix: " in r.getMessage()]
    assert [r.levelno for r in reasons] == [logging.WARNING]


@pytest.mark.slow
@only_sqlite
def test_mosquittos_max_keepalive_does_not_end_an_idle_connection(
    start_mosquitto: Callable[..., Mosquitto],
    start_follower: StartFollower,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    mosquitto = start_mosquitto(options=["max_keepalive 10"])
    start_follower(MQTT_BROKER_URL=mosquitto.url)
    pinged = "Received PINGREQ from arus_follow_shore"
    eventually(lambda: mosquitto.log.count(pinged) >= 2, 60, message="two pings")
    assert caplog.text.count("is connected to") == 1


@pytest.mark.slow
@only_sqlite
def test_no_more_is_published_than_the_broker_accepts_at_a_time(
    start_follower: StartFollower, broker: ScriptedBroker
) -> None:
    start_follower(MQTT_BROKER_URL=broker.url, MQTT_TOPIC_PREFIX=FLEET)
    link = broker.accept()
    link.connect()
    link.connack(receive_maximum=2)
    asked: set[str] = set()
    for number in range(5):
        name = f"ship-{number}"
        topic = f"fleet/{name}/sync/system/status".encode()
        status = b'{"status": "online", "vesselId": "%s", "epoch": "e", "seq": 9}' % name.encode()
        link.send(packet(0x30, len(topic).to_bytes(2, "big") + topic + b"\x00" + status))
    while len(asked) < 6:  # each ship for its rows, and all of them for their status
        publishes = [link.publish()]
        while (publish := link.next(0.3)) is not None:
            assert isinstance(publish, Publish), publish
            publishes.append(publish)
        assert len(publishes) <= 2
        asked |= {p.topic for p in publishes if p.topic.endswith("catchup_requests")}
        link.acks(PUBACK, [publish.packet_id for publish in publishes])
    assert max(map(len, link.filters)) == FILTERS  # of some fourteen


def test_who_joins_late_asks_for_all_at_once(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    people = crew(ship, "Ann", "Bo", "Cy")
    ship.change("crew", row_id=people[1], operation="delete")
    ship.change("equipment")
    ship.status()
    shore = start_follower()
    shore.wait_equal(ship)
    assert [(r["entity"], r.get("sinceSeq"), r["limit"]) for r in ship.requests] == [
        ("all", None, None)
    ]


def test_a_lost_change_is_asked_for(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    shore = start_follower()
    (ann,) = crew(ship, "Ann")
    ship.status()
    shore.wait_equal(ship)
    ship.change("crew", {"id": ann, "rank": "mate"}, lost=True)
    gone = ship.change("crew", lost=True)["data"]["id"]
    ship.change("crew", row_id=gone, operation="delete", lost=True)
    crew(ship, "Bo")
    ship.status()
    shore.wait_equal(ship)
    since = ship.requests[1]
    assert (since["entity"], since["sinceSeq"], since["epoch"]) == ("crew", 1, ship.epoch)
    assert shore.status().counters["gaps"] == 1


@pytest.mark.slow
@only_sqlite
def test_a_lost_tail_is_noticed_by_the_heads_in_the_status(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    people = crew(ship, "Ann", "Bo")
    ship.status()
    shore.wait_equal(ship)
    ship.change("crew", row_id=people[0], operation="delete", lost=True)
    ship.status()
    shore.wait_equal(ship)


@only_sqlite
def test_numbers_that_were_superseded_do_not_hold_the_watermark_up(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    crew(ship, "Ann")
    ship.status()
    shore.wait_equal(ship)
    ship.seq += 3  # they were given out, and their changes replaced before they were sent
    crew(ship, "Bo")
    ship.status()
    shore.wait_equal(ship)
    assert len(ship.requests) == 1


def test_a_new_epoch_is_fetched_anew(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    ship.describes = True  # rows that it does not have any more are deleted if its digest agrees
    shore = start_follower()
    people = crew(ship, "Ann", "Bo", "Cy")
    before = {key: dict(row) for key, row in ship.rows.items()}
    ship.change("crew", {"id": people[0], "rank": "mate"})
    ship.change("crew", row_id=people[1], operation="delete")
    crew(ship, "lost with the disk")
    ship.status()
    shore.wait_equal(ship)
    old = ship.epoch
    ship.rows, ship.seq, ship.heads = before, 3, {"crew": 3}
    ship.restore()
    ship.status()
    shore.wait_equal(ship)
    # What the broker still holds of the old epoch is late.
    ship.publish("crew", {**ship_change(ship, people[0]), "epoch": old, "seq": 99})
    crew(ship, "Di")
    ship.status()
    shore.wait_equal(ship)
    assert shore.status().counters["late"] == 1


def ship_change(ship: ScriptedVessel, row_id: str) -> dict[str, Any]:
    """A change of the row as it is, far ahead."""
    data = {**ship.rows["crew", row_id], "version": 50}
    return {
        "type": "data_change",
        "entity": "crew",
        "operation": "update",
        "data": data,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "messageId": "1_a",
        "vesselId": ship.vessel_id,
        "epoch": ship.epoch,
        "seq": 98,
        "previousSeq": 1,
        "version": 50,
    }


@pytest.mark.slow
def test_several_vessels_stand_side_by_side(
    start_follower: StartFollower, mosquitto: Mosquitto
) -> None:
    with (
        ScriptedVessel(mosquitto.port, "ship-1", FLEET) as ship,
        ScriptedVessel(mosquitto.port, "ship-2", FLEET) as other,
    ):
        shore = start_follower(MQTT_TOPIC_PREFIX=FLEET)
        for vessel in (ship, other, ship):
            vessel.change("work_orders", {"woNumber": f"WO-2026-{vessel.seq:04d}"})
        other.change("crew", lost=True)
        crew(other, "Eve")
        for vessel in (ship, other):
            vessel.status()
        shore.wait_equal(ship, other)
        assert {request["vesselId"] for request in other.requests} == {"ship-2"}
        assert ship.wait_watermark(lambda mark: mark["seq"] == 2)["vesselId"] == "ship-1"


@only_sqlite
def test_hostile_messages_are_kept_for_a_person_and_hold_nothing_up(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    crew(ship, "Ann")
    ship.status()
    shore.wait_equal(ship)
    good = ship.log[0]
    hostile: list[Any] = [
        b"{",
        b"[" * 5000,
        b"[]",
        {},
        {**good, "seq": True},
        {**good, "seq": -1},
        {**good, "seq": 2**63},
        {**good, "entity": "alerts"},
        {**good, "operation": "drop"},
        {**good, "data": {**good["data"], "id": {"a": 1}}},
        {**good, "data": [1]},
        {**good, "vesselId": "x" * 100},
        {**good, "epoch": None},
        {**good, "timestamp": "yesterday"},
    ]
    for message in hostile:
        ship.publish("crew", message, retain=False)
    # A row that its table can't hold is refused; its number counts, and its next version is taken.
    bad = ship.change("crew", {"name": "x" * 5000})["data"]["id"]
    missing = ship.change("crew", {"name": None})["data"]["id"]
    ship.status()
    eventually(lambda: shore.status().counters["refused"] == len(hostile) + 2, 30)
    shore.wait_seq(3)
    for row_id in (bad, missing):
        ship.change("crew", {"id": row_id, "name": "Bo"})
    ship.status()
    shore.wait_equal(ship)
    parked = shore.query("SELECT topic, reason FROM arus_parked ORDER BY id")
    assert len(parked) == len(hostile) + 2
    assert parked[-2][1].startswith("name: longer than")
    assert parked[-1][1] == "name is missing"


@pytest.mark.slow
@only_sqlite
def test_a_catchup_with_a_hole_is_asked_for_again(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    crew(ship, "Ann", "Bo", "Cy")
    ship.status()
    spoilt: list[str] = []

    def spoil(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if messages[0]["entity"] != "crew" or len(spoilt) >= 2:
            return messages
        spoilt.append(messages[0]["catchupId"])
        if len(spoilt) == 1:
            return [*messages[:1], *messages[2:]]
        return [*messages[:-1], {**messages[-1], "digest": "0" * 64}]

    ship.distort = spoil
    shore = start_follower()
    shore.wait_equal(ship)
    assert len(spoilt) == 2
    assert [request["entity"] for request in ship.requests] == ["all", "crew", "crew"]
    assert len({request["requestId"] for request in ship.requests}) == 3


@only_sqlite
def test_an_item_that_comes_twice_or_changed_after_a_crash_does_no_harm(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    crew(ship, "Ann", "Bo", "Cy")
    ship.status()

    def repeat(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        items = messages[1:-1]
        return [messages[0], *items[:2], messages[0], items[0], items[0], *items[:3], messages[-1]]

    ship.distort = lambda messages: repeat(messages) if len(messages) > 3 else messages
    shore = start_follower()
    shore.wait_equal(ship)
    assert len(ship.requests) == 1


@pytest.mark.slow
@only_sqlite
def test_a_request_without_an_answer_is_repeated_and_then_asked_anew(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    ship.answers = False
    crew(ship, "Ann")
    ship.status()
    shore = start_follower()
    ship.wait_request(3)
    first, second, third = (request["requestId"] for request in ship.requests[:3])
    assert first == second != third
    ship.answers = True
    ship.answer(ship.requests[2])
    shore.wait_equal(ship)


@only_sqlite
def test_a_restart_does_not_ask_twice(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    ship.answers = False
    crew(ship, "Ann")
    shore = start_follower()
    asked = ship.wait_request()
    shore.stop()
    shore = start_follower()
    eventually(lambda: shore.status().following, 20)
    crew(ship, "Bo")
    shore.wait_seq(0)
    eventually(lambda: shore.query("SELECT count(*) FROM crew") == [(2,)], 20)
    assert {request["requestId"] for request in ship.requests} == {asked["requestId"]}
    ship.answer(asked)
    ship.status()
    shore.wait_equal(ship)


@pytest.mark.slow
@only_sqlite
def test_a_broker_that_has_lost_its_session_is_not_trusted(
    start_follower: StartFollower, ship: ScriptedVessel, mosquitto: Mosquitto
) -> None:
    shore = start_follower()
    people = crew(ship, "Ann", "Bo")
    ship.status()
    shore.wait_equal(ship)
    mosquitto.kill()
    mosquitto.forget()
    ship.change("crew", row_id=people[0], operation="delete", lost=True)
    mosquitto.start()
    asked = ship.wait_request(2)
    assert (asked["entity"], asked["sinceSeq"]) == ("all", 2)
    ship.status()
    shore.wait_equal(ship)


@only_sqlite
def test_a_follower_restored_from_an_old_copy_finds_out(
    start_follower: StartFollower, ship: ScriptedVessel, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/arus.sqlite"
    shore = start_follower(url)
    people = crew(ship, "Ann", "Bo")
    ship.status()
    shore.wait_equal(ship)
    shore.stop()
    shutil.copy(tmp_path / "arus.sqlite", tmp_path / "old")
    shore = start_follower(url)
    ship.change("crew", row_id=people[0], operation="delete")
    crew(ship, "Cy")
    ship.status()
    shore.wait_equal(ship)
    shore.stop()
    for left in tmp_path.glob("arus.sqlite*"):
        left.unlink()
    shutil.copy(tmp_path / "old", tmp_path / "arus.sqlite")
    # Nothing is published from here on: the retained status alone tells.
    shore = start_follower(url)
    shore.wait_equal(ship)


@only_sqlite
def test_a_second_process_stands_by(
    start_follower: StartFollower, ship: ScriptedVessel, tmp_path: Path
) -> None:
    first = start_follower()
    crew(ship, "Ann")
    ship.status()
    first.wait_equal(ship)
    second = start_follower()
    crew(ship, "Bo")
    ship.status()
    first.wait_equal(ship)
    first.stop()
    crew(ship, "Cy")
    ship.status()
    second.wait_equal(ship)


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_database_that_goes_away_is_waited_for(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    crew(ship, "Ann")
    ship.status()
    shore.wait_equal(ship)
    for name in ("Bo", "Cy"):
        shore.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'arus relay'"
        )
        crew(ship, name)
        ship.status()
        shore.wait_equal(ship)


@pytest.mark.slow
@only_sqlite
def test_it_speaks_mqtt_3_1_1(
    start_follower: StartFollower, ship: ScriptedVessel, mosquitto: Mosquitto
) -> None:
    people = crew(ship, "Ann", "Bo")
    ship.status()
    shore = start_follower(MQTT_PROTOCOL="3.1.1")
    shore.wait_equal(ship)
    ship.change("crew", {"id": people[0], "rank": "mate"}, lost=True)
    crew(ship, "Cy")
    ship.status()
    shore.wait_equal(ship)
    mosquitto.kill()
    mosquitto.start()
    crew(ship, "Di")
    ship.status()
    shore.wait_equal(ship)


def test_rows_that_clash_for_a_while_are_held(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    shore.write("CREATE UNIQUE INDEX one_email ON crew (email)")
    ann = ship.change("crew", {"name": "Ann", "email": "bridge@ship"})["data"]["id"]
    ship.status()
    shore.wait_equal(ship)
    ship.answers = False
    # Bo's row comes before Ann's gives the address free: another order than the ship's.
    free = ship.change("crew", {"id": ann, "email": None}, lost=True)
    bo = ship.change("crew", {"name": "Bo", "email": "bridge@ship"}, lost=True)
    crew(ship, "Cy", "Di")
    ship.publish("crew", bo)
    eventually(lambda: shore.query("SELECT row_id FROM arus_held") == [(bo["data"]["id"],)], 30)
    assert not shore.status().up_to_date
    ship.publish("crew", free)
    ship.status()
    shore.wait_equal(ship)
    assert shore.query("SELECT * FROM arus_held") == []
    assert shore.status().counters["held"] == 1


@pytest.mark.slow
def test_the_watermark_is_published_seldom_while_changes_keep_coming(
    start_follower: StartFollower, ship: ScriptedVessel
) -> None:
    shore = start_follower()
    before = time.monotonic()
    for _ in range(300):
        ship.change("alerts")
    ship.status()
    shore.wait_equal(ship)
    ship.wait_watermark(lambda mark: mark["seq"] == 300)
    seconds = time.monotonic() - before
    assert len(ship.watermarks) <= 3 + seconds / 0.25


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_references_that_come_too_early_wait_where_the_database_insists_on_them(
    start_follower: StartFollower, ship: ScriptedVessel, migrated_database_url: str
) -> None:
    # A role without the right to leave references unchecked.
    shore = start_follower(as_plain_role(migrated_database_url))

    pumps = [ship.change("equipment")["data"]["id"] for _ in range(3)]
    for number in range(30):
        ship.change("work_orders", {"equipmentId": pumps[number % 3]})
    # A schedule and its work order refer to each other.
    planned = ship.change("maintenance", {"equipmentId": pumps[1], "workOrderId": None})["data"][
        "id"
    ]
    order = ship.change("work_orders", {"equipmentId": pumps[1], "scheduleId": planned})["data"][
        "id"
    ]
    ship.change("maintenance", {"id": planned, "workOrderId": order})
    # Work orders come before the equipment that they are for.
    answers = ship.answers_to
    ship.answers_to = lambda request: list(reversed(answers(request)))  # type: ignore[method-assign]
    ship.status()
    shore.wait_equal(ship)

    # The equipment's deletion comes before that of its work orders.
    orders = [row_id for topic, row_id in ship.rows if topic == "work_orders"]
    gone = [
        ship.change("work_orders", row_id=row_id, operation="delete", lost=True)
        for row_id in orders
        if ship.rows["work_orders", row_id]["equipmentId"] == pumps[0]
    ]
    ship.change("equipment", row_id=pumps[0], operation="delete")
    eventually(lambda: shore.query("SELECT operation FROM arus_held") == [("delete",)], 30)
    for message in gone:
        ship.publish("work_orders", message)
    ship.status()
    shore.wait_equal(ship)

    # In a new epoch the equipment is swept before its work orders are.
    ship.answers_to = answers  # type: ignore[method-assign]
    ship.rows.clear()
    ship.restore()
    ship.describes = True
    ship.status()
    shore.wait_equal(ship)


@pytest.mark.slow
@only_sqlite
def test_of_two_followers_with_one_name_one_stands_down_and_the_doctor_says_why(
    start_follower: StartFollower, migrated_database_url: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copy(migrated_database_url.removeprefix("sqlite:///"), copy)
    one, two = start_follower(), start_follower(f"sqlite:///{copy}")
    expected = "another client uses the client id arus_follow_shore"

    def stands_down(shore: FollowerThread) -> bool:
        return (shore.status().reason or "").startswith(expected)

    eventually(lambda: stands_down(one) or stands_down(two), 30, message="the rival is named")
    loser, winner = (one, two) if stands_down(one) else (two, one)
    eventually(lambda: winner.status().connected, 30, message="the other one goes on")
    assert not loser.status().connected
    said = loser.app.test_cli_runner().invoke(args=["sync", "doctor"]).stdout
    assert f"shore is not connected: {expected}" in said
    assert "a name of its own" in said
    assert (
        "shore is connected" in winner.app.test_cli_runner().invoke(args=["sync", "doctor"]).stdout
    )


DENIED = "".join(
    f"topic deny vessel/sync/{name}\n"
    for name in ("catchup_requests", "watermarks/#", "proposals/#")
)


@pytest.mark.slow
@only_sqlite
def test_what_the_brokers_rules_forbid_is_said_and_sent_again(
    start_mosquitto: Callable[..., Mosquitto],
    start_follower: StartFollower,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.follower.proposals.PAUSE", 100)
    monkeypatch.setattr("arus.follower.watermarks.REFUSED_PERIOD", 0.2)
    everything = "topic readwrite #\n"
    broker = start_mosquitto(acl=everything + DENIED)
    shore = start_follower(MQTT_BROKER_URL=broker.url)
    with ScriptedVessel(broker.port) as ship:
        (ann,) = crew(ship, "Ann")
        eventually(lambda: len(shore.rows()) == 1)
        ship.status(online=False)
        eventually(lambda: shore.status().vessels[0].online is False)
        shore.follower.propose("update", "crew", ann, {"name": "Bo"})

        def is_said() -> bool:
            said = shore.status().reason or ""
            found = [
                kind for kind in ("requests", "watermarks", "proposals") if f"{kind} on" in said
            ]
            assert len(found) == 3, said
            return True

        eventually(is_said)
        assert shore.status().connected
        for command in ("fleet", "follow --status", "doctor"):
            told = shore.app.test_cli_runner().invoke(args=["sync", *command.split()]).stdout
            assert "the broker refuses this follower's proposals on" in told, told
            assert "not connected" not in told, told
        assert "the broker refuses this follower" in shore.app.test_client().get("/").text
        assert "allow its user to publish on vessel/sync/proposals/crew" in caplog.text
        assert shore.follower.proposals()[0].attempts == 0

        # The vessel is away, so only what the broker keeps for it will reach it.
        with Subscriber(broker.port, "vessel/sync/proposals/crew") as heard:
            broker.allow(everything)
            heard.wait_for(lambda message: "Bo" in message.payload)
            eventually(lambda: shore.follower.proposals()[0].attempts > 0)
        ship.status()
        eventually(lambda: shore.status().reason is None)
    refused = [line for line in caplog.messages if "the broker refuses" in line]
    assert len(refused) == 3, "each kind is logged once"
