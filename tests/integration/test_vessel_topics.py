"""A vessel's topics: all its own with `{vessel_id}` in the prefix; without it, another vessel on them is noticed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from msgspec import structs

from arus.inbound import neighbours, roll_calls
from arus.ops.doctor.finding import Verdict
from arus.ops.doctor.topics import check_subscriptions, check_topics
from arus.ops.health import health_document
from arus.protocol.times import now_ms
from arus.relay import status_reports
from extensions import sync
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import ScriptedBroker
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

FLEET = "fleet/{vessel_id}/sync"
CALL = json.dumps({"requestId": "r-1", "rollCall": True})
StartSubscriber = Callable[..., Subscriber]

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"])


def statuses(subscriber: Subscriber) -> list[str]:
    return [
        message.json["status"]
        for message in subscriber.messages
        if message.topic.endswith("system/status") and not message.retain
    ]


def wait_subscribed(vessel: Vessel, count: int = 3) -> set[str]:
    """The filters that the broker has accepted."""

    def found() -> set[str] | None:
        rows = vessel.query("SELECT topic_filter FROM arus_subscription")
        return {row.topic_filter for row in rows} if len(rows) >= count else None

    held = eventually(found)
    assert held
    return held


def test_all_that_a_vessel_publishes_and_subscribes_to_is_under_its_own_prefix(
    start_vessel: StartVessel, mosquitto: Mosquitto, start_subscriber: StartSubscriber
) -> None:
    everything = start_subscriber("#")
    vessel = start_vessel(mosquitto.url, MQTT_TOPIC_PREFIX=FLEET)
    vessel.wait_connected()
    vessel.commit(3)
    vessel.commit(1, "alerts")
    vessel.wait_drained()
    assert wait_subscribed(vessel) == {
        "fleet/ship-1/sync/catchup_requests",
        "fleet/ship-1/sync/watermarks/+",
        "fleet/_all/sync/catchup_requests",
    }
    vessel.stop()
    eventually(lambda: statuses(everything) == ["online", "offline"])
    published = {f"fleet/ship-1/sync/{name}" for name in ("system/status", "work_orders", "alerts")}
    eventually(lambda: {message.topic for message in everything.messages} == published)


def test_an_id_that_was_generated_is_in_the_topics_too(
    start_vessel: StartVessel, mosquitto: Mosquitto, start_subscriber: StartSubscriber
) -> None:
    everything = start_subscriber("#")
    vessel = start_vessel(mosquitto.url, MQTT_TOPIC_PREFIX=FLEET, VESSEL_ID="")
    vessel_id = vessel.wait_connected().vessel_id
    eventually(lambda: statuses(everything) == ["online"])
    assert everything.messages[0].topic == f"fleet/{vessel_id}/sync/system/status"


@pytest.mark.slow
def test_a_killed_vessels_will_is_on_its_own_topic(
    start_vessel: StartVessel, mosquitto: Mosquitto, start_subscriber: StartSubscriber
) -> None:
    everything = start_subscriber("fleet/ship-1/sync/system/status")
    vessel = start_vessel(mosquitto.url, MQTT_TOPIC_PREFIX=FLEET)
    vessel.wait_connected()
    eventually(lambda: statuses(everything) == ["online"])
    assert vessel.session is not None
    vessel.session.client._sock_close()  # without DISCONNECT
    eventually(lambda: statuses(everything)[:3] == ["online", "offline", "online"])


@pytest.mark.slow
def test_a_roll_call_makes_a_vessel_publish_its_status_again(
    start_vessel: StartVessel,
    mosquitto: Mosquitto,
    start_subscriber: StartSubscriber,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(roll_calls, "ANSWERED_WITHIN", 0.5)
    # Neither a retained one nor anything else is answered.
    mosquitto.publish("fleet/_all/sync/catchup_requests", CALL, "-q", "1", "-r")
    subscriber = start_subscriber("fleet/ship-1/sync/#")
    vessel = start_vessel(mosquitto.url, MQTT_TOPIC_PREFIX=FLEET)
    vessel.wait_connected()
    wait_subscribed(vessel)
    mosquitto.publish("fleet/_all/sync/catchup_requests", '{"entity": "all"}', "-q", "1")
    eventually(lambda: sum("is refused" in record.message for record in caplog.records) == 2)
    assert statuses(subscriber) == ["online"]
    for _ in range(3):
        mosquitto.publish("fleet/_all/sync/catchup_requests", CALL, "-q", "1")
    eventually(lambda: statuses(subscriber)[:2] == ["online", "online"])
    assert vessel.query("SELECT count(*) FROM arus_catchup")[0][0] == 0


@pytest.mark.slow
def test_an_idle_vessel_publishes_its_status_again(
    start_vessel: StartVessel,
    mosquitto: Mosquitto,
    start_subscriber: StartSubscriber,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert status_reports.PRESENCE < 15 * 60
    monkeypatch.setattr(status_reports, "PRESENCE", 0.1)
    subscriber = start_subscriber("vessel/sync/system/status")
    start_vessel(mosquitto.url).wait_connected()
    eventually(lambda: statuses(subscriber)[:3] == ["online"] * 3)


def test_the_watermark_of_another_vessel_costs_no_transaction(
    start_vessel: StartVessel, mosquitto: Mosquitto
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    wait_subscribed(vessel)
    relay = vessel.owner._relay
    assert relay is not None
    eventually(lambda: vessel.status().depth == 0)
    before = relay._log.transactions
    other = {"vesselId": "ship-2", "epoch": "e", "seq": 5}
    for number in range(20):
        mosquitto.publish("vessel/sync/watermarks/shore", json.dumps(other | {"seq": number}))
    own = {"vesselId": "ship-1", "epoch": vessel.status().epoch, "seq": 0}
    mosquitto.publish("vessel/sync/watermarks/shore", json.dumps(own), "-q", "1")
    eventually(lambda: vessel.query("SELECT count(*) FROM arus_follower")[0][0] == 1)
    assert relay._log.transactions - before <= 3


# -- a prefix that vessels share --------------------------------------------------------------------


def status_of(vessel_id: str) -> str:
    return json.dumps({"status": "online", "vesselId": vessel_id, "epoch": "e", "seq": 0})


@pytest.mark.slow
@pytest.mark.parametrize("retained", [True, False])
def test_another_vessel_on_the_same_prefix_is_reported(
    start_vessel: StartVessel,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
    *,
    retained: bool,
) -> None:
    if retained:  # it was there before
        mosquitto.publish("vessel/sync/system/status", status_of("ship-2"), "-q", "1", "-r")
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    if not retained:
        wait_subscribed(vessel)
        mosquitto.publish("vessel/sync/system/status", status_of("ship-2"), "-q", "1")
    status = eventually(lambda: found if (found := vessel.status()).neighbour else None)
    assert status is not None
    assert status.shared_with(now_ms()) == "ship-2"
    assert status.shared_with(now_ms() + 2 * 3_600_000) is None
    document = health_document(status, vessel.settings, topics=5)
    reason = document["mqtt"]["reason"]
    assert "ship-2" in reason
    assert "{vessel_id}" in reason
    assert document["status"] == "healthy"
    (finding,) = check_topics(vessel.settings, status)
    assert (finding.verdict, "ship-2" in finding.says) == (Verdict.FAIL, True)
    assert "{vessel_id}" in (finding.fix or "")
    lines = [record for record in caplog.records if record.name == neighbours.__name__]
    assert [record.levelno for record in lines] == [logging.ERROR]


@pytest.mark.slow
def test_health_and_the_sync_page_name_the_other_vessel(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url, VESSEL_ID="ship-1")
    sync.start(app)
    client = app.test_client()

    def health() -> dict[str, Any]:
        found: dict[str, Any] = client.get("/api/mqtt/reliable-sync/health").get_json()["mqtt"]
        return found

    eventually(lambda: health()["activeSubscriptions"] >= 3)
    assert health()["reason"] is None
    mosquitto.publish("vessel/sync/system/status", status_of("ship-2"), "-q", "1")
    reason = eventually(lambda: health()["reason"])
    assert reason
    assert "vessel ship-2 publishes under the same MQTT_TOPIC_PREFIX" in reason
    page = client.get("/sync/").get_data(as_text=True)
    assert "ship-2" in page
    said = app.test_cli_runner().invoke(args=["sync", "status"]).output
    assert "ship-2" in said


def test_the_doctor_says_which_subscriptions_the_broker_refuses_or_lowers(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    requests, watermarks = "vessel/sync/catchup_requests", "vessel/sync/watermarks/+"

    def held() -> set[str]:
        return {
            row.topic_filter for row in vessel.query("SELECT topic_filter FROM arus_subscription")
        }

    def answer(*, refused: str, granted: str, session_present: bool) -> None:
        link = broker.accept()
        link.refused = {refused}
        link.accept(session_present=session_present)
        eventually(lambda: (link.next(0.05), held() & {requests, watermarks} == {granted})[1])
        link.close()

    answer(refused=watermarks, granted=requests, session_present=False)
    answer(refused=requests, granted=watermarks, session_present=True)
    assert not list(check_subscriptions(vessel.settings, vessel.engine, vessel.status()))
    status = structs.replace(vessel.status(), connected=True, connected_changed_at=1)
    findings = check_subscriptions(vessel.settings, vessel.engine, status)
    assert [(found.verdict, found.says) for found in findings] == [
        (
            Verdict.WARN,
            f"the broker refuses the subscription to {requests}: requests of followers do not arrive",
        ),
        (
            Verdict.WARN,
            f"the broker lowers the subscription to {watermarks} to QoS 0: watermarks of followers may be lost",
        ),
    ]


def test_a_vessel_does_not_take_itself_for_another(
    start_vessel: StartVessel, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_reports, "PRESENCE", 0.1)
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.stop()  # its retained status says offline
    vessel.owner = vessel._candidate(None)
    vessel.start()
    vessel.wait_connected()
    mosquitto.publish("vessel/sync/system/status", b"{", "-q", "1")
    vessel.commit()
    vessel.wait_drained()
    assert vessel.status().neighbour is None
    assert vessel.status().reason_of(now_ms()) is None


@pytest.mark.slow
def test_a_prefix_of_its_own_ends_the_report(
    start_vessel: StartVessel, mosquitto: Mosquitto
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    wait_subscribed(vessel)
    mosquitto.publish("vessel/sync/system/status", status_of("ship-2"), "-q", "1")
    eventually(lambda: vessel.status().neighbour)
    vessel.stop()
    moved = start_vessel(mosquitto.url, MQTT_TOPIC_PREFIX=FLEET)
    moved.wait_connected()
    eventually(lambda: moved.status().neighbour is None)
    (finding,) = check_topics(moved.settings, moved.status())
    assert finding.verdict is Verdict.OK
    assert "fleet/ship-1/sync" in finding.says
    # Nothing of the old prefix is still subscribed to.
    eventually(lambda: all(name.startswith("fleet/") for name in wait_subscribed(moved)))
